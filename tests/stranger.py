"""Another user's client: a process of his, told by the test what to send. Needs root."""

from __future__ import annotations

import contextlib
import json
import subprocess

import msgpack

from tests.running import PATIENCE_S

NOBODY = 65534


class Stranger:
    """A connection to a Unix socket that a process of another user holds."""

    SCRIPT = (
        "import socket, sys\n"
        "sttd = socket.socket(socket.AF_UNIX); sttd.connect(sys.argv[1])\n"
        "for line in sys.stdin:\n"
        "    sttd.sendall(bytes.fromhex(line[1:]))\n"
        "    if line[0] == '=':\n"
        "        print(sttd.recv(1 << 20).hex(), flush=True)\n"
    )

    def __init__(self, path, *, uid=NOBODY):
        self.process = subprocess.Popen(
            ["/usr/bin/python3", "-c", self.SCRIPT, str(path)],
            user=uid, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()  # it may wait for a daemon that reads no more
        self.process.wait(PATIENCE_S)
        self.process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def exchange(self, data):
        """Send bytes; what comes first."""
        self._order("=", data)
        return bytes.fromhex(self.process.stdout.readline())

    def send(self, data):
        """Send bytes, and wait for nothing."""
        self._order(">", data)

    def _order(self, what, data):
        self.process.stdin.write(f"{what}{data.hex()}\n")
        self.process.stdin.flush()

    def call(self, method, **params):
        """A request of the control plane: (error, result)."""
        return msgpack.unpackb(self.exchange(msgpack.packb([0, 1, method, [params] if params else []])))[2:]

    def open_session(self):
        """A WebSocket session on the audio plane, by hand; its id."""
        event = self.start_session()
        assert event["type"] == "started", event
        return event["session"]

    def start_session(self):
        """The same; what the daemon says to `start`."""
        self.exchange(
            b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        op = b'{"op": "start", "endpointing": false, "interim": false}'
        self.send(bytes([0x81, 0x80 | len(op), 0, 0, 0, 0]) + op)  # masked with zeros
        while True:  # a frame at a time, each an event
            answer = self.exchange(b"")
            for event in _events(answer):
                if event["type"] in ("started", "error"):
                    return event


def _events(data):
    """The JSON objects in what was received."""
    text, decoder = data.decode(errors="replace"), json.JSONDecoder()
    at = text.find('{"')  # a length may be a brace, too
    while at >= 0:
        event, end = decoder.raw_decode(text, at)
        yield event
        at = text.find('{"', end)
