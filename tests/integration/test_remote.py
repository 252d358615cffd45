"""A daemon whose finals another sttd makes: over TLS, with a token, until that is killed, and again when it is back."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.running import PATIENCE_S, RunningDaemon, check_promises, eventually, free_port, read_to_end, say, start
from tests.speakers import LOCAL_WORD_MS, SPEECH, Speaker, remote

DATA = Path(__file__).parents[1] / "data"
TOKEN = "correct-horse-battery"
WORD_MS = 100  # of `fake`, at the server; the fallback has another, so it is heard who decoded
SESSIONS = 3


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    directory = tmp_path_factory.mktemp("remote")
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    return directory


@pytest.fixture(scope="module")
def port():
    return free_port()


def serve(place, port, name):
    tls = DATA / "tls"
    return RunningDaemon.start(
        place / name, "--tcp", f"127.0.0.1:{port}", "--model", "fake", "--set", f"server.token_file={place}/token",
        "--set", f"server.tls_cert={tls}/one.pem", "--set", f"server.tls_key={tls}/one.key",
        "--set", f"presets.fake.word_ms={WORD_MS}",
    )  # fmt: skip


def configuration(place, port, *, fallback="here"):
    return f"""
[models]
model = "cluster"
interim_model = "here"
max_loaded_models = 3

[presets.cluster]
backend = "remote"
url = "https://localhost:{port}/v1"
model = "fake"
token_file = "{place}/token"
ca_file = "{DATA}/tls/one.pem"
fallback = "{fallback}"
timeout_s = 20
max_in_flight = 4

[presets.here]
backend = "fake"
word_ms = {LOCAL_WORD_MS}
"""


@pytest.fixture(scope="module")
def daemon(place, port):
    (place / "sttd.toml").write_text(configuration(place, port))
    running = RunningDaemon.start(place / "here", "--config", f"{place}/sttd.toml", "--tcp", "off")
    yield running
    assert running.stop() == 0


def sttctl(daemon, *arguments):
    command = [Path(sys.executable).with_name("sttctl"), "--socket", daemon.control, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def ready(daemon):
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.sock.connect(str(daemon.audio))
    connection.request("GET", "/ready")
    answer = connection.getresponse()
    return answer.status, answer.read()


def test_sessions_go_on_while_the_server_is_killed_and_finals_are_its_own_again_when_it_is_back(
    place, port, daemon, capsys
):
    server = serve(place, port, "server")
    assert remote(daemon)["reachable"] is None
    speakers = [Speaker(daemon) for _ in range(SESSIONS)]

    def all_have(count, since, whom):
        return all(len(speaker.since(since, whom)) >= count for speaker in speakers)

    def seen():
        return [speaker.finals[-5:] for speaker in speakers], remote(daemon), daemon.log()[-3000:]

    eventually(lambda: all_have(2, 0.0, "server"), otherwise=seen)
    row = remote(daemon)
    assert (row["reachable"], row["url"], row["fallback"]) == (True, f"https://localhost:{port}/v1", "here")

    server.process.send_signal(signal.SIGKILL)
    server.process.wait()
    killed = time.monotonic()
    eventually(lambda: all_have(3, killed, "fallback"), otherwise=seen)
    row = remote(daemon)
    assert row["reachable"] is False
    assert row["fallback_loaded"]
    assert row["reason"]
    assert ready(daemon)[0] == 200, "the fallback decodes"
    models = {row["preset"]: row for row in daemon.call("models")["presets"]}
    assert models["cluster"]["remote"]["reachable"] is False
    assert models["here"]["remote"] is None
    for command in ("models", "status", "doctor"):
        shown = sttctl(daemon, command)
        assert "is away" in shown, command
        assert TOKEN not in shown

    server = serve(place, port, "server again")
    back = time.monotonic()
    eventually(lambda: all_have(1, back, "server"), otherwise=seen)
    late_s = min(at for speaker in speakers for at, by, _ in speaker.finals if at >= back and by == "server") - back
    counts = [speaker.finish() for speaker in speakers]

    by = [by for speaker in speakers for _, by, _ in speaker.finals]
    assert by.count("nobody") == 0, "no final is empty"
    assert all(len(speaker.finals) <= count for speaker, count in zip(speakers, counts, strict=True))
    slowest_s = max(took for speaker in speakers for at, _, took in speaker.finals if at >= killed and at < back)
    with capsys.disabled():
        print(
            f"\n{len(by)} finals, {by.count('fallback')} by the fallback; the slowest after the kill took "
            f"{slowest_s:.2f} s; the server's came back {late_s:.2f} s after it listened"
        )
    assert TOKEN not in daemon.log()
    assert TOKEN not in json.dumps([daemon.call("config"), daemon.call("status"), daemon.call("models")])
    assert server.stop() == 0


def test_without_its_server_and_a_fallback_it_is_not_ready_and_says_why(place):
    file = place / "alone.toml"
    file.write_text(configuration(place, free_port(), fallback=""))
    running = RunningDaemon.start(
        place / "alone", "--config", str(file), "--tcp", "off", "--set", "scheduler.decode_timeout_s=10"
    )
    assert ready(running)[0] == 200, "nobody has asked it yet"
    script = Path(sys.executable).with_name("sttctl")
    command = [script, "--socket", running.control, "transcribe", "-q", DATA / "light.flac"]
    transcribing = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert transcribing.stderr is not None
    assert "waiting for the server of preset 'cluster': no connection" in transcribing.stderr.readline()
    with running.connect() as socket_:
        start(socket_)
        socket_.send(SPEECH)
        say(socket_, "stop")
        events = read_to_end(socket_)
    check_promises(events)
    (failure,) = [event for event in events if event["type"] == "error"]
    assert failure["code"] == "decode_failed"
    assert "presets.cluster.fallback" in failure["message"]
    said = transcribing.communicate(timeout=PATIENCE_S)[1]
    assert "presets.cluster.fallback" in said
    assert transcribing.returncode != 0
    status, body = ready(running)
    assert status == 503
    assert b"is away" in body
    assert running.stop() == 0


LOOK = """
import sys
from sttd.plan import Sources, make_plan
plan = make_plan(Sources(config_file=None, environ={}, flags={}))
plan.backends["remote"].forget()
print(sorted(name for name in sys.modules if "httpx" in name or name.startswith("sttd.engine.remote")))
"""


def test_who_runs_one_machine_imports_nothing_of_it():
    shown = subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, check=True).stdout
    assert shown.strip() == str(["sttd.engine.remote", "sttd.engine.remote.backend", "sttd.engine.remote.state"])
