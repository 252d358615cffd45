"""Section 1 of the protocol, sentence by sentence: where the daemon listens, and whom it lets in.

Raw sockets, `http.client` and `websockets` before real daemons.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgpack
import pytest
from prometheus_client.parser import text_string_to_metric_families
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect, unix_connect

from tests.running import PATIENCE_S, ControlLine, RunningDaemon, free_port, read_to_end, read_until, say, start
from tests.stranger import NOBODY, Stranger

TOKEN = "correct-horse-battery"
NOISE = bytes(range(256)) * 125


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, port):
    running = RunningDaemon.start(
        tmp_path_factory.mktemp("access"), "--tcp", f"127.0.0.1:{port}", "--model", "fake",
        "--set", 'server.allowed_hosts=["notes.example"]', "--set", 'server.allowed_origins=["https://notes.example"]',
    )  # fmt: skip
    yield running
    assert running.stop() == 0


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    """Open to other machines, so with a token; yields its port."""
    port = free_port()
    running = RunningDaemon.start(
        tmp_path_factory.mktemp("guarded"), "--tcp", f"0.0.0.0:{port}", "--model", "fake",
        "--set", f"server.token={TOKEN}",
    )  # fmt: skip
    yield port
    assert running.stop() == 0


def get(port, path="/status", **headers):
    """A plain request; headers exactly as given, with underscores for dashes."""
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        connection.putrequest("GET", path, skip_host="Host" in headers, skip_accept_encoding=True)
        for name, value in headers.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.read()


def upgrade(port, **options):
    """The HTTP status that answers a WebSocket handshake: 101 where it is accepted."""
    try:
        with connect(f"ws://127.0.0.1:{port}/ws", open_timeout=PATIENCE_S, **options) as client:
            assert json.loads(client.recv(timeout=PATIENCE_S))["type"] == "hello"
            return 101
    except InvalidStatus as refused:
        return refused.response.status_code


# ------------------------------------------------------------------ Host and Origin


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:{port}", 200),
        ("localhost:{port}", 200),
        ("[::1]:{port}", 200),
        ("LOCALHOST", 200),
        ("notes.example", 200),
        ("notes.example:{port}", 200),
        ("evil.example", 403),
        ("localhost.evil.example:{port}", 403),
        ("127.0.0.1.evil.example", 403),
        ("192.0.2.1", 403),
        ("", 403),
    ],
)
def test_the_host_header_must_name_loopback_or_an_allowed_host(daemon, port, host, status):
    for path in ("/", "/ready", "/status", "/models", "/metrics"):
        assert get(port, path, Host=host.format(port=port))[0] == status


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        (None, True),
        ("http://127.0.0.1:{port}", True),
        ("http://localhost:{port}", True),
        ("http://[::1]:{port}", True),
        ("https://notes.example", True),
        ("http://localhost", False),
        ("http://localhost:1", False),
        ("https://localhost:{port}", False),
        ("http://notes.example", False),
        ("http://evil.example", False),
        ("null", False),
    ],
)
def test_an_origin_must_be_absent_own_or_allowed(daemon, port, origin, allowed):
    origin = origin and origin.format(port=port)
    assert get(port, **({"Origin": origin} if origin else {}))[0] == (200 if allowed else 403)
    assert upgrade(port, origin=origin) == (101 if allowed else 403)


def test_a_foreign_host_is_refused_before_any_upgrade(daemon, port):
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as raw:
        raw.sendall(
            b"GET /ws HTTP/1.1\r\nHost: evil.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.1 403 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "forbidden"


# ------------------------------------------------------------------ the token


def test_beyond_loopback_every_request_shows_the_token(guarded):
    for path in ("/ready", "/status", "/models", "/metrics"):
        assert get(guarded, path)[0] == 401
        assert get(guarded, path, Authorization=f"Bearer {TOKEN}")[0] == 200
    for wrong in (f"Bearer {TOKEN}x", f"Basic {TOKEN}", "Bearer"):
        assert get(guarded, Authorization=wrong)[0] == 401
    assert get(guarded, f"/status?token={TOKEN}")[0] == 401


def test_a_websocket_shows_the_token_as_header_or_subprotocol(guarded):
    assert upgrade(guarded) == 401
    assert upgrade(guarded, additional_headers={"Authorization": f"Bearer {TOKEN}"}) == 101
    assert upgrade(guarded, subprotocols=[f"sttd.token.{TOKEN}"]) == 101
    assert upgrade(guarded, subprotocols=["sttd.token.guess"]) == 401
    with connect(f"ws://127.0.0.1:{guarded}/ws", subprotocols=["other", f"sttd.token.{TOKEN}"]) as client:
        assert client.subprotocol == f"sttd.token.{TOKEN}"


def test_a_token_does_not_replace_the_host_check(guarded):
    assert get(guarded, Host="evil.example", Authorization=f"Bearer {TOKEN}")[0] == 403


# ------------------------------------------------------------------ what is served


def shape(value):
    """The keys of a tree, without its values."""
    return {key: shape(inner) for key, inner in value.items()} if isinstance(value, dict) else None


def test_ready_says_ok_while_the_model_is_on_disk_loaded_or_not(daemon, port):
    daemon.call("unload")
    status, body = get(port, "/ready")
    assert (status, json.loads(body)["status"]) == (200, "ok")
    daemon.call("load", preset="fake")
    assert get(port, "/ready")[0] == 200


def test_status_is_that_of_the_control_plane(daemon, port):
    here, there = json.loads(get(port, "/status")[1]), daemon.call("status")
    assert shape(here) == shape(there)
    assert here["server"]["pid"] == there["server"]["pid"] == daemon.process.pid
    assert here["models"]["max_loaded"] == there["models"]["max_loaded"]


def test_metrics_are_prometheus_text(daemon, port):
    families = list(text_string_to_metric_families(get(port, "/metrics")[1].decode()))
    assert len(families) > 5
    assert all(family.name.startswith(("sttd_", "process_", "python_")) for family in families)


def test_the_root_is_the_live_caption_page(daemon, port):
    status, body = get(port, "/")
    assert status == 200
    assert b"<!doctype html>" in body.lower()


def test_unknown_paths_and_methods_are_refused(daemon, port):
    assert get(port, "/nothing")[0] == 404
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as connection:
        connection.request("POST", "/status")
        assert connection.getresponse().status == 405


def test_the_unix_audio_socket_speaks_the_same_without_the_checks_of_the_web(daemon):
    for path in ("/", "/ready", "/status", "/models", "/metrics"):
        with socket.socket(socket.AF_UNIX) as raw:
            raw.settimeout(PATIENCE_S)
            raw.connect(str(daemon.audio))
            raw.sendall(f"GET {path} HTTP/1.1\r\nHost: evil.example\r\nOrigin: http://evil.example\r\n\r\n".encode())
            assert b"".join(iter(lambda: raw.recv(65536), b"")).startswith(b"HTTP/1.1 200 ")
    with unix_connect(str(daemon.audio), "ws://evil.example/ws", origin="http://evil.example") as client:
        assert json.loads(client.recv(timeout=PATIENCE_S))["type"] == "hello"


# ------------------------------------------------------------------ where it listens


def test_both_sockets_lie_in_the_runtime_directory_for_the_user_alone(tmp_path):
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path / "none")}
    command = [sys.executable, "-m", "sttd", "serve", "--tcp", "off", "--model", "fake"]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        sockets = [tmp_path / "sttd" / name for name in ("control.sock", "audio.sock")]
        running = RunningDaemon(tmp_path / "sttd", process)
        deadline = time.monotonic() + PATIENCE_S
        while not all(path.exists() for path in sockets) and time.monotonic() < deadline:
            time.sleep(0.02)
        modes = [stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "sttd", *sockets)]
        listeners = " ".join(running.call("status")["server"]["listeners"])
        assert running.stop() == 0
    assert modes == [0o700, 0o600, 0o600]
    assert "tcp" not in listeners
    assert not any(path.exists() for path in sockets)


def test_the_default_port_taken_by_another_is_a_warning(tmp_path):
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            holder.bind(("127.0.0.1", 7788))
            holder.listen()
        except OSError:
            pass  # somebody else holds it: all the same here
        daemon = RunningDaemon.start(tmp_path, "--model", "fake")
        assert daemon.call("ping") == {}
        assert daemon.stop() == 0
    assert "127.0.0.1:7788 is in use" in daemon.log()


# ------------------------------------------------------------------ who is who


def test_a_session_over_tcp_belongs_to_the_daemons_user(daemon, port):
    with connect(f"ws://127.0.0.1:{port}/ws") as client:
        session = start(client, label="tcp")["session"]
        rows = {row["session"]: row for row in daemon.call("sessions")["sessions"]}
        assert (rows[session]["uid"], rows[session]["label"]) == (os.geteuid(), "tcp")


@pytest.fixture(scope="module")
def public():
    """A daemon whose sockets other users may open, as those of the system service in its group."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        running = RunningDaemon.start(Path(directory) / "run", "--tcp", "off", "--model", "fake")
        running.directory.chmod(0o755)
        for path in (running.control, running.audio):
            path.chmod(0o666)
        yield running
        assert running.stop() == 0


@pytest.mark.root
def test_a_peer_sees_and_ends_only_what_its_own_uid_opened(public):
    with Stranger(public.audio) as voice, Stranger(public.control) as stranger, public.connect() as client:
        theirs, ours = voice.open_session(), start(client, endpointing=False)["session"]
        assert stranger.call("hello")[1]["uid"] == NOBODY
        assert [(row["session"], row["uid"]) for row in stranger.call("sessions")[1]["sessions"]] == [(theirs, NOBODY)]
        everything = {row["session"]: row["uid"] for row in public.call("sessions")["sessions"]}
        assert everything == {theirs: NOBODY, ours: os.geteuid()}
        error, _ = stranger.call("close_session", session=ours)
        assert error["code"] == "not_found"
        assert stranger.call("close_session", session=theirs) == [None, {}]
        say(client, "stop")
        assert read_to_end(client)[-1]["type"] == "stopped"


@pytest.mark.root
def test_a_peer_hears_only_of_what_its_own_uid_opened(public):
    with Stranger(public.control) as stranger, ControlLine(public) as line, public.connect() as client:
        line.call("subscribe", topics=["transcripts", "sessions"])
        assert stranger.call("subscribe", topics=["transcripts", "sessions", "models"]) == [None, {}]
        start(client, endpointing=False, interim=False)
        client.send(NOISE)
        say(client, "finalize")
        read_until(client, "final")
        assert [line.event()["event"], line.event()["event"]] == ["opened", "final"]
        told = msgpack.Unpacker()
        told.feed(stranger.exchange(msgpack.packb([0, 9, "ping", []])))
        events = [message[2][0] for message in told if message[0] == 2]
        assert {event["topic"] for event in events} <= {"models"}


@pytest.mark.root
@pytest.mark.parametrize("method", ["pull", "reload", "config", "shutdown"])
def test_what_changes_the_daemon_is_for_root_and_its_own_user(public, method):
    with Stranger(public.control) as stranger:
        params = {"model": "tiny"} if method == "pull" else {}
        assert stranger.call(method, **params)[0]["code"] == "forbidden"
        for allowed in ("ping", "status", "models", "describe", "unload"):
            assert stranger.call(allowed)[0] is None
