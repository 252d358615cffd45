"""A server on a real socket that does what a test tells it to: answers, hangs, drips, resets, talks rubbish."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import h11

PATIENCE_S = 60.0  # of the server, with a client that does nothing more; chosen


@attrs.frozen(eq=False)
class Asked:
    """A request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def field(self, name: str) -> str | None:
        """The value of a field of its form."""
        _, found, rest = self.body.partition(f'name="{name}"\r\n\r\n'.encode())
        return rest.partition(b"\r\n")[0].decode() if found else None


Step = Callable[[socket.socket], bool]  # writes the answer; whether the connection goes on


def reply(content: Any, status: int = 200, *, keep: bool = True, **headers: str) -> Step:
    """A whole answer."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    lines = [f"HTTP/1.1 {status} X", f"Content-Length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    lines += [] if keep else ["Connection: close"]
    return raw("\r\n".join(lines).encode() + b"\r\n\r\n" + body, keep=keep)


def heard(text: str = "hello", **more: Any) -> Step:
    """The answer of a server that is well."""
    return reply({"text": text, **more})


def raw(data: bytes, *, keep: bool = False) -> Step:
    """These bytes."""

    def step(sock: socket.socket) -> bool:
        sock.sendall(data)
        return keep

    return step


def reset(data: bytes = b"") -> Step:
    """These bytes, then a connection that is reset."""

    def step(sock: socket.socket) -> bool:
        sock.sendall(data)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        return False

    return step


def hang(released: threading.Event) -> Step:
    """Nothing, until then or until the client has hung up."""

    def step(sock: socket.socket) -> bool:
        sock.settimeout(0.05)
        while not released.is_set():
            try:
                if not sock.recv(1024):
                    released.set()
            except TimeoutError:
                continue
            except OSError:
                released.set()
        return False

    return step


def drip(data: bytes, released: threading.Event) -> Step:
    """A byte every now and then."""

    def step(sock: socket.socket) -> bool:
        for at in range(len(data)):
            if released.wait(0.05):
                break
            sock.sendall(data[at : at + 1])
        return False

    return step


@attrs.define(eq=False)
class Server:
    """Answers with the steps in turn, then always with `otherwise`; a GET of `/models` with `probe`."""

    steps: deque[Step] = attrs.field(factory=deque, converter=deque)
    otherwise: Step = attrs.field(factory=heard)
    probe: Step = attrs.field(factory=lambda: reply({"data": []}))
    context: ssl.SSLContext | None = None
    asked: list[Asked] = attrs.field(factory=list, init=False)
    connections: int = attrs.field(default=0, init=False)
    _listener: socket.socket = attrs.field(init=False)
    _socks: list[socket.socket] = attrs.field(factory=list, init=False)
    _threads: list[threading.Thread] = attrs.field(factory=list, init=False)

    def __enter__(self) -> Server:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for sock in self._socks:
            sock.close()
        for thread in self._threads:
            thread.join(PATIENCE_S)

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"{'https' if self.context else 'http'}://localhost:{self.port}/v1"

    def _start(self, target: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._start(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        try:
            sock.settimeout(PATIENCE_S)
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_side=True)
            self._socks.append(sock)
            state = h11.Connection(h11.SERVER)
            while (asked := self._read(sock, state)) is not None:
                if asked.method == "GET":
                    step = self.probe
                else:
                    self.asked.append(asked)
                    step = self.steps.popleft() if self.steps else self.otherwise
                if not step(sock):
                    return
                state = h11.Connection(h11.SERVER)
        except (OSError, h11.RemoteProtocolError):
            pass  # the client has left, or the test has
        finally:
            sock.close()

    def _read(self, sock: socket.socket, state: h11.Connection) -> Asked | None:
        head, body = None, bytearray()
        while True:
            event = state.next_event()
            if event is h11.NEED_DATA:
                state.receive_data(sock.recv(65536))
            elif isinstance(event, h11.Request):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                assert head is not None
                headers = {name.decode(): value.decode() for name, value in head.headers}
                return Asked(head.method.decode(), head.target.decode(), headers, bytes(body))
            else:
                return None
