"""What the pool reports: the values behind `status`, `load` and `unload`."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class PoolEntry:
    """One entry as `status` and events show it; the field names are the protocol's."""

    preset: str
    cpu_threads: int
    num_workers: int
    cache_key: str
    state: str
    loaded_for_seconds: float
    idle_for_seconds: float
    hits: int
    leases: int
    pinned: bool
    draining: bool
    expires_in_s: float | None
    device: str
    compute_type: str
    ram_bytes: int
    vram_bytes: int


@attrs.frozen(kw_only=True)
class LoadResult:
    """What `load` reports."""

    cache_hit: bool
    load_seconds: float
    entry: PoolEntry


@attrs.frozen(kw_only=True)
class UnloadResult:
    """What `unload` reports: `entries` are those asked for that still drain."""

    unloaded: int
    entries: tuple[PoolEntry, ...]
    native_trim_attempted: bool
    process_rss_bytes: int
    vram_bytes: int | None


@attrs.frozen(kw_only=True)
class PoolStatistics:
    """The `models` part of `status`, and the workers of all loaded models."""

    loaded: int
    max_loaded: int
    entries: tuple[PoolEntry, ...]
    hits: int
    misses: int
    load_failures: int
    idle_ttl_seconds: float
    process_rss_bytes: int
    workers: int
