"""What the service answers, as values. Field names are the protocol's (docs/reference/control.md).

The control plane, HTTP and the metrics page make of these what their formats want; `as_map` makes the map that all of
MessagePack and JSON share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sttd.engine.leases import ModelsStatus
from sttd.engine.leases import PresetRow as PresetRow
from sttd.engine.tickets import DispatcherStatistics, QueueWait
from sttd.session.registry import Registry
from sttd.session.row import SessionRow


def as_map(answer: attrs.AttrsInstance) -> dict[str, Any]:
    """An answer as plain values: maps, sequences, numbers, text."""
    return attrs.asdict(answer)


# ---------------------------------------------------------------- status


@attrs.frozen(kw_only=True)
class ServerStatus:
    """The daemon itself."""

    version: str
    pid: int
    uptime_s: float
    state: str
    listeners: tuple[str, ...]
    config_path: str


@attrs.frozen(kw_only=True)
class SessionsStatus:
    """Who is connected."""

    active: int
    peak: int
    limit: int
    total: int
    uploads: int  # recordings that are still coming, each of which a session follows


@attrs.frozen(kw_only=True)
class SchedulerStatus:
    """What waits and what runs."""

    queued: Mapping[str, int]
    in_flight: int
    workers: int
    batches: int
    batch_size_mean: float | None
    queue_wait_ms: Mapping[str, QueueWait]
    coalesced: int
    rejected: int
    realtime_factor: float | None


@attrs.frozen
class FinalLatency:
    """Milliseconds from the last sample of speech to the text at the client; None without samples."""

    p50: float | None
    p95: float | None
    p99: float | None


@attrs.frozen
class InterimLatency:
    """The same for interims."""

    p50: float | None
    p95: float | None


@attrs.frozen(kw_only=True)
class LatencyStatus:
    """Of the last minutes."""

    final: FinalLatency
    interim: InterimLatency


@attrs.frozen(kw_only=True)
class HealthStatus:
    """What an operator should look at when it changes."""

    event_loop_lag_ms_p99: float | None
    audio_dropped_s: float
    engine_restarts: int
    last_error: str | None


@attrs.frozen(kw_only=True)
class QuotaRow:
    """A bound by user: what all may have together (None: as much as there is), what one may have (0: no bound of
    his own), what all have now, and the one who has most."""

    limit: float | None
    per_user: float
    used: float
    most: float


@attrs.frozen(kw_only=True)
class Status:
    """The daemon in one look."""

    server: ServerStatus
    models: ModelsStatus
    sessions: SessionsStatus
    admission: float  # see `sttd/admission.py`
    scheduler: SchedulerStatus
    latency_ms: LatencyStatus
    quotas: Mapping[str, QuotaRow]
    health: HealthStatus


def compose_status(
    *,
    server: ServerStatus,
    models: ModelsStatus,
    workers: int,
    scheduler: DispatcherStatistics,
    registry: Registry,
    admission: float,
    final_ms: Sequence[float | None],
    interim_ms: Sequence[float | None],
    quotas: Mapping[str, QuotaRow],
    health: HealthStatus,
) -> Status:
    """Put together what the parts say of themselves; `final_ms` and `interim_ms` are the fields of the latencies."""
    return Status(
        server=server,
        models=models,
        sessions=SessionsStatus(
            active=len(registry),
            peak=registry.peak,
            limit=registry.limit,
            total=registry.total,
            uploads=registry.promised.total(),
        ),
        admission=admission,
        scheduler=SchedulerStatus(
            queued=scheduler.queued,
            in_flight=scheduler.in_flight,
            workers=workers,
            batches=scheduler.batches,
            batch_size_mean=scheduler.batch_size_mean,
            queue_wait_ms=scheduler.queue_wait_ms,
            coalesced=scheduler.coalesced,
            rejected=scheduler.rejected + registry.refused,
            realtime_factor=scheduler.realtime_factor,
        ),
        latency_ms=LatencyStatus(final=FinalLatency(*final_ms), interim=InterimLatency(*interim_ms)),
        quotas=quotas,
        health=health,
    )


# ---------------------------------------------------------------- the others


@attrs.frozen(kw_only=True)
class SessionPage:
    """Some sessions, and the cursor of those that follow."""

    sessions: tuple[SessionRow, ...]
    next: str | None


@attrs.frozen(kw_only=True)
class Models:
    """All presets; what `auto` means now (None: nothing is on disk), and the model that suits this machine."""

    presets: tuple[PresetRow, ...]
    auto: str | None
    recommended: str | None
    network: bool


@attrs.frozen(kw_only=True)
class PullResult:
    """What `pull` reports."""

    path: str
    model: str
    source: str
    verified: bool


@attrs.frozen(kw_only=True)
class OptionValue:
    """An option of the configuration and where its value came from."""

    value: Any
    origin: str


@attrs.frozen(kw_only=True)
class ConfigValues:
    """The configuration in effect; secrets are masked."""

    values: Mapping[str, OptionValue]


@attrs.frozen(kw_only=True)
class Reloaded:
    """What a reload changed, and which changes wait for a restart."""

    changed: tuple[str, ...]
    needs_restart: tuple[str, ...]
