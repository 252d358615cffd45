"""TLS on the TCP plane: a real daemon, and clients that are independent of it as well as the library's own."""

from __future__ import annotations

import http.client
import json
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
from sttd_client import Final, NoDaemonError, TcpAddress
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from sttd.errors import ProtocolError
from tests.running import (
    PATIENCE_S,
    RunningDaemon,
    check_promises,
    eventually,
    free_port,
    read_pcm,
    read_to_end,
    say,
    start,
)
from tests.unit.clients.kinds import each_kind

CERTIFICATES = Path(__file__).parents[1] / "data" / "tls"
ONE, TWO = (str(CERTIFICATES / f"{name}.pem") for name in ("one", "two"))
TOKEN = "correct-horse-battery"
RECORDING = Path(__file__).parents[1] / "data" / "light.flac"
SPEECH = read_pcm(RECORDING)


def install(name, directory):
    """Put that certificate where the daemon looks for its own."""
    for ending in ("pem", "key"):
        shutil.copy(CERTIFICATES / f"{name}.{ending}", directory / f"server.{ending}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("tls")


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture(scope="module")
def daemon(place, port):
    install("one", place)
    (place / "token").write_text(TOKEN)
    running = RunningDaemon.start(
        place / "run", "--tcp", f"127.0.0.1:{port}", "--model", "fake", "--set", f"server.token_file={place}/token",
        "--set", f"server.tls_cert={place}/server.pem", "--set", f"server.tls_key={place}/server.key",
    )  # fmt: skip
    yield running
    assert running.stop() == 0


def trusting(certificate=ONE):
    return ssl.create_default_context(cafile=certificate)


def open_socket(port, **options):
    headers = {"Authorization": f"Bearer {TOKEN}", **options.pop("headers", {})}
    uri = f"wss://localhost:{port}/ws"
    return connect(
        uri, ssl=trusting(), additional_headers=headers, open_timeout=PATIENCE_S, ping_interval=None, max_size=None,
        **options,
    )  # fmt: skip


def transcribe(port):
    with open_socket(port) as socket_:
        start(socket_)
        for at in range(0, len(SPEECH), 6400):
            socket_.send(SPEECH[at : at + 6400])
        say(socket_, "stop")
        events = read_to_end(socket_)
        assert socket_.close_code == 1000
        return events


def test_a_session_over_tls_is_as_any_other(daemon, port):
    events = transcribe(port)
    check_promises(events)
    assert [event for event in events if event["type"] == "final"]


def test_large_messages_go_both_ways(daemon, port):
    with open_socket(port) as socket_:
        start(socket_, kind="file")
        for _ in range(20):
            socket_.send(bytes(range(256)) * 4000)
        say(socket_, "stop")
        check_promises(read_to_end(socket_))


def test_http_is_answered_whole_and_the_connection_closed_in_good_order(daemon, port):
    with closing(http.client.HTTPSConnection("localhost", port, context=trusting(), timeout=PATIENCE_S)) as client:
        client.request("GET", "/")
        response = client.getresponse()
        page = response.read()
    assert response.status == 200
    assert len(page) == int(response.headers["Content-Length"])
    assert f"wss://localhost:{port}" in response.headers["Content-Security-Policy"]
    raw = socket.create_connection(("localhost", port), timeout=PATIENCE_S)
    with trusting().wrap_socket(raw, server_hostname="localhost", suppress_ragged_eofs=False) as tls:
        assert tls.version() == "TLSv1.3"
        tls.sendall(b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while data := tls.recv(65536):  # it ends with the alert: a ragged end raises
            answer += data
    assert answer.startswith(b"HTTP/1.1 401")


@pytest.mark.parametrize(
    ("origin", "allowed"),
    [("https://localhost:{port}", True), ("http://localhost:{port}", False), ("https://evil.example", False)],
)
def test_the_own_origin_is_that_of_https(daemon, port, origin, allowed):
    headers = {"Origin": origin.format(port=port)}
    if allowed:
        with open_socket(port, headers=headers) as socket_:
            assert json.loads(socket_.recv(timeout=PATIENCE_S))["type"] == "hello"
    else:
        with pytest.raises(InvalidStatus) as refused:
            open_socket(port, headers=headers)
        assert refused.value.response.status_code == 403


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_no_version_that_is_broken_is_spoken(daemon, port, version):
    context = trusting()
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("ALL:@SECLEVEL=0")
    raw = socket.create_connection(("localhost", port), timeout=PATIENCE_S)
    with pytest.raises(OSError), context.wrap_socket(raw, server_hostname="localhost"):
        pass


def test_what_is_no_tls_is_cut_and_costs_nobody_else_anything(daemon, port):
    """Plain HTTP, rubbish, a reset in the middle of the handshake, and silence."""
    with socket.create_connection(("127.0.0.1", port)):
        for data in (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\0" * 70_000, b"\x80"):
            with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S) as client:
                client.sendall(data)
                assert b"HTTP" not in read_all(client)
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.sendall(b"\x16\x03\x01\x02\x00")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        assert [event for event in transcribe(port) if event["type"] == "final"]
    assert "connection failed" not in daemon.log()


def read_all(client):
    """Everything that comes, after saying that no more will go there."""
    try:
        client.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: client.recv(65536), b""))
    except OSError:
        return b""


def test_a_client_that_vanishes_leaves_no_session(daemon, port):
    with open_socket(port) as socket_:
        start(socket_, label="vanishes")
        socket_.send(SPEECH[:32_000])
        socket_.socket.shutdown(socket.SHUT_RDWR)
        eventually(lambda: not any(row["label"] == "vanishes" for row in daemon.call("sessions")["sessions"]))


# ---------------------------------------------------------------- the library, sttctl


@each_kind
async def test_the_library_verifies_whom_it_talks_to(kind, daemon, port):
    address = TcpAddress.of_url(f"wss://localhost:{port}", token=TOKEN, ca=ONE)
    async with kind.open_session(tcp=address, timeout_s=PATIENCE_S) as session:
        for _ in range(20):  # much in either direction at once
            await session.send(SPEECH)
        await session.stop()
        assert [event async for event in session if isinstance(event, Final)]
    for ca in (TWO, None):
        strange = TcpAddress.of_url(f"wss://localhost:{port}", token=TOKEN, ca=ca)
        with pytest.raises(NoDaemonError, match="certificate"):
            async with kind.open_session(tcp=strange, timeout_s=PATIENCE_S):
                pass
    other_name = TcpAddress(host="127.0.0.1", port=port, token=TOKEN, tls=True, ca=ONE)
    with pytest.raises(NoDaemonError, match="certificate"):
        async with kind.open_session(tcp=other_name, timeout_s=PATIENCE_S):
            pass
    plain = TcpAddress.of_url(f"ws://localhost:{port}", token=TOKEN)
    with pytest.raises((ConnectionError, ProtocolError)):
        async with kind.open_session(tcp=plain, timeout_s=PATIENCE_S):
            pass


@each_kind
async def test_what_answers_no_tls_is_no_daemon(kind):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def answer():
            for _ in range(2):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(1 << 16)
                    connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        for _ in range(2):
            with pytest.raises(NoDaemonError):
                async with kind.open_session(tcp=TcpAddress(port=port, tls=True), timeout_s=PATIENCE_S):
                    pass
        thread.join()


def test_sttctl_transcribes_over_tls(daemon, port, place):
    sttctl = str(Path(sys.executable).with_name("sttctl"))
    arguments = ["transcribe", "--url", f"wss://localhost:{port}", "--token-file", str(place / "token"), str(RECORDING)]
    heard = subprocess.run([sttctl, *arguments, "--ca", ONE], capture_output=True, text=True, timeout=PATIENCE_S)
    assert heard.returncode == 0, heard.stderr
    assert heard.stdout.strip()
    refused = subprocess.run([sttctl, *arguments, "--ca", TWO], capture_output=True, text=True, timeout=PATIENCE_S)
    assert refused.returncode == 3
    assert f"{TWO} has to hold" in refused.stderr


# ---------------------------------------------------------------- certificates change


def shown(port):
    with (
        socket.create_connection(("localhost", port), timeout=PATIENCE_S) as raw,
        ssl._create_unverified_context().wrap_socket(raw) as tls,
    ):
        return tls.getpeercert(binary_form=True)


def test_reload_takes_a_new_certificate_and_refuses_a_bad_one(daemon, port, place):
    """A session that is open goes on; a file that does not hold changes nothing."""
    before = shown(port)
    with open_socket(port) as socket_:
        start(socket_)
        install("two", place)
        daemon.call("reload")
        after = shown(port)
        assert after != before
        for key in (b"no key", (CERTIFICATES / "one.key").read_bytes()):
            (place / "server.key").write_bytes(key)
            with pytest.raises(RuntimeError) as refused:
                daemon.call("reload")
            assert refused.value.args[0]["code"] == "config_invalid"
            assert "tls" in refused.value.args[0]["message"]
            assert shown(port) == after
        install("one", place)
        daemon.call("reload")
        assert shown(port) == before
        socket_.send(SPEECH)
        say(socket_, "stop")
        check_promises(read_to_end(socket_))
