"""The two planes spoken by hand, with libraries that are not sttd's: what systemd tests need of a client."""

import contextlib
import json
import socket

import msgpack
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import unix_connect

TIMEOUT_S = 120


class Refused(Exception):
    """An error response; `code` is the protocol's."""

    def __init__(self, error):
        super().__init__(f"{error['code']}: {error['message']}")
        self.code = error["code"]


def call(path, method, /, **params):
    """One request to the control socket at `path`."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(TIMEOUT_S)
        sock.connect(str(path))
        sock.sendall(msgpack.packb([0, 1, method, [params] if params else []]))
        unpacker = msgpack.Unpacker()
        while data := sock.recv(65536):
            unpacker.feed(data)
            for kind, msgid, error, result in unpacker:
                assert (kind, msgid) == (1, 1)
                if error is not None:
                    raise Refused(error)
                return result
    raise ConnectionError("the daemon closed the connection without an answer")


class Session:
    """One audio session in which the client says when an utterance ends.

    The preset `fake` hears a word in every 0.3 s; of silence, more than three are taken for invented.
    """

    def __init__(self, websocket):
        self.websocket = websocket
        self.messages = []

    @classmethod
    @contextlib.contextmanager
    def open(cls, path, **options):
        with unix_connect(str(path), "ws://localhost/ws", open_timeout=TIMEOUT_S) as websocket:
            session = cls(websocket)
            session.until("hello")
            session.send(op="start", **{"interim": False, "endpointing": False, **options})
            session.started = session.until("started")
            yield session

    def send(self, **message):
        self.websocket.send(json.dumps(message))

    def speak(self, seconds=1.0):
        """Send silence, 16-bit at 16 kHz."""
        self.websocket.send(bytes(2 * round(seconds * 16_000)))

    def until(self, kind):
        """Read up to a message of that type, and return it."""
        while True:
            message = json.loads(self.websocket.recv(timeout=TIMEOUT_S))
            self.messages.append(message)
            if message["type"] == kind:
                return message
            assert message["type"] != "error", message

    def until_closed(self):
        """Read to the end; the close code."""
        try:
            while True:
                self.messages.append(json.loads(self.websocket.recv(timeout=TIMEOUT_S)))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd else None

    def finals(self):
        return [message for message in self.messages if message["type"] == "final"]
