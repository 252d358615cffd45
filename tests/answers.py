"""Answers of a service for tests that only pass them on."""

import json

from sttd.answers import (
    FinalLatency,
    HealthStatus,
    InterimLatency,
    LatencyStatus,
    Models,
    QuotaRow,
    SchedulerStatus,
    ServerStatus,
    SessionsStatus,
    Status,
    as_map,
)
from sttd.engine.leases import ModelsStatus, PoolEntry, PresetRow
from sttd.engine.tickets import QueueWait

ENTRY = PoolEntry(
    preset="demo",
    cpu_threads=2,
    num_workers=1,
    cache_key="demo|threads=2|workers=1",
    state="ready",
    loaded_for_seconds=1.0,
    idle_for_seconds=0.0,
    hits=3,
    leases=2,
    pinned=False,
    draining=False,
    expires_in_s=None,
    device="cpu",
    compute_type="int8",
    ram_bytes=1000,
    vram_bytes=0,
)

STATUS = Status(
    server=ServerStatus(
        version="0", pid=1, uptime_s=12.5, state="ready", listeners=("audio:/run/audio.sock",), config_path=""
    ),
    models=ModelsStatus(
        loaded=1,
        max_loaded=2,
        entries=(ENTRY,),
        hits=3,
        misses=1,
        load_failures=0,
        idle_ttl_seconds=300.0,
        process_rss_bytes=1,
        remotes=(),
    ),
    sessions=SessionsStatus(active=2, peak=3, limit=64, total=9, uploads=1),
    admission=0.25,
    scheduler=SchedulerStatus(
        queued={"final": 1, "file": 0},
        in_flight=0,
        workers=1,
        batches=0,
        batch_size_mean=None,
        queue_wait_ms={"final": QueueWait(20.0, None)},
        coalesced=0,
        rejected=0,
        realtime_factor=None,
    ),
    latency_ms=LatencyStatus(final=FinalLatency(None, None, None), interim=InterimLatency(None, None)),
    quotas={
        "sessions": QuotaRow(limit=256, per_user=64, used=2, most=1),
        "bytes_per_s": QuotaRow(limit=None, per_user=0, used=5.0, most=3.0),
    },
    health=HealthStatus(event_loop_lag_ms_p99=4.0, audio_dropped_s=0.0, engine_restarts=0, last_error=None),
)

PRESET = PresetRow(
    preset="fake",
    backend="fake",
    model="",
    repository=None,
    english=True,
    device="cpu",
    compute_type="none",
    loaded=False,
    local=True,
    verified=True,
    source="embedded",
    size_bytes=None,
    realtime=True,
    interim_s=None,
    window_s=None,
    summary="",
)

MODELS = Models(presets=(PRESET,), auto=None, recommended="base", network=True)


def sent(answer):
    """What a client sees of an answer."""
    return json.loads(json.dumps(as_map(answer)))
