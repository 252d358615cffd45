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
from sttd.wire.messages import Configure, Finalize, Start, Stop
from sttd.wire.schema import parse
from sttd_client.addresses import (
    TCP_OPTIONS,
    TcpAddress,
    audio_sockets,
    connect_first,
    connect_unix,
)
from sttd_client.connection import AudioConnection, pieces
from sttd_client.events import Event, Hello, Started
from sttd_client.options import ConfigureOptions, StartOptions
from sttd_client.resuming import Phase
from sttd_client.talk import Opening, Talk

_READ_BYTES = _WRITE_BYTES = 1 << 16
_FAREWELL_S = 1.0  # for the close frame of a session that is left early; a dead daemon must not hold its client
_AGAIN = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)  # of TLS: a record that is not whole yet
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
            still sends finals and `Stopped`; then comes `Reconnected`, and what no final covers is said again.
        timeout_s: for the daemon's answer to the start.
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

    def __init__(self, dial: Dial, *, start: Start, reconnect_s: float, timeout_s: float) -> None:
        self._dial = dial
        self._timeout_s = timeout_s
        self._talk = Talk(start, reconnect_s=reconnect_s, chance=random.random)
        self._resuming = self._talk.resuming
        self._pending = bytearray()  # for the kernel
        self._connect()

    @property
    def hello(self) -> Hello:
        """What the daemon says of itself."""
        return self._talk.hello

    @property
    def started(self) -> Started:
        """The options that the session has got."""
        return self._talk.started

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

        It does not wait for a new session in place of one that was lost, and takes nothing meanwhile. It raises
        nothing; `poll` and `receive` do, after what the daemon had said.
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

        One that goes down with a session is said again in the next, at its place.
        """
        self._resuming.say(Finalize())
        self._flush()

    def configure(self, **changes: Unpack[ConfigureOptions]) -> None:
        """Change options from the next utterance on; a session in place of a lost one begins with them."""
        self._resuming.say(parse(Configure, changes))
        self._flush()

    def stop(self) -> None:
        """No more audio. Iterate to the end to get what is still pending."""
        self._resuming.say(Stop())
        self._flush()

    def close(self) -> None:
        """Leave, done or not: the daemon gives up what it was doing for this session. May be called twice."""
        if farewell := self._talk.farewell():
            self._socket.settimeout(_FAREWELL_S)
            with suppress(OSError):  # the daemon may have gone first
                self._socket.sendall(self._pending + farewell)
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
        while not self._resuming.inbox and self._talk.goes_on():
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("the daemon sent nothing in time")
            self._step(timeout_s=left)
        return self._resuming.inbox.get()

    def poll(self) -> list[Event]:
        """The events that are there, without waiting for any; raises as `receive` does when there are none."""
        self._step(timeout_s=_NAP_S if self._resuming.phase is Phase.AWAY else 0)
        if not self._resuming.inbox:
            self._talk.goes_on()
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
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._resuming.phase is Phase.OPEN

    @property
    def ended(self) -> bool:
        """Whether the session is over and every event was taken."""
        return self._resuming.phase is Phase.OVER and not self._resuming.inbox

    # ---------------------------------------------------------------- the connection

    def _connect(self) -> None:
        """Dial, and start or resume; raises what the daemon has against it."""
        new, connection = self._dial()
        opening = self._talk.opening(connection)
        try:
            self._ask(new, opening)
        except BaseException:
            new.close()
            raise
        new.setblocking(False)
        self._socket = new
        self._talk.opened(opening, time.monotonic())
        self._pending = bytearray(self._talk.reply())

    def _ask(self, new: socket.socket, opening: Opening) -> None:
        said, deadline = opening.begin(), time.monotonic() + self._timeout_s
        while not opening.done:
            with suppress(BrokenPipeError, ConnectionResetError), _until(new, deadline):  # what came before it is read
                new.sendall(said)
            try:
                with _until(new, deadline):
                    data = new.recv(_READ_BYTES)
            except ConnectionResetError:
                data = b""
            said = opening.receive(data, time.monotonic())

    def _is_heard(self) -> bool:
        """Whether what is said now will be heard; raises what ended the session."""
        self._talk.check()
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
        while len(self._pending) < _WRITE_BYTES and (message := self._talk.message()) is not None:
            self._pending += message
        wanted = (0 if self._resuming.inbox.full else select.POLLIN) | (select.POLLOUT if self._pending else 0)
        poller = select.poll()
        poller.register(self._socket, wanted)
        for _, ready in poller.poll(None if timeout_s is None else timeout_s * 1000):
            if ready & select.POLLOUT:
                self._write()
            if ready & ~select.POLLOUT:
                self._hear()

    def _write(self) -> None:
        try:
            del self._pending[: self._socket.send(self._pending)]
        except _AGAIN:
            return
        except OSError:
            self._pending.clear()  # what the daemon said before it went is read all the same
            return
        if not self._pending:
            self._resuming.written()

    def _hear(self) -> None:
        try:
            self._read(self._socket.recv(_READ_BYTES))
        except _AGAIN:
            return
        except OSError:
            self._read(b"")

    def _read(self, data: bytes) -> None:
        self._talk.receive(data, time.monotonic())
        self._pending += self._talk.reply()
        if self._talk.closed:
            with suppress(OSError):  # the answer to the daemon's close, which shows that all before it has arrived
                self._socket.send(self._pending)


@contextmanager
def _until(connection: socket.socket, deadline: float) -> Iterator[None]:
    """Give a call on the socket the time that is left."""
    try:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
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
