"""The metrics page says what `status` says, and what was observed."""

import attrs
from prometheus_client.parser import text_string_to_metric_families

from sttd.engine.remote.state import RemoteState
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


def test_what_is_bounded_by_user_is_told_with_its_bounds():
    found = samples(Metrics())
    assert found["sttd_quota_used", (("quota", "sessions"),)] == 2
    assert found["sttd_quota_most", (("quota", "sessions"),)] == 1
    assert found["sttd_quota_per_user", (("quota", "sessions"),)] == 64
    assert found["sttd_quota_limit", (("quota", "sessions"),)] == 256
    assert ("sttd_quota_limit", (("quota", "bytes_per_s"),)) not in found


def test_servers_are_there_or_not_once_they_were_asked():
    assert not any(name.startswith("sttd_remote") for name, _ in samples(Metrics()))
    row = RemoteState(
        preset="cluster",
        url="https://gpu/v1",
        reachable=False,
        since_s=1.0,
        reason="no connection",
        fallback="base",
        fallback_loaded=True,
    )
    unasked = attrs.evolve(row, preset="other", reachable=None, fallback_loaded=False)
    models = attrs.evolve(STATUS.models, remotes=(row, unasked))
    found = samples(Metrics(), attrs.evolve(STATUS, models=models))
    assert found["sttd_remote_reachable", (("preset", "cluster"),)] == 0
    assert found["sttd_remote_fallback_loaded", (("preset", "cluster"),)] == 1
    assert ("sttd_remote_reachable", (("preset", "other"),)) not in found


def test_what_status_does_not_know_is_absent_rather_than_zero():
    found = samples(Metrics())
    names = {name for name, _ in found}
    assert "sttd_realtime_factor" not in names
    assert ("sttd_queue_wait_seconds", (("class", "final"), ("quantile", "0.95"))) not in found


def test_observations_are_counted_by_kind():
    metrics = Metrics()
    metrics.observe_latency("final", 0.4)
    metrics.observe_latency("final", 0.6)
    with metrics.connected("audio"):
        assert samples(metrics)["sttd_connections_open", (("plane", "audio"),)] == 1
    metrics.count_failure("audio")
    metrics.count_response(403)
    found = samples(metrics)
    assert found["sttd_latency_seconds_count", (("kind", "final"),)] == 2
    assert found["sttd_latency_seconds_bucket", (("kind", "final"), ("le", "0.5"))] == 1
    assert found["sttd_connections_total", (("plane", "audio"),)] == 1
    assert found["sttd_connections_open", (("plane", "audio"),)] == 0
    assert found["sttd_connection_failures_total", (("plane", "audio"),)] == 1
    assert found["sttd_http_responses_total", (("status", "403"),)] == 1


def test_two_daemons_in_one_process_share_nothing():
    one, other = Metrics(), Metrics()
    one.count_response(200)
    assert not [name for name, _ in samples(other) if name.startswith("sttd_http_responses")]


def test_what_is_held_and_the_tasks_that_live_are_there_where_they_are_told():
    page = Metrics().render(STATUS, held_bytes={"audio": 5}, tasks=7).decode()
    assert 'sttd_held_bytes{what="audio"} 5.0' in page
    assert "sttd_tasks 7.0" in page
    assert "sttd_tasks" not in Metrics().render(STATUS).decode()


def test_sessions_that_wait_for_their_clients_are_shown_with_what_they_keep():
    page = Metrics().render(STATUS, asleep=(3, 4000)).decode()
    assert "sttd_sessions_asleep 3.0" in page
    assert "sttd_sessions_kept_bytes 4000.0" in page
