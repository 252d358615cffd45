"""Clients that do what clients do when they are broken, or mean harm: each alone, on every wire.

What must hold after each is stated once, in `tests/census.py`: somebody who spoke all the time noticed nothing, and the
daemon has what it had before.
"""

from __future__ import annotations

import base64
import json
import resource
import socket
import struct
import time
from contextlib import ExitStack, contextmanager, suppress

import attrs
import msgpack
import pytest

from benchmarks.load import frame
from benchmarks.wires import wav
from tests.census import HEARD, NOISE, TOLD, unharmed
from tests.running import PATIENCE_S, RunningDaemon, read_to_end, start

SECONDS = 3  # of audio that a client sends in one go
START = json.dumps({"op": "start", "model": "fake", **TOLD}).encode()
FORM = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + wav(NOISE * SECONDS)
AT_ONCE = 1000


@attrs.frozen
class Places:
    """Where a daemon listens."""

    daemon: RunningDaemon
    port: int
    wyoming: int

    def dial(self, wire: str) -> socket.socket:
        """A connection on which this wire is spoken, and its conversation has begun."""
        if wire == "control":
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE_S)
            sock.connect(str(self.daemon.control))
            return sock
        sock = socket.create_connection(("127.0.0.1", self.wyoming if wire == "wyoming" else self.port), PATIENCE_S)
        for data in BEGINNINGS[wire]:
            sock.sendall(data)
        return sock


def upgrade(path: str) -> bytes:
    lines = ("Host: localhost", "Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13")
    key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="
    return "\r\n".join([f"GET {path} HTTP/1.1", *lines, key, "", ""]).encode()


def append(pcm: bytes) -> bytes:
    return json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()}).encode()


def event(kind: str, payload: bytes = b"", **data: object) -> bytes:
    """One of Wyoming."""
    return json.dumps({"type": kind, "data": data, "payload_length": len(payload)}).encode() + b"\n" + payload


PCM = {"rate": 16_000, "width": 2, "channels": 1}
# What a connection of each wire begins with, and what makes work on it.
BEGINNINGS = {
    "native": [upgrade("/ws"), frame(START, opcode=1)],
    "realtime": [upgrade("/v1/realtime?intent=transcription")],
    "deepgram": [upgrade("/v1/listen?encoding=linear16&sample_rate=16000&interim_results=true")],
    "openai": [
        b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        b"Content-Type: multipart/form-data; boundary=b\r\n\r\n"
    ],
    "wyoming": [event("transcribe", name="fake"), event("audio-start", **PCM)],
    "control": [],
}
WORK = {
    "native": frame(NOISE * SECONDS),
    "realtime": frame(append(NOISE * SECONDS), opcode=1),
    "deepgram": frame(NOISE * SECONDS),
    "openai": FORM,
    "wyoming": event("audio-chunk", NOISE * SECONDS, **PCM),
    "control": msgpack.packb([0, 1, "sessions", [{"limit": 100}]]),
}
# What each wire answers to at once, whatever came before.
QUESTIONS = {
    "native": frame(b'{"op": "no such op"}', opcode=1),
    "realtime": frame(b'{"type": "no such type"}', opcode=1),
    "deepgram": frame(b'{"type": "no such type"}', opcode=1),
    "openai": b"",
    "wyoming": event("ping", text="x" * 1000),
    "control": msgpack.packb([0, 1, "describe", []]),
}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    daemon = RunningDaemon.start(
        tmp_path_factory.mktemp("faults") / "run",
        "--tcp", "127.0.0.1:0", "--model", "fake", "--set", 'server.wyoming=["127.0.0.1:0"]',
        "--set", "limits.idle_timeout_s=5", "--set", "limits.keepalive_s=5", "--set", "limits.adapter_idle_s=5",
    )  # fmt: skip
    names = daemon.call("status")["server"]["listeners"]
    ports = {name.partition(":")[0]: int(name.rpartition(":")[2]) for name in names if "127.0.0.1" in name}
    yield Places(daemon, port=ports["audio-tcp"], wyoming=ports["wyoming"])
    assert daemon.stop() == 0, daemon.log()


def leave(sock: socket.socket, *, reset: bool) -> None:
    """Without a word; with `reset` as a program does that is killed with data unread."""
    if reset:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("reset", [False, True])
def test_clients_vanish_in_the_middle_of_what_they_say(places, reset):
    with unharmed(places.daemon):
        for wire, work in WORK.items():
            for share in (0.01, 0.3, 0.9, 1.0):
                sock = places.dial(wire)
                sock.sendall(work[: max(1, int(share * len(work)))])
                leave(sock, reset=reset)


@pytest.mark.parametrize("wire", [wire for wire, question in QUESTIONS.items() if question])
def test_a_client_that_asks_and_never_reads_holds_up_nobody(places, wire):
    with unharmed(places.daemon) as bystander:
        sock = places.dial(wire)
        sock.settimeout(0.5)
        with suppress(OSError):  # it is held back, or sent away: both end what it can do
            for _ in range(20_000):
                sock.sendall(QUESTIONS[wire])
        bystander.wait_for_another()
        leave(sock, reset=True)


def test_clients_that_drip_are_served_at_their_pace(places):
    conversation = frame(NOISE[:9600]) + frame(b'{"op": "finalize"}', opcode=1) + frame(b'{"op": "stop"}', opcode=1)
    with unharmed(places.daemon), places.dial("native") as sock:
        for at in range(len(conversation) - 200, len(conversation)):
            if at == len(conversation) - 200:
                sock.sendall(conversation[:at])
            sock.sendall(conversation[at : at + 1])
            time.sleep(0.001)
        said = b""
        while data := sock.recv(65536):
            said += data
        assert b'"text":"w1"' in said
        assert b'"type":"stopped"' in said


@pytest.mark.parametrize("wire", WORK)
def test_a_client_that_floods_gets_no_more_than_its_share(places, wire):
    with unharmed(places.daemon) as bystander:
        sock = places.dial(wire)
        sock.settimeout(0.5)
        finals = bystander.finals
        deadline = time.monotonic() + 3.0
        with suppress(OSError):  # it is held back, or sent away
            while time.monotonic() < deadline:
                sock.sendall(WORK[wire])
        bystander.wait_for_another()
        assert bystander.finals > finals
        leave(sock, reset=True)


def test_clients_that_pause_for_too_long_get_what_they_are_owed_and_a_reason(places):
    """An hour, where the limits are 300 s and 3600 s; five seconds here."""
    with unharmed(places.daemon), ExitStack() as stack:
        silent = [stack.enter_context(places.dial(wire)) for wire in ("realtime", "wyoming", "deepgram")]
        native = stack.enter_context(places.daemon.connect())
        start(native, **TOLD)
        native.send(NOISE)
        events = read_to_end(native)
        assert [event["text"] for event in events if event["type"] == "final"] == [HEARD]
        assert [event["code"] for event in events if event["type"] == "error"] == ["idle_timeout"]
        assert native.close_code == 1008
        for sock in silent:
            sock.settimeout(PATIENCE_S)
            while sock.recv(65536):
                pass


def test_clients_that_come_again_and_again_leave_nothing_behind(places):
    with unharmed(places.daemon):
        for number in range(240):
            wire = list(WORK)[number % len(WORK)]
            sock = places.dial(wire)
            if number % 3 == 0:
                sock.sendall(WORK[wire][:2000])
            leave(sock, reset=number % 2 == 0)


@contextmanager
def crowd(places, count):
    with ExitStack() as stack:
        for number in range(count):
            sock = stack.enter_context(socket.socket())
            sock.settimeout(PATIENCE_S)
            sock.connect(("127.0.0.1", places.wyoming if number % 4 == 0 else places.port))
            if number % 4 == 1:
                with suppress(OSError):
                    sock.sendall(b"".join(BEGINNINGS["native"]))
        yield


def test_a_thousand_at_once_are_let_in_or_sent_away(places):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with crowd(places, min(AT_ONCE, hard - 200)):
            pass  # the first one makes the process as large as a crowd needs it, and the second one no larger
        with unharmed(places.daemon) as bystander, crowd(places, min(AT_ONCE, hard - 200)):
            bystander.wait_for_another()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
