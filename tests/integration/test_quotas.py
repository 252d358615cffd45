"""What one user may have, with two of them: the one who takes too much is told so, and costs the other nothing."""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.running import PATIENCE_S, RunningDaemon, eventually, read_pcm, transcribe
from tests.stranger import Stranger

pytestmark = pytest.mark.root

GREEDY, MODEST = 65534, 65533
SPEECH = read_pcm(Path(__file__).parents[1] / "data" / "light.flac")
UPLOAD = (
    b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=x\r\n"
    b"Content-Length: %d\r\n\r\n"
    b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nfake\r\n'
    b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
)


@pytest.fixture(scope="module")
def daemon():
    """One whose sockets other users may open, with small quotas."""
    quotas = {
        "sessions_per_uid": 2,
        "upload_spool_bytes": 8 << 20,
        "upload_spool_bytes_per_uid": 4 << 20,
        "bytes_per_s_per_uid": 1 << 20,
    }
    options = [argument for name, value in quotas.items() for argument in ("--set", f"limits.{name}={value}")]
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        running = RunningDaemon.start(Path(directory) / "run", "--tcp", "off", "--model", "fake", *options)
        running.directory.chmod(0o755)
        for path in (running.control, running.audio):
            path.chmod(0o666)
        yield running
        assert running.stop() == 0


def quota(daemon, name):
    return daemon.call("status")["quotas"][name]


def test_every_bound_by_user_is_said_in_status_and_on_the_metrics_page(daemon):
    rows = daemon.call("status")["quotas"]
    assert rows.keys() == {
        "sessions", "waiting_jobs", "held_bytes", "upload_bytes", "container_bytes", "bytes_per_s", "connections_unix",
        "connections_control", "requests",
    }  # fmt: skip
    with Stranger(daemon.audio) as client:
        page = client.exchange(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n").partition(b"\r\n\r\n")[2]
    families = {family.name: family for family in text_string_to_metric_families(page.decode())}
    told = {sample.labels["quota"]: sample.value for sample in families["sttd_quota_per_user"].samples}
    assert told == {name: row["per_user"] for name, row in rows.items()}
    assert {sample.labels["quota"] for sample in families["sttd_quota_used"].samples} == rows.keys()


def test_one_users_sessions_leave_those_of_another(daemon):
    with ExitStack() as stack:
        for _ in range(2):
            stack.enter_context(Stranger(daemon.audio, uid=GREEDY)).open_session()
        row = quota(daemon, "sessions")
        assert (row["used"], row["most"], row["per_user"]) == (2, 2, 2)
        refused = stack.enter_context(Stranger(daemon.audio, uid=GREEDY))
        assert "one user may have 2" in refused.start_session()["message"]
        stack.enter_context(Stranger(daemon.audio, uid=MODEST)).open_session()
        row = quota(daemon, "sessions")
        assert (row["used"], row["most"]) == (3, 2)
    eventually(lambda: quota(daemon, "sessions")["used"] == 0)


def test_one_users_uploads_leave_room_for_those_of_another(daemon):
    """A megabyte is read a second; so the bound of the speed is seen, too."""
    with Stranger(daemon.audio, uid=GREEDY) as greedy, Stranger(daemon.audio, uid=GREEDY) as again:
        greedy.send(UPLOAD % (3 << 20) + bytes(5 << 19))
        eventually(lambda: quota(daemon, "upload_bytes")["most"] > 2 << 20)
        assert b" 429 " in again.exchange(UPLOAD % (2 << 20)).split(b"\r\n")[0]
        with Stranger(daemon.audio, uid=MODEST) as modest:
            begun = time.monotonic()
            modest.send(UPLOAD % (3 << 20) + bytes(5 << 19))
            eventually(lambda: quota(daemon, "upload_bytes")["used"] > 9 << 19)
            assert time.monotonic() - begun > 0.5  # of two megabytes the first comes for nothing
    eventually(lambda: quota(daemon, "upload_bytes")["used"] == 0)


def test_who_sends_too_fast_is_read_slowly_and_nobody_else_is(daemon):
    with Stranger(daemon.audio, uid=GREEDY) as flood:
        flood.open_session()
        flood.send(b"".join(b"\x82\xfe\xff\xff" + bytes(4) + bytes(65535) for _ in range(64)))
        eventually(lambda: quota(daemon, "bytes_per_s")["most"] > 0)
        begun = time.monotonic()
        assert [event for event in transcribe(daemon, SPEECH) if event["type"] == "final"]
        assert time.monotonic() - begun < PATIENCE_S
        assert quota(daemon, "bytes_per_s")["most"] <= 2.2 * (1 << 20)  # with what a second's rest was good for
    eventually(lambda: quota(daemon, "sessions")["used"] == 0)


def test_connections_and_requests_are_counted_for_whoever_has_most(daemon):
    with Stranger(daemon.control, uid=GREEDY) as one, Stranger(daemon.control, uid=GREEDY) as other:
        one.call("ping")
        other.call("ping")
        row = quota(daemon, "connections_control")
        assert row["most"] >= 2
        assert row["used"] >= 3  # with the one that asks
        assert quota(daemon, "requests")["most"] >= 1
    eventually(lambda: quota(daemon, "connections_control")["used"] == 1)
