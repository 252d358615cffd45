"""What Prometheus sees: the numbers of `status` under metric names, and histograms of what `status` only summarises.

A registry belongs to one daemon; nothing is global. What `status` counts is not counted here a second time: a scrape
reads it from the same answer that `sttctl status` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from sttd.answers import Status

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Live text is felt below half a second, a final below two; the rest says how bad it got.
_LATENCY_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)

_Value = Callable[[Status], float | None]

# name, help, where in `status`
_GAUGES: tuple[tuple[str, str, _Value], ...] = (
    ("sttd_uptime_seconds", "Time since the daemon started.", lambda status: status.server.uptime_s),
    ("sttd_sessions_active", "Sessions open now.", lambda status: status.sessions.active),
    ("sttd_sessions_peak", "Most sessions open at the same time.", lambda status: status.sessions.peak),
    ("sttd_sessions_limit", "Sessions that may be open at the same time.", lambda status: status.sessions.limit),
    (
        "sttd_admission",
        "How near one more session is to being refused; 1: it would be.",
        lambda status: status.admission,
    ),
    ("sttd_models_loaded", "Models in memory.", lambda status: status.models.loaded),
    ("sttd_models_max_loaded", "Models that may be in memory.", lambda status: status.models.max_loaded),
    ("sttd_process_resident_bytes", "Main memory of the daemon.", lambda status: status.models.process_rss_bytes),
    ("sttd_decodes_in_flight", "Decoder calls that run now.", lambda status: status.scheduler.in_flight),
    ("sttd_workers", "Decoder calls that can run at the same time.", lambda status: status.scheduler.workers),
    ("sttd_batch_size_mean", "Items in a decoder call, on average.", lambda status: status.scheduler.batch_size_mean),
    ("sttd_realtime_factor", "Decoding time divided by audio time.", lambda status: status.scheduler.realtime_factor),
    (
        "sttd_event_loop_lag_p99_seconds",
        "How late the event loop was, 99th percentile of 10 s.",
        lambda status: _seconds(status.health.event_loop_lag_ms_p99),
    ),
)
_COUNTERS: tuple[tuple[str, str, _Value], ...] = (
    ("sttd_sessions", "Sessions opened since the start.", lambda status: status.sessions.total),
    ("sttd_model_hits", "Leases of a model that was in memory.", lambda status: status.models.hits),
    ("sttd_model_misses", "Leases that had to load a model.", lambda status: status.models.misses),
    ("sttd_model_load_failures", "Models that did not load.", lambda status: status.models.load_failures),
    ("sttd_batches", "Decoder calls since the start.", lambda status: status.scheduler.batches),
    (
        "sttd_jobs_coalesced",
        "Interims replaced by newer ones before they were decoded.",
        lambda status: status.scheduler.coalesced,
    ),
    ("sttd_rejected", "Sessions and jobs refused under overload.", lambda status: status.scheduler.rejected),
    ("sttd_audio_dropped_seconds", "Audio dropped by `overflow: drop`.", lambda status: status.health.audio_dropped_s),
    ("sttd_engine_restarts", "Times that the engine was started anew.", lambda status: status.health.engine_restarts),
)


class Metrics:
    """The metrics of one daemon."""

    def __init__(self) -> None:
        self._status: Status | None = None
        self._apis: Mapping[str, int] = {}
        self._held_bytes: Mapping[str, int] = {}
        self._tasks: int | None = None
        self._asleep = (0, 0)
        self._registry = CollectorRegistry()
        self._latency = Histogram(
            "sttd_latency_seconds",
            "From the arrival of the last speech sample to the text at the client.",
            ["kind"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._connections = Counter(
            "sttd_connections", "Connections accepted since the start.", ["plane"], registry=self._registry
        )
        self._open = Gauge("sttd_connections_open", "Connections open now.", ["plane"], registry=self._registry)
        self._failures = Counter(
            "sttd_connection_failures", "Connections that ended in a bug.", ["plane"], registry=self._registry
        )
        self._responses = Counter(
            "sttd_http_responses", "Plain HTTP answers and refused handshakes.", ["status"], registry=self._registry
        )
        self._refused = Counter(
            "sttd_sessions_refused",
            "Sessions not admitted, for want of room or time.",
            ["kind"],
            registry=self._registry,
        )
        self._opened = Counter(
            "sttd_sessions_opened", "Sessions since the start, by wire.", ["api"], registry=self._registry
        )
        self._registry.register(self)

    def observe_latency(self, kind: Literal["final", "interim"], seconds: float) -> None:
        """A text was written so long after its last speech sample had arrived."""
        self._latency.labels(kind).observe(seconds)

    @contextmanager
    def connected(self, plane: str) -> Iterator[None]:
        """A plane accepted a connection, which is open for as long as the block runs."""
        self._connections.labels(plane).inc()
        with self._open.labels(plane).track_inprogress():
            yield

    def count_failure(self, plane: str) -> None:
        """A connection ended in an exception that nobody expected."""
        self._failures.labels(plane).inc()

    def count_response(self, status: int) -> None:
        """A plain HTTP answer went out."""
        self._responses.labels(str(status)).inc()

    def count_session(self, api: str) -> None:
        """A session began that came by this wire."""
        self._opened.labels(api).inc()

    def count_refused_session(self, kind: str) -> None:
        """A session, `live` or `file`, was not admitted."""
        self._refused.labels(kind).inc()

    def render(
        self,
        status: Status,
        *,
        apis: Mapping[str, int] = MappingProxyType({}),
        asleep: tuple[int, int] = (0, 0),
        held_bytes: Mapping[str, int] = MappingProxyType({}),
        tasks: int | None = None,
    ) -> bytes:
        """The page in the text format of Prometheus.

        Args:
            apis: the sessions that are open, by wire.
            asleep: how many of them wait for their clients, and the bytes that are kept for those.
            held_bytes: what clients sent and nobody has taken yet, by what it is.
            tasks: those of the event loop that live; what rises without end is a leak.
        """
        self._status, self._apis, self._asleep = status, apis, asleep
        self._held_bytes, self._tasks = held_bytes, tasks
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The part that comes from `status`. Called by the registry."""
        status = self._status
        if status is None:
            return
        for name, text, value_of in _GAUGES:
            if (value := value_of(status)) is not None:
                yield GaugeMetricFamily(name, text, value)
        for name, text, value_of in _COUNTERS:
            if (value := value_of(status)) is not None:
                yield CounterMetricFamily(name, text, value)
        yield self._sessions_by_api()
        count, kept_bytes = self._asleep
        yield GaugeMetricFamily("sttd_sessions_asleep", "Sessions whose client may come back and resume.", count)
        yield GaugeMetricFamily("sttd_sessions_kept_bytes", "Events that are kept for them.", kept_bytes)
        yield self._held()
        if self._tasks is not None:
            yield GaugeMetricFamily("sttd_tasks", "Tasks of the event loop.", self._tasks)
        yield _queued(status)
        yield _queue_waits(status)
        yield from _models(status)
        yield from _quotas(status)
        if status.models.remotes:
            yield from _remotes(status)

    def _held(self) -> Metric:
        family = GaugeMetricFamily("sttd_held_bytes", "What clients sent and nobody has taken yet.", labels=["what"])
        for what, count in self._held_bytes.items():
            family.add_metric([what], count)
        return family

    def _sessions_by_api(self) -> Metric:
        family = GaugeMetricFamily("sttd_sessions_by_api", "Sessions open now, by wire.", labels=["api"])
        for api, count in self._apis.items():
            family.add_metric([api], count)
        return family


def _queued(status: Status) -> Metric:
    family = GaugeMetricFamily("sttd_jobs_queued", "Jobs that wait for a worker.", labels=["class"])
    for job_class, count in status.scheduler.queued.items():
        family.add_metric([job_class], count)
    return family


def _queue_waits(status: Status) -> Metric:
    family = GaugeMetricFamily("sttd_queue_wait_seconds", "How long jobs waited lately.", labels=["class", "quantile"])
    for job_class, wait in status.scheduler.queue_wait_ms.items():
        for quantile, value in (("0.5", wait.p50), ("0.95", wait.p95)):
            if value is not None:
                family.add_metric([job_class, quantile], value / 1000)
    return family


def _models(status: Status) -> Iterable[Metric]:
    leases = GaugeMetricFamily("sttd_model_leases", "Leases on a model in memory.", labels=["cache_key"])
    ram = GaugeMetricFamily("sttd_model_ram_bytes", "Main memory of a model.", labels=["cache_key"])
    vram = GaugeMetricFamily("sttd_model_vram_bytes", "GPU memory of a model.", labels=["cache_key"])
    for entry in status.models.entries:
        leases.add_metric([entry.cache_key], entry.leases)
        ram.add_metric([entry.cache_key], entry.ram_bytes)
        vram.add_metric([entry.cache_key], entry.vram_bytes)
    return leases, ram, vram


def _remotes(status: Status) -> Iterable[Metric]:
    reachable = GaugeMetricFamily(
        "sttd_remote_reachable", "Whether the server of a preset counts as there, once it was asked.", labels=["preset"]
    )
    fallback = GaugeMetricFamily(
        "sttd_remote_fallback_loaded", "Whether the preset that stands in for it is in memory.", labels=["preset"]
    )
    for state in status.models.remotes:
        if state.reachable is not None:
            reachable.add_metric([state.preset], state.reachable)
        fallback.add_metric([state.preset], state.fallback_loaded)
    return reachable, fallback


def _quotas(status: Status) -> Iterable[Metric]:
    used = GaugeMetricFamily("sttd_quota_used", "What all users have of what is bounded by user.", labels=["quota"])
    most = GaugeMetricFamily("sttd_quota_most", "What the user has who has most of it.", labels=["quota"])
    per_user = GaugeMetricFamily("sttd_quota_per_user", "What one user may have of it; 0: no bound.", labels=["quota"])
    limit = GaugeMetricFamily("sttd_quota_limit", "What all users together may have of it.", labels=["quota"])
    for name, row in status.quotas.items():
        used.add_metric([name], row.used)
        most.add_metric([name], row.most)
        per_user.add_metric([name], row.per_user)
        if row.limit is not None:
            limit.add_metric([name], row.limit)
    return used, most, per_user, limit


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000
