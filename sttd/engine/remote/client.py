"""HTTP to one server, from the threads that decode: connections that are used again, and an end to every wait.

h11 on blocking sockets, since what a decode needs no client library has: one deadline for all of an exchange, whatever
drips in, and a look now and then at whether anybody still waits. Who no longer does has the connection cut, by which
servers notice that they may stop. h11 is in the daemon anyhow, so nothing is imported for it.

There are as many connections as calls at most (`max_in_flight`). One that is idle is used again, the last one first,
unless it has become readable: then the server has closed it, or says what nobody asked. One that breaks before a byte
came back, and had been used before, is replaced by a fresh one once: the server closed it at that moment.
"""

from __future__ import annotations

import contextlib
import queue
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Final

import attrs
import h11

import sttd
from sttd.engine.remote.asking import MAX_BODY_BYTES, Answer, Kind, Request, Trouble
from sttd.engine.remote.options import RemoteOptions, read_url

_GLANCE_S: Final = 0.1  # chosen: between two looks at whether anybody waits
_CONNECT_S: Final = 3.0  # chosen: two lost packets; a server that is there answers within a round trip
_SEND_BYTES: Final = 64 * 1024
_HEAD_BYTES: Final = 64 * 1024  # of an answer
_IDLE_S: Final = 60.0  # chosen: routers forget connections that say nothing for longer, asleep or not


class Gone(Exception):
    """Nobody waits for the answer any more."""


class _Stale(Exception):
    """An idle connection turned out to be closed."""


@attrs.define(eq=False)
class _Line:
    """A connection."""

    sock: socket.socket
    state: h11.Connection
    used: bool = False
    idle_since: float = 0.0

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self.sock.close()


@attrs.define(eq=False)
class Client:
    """Exchanges with the server that `options` name. Its methods are called from several threads.

    Args:
        options: of the preset.
        context: of TLS; None for http.
    """

    options: RemoteOptions
    context: ssl.SSLContext | None
    _idle: list[_Line] = attrs.field(factory=list, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def exchange(self, request: Request, *, until: float, gone: Callable[[], bool]) -> Answer:
        """Ask and wait for the whole answer, until then on the monotonic clock.

        Raises:
            Trouble: there is no whole answer.
            Gone: nobody waits any more.
        """
        try:
            token = self.options.token()
        except ValueError as error:
            raise Trouble(Kind.REFUSED, str(error)) from None
        data = self._head(request, token)
        line = self._take_idle()
        if line is not None:
            with contextlib.suppress(_Stale):
                return self._exchange(line, data, request, until=until, gone=gone)
        return self._exchange(self._connect(until, gone), data, request, until=until, gone=gone)

    def close(self) -> None:
        """Close what is idle, and what is in use once it is not."""
        with self._lock:
            self._closed, lines = True, self._idle
            self._idle = []
        for line in lines:
            line.close()

    # ------------------------------------------------------------------ connections

    def _take_idle(self) -> _Line | None:
        while True:
            with self._lock:
                if not self._idle:
                    return None
                line = self._idle.pop()
            if _boot_s() - line.idle_since < _IDLE_S and not _readable(line.sock):
                return line
            line.close()

    def _keep(self, line: _Line) -> None:
        line.idle_since, line.used = _boot_s(), True
        with self._lock:
            if not self._closed and len(self._idle) < self.options.max_in_flight:
                self._idle.append(line)
                return
        line.close()

    def _connect(self, until: float, gone: Callable[[], bool]) -> _Line:
        parts = read_url(self.options.url)
        host, port = parts.hostname or "", parts.port or (443 if self.context else 80)
        left_s = min(_CONNECT_S, until - time.monotonic())
        if left_s <= 0:
            raise Trouble(Kind.TIMEOUT, "there was no time left to ask it")
        soon = time.monotonic() + left_s  # for its name, all its addresses, and TLS
        try:
            sock = _connected(_addresses(host, port, _Glance(soon, gone)), port, soon)
        except socket.gaierror as error:
            raise Trouble(Kind.AGAIN, f"its name is not known: {error.strerror}") from None
        except TimeoutError:
            raise Trouble(Kind.TIMEOUT, f"no connection within {left_s:.1f} s") from None
        except (OSError, UnicodeError) as error:
            raise Trouble(Kind.AGAIN, f"no connection: {_words(error)}") from None
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.settimeout(max(0.1, soon - time.monotonic()))
            if self.context is not None:
                sock = self.context.wrap_socket(sock, server_hostname=host)
        except ssl.SSLCertVerificationError as error:
            sock.close()
            raise Trouble(Kind.REFUSED, f"its certificate is not trusted: {error.verify_message}") from None
        except TimeoutError:
            sock.close()
            raise Trouble(Kind.TIMEOUT, f"no TLS within {left_s:.1f} s") from None
        except (OSError, ValueError) as error:
            sock.close()
            raise Trouble(Kind.AGAIN, f"no TLS: {_words(error)}") from None
        sock.settimeout(_GLANCE_S)
        return _Line(sock, h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES))

    # ------------------------------------------------------------------ one exchange

    def _head(self, request: Request, token: str) -> h11.Request:
        parts = read_url(self.options.url)
        headers = [
            ("Host", parts.netloc),
            ("User-Agent", f"sttd/{sttd.__version__}"),
            ("Accept", "application/json"),
            ("Accept-Encoding", "identity"),  # a compressed answer could be of any size once it is opened
            *request.headers,
        ]
        if request.body:
            headers.append(("Content-Length", str(len(request.body))))
        if token:
            headers.append(("Authorization", f"Bearer {token}"))
        return h11.Request(method=request.method, target=parts.path.rstrip("/") + request.path, headers=headers)

    def _exchange(
        self, line: _Line, head: h11.Request, request: Request, *, until: float, gone: Callable[[], bool]
    ) -> Answer:
        """Raises Trouble, Gone; _Stale where the connection was closed before any of it."""
        glance = _Glance(until, gone)
        kept = False
        try:
            data = line.state.send(head)
            if request.body:
                data += line.state.send(h11.Data(data=request.body))
            data += line.state.send(h11.EndOfMessage())
            sent = _send(line, data, glance)
            answer = _receive(line, glance)
            if sent and line.state.our_state is h11.DONE and line.state.their_state is h11.DONE:
                line.state.start_next_cycle()
                self._keep(line)
                kept = True
            return answer
        except h11.RemoteProtocolError:
            raise Trouble(Kind.BROKEN, "what it answers is no HTTP") from None
        finally:
            if not kept:
                line.close()


@attrs.frozen
class _Glance:
    """What is looked at while there is nothing to do."""

    until: float
    gone: Callable[[], bool]

    def __call__(self) -> None:
        """Raises Trouble, Gone."""
        if time.monotonic() >= self.until:
            raise Trouble(Kind.TIMEOUT, "it did not answer in time")
        if self.gone():
            raise Gone


def _addresses(host: str, port: int, glance: _Glance) -> list[str]:
    """The addresses of a name. A resolver cannot be stopped, so a thread of its own waits for it."""
    found = queue.SimpleQueue[list[str] | Exception]()

    def look() -> None:
        try:
            found.put([str(row[4][0]) for row in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)])
        except Exception as error:
            found.put(error)

    threading.Thread(target=look, name="sttd-resolve", daemon=True).start()
    while True:
        glance()
        with contextlib.suppress(queue.Empty):
            result = found.get(timeout=_GLANCE_S)
            if isinstance(result, Exception):
                raise result
            return result


def _connected(addresses: list[str], port: int, soon: float) -> socket.socket:
    """A connection to the first that answers."""
    for left, address in zip(range(len(addresses), 0, -1), addresses, strict=True):
        try:
            return socket.create_connection((address, port), timeout=max(0.1, (soon - time.monotonic()) / left))
        except OSError:
            if left == 1:
                raise
    raise OSError("no address")


def _send(line: _Line, data: bytes, glance: _Glance) -> bool:
    """Send all of it. False: the server stopped reading, or answered before it had read all."""
    rest = memoryview(data)
    while rest:
        glance()
        try:
            rest = rest[line.sock.send(rest[:_SEND_BYTES]) :]
        except TimeoutError:
            if _answers(line):
                return False
        except OSError:
            return False  # it may have said why
    return True


def _receive(line: _Line, glance: _Glance) -> Answer:
    status, headers, body, received = 0, dict[str, str](), bytearray(), 0
    while True:
        event = line.state.next_event()
        if event is h11.NEED_DATA:
            data = _receive_some(line, glance, begun=received > 0)
            received += len(data)
            if received > MAX_BODY_BYTES + _HEAD_BYTES:
                raise Trouble(Kind.BROKEN, "its answer is too long")
            if not data and (line.state.their_state is not h11.SEND_BODY or not _ends_with_the_connection(headers)):
                raise Trouble(Kind.AGAIN, "it hung up before all of its answer was there")
            line.state.receive_data(data)
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in event.headers}
            if headers.get("content-encoding", "identity") != "identity":
                raise Trouble(Kind.BROKEN, "its answer is compressed, which nobody asked for")
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, h11.EndOfMessage):
            return Answer(status=status, headers=headers, body=bytes(body))
        elif not isinstance(event, h11.InformationalResponse):
            raise Trouble(Kind.AGAIN, "it hung up without an answer")


def _receive_some(line: _Line, glance: _Glance, *, begun: bool) -> bytes:
    """What comes next; nothing at the end. Raises Trouble, Gone, _Stale."""
    while True:
        glance()
        try:
            data = line.sock.recv(_SEND_BYTES)
        except TimeoutError:
            continue
        except OSError as error:
            if line.used and not begun:
                raise _Stale from None
            raise Trouble(Kind.AGAIN, f"the connection broke: {_words(error)}") from None
        if not data and line.used and not begun:
            raise _Stale
        return data


def _ends_with_the_connection(headers: dict[str, str]) -> bool:
    return "content-length" not in headers and "transfer-encoding" not in headers


def _answers(line: _Line) -> bool:
    """Whether the server says something already. TLS 1.3 sends tickets behind its handshake: they are no answer."""
    if not _readable(line.sock):
        return False
    if not isinstance(line.sock, ssl.SSLSocket):
        return True
    line.sock.settimeout(0)
    try:
        if data := line.sock.recv(_SEND_BYTES):  # the end of it is met again by who receives
            line.state.receive_data(data)
    except ssl.SSLWantReadError:
        return False
    except OSError:
        pass
    finally:
        line.sock.settimeout(_GLANCE_S)
    return True


def _readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


def _boot_s() -> float:
    """Seconds on a clock that goes on while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _words(error: Exception) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
