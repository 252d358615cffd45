"""A speech session for programs without an event loop: PCM in, events out, over one blocking connection.

    with open_session(lang="en") as session:
        session.send(pcm)
        session.stop()
        for event in session:
            print(event)

Nothing runs in the background. Every call that waits for the daemon also reads what the daemon says, so neither side
can stall the other; events wait in an inbox until they are taken. A program with other things to wait for selects on
the session (`fileno`) and takes what is there (`poll`). A session belongs to one thread.
"""

from __future__ import annotations

import itertools
import os
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar, Unpack

from sttd.errors import SttdError
from sttd.wire.messages import Configure, Finalize, Start, Stop
from sttd.wire.schema import parse
from sttd_client.addresses import (
    ConnectionLostError,
    TcpAddress,
    audio_sockets,
    connect_first,
    connect_unix,
)
from sttd_client.connection import AudioConnection, failure_error, retry_delay_s
from sttd_client.events import Event, Failure, Hello, Reconnected, Started
from sttd_client.inbox import Inbox
from sttd_client.options import ConfigureOptions, StartOptions
from sttd_client.owed import Owed

_READ_BYTES = 1 << 16
_FAREWELL_S = 1.0  # for the close frame of a session that is left early; a dead daemon must not hold its client

Answer = TypeVar("Answer", Hello, Started)
Dial = Callable[[], tuple[socket.socket, AudioConnection]]


@contextmanager
def open_session(
    *,
    socket_path: str | os.PathLike[str] | None = None,
    tcp: TcpAddress | None = None,
    reconnect_s: float = 0.0,
    timeout_s: float = 10.0,
    **options: Unpack[StartOptions],
) -> Iterator[Session]:
    """Connect, start a session and yield it; the connection is closed at the end.

    Args:
        socket_path: the control socket of the daemon that is meant (`audio.sock` lies beside it); None looks for one.
        tcp: go over TCP instead.
        reconnect_s: how long to try for a new session after the connection was lost; 0 does not try. A daemon that is
            restarted still sends finals and `Stopped`; then comes `Reconnected`.
        timeout_s: for the daemon's answer to each step of the start.

    Raises:
        NoDaemonError: nobody listens.
        TimeoutError: the daemon does not answer.
        SttdError: an option is wrong, or the daemon refuses (`overloaded`, `model_not_local`, `forbidden`, ...).
    """
    start = parse(Start, options)

    def dial() -> tuple[socket.socket, AudioConnection]:
        return _dial(socket_path, tcp, timeout_s=timeout_s)

    session = Session(dial, start=start, reconnect_s=reconnect_s, timeout_s=timeout_s)
    try:
        yield session
    finally:
        session.close()


class Session:
    """A running session; `open_session` makes it. `hello` and `started` are the daemon's answers."""

    hello: Hello
    started: Started

    def __init__(self, dial: Dial, *, start: Start, reconnect_s: float, timeout_s: float) -> None:
        self._dial = dial
        self._start = start
        self._reconnect_s = reconnect_s
        self._timeout_s = timeout_s
        self._stopping = False
        self._owed = Owed(start)
        self._inbox = Inbox()
        self._connect()

    # ---------------------------------------------------------------- to the daemon

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send audio in the encoding that the session was started with.

        Returns when the kernel has taken it: this is how the daemon holds back a client that is too fast for it.

        Raises:
            SttdError: the session ended with this error.
            ConnectionLostError: the connection was lost, and not asked or not possible to make anew.
        """
        self._owed.audio(memoryview(data).nbytes)
        self._write(self._connection.audio(data))

    def finalize(self) -> None:
        """End the current utterance now; its `Final` follows (of text "" where none was open).

        One that goes down with a connection that is made anew is said again: its `Final` comes after `Reconnected`.
        """
        self._owed.finalize()
        self._write(self._connection.op(Finalize()))

    def configure(self, **changes: Unpack[ConfigureOptions]) -> None:
        """Change options from the next utterance on; they survive a reconnect only if `start` named them too."""
        change = parse(Configure, changes)
        self._owed.unsaid(change)
        self._write(self._connection.op(change))
        self._owed.said()

    def stop(self) -> None:
        """No more audio. Iterate to the end to get what is still pending."""
        self._stopping = True
        self._write(self._connection.op(Stop()))

    def close(self) -> None:
        """Leave, done or not: the daemon gives up what it was doing for this session. May be called twice."""
        if not self._connection.closed:
            self._socket.settimeout(_FAREWELL_S)
            with suppress(OSError):  # the daemon may have gone first
                self._socket.sendall(self._pending + self._connection.close())
        self._socket.close()

    # ---------------------------------------------------------------- from the daemon

    def receive(self, *, timeout_s: float | None = None) -> Event | None:
        """Wait for the next event and return it; None after the last one.

        Raises:
            TimeoutError: none came within `timeout_s`.
            SttdError: the session ended with this error; every event before it was returned first.
            ConnectionLostError: the connection ended before the session did.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while not self._inbox and self._alive():
            if self._inbox:  # to be alive may have taken a reconnect, which is an event
                break
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("the daemon sent nothing in time")
            self._step(timeout_s=left)
        return self._inbox.get()

    def poll(self) -> list[Event]:
        """The events that are there, without waiting for any; raises as `receive` does when there are none."""
        if not self._connection.closed:
            self._step(timeout_s=0)
        if not self._inbox:
            self._alive()
        return self._inbox.take_all()

    def __iter__(self) -> Iterator[Event]:
        """All events up to the end of the session; raises as `receive` does."""
        return iter(self.receive, None)

    def fileno(self) -> int:
        """For `select`: readable when `poll` has something to do. A reconnect changes it."""
        return self._socket.fileno()

    @property
    def ended(self) -> bool:
        """Whether the connection is closed and every event was taken."""
        return self._connection.closed and not self._inbox

    # ---------------------------------------------------------------- the connection

    def _connect(self) -> None:
        """Dial and start; raises what the daemon has against it. Events of an earlier connection stay first."""
        earlier, self._inbox = self._inbox, Inbox()
        self._pending = bytearray()
        self._socket, self._connection = self._dial()
        self._socket.setblocking(False)
        try:
            self.hello = self._answer(Hello, request=self._connection.open())
            self.started = self._answer(Started, request=self._connection.op(self._start))
        except BaseException:
            self._socket.close()
            self._inbox = earlier
            raise
        for event in self._inbox.take_all():
            earlier.put(event)
        self._inbox = earlier

    def _answer(self, kind: type[Answer], *, request: bytes) -> Answer:
        """Send `request` and wait for the event that answers it; an error in its place is raised."""
        self._pending += request
        deadline = time.monotonic() + self._timeout_s
        while (event := self._inbox.get()) is None:
            if self._connection.closed:
                raise self._connection.error() or ConnectionLostError("the daemon ended the session at once")
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError("the daemon does not answer")
            self._step(timeout_s=left)
        if isinstance(event, Failure):
            raise failure_error(event)
        if not isinstance(event, kind):
            raise ConnectionLostError(f"the daemon said `{event.type}` where `{kind.type}` was due")
        return event

    def _alive(self) -> bool:
        """Whether there is a connection, after making a new one if need be; raises what ended the session."""
        if self._connection.closed and not self._reconnect():
            if error := self._connection.error():
                raise error
            return False
        return True

    def _reconnect(self) -> bool:
        """Try for a new session until one starts (True) or the time for it is over (raises). False: no use trying."""
        if not self._reconnect_s or self._stopping or not self._connection.worth_retrying:
            return False
        deadline = time.monotonic() + self._reconnect_s
        for attempt in itertools.count():
            self._socket.close()
            try:
                self._connect()
                break
            except (OSError, SttdError) as error:
                delay_s = retry_delay_s(attempt, error)
                if time.monotonic() + delay_s > deadline or (isinstance(error, SttdError) and not error.retryable):
                    raise
                time.sleep(delay_s)
        lost_bytes, again = self._owed.begin_anew()
        self._pending += b"".join(self._connection.op(op) for op in again)
        self._inbox.put(Reconnected(session=self.started.session, lost_bytes=lost_bytes))
        return True

    def _write(self, data: bytes) -> None:
        self._pending += data
        while self._pending and not self._connection.closed:
            self._step(timeout_s=None)
        if self._connection.closed and not self._reconnect():
            raise self._connection.error() or ConnectionLostError("the session has ended")

    def _step(self, *, timeout_s: float | None) -> None:
        """Wait once, at most `timeout_s`, for the socket to take or to give something; do that."""
        wanted = (0 if self._inbox.full else select.POLLIN) | (select.POLLOUT if self._pending else 0)
        poller = select.poll()
        poller.register(self._socket, wanted)
        for _, ready in poller.poll(None if timeout_s is None else timeout_s * 1000):
            try:
                if ready & select.POLLOUT:
                    del self._pending[: self._socket.send(self._pending)]
                if ready & ~select.POLLOUT:
                    self._read(self._socket.recv(_READ_BYTES))
            except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
                continue  # of TLS: a record that is not whole yet, or that holds no bytes of ours
            except OSError:  # reset or broken pipe
                self._hear_out()

    def _hear_out(self) -> None:
        """The daemon takes no more: read what it said before that, up to the end of the stream."""
        self._pending.clear()
        while not self._connection.closed:
            try:
                self._read(self._socket.recv(_READ_BYTES))
            except OSError:
                self._read(b"")

    def _read(self, data: bytes) -> None:
        for event in self._connection.receive(data):
            self._owed.heard(event)
            self._inbox.put(event)
        self._pending += self._connection.data_to_send()


def _dial(
    socket_path: str | os.PathLike[str] | None, tcp: TcpAddress | None, *, timeout_s: float
) -> tuple[socket.socket, AudioConnection]:
    if tcp is None:
        return connect_first(audio_sockets(socket_path), connect_unix), AudioConnection()
    try:
        connection = socket.create_connection((tcp.host, tcp.port), timeout=timeout_s)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # small pieces of live audio must not wait
        if tcp.tls:
            connection = _secured(connection, tcp)
    except OSError as error:
        raise tcp.refused(error) from error
    return connection, AudioConnection(host=tcp.authority, token=tcp.token)


def _secured(connection: socket.socket, tcp: TcpAddress) -> socket.socket:
    try:
        return tcp.context().wrap_socket(connection, server_hostname=tcp.host)
    except BaseException:
        connection.close()
        raise
