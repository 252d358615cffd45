"""A speech session for programs without an event loop: PCM in, events out, over one blocking connection at a time.

    with open_session(lang="en") as session:
        session.send(pcm)
        session.stop()
        for event in session:
            print(event)

Nothing runs in the background. Every call that waits for the daemon also reads what the daemon says, so neither side
can stall the other; events wait in an inbox until they are taken. A program with other things to wait for selects on
the session (`fileno`) and takes what is there (`poll`). A session belongs to one thread.

A connection that is lost is made anew by whichever call comes next, as `resuming.py` decides.
"""

from __future__ import annotations

import os
import random
import select
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Unpack

from sttd.errors import SttdError
from sttd.wire import messages
from sttd.wire.messages import Configure, Finalize, Start, Stop
from sttd.wire.schema import parse
from sttd_client.addresses import (
    TCP_OPTIONS,
    ConnectionLostError,
    TcpAddress,
    audio_sockets,
    connect_first,
    connect_unix,
)
from sttd_client.connection import AudioConnection, pieces
from sttd_client.events import Event, Hello, Started
from sttd_client.options import ConfigureOptions, StartOptions
from sttd_client.resuming import Phase, Resuming

_READ_BYTES = _WRITE_BYTES = 1 << 16
_FAREWELL_S = 1.0  # for the close frame of a session that is left early; a dead daemon must not hold its client
_NAP_S = 0.05  # chosen: of `poll` while there is no connection, and so nothing to select on

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
        reconnect_s: how long to try for a new session after one was lost; 0 does not try. A daemon that is restarted
            still sends finals and `Stopped`; then comes `Reconnected`.
        timeout_s: for the daemon's answer to each step of the start.
        options: those of `start`. `resumable` left out means: where the daemon can. Then a connection that is lost is
            made anew within 30 s, nothing is missing, and `Resumed` says so; no more than about 4 MiB of audio are kept
            for that. False switches it off; True insists, and an older daemon refuses the start.

    Raises:
        NoDaemonError: nobody listens.
        TimeoutError: the daemon does not answer.
        SttdError: an option is wrong, or the daemon refuses (`overloaded`, `model_not_local`, `forbidden`, ...).
    """
    start = parse(Start, options)
    dial = partial(_dial, socket_path, tcp, timeout_s)
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
        self._timeout_s = timeout_s
        self._resuming = Resuming(start, reconnect_s=reconnect_s, chance=random.random)
        self._pending = bytearray()  # for the kernel
        self._connect()

    # ---------------------------------------------------------------- to the daemon

    def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send audio in the encoding that the session was started with.

        Returns when the kernel has taken it: this is how the daemon holds back a client that is too fast for it.

        Raises:
            SttdError: the session ended with this error.
            ConnectionLostError: the connection was lost, and not asked or not possible to make anew.
        """
        for piece in pieces(data):
            while not (self._resuming.has_room and self._is_heard()):
                self._step(timeout_s=None)
            self._resuming.audio(piece)
        self._flush()

    def offer(self, data: bytes | bytearray | memoryview) -> None:
        """Send as `send` does, for a program that holds its audio back while nobody `listens`.

        It does not wait for a new session in place of one that was lost: what was on its way then is lost, and counted.
        It raises nothing; `poll` and `receive` do, after what the daemon had said.
        """
        for piece in pieces(data):
            while self.listens and not self._resuming.has_room:
                self._step(timeout_s=None)
            if self.listens:
                self._resuming.audio(piece)
        while self._resuming.phase is Phase.OPEN and self._wants_to_write:
            self._step(timeout_s=None)

    def finalize(self) -> None:
        """End the current utterance now; its `Final` follows (of text "" where none was open).

        One that goes down with a session is said again in the next: its `Final` comes after `Reconnected`.
        """
        self._resuming.say(Finalize())
        self._flush()

    def configure(self, **changes: Unpack[ConfigureOptions]) -> None:
        """Change options from the next utterance on; they survive a reconnect only if `start` named them too."""
        self._resuming.say(parse(Configure, changes))
        self._flush()

    def stop(self) -> None:
        """No more audio. Iterate to the end to get what is still pending."""
        self._resuming.say(Stop())
        self._flush()

    def close(self) -> None:
        """Leave, done or not: the daemon gives up what it was doing for this session. May be called twice."""
        self._resuming.abandon(None)
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
        while not self._resuming.inbox and self._is_alive():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("the daemon sent nothing in time")
            self._step(timeout_s=left)
        return self._resuming.inbox.get()

    def poll(self) -> list[Event]:
        """The events that are there, without waiting for any; raises as `receive` does when there are none."""
        self._step(timeout_s=_NAP_S if self._resuming.phase is Phase.AWAY else 0)
        if not self._resuming.inbox:
            self._is_alive()
        return self._resuming.inbox.take_all()

    def __iter__(self) -> Iterator[Event]:
        """All events up to the end of the session; raises as `receive` does."""
        return iter(self.receive, None)

    def fileno(self) -> int:
        """For `select`: readable when `poll` has something to do. Another connection changes it."""
        return self._socket.fileno()

    @property
    def listens(self) -> bool:
        """Whether what is sent now is sent or kept; otherwise `send` waits for a new session, for `reconnect_s`."""
        return self._resuming.phase is Phase.OPEN or (self._resuming.phase is Phase.AWAY and self._resuming.keeps)

    @property
    def ended(self) -> bool:
        """Whether the session is over and every event was taken."""
        return self._resuming.phase is Phase.OVER and not self._resuming.inbox

    # ---------------------------------------------------------------- the connection

    def _connect(self) -> None:
        """Dial, and start or resume; raises what the daemon has against it."""
        new, connection = self._dial()
        talk = _Handshake(new, connection, timeout_s=self._timeout_s)
        try:
            self.hello = talk.hello()
            op: Start | messages.Resume | None = self._resuming.greeting()
            while op is not None:
                answer = talk.ask(connection.op(op))
                op = self._resuming.answered(answer, time.monotonic())
        except BaseException:
            new.close()
            raise
        if isinstance(answer, Started):
            self.started = answer
        new.setblocking(False)
        self._socket, self._connection = new, connection
        self._pending = bytearray(connection.data_to_send())
        self._hear(talk.events)

    def _is_alive(self) -> bool:
        """Whether the session goes on; raises what ended it."""
        if self._resuming.phase is not Phase.OVER:
            return True
        if self._resuming.error is not None:
            raise self._resuming.error
        return False

    def _is_heard(self) -> bool:
        """Whether what is said now will be heard; raises what ended the session."""
        if not self._is_alive():
            raise ConnectionLostError("the session has ended")
        return self._resuming.phase is Phase.OPEN or self._resuming.keeps

    def _flush(self) -> None:
        """Give all that was said to the kernel. Without a connection it is kept, or a new connection awaited."""
        while not self._is_heard() or (self._resuming.phase is Phase.OPEN and self._wants_to_write):
            self._step(timeout_s=None)
        if self._resuming.phase is Phase.AWAY:
            self._step(timeout_s=0)

    @property
    def _wants_to_write(self) -> bool:
        return bool(self._pending) or self._resuming.unwritten

    def _step(self, *, timeout_s: float | None) -> None:
        """Wait once, `timeout_s` at most: for the socket to take or to give something, or for the next try at one."""
        if self._resuming.phase is Phase.AWAY:
            self._try(timeout_s)
        elif self._resuming.phase is Phase.OPEN:
            self._exchange(timeout_s)

    def _try(self, timeout_s: float | None) -> None:
        due_s = self._resuming.due_s(time.monotonic())
        if timeout_s is not None and timeout_s < due_s:
            time.sleep(timeout_s)
            return
        time.sleep(due_s)
        lost = self._socket  # `fileno` stays what it was until there is another
        try:
            self._connect()
        except (OSError, SttdError) as error:
            self._resuming.failed(error, time.monotonic())
        else:
            lost.close()

    def _exchange(self, timeout_s: float | None) -> None:
        while len(self._pending) < _WRITE_BYTES and (item := self._resuming.take()) is not None:
            self._pending += self._connection.message(item)
        wanted = (0 if self._resuming.inbox.full else select.POLLIN) | (select.POLLOUT if self._pending else 0)
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
            except OSError:
                self._read(b"")
        if not self._pending:
            self._resuming.written()

    def _read(self, data: bytes) -> None:
        try:
            self._hear(self._connection.receive(data))
        except SttdError as error:  # what answers breaks the protocol
            self._resuming.abandon(error)
        self._pending += self._connection.data_to_send()
        if self._connection.closed:
            with suppress(OSError):  # the answer to the daemon's close, which shows that all before it has arrived
                self._socket.send(self._pending)

    def _hear(self, events: list[messages.Event]) -> None:
        for event in events:
            self._resuming.heard(event)
        if self._connection.closed:
            self._resuming.lost(self._connection, time.monotonic())


class _Handshake:
    """The first exchanges on a new connection, which nothing else can overtake."""

    def __init__(self, connection: socket.socket, talk: AudioConnection, *, timeout_s: float) -> None:
        self.events: list[messages.Event] = []  # that came and were not asked for
        self._socket = connection
        self._talk = talk
        self._timeout_s = timeout_s

    def hello(self) -> Hello:
        """Open the WebSocket; the daemon's first word."""
        hello = self.ask(self._talk.open())
        if not isinstance(hello, Hello):
            raise ConnectionLostError(f"the daemon said `{hello.type}` where `hello` was due")
        return hello

    def ask(self, request: bytes) -> messages.Event:
        """Send `request` and wait for the event that answers it; raises what the daemon has against it."""
        deadline = time.monotonic() + self._timeout_s
        self._send(request, deadline)
        while not self.events:
            if self._talk.closed:
                raise self._talk.error() or ConnectionLostError("the daemon ended the session at once")
            self.events += self._talk.receive(self._receive(deadline))
            self._send(self._talk.data_to_send(), deadline)
        return self.events.pop(0)

    def _send(self, data: bytes, deadline: float) -> None:
        with suppress(BrokenPipeError, ConnectionResetError), self._until(deadline):  # what came before it is read
            self._socket.sendall(data)

    def _receive(self, deadline: float) -> bytes:
        try:
            with self._until(deadline):
                return self._socket.recv(_READ_BYTES)
        except ConnectionResetError:
            return b""

    @contextmanager
    def _until(self, deadline: float) -> Iterator[None]:
        """Give a call on the socket the time that is left."""
        try:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            yield
        except TimeoutError:
            raise TimeoutError("the daemon does not answer") from None


def _dial(
    socket_path: str | os.PathLike[str] | None, tcp: TcpAddress | None, timeout_s: float
) -> tuple[socket.socket, AudioConnection]:
    if tcp is None:
        return connect_first(audio_sockets(socket_path), connect_unix), AudioConnection()
    context = tcp.context() if tcp.tls else None
    try:
        connection = socket.create_connection((tcp.host, tcp.port), timeout_s)
        for option in TCP_OPTIONS:
            connection.setsockopt(*option)
        if context is not None:
            connection = _secured(connection, context, tcp.host)
    except OSError as error:
        raise tcp.refused(error) from error
    return connection, AudioConnection(host=tcp.authority, token=tcp.token)


def _secured(connection: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    try:
        return context.wrap_socket(connection, server_hostname=host)
    except BaseException:
        connection.close()
        raise
