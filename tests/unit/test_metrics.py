"""The metrics page says what `status` says, and what was observed."""

from prometheus_client.parser import text_string_to_metric_families

from sttd.metrics import Metrics
from tests.answers import STATUS


def samples(metrics, status=STATUS):
    page = metrics.render(status).decode()
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
    }


def test_status_is_rendered_under_metric_names_in_base_units():
    found = samples(Metrics())
    assert found["sttd_uptime_seconds", ()] == 12.5
    assert found["sttd_sessions_total", ()] == 9
    assert found["sttd_model_hits_total", ()] == 3
    assert found["sttd_jobs_queued", (("class", "final"),)] == 1
    assert found["sttd_queue_wait_seconds", (("class", "final"), ("quantile", "0.5"))] == 0.02
    assert found["sttd_event_loop_lag_p99_seconds", ()] == 0.004
    assert found["sttd_model_leases", (("cache_key", "demo|threads=2|workers=1"),)] == 2


def test_what_status_does_not_know_is_absent_rather_than_zero():
    found = samples(Metrics())
    names = {name for name, _ in found}
    assert "sttd_realtime_factor" not in names
    assert ("sttd_queue_wait_seconds", (("class", "final"), ("quantile", "0.95"))) not in found


def test_observations_are_counted_by_kind():
    metrics = Metrics()
    metrics.observe_latency("final", 0.4)
    metrics.observe_latency("final", 0.6)
    metrics.count_connection("audio")
    metrics.count_failure("audio")
    metrics.count_response(403)
    found = samples(metrics)
    assert found["sttd_latency_seconds_count", (("kind", "final"),)] == 2
    assert found["sttd_latency_seconds_bucket", (("kind", "final"), ("le", "0.5"))] == 1
    assert found["sttd_connections_total", (("plane", "audio"),)] == 1
    assert found["sttd_connection_failures_total", (("plane", "audio"),)] == 1
    assert found["sttd_http_responses_total", (("status", "403"),)] == 1


def test_two_daemons_in_one_process_share_nothing():
    one, other = Metrics(), Metrics()
    one.count_response(200)
    assert not [name for name, _ in samples(other) if name.startswith("sttd_http_responses")]


def test_sessions_that_wait_for_their_clients_are_shown_with_what_they_keep():
    page = Metrics().render(STATUS, asleep=(3, 4000)).decode()
    assert "sttd_sessions_asleep 3.0" in page
    assert "sttd_sessions_kept_bytes 4000.0" in page
