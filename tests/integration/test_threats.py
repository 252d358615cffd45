"""Attacks on a running daemon, as docs/explanation/threats.md lists them; the tests of other files are named there."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.running import PATIENCE_S, RunningDaemon, free_port, start

ROOT = Path(__file__).parents[2]
TRANSCRIBE = b'{"type": "transcribe"}\n{"type": "audio-start", "data": {"rate": 16000, "width": 2, "channels": 1}}\n'


@pytest.fixture(scope="module")
def ports():
    return free_port(), free_port()


@pytest.fixture(scope="module")
def daemon(tmp_path_factory, ports):
    tcp, wyoming = ports
    running = RunningDaemon.start(
        tmp_path_factory.mktemp("threats"), "--model", "fake", "--tcp", f"127.0.0.1:{tcp}",
        "--set", f'server.wyoming=["127.0.0.1:{wyoming}"]',
    )  # fmt: skip
    yield running
    assert running.stop() == 0


def exchange(port, data):
    """Send bytes to a port; all that comes back before the daemon closes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
        client.sendall(data)
        try:
            return b"".join(iter(lambda: client.recv(65536), b""))
        except ConnectionResetError:
            return b""


def opened(daemon):
    return daemon.call("status")["sessions"]["total"]


@pytest.mark.parametrize("method", [b"POST", b"PUT"])
def test_a_web_page_that_posts_to_the_wyoming_port_is_not_obeyed(daemon, ports, method):
    """A browser sends a request line first, and that is no event: nothing behind it is read."""
    before = opened(daemon)
    head = b"%s / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example\r\nContent-Type: text/plain\r\n" % method
    answer = exchange(ports[1], head + b"Content-Length: %d\r\n\r\n" % len(TRANSCRIBE) + TRANSCRIBE)
    assert b'"transcript"' not in answer
    assert opened(daemon) == before


def test_a_web_page_that_uploads_is_refused_before_its_file_is_read(daemon, ports):
    """A form needs no preflight; its Origin tells."""
    before = opened(daemon)
    body = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n' + bytes(1000) + b"\r\n--x--\r\n"
    head = (
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nOrigin: https://evil.example\r\n"
        b"Content-Type: multipart/form-data; boundary=x\r\nContent-Length: %d\r\n\r\n" % (ports[0], len(body))
    )
    answer = exchange(ports[0], head + body)
    assert b" 403 " in answer.split(b"\r\n")[0]
    assert b"Access-Control-Allow-Origin" not in answer
    assert opened(daemon) == before


@pytest.mark.parametrize("path", ["/ws", "/v1/realtime", "/v1/listen"])
def test_no_socket_opens_for_a_foreign_page_or_a_name_that_was_bound_again(daemon, ports, path):
    for headers in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Host": "evil.example"}):
        with pytest.raises(InvalidStatus) as refused, connect(
            f"ws://127.0.0.1:{ports[0]}{path}", additional_headers=headers, open_timeout=PATIENCE_S
        ):  # fmt: skip
            pass
        assert refused.value.response.status_code in (400, 403)


@pytest.mark.parametrize(
    "header",
    ["X-Forwarded-Host: localhost", "X-Forwarded-For: 127.0.0.1", "Forwarded: host=localhost", "X-Real-IP: ::1"],
)
def test_what_a_proxy_would_say_of_the_client_is_not_believed(daemon, ports, header):
    request = f"GET /status HTTP/1.1\r\nHost: evil.example\r\n{header}\r\n\r\n".encode()
    assert b" 403 " in exchange(ports[0], request).split(b"\r\n")[0]


NAMES = [
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".",
    "fake/../fake",
    "Systran/../../x",
    "a\\..\\b",
    "~root",
    "file:///etc/passwd",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_name_of_a_model_leads_nowhere(daemon, name, tmp_path):
    """Whoever asks: a session, a load, a download by somebody privileged."""
    with daemon.connect() as client, pytest.raises(AssertionError, match="model_not_found"):
        start(client, model=name)
    for method, field in (("load", "preset"), ("pull", "model")):
        with pytest.raises(RuntimeError) as refused:
            daemon.call(method, **{field: name})
        assert refused.value.args[0]["code"] in ("model_not_found", "bad_option"), refused.value


def test_a_model_in_a_path_of_the_web_leads_nowhere(daemon, ports):
    for path in (
        "/v1/models/../../etc/passwd",
        "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/../../etc/passwd",
        "//etc/passwd",
    ):
        answer = exchange(ports[0], f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        assert b" 404 " in answer.split(b"\r\n")[0]
        assert b"root:" not in answer


def test_a_label_that_would_command_a_terminal_or_forge_a_line_of_the_log_is_refused(daemon):
    for label in ("\x1b[2J", "a\nsttd: stopped", "\x9b31m", "\x07"):
        with daemon.connect() as client, pytest.raises(AssertionError, match="bad_option"):
            start(client, label=label)
    assert "\x1b" not in daemon.log()


def test_hundreds_of_half_requests_keep_nobody_out(daemon, ports):
    """Each holds a place among those that are no session yet, for as long as a head may take."""
    drips = [socket.create_connection(("127.0.0.1", ports[0]), timeout=PATIENCE_S) for _ in range(300)]
    try:
        for drip in drips:
            drip.sendall(b"GET /ws HTTP/1.1\r\nHost: loc")
        with connect(f"ws://127.0.0.1:{ports[0]}/ws", open_timeout=PATIENCE_S) as client:
            assert json.loads(client.recv(timeout=PATIENCE_S))["type"] == "hello"
        for drip in drips[:3]:
            assert b" 408 " in drip.recv(65536).split(b"\r\n")[0]
    finally:
        for drip in drips:
            drip.close()


def test_secrets_that_everybody_can_read_are_warned_of(tmp_path, serve):
    token = tmp_path / "token"
    token.write_text("correct-horse-battery")
    token.chmod(0o644)
    daemon = serve("--model", "fake", "--tcp", "127.0.0.1:0", "--set", f"server.token_file={token}")
    assert "can be read by everybody" in daemon.log()
    assert "correct-horse" not in daemon.log()
    shown = daemon.call("config")["values"]
    assert "correct-horse" not in json.dumps(shown)
    token.chmod(0o640)
    assert "can be read by everybody" not in serve(
        "--model", "fake", "--tcp", "127.0.0.1:0", "--set", f"server.token_file={token}", directory="other"
    ).log()  # fmt: skip


def test_every_test_that_the_threat_model_names_is_there():
    """A claim there without its test would be a promise."""
    page = (ROOT / "docs" / "explanation" / "threats.md").read_text()
    named = {word for word in page.replace("`", " ").split() if word.startswith("test_") and "/" not in word}
    defined = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(named) > 20
    assert [name for name in sorted(named) if f"def {name}(" not in defined] == []
