"""The shape of `status`, as docs/reference/control.md has it: for the planes, the metrics page and `sttctl`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sttd.engine.leases import PoolStatistics
from sttd.engine.tickets import DispatcherStatistics
from sttd.session.registry import Registry


def compose(
    *,
    server: Mapping[str, Any],
    pool: PoolStatistics,
    scheduler: DispatcherStatistics,
    registry: Registry,
    final_ms: Sequence[float | None],
    interim_ms: Sequence[float | None],
    health: Mapping[str, Any],
) -> dict[str, Any]:
    """Put what the parts say of themselves into the protocol's shape.

    Args:
        final_ms: p50, p95 and p99 of the last minutes; None without samples.
        interim_ms: p50 and p95.
    """
    return {
        "server": dict(server),
        "models": {
            "loaded": pool.loaded,
            "max_loaded": pool.max_loaded,
            "entries": [attrs.asdict(entry) for entry in pool.entries],
            "hits": pool.hits,
            "misses": pool.misses,
            "load_failures": pool.load_failures,
            "idle_ttl_seconds": pool.idle_ttl_seconds,
            "process_rss_bytes": pool.process_rss_bytes,
        },
        "sessions": {
            "active": len(registry),
            "peak": registry.peak,
            "limit": registry.limit,
            "total": registry.total,
        },
        "scheduler": {
            "queued": scheduler.queued,
            "in_flight": scheduler.in_flight,
            "workers": pool.workers,
            "batches": scheduler.batches,
            "batch_size_mean": scheduler.batch_size_mean,
            "queue_wait_ms": {name: attrs.asdict(wait) for name, wait in scheduler.queue_wait_ms.items()},
            "coalesced": scheduler.coalesced,
            "rejected": scheduler.rejected + registry.refused,
            "realtime_factor": scheduler.realtime_factor,
        },
        "latency_ms": {
            "final": dict(zip(("p50", "p95", "p99"), final_ms, strict=True)),
            "interim": dict(zip(("p50", "p95"), interim_ms, strict=True)),
        },
        "health": dict(health),
    }
