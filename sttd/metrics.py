"""What Prometheus sees: the numbers of `status` under metric names, and histograms of what `status` only summarises.

A registry belongs to one daemon; nothing is global. What `status` counts is not counted here a second time: a scrape
reads it from the same map that `sttctl status` shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

CONTENT_TYPE = CONTENT_TYPE_LATEST

# Live text is felt below half a second, a final below two; the rest says how bad it got.
_LATENCY_BUCKETS_S = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0, 30.0)

# name, help, where in `status`
_GAUGES: tuple[tuple[str, str, str], ...] = (
    ("sttd_uptime_seconds", "Time since the daemon started.", "server.uptime_s"),
    ("sttd_sessions_active", "Sessions open now.", "sessions.active"),
    ("sttd_sessions_peak", "Most sessions open at the same time.", "sessions.peak"),
    ("sttd_sessions_limit", "Sessions that may be open at the same time.", "sessions.limit"),
    ("sttd_models_loaded", "Models in memory.", "models.loaded"),
    ("sttd_models_max_loaded", "Models that may be in memory.", "models.max_loaded"),
    ("sttd_process_resident_bytes", "Main memory of the daemon.", "models.process_rss_bytes"),
    ("sttd_decodes_in_flight", "Decoder calls that run now.", "scheduler.in_flight"),
    ("sttd_workers", "Decoder calls that can run at the same time.", "scheduler.workers"),
    ("sttd_batch_size_mean", "Items in a decoder call, on average.", "scheduler.batch_size_mean"),
    ("sttd_realtime_factor", "Decoding time divided by audio time.", "scheduler.realtime_factor"),
    (
        "sttd_event_loop_lag_p99_seconds",
        "How late the event loop was, 99th percentile of 10 s.",
        "health.event_loop_lag_ms_p99",
    ),
)
_COUNTERS: tuple[tuple[str, str, str], ...] = (
    ("sttd_sessions", "Sessions opened since the start.", "sessions.total"),
    ("sttd_model_hits", "Leases of a model that was in memory.", "models.hits"),
    ("sttd_model_misses", "Leases that had to load a model.", "models.misses"),
    ("sttd_model_load_failures", "Models that did not load.", "models.load_failures"),
    ("sttd_batches", "Decoder calls since the start.", "scheduler.batches"),
    ("sttd_jobs_coalesced", "Interims replaced by newer ones before they were decoded.", "scheduler.coalesced"),
    ("sttd_rejected", "Sessions and jobs refused under overload.", "scheduler.rejected"),
    ("sttd_audio_dropped_seconds", "Audio dropped by `overflow: drop`.", "health.audio_dropped_s"),
    ("sttd_engine_restarts", "Times that the engine was started anew.", "health.engine_restarts"),
)


class Metrics:
    """The metrics of one daemon."""

    def __init__(self) -> None:
        self._status: Mapping[str, Any] = {}
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
        self._registry.register(self)

    def observe_latency(self, kind: Literal["final", "interim"], seconds: float) -> None:
        """A text was written so long after its last speech sample had arrived."""
        self._latency.labels(kind).observe(seconds)

    def count_connection(self, plane: str) -> None:
        """A plane accepted a connection."""
        self._connections.labels(plane).inc()

    def count_failure(self, plane: str) -> None:
        """A connection ended in an exception that nobody expected."""
        self._failures.labels(plane).inc()

    def count_response(self, status: int) -> None:
        """A plain HTTP answer went out."""
        self._responses.labels(str(status)).inc()

    def count_refused_session(self, kind: str) -> None:
        """A session, `live` or `file`, was not admitted."""
        self._refused.labels(kind).inc()

    def render(self, status: Mapping[str, Any]) -> bytes:
        """The page in the text format of Prometheus; `status` as the control plane gives it."""
        self._status = status
        return generate_latest(self._registry)

    def collect(self) -> Iterable[Metric]:
        """The part that comes from `status`. Called by the registry."""
        for name, text, place in _GAUGES:
            if (value := _at(self._status, place)) is not None:
                yield GaugeMetricFamily(name, text, value / 1000 if place.endswith("_ms_p99") else value)
        for name, text, place in _COUNTERS:
            if (value := _at(self._status, place)) is not None:
                yield CounterMetricFamily(name, text, value)
        yield self._queued()
        yield self._queue_waits()
        yield from self._models()

    def _queued(self) -> Metric:
        family = GaugeMetricFamily("sttd_jobs_queued", "Jobs that wait for a worker.", labels=["class"])
        for job_class, count in (_at(self._status, "scheduler.queued") or {}).items():
            family.add_metric([job_class], count)
        return family

    def _queue_waits(self) -> Metric:
        family = GaugeMetricFamily(
            "sttd_queue_wait_seconds", "How long jobs waited lately.", labels=["class", "quantile"]
        )
        for job_class, waits in (_at(self._status, "scheduler.queue_wait_ms") or {}).items():
            for name, value in waits.items():
                if value is not None:
                    family.add_metric([job_class, f"{int(name[1:]) / 100:g}"], value / 1000)
        return family

    def _models(self) -> Iterable[Metric]:
        families = {
            field: GaugeMetricFamily(f"sttd_model_{field}", text, labels=["cache_key"])
            for field, text in (
                ("leases", "Leases on a model in memory."),
                ("ram_bytes", "Main memory of a model."),
                ("vram_bytes", "GPU memory of a model."),
            )
        }
        for entry in _at(self._status, "models.entries") or ():
            for field, family in families.items():
                if entry.get(field) is not None:
                    family.add_metric([entry["cache_key"]], entry[field])
        return families.values()


def _at(status: Mapping[str, Any], place: str) -> Any:
    """The value at a dotted place; None where it is absent."""
    value: Any = status
    for name in place.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value
