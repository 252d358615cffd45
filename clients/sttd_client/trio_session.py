"""A speech session on Trio: PCM in, events out; one task may send while another listens.

    async with open_session(lang="en") as session:
        await session.send(pcm)
        await session.stop()
        async for event in session:
            print(event)

A task of the session reads all the time, so pings are answered and events are never late because the program was busy
sending. Events wait in an inbox until they are taken. The same task makes a lost connection anew, as `resuming.py`
decides; another one writes, so that a `send` that is cancelled leaves no half message behind.
"""

from __future__ import annotations

import os
import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Unpack

import trio

from sttd.errors import SttdError
from sttd.wire import messages
from sttd.wire.messages import Configure, Finalize, Resume, Start, Stop
from sttd.wire.schema import parse
from sttd_client.addresses import TCP_OPTIONS, ConnectionLostError, TcpAddress, audio_sockets
from sttd_client.connection import AudioConnection, pieces
from sttd_client.events import Event, Hello, Started
from sttd_client.options import ConfigureOptions, StartOptions
from sttd_client.resuming import Phase, Resuming
from sttd_client.trio_streams import connect_first_async, owned_nursery

_FAREWELL_S = 1.0  # for the close frame of a session that is left early; a dead daemon must not hold its client

Dial = Callable[[], Awaitable[tuple[trio.abc.Stream, AudioConnection]]]


@asynccontextmanager
async def open_session(
    *,
    socket_path: str | os.PathLike[str] | None = None,
    tcp: TcpAddress | None = None,
    reconnect_s: float = 0.0,
    timeout_s: float = 10.0,
    **options: Unpack[StartOptions],
) -> AsyncIterator[Session]:
    """Connect, start a session and yield it; the connection is closed at the end.

    Args:
        socket_path: the control socket of the daemon that is meant (`audio.sock` lies beside it); None looks for one.
        tcp: go over TCP instead.
        reconnect_s: how long to try for a new session after one was lost; 0 does not try. A daemon that is restarted
            still sends finals and `Stopped`; then comes `Reconnected`.
        timeout_s: for the daemon's answer to the start.
        options: those of `start`. `resumable` left out means: where the daemon can. Then a connection that is lost is
            made anew within 30 s, nothing is missing, and `Resumed` says so; no more than about 4 MiB of audio are kept
            for that. False switches it off; True insists, and an older daemon refuses the start.

    Raises:
        NoDaemonError: nobody listens.
        TimeoutError: the daemon does not answer.
        SttdError: an option is wrong, or the daemon refuses (`overloaded`, `model_not_local`, `forbidden`, ...).
    """

    session = Session(
        partial(_dial, socket_path, tcp), start=parse(Start, options), reconnect_s=reconnect_s, timeout_s=timeout_s
    )
    await session.connect()
    async with owned_nursery() as nursery:
        nursery.start_soon(session.read_forever)
        nursery.start_soon(session.write_forever)
        try:
            yield session
        finally:
            await session.aclose()
            nursery.cancel_scope.cancel()


class Session:
    """A running session; `open_session` makes it. `hello` and `started` are the daemon's answers."""

    hello: Hello
    started: Started

    def __init__(self, dial: Dial, *, start: Start, reconnect_s: float, timeout_s: float) -> None:
        self._dial = dial
        self._timeout_s = timeout_s
        self._resuming = Resuming(start, reconnect_s=reconnect_s, chance=random.random)
        self._changed = trio.Event()  # replaced whenever something may go on
        self._speaking = trio.Lock()  # of the program's tasks, so that pieces of one `send` stay together
        self._sending = trio.Lock()  # of the stream

    # ---------------------------------------------------------------- to the daemon

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send audio in the encoding that the session was started with.

        Returns when the kernel has taken it: this is how the daemon holds back a client that is too fast for it.
        While a lost connection is made anew it returns at once, and waits once no more audio can be kept. Where the
        session cannot be resumed, audio of that time is dropped; `Reconnected` counts it among what was lost.

        Cancellation: some of the audio may have been taken, all of it once it has begun to wait for the kernel.

        Raises:
            SttdError: the session ended with this error.
            ConnectionLostError: the connection was lost, and not asked or not possible to make anew.
        """
        async with self._speaking:
            for piece in pieces(data):
                while not self._resuming.has_room and self._is_alive():
                    await self._changed.wait()
                self._resuming.audio(piece)
                self._notify()
            await self._flush()

    async def finalize(self) -> None:
        """End the current utterance now; its `Final` follows (of text "" where none was open).

        One that goes down with a session is said again in the next: its `Final` comes after `Reconnected`.
        """
        await self._say(Finalize())

    async def configure(self, **changes: Unpack[ConfigureOptions]) -> None:
        """Change options from the next utterance on; they survive a reconnect only if `start` named them too."""
        await self._say(parse(Configure, changes))

    async def stop(self) -> None:
        """No more audio. Iterate to the end to get what is still pending."""
        await self._say(Stop())

    # ---------------------------------------------------------------- from the daemon

    async def receive(self) -> Event | None:
        """Wait for the next event and return it; None after the last one. May be cancelled without loss.

        Raises:
            SttdError: the session ended with this error; every event before it was returned first.
            ConnectionLostError: the connection ended before the session did.
        """
        await trio.lowlevel.checkpoint()
        while not self._resuming.inbox and self._resuming.phase is not Phase.OVER:
            await self._changed.wait()
        event = self._resuming.inbox.get()
        if event is None and self._resuming.error is not None:
            raise self._resuming.error
        self._notify()
        return event

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> Event:
        """Events up to the end of the session; raises as `receive` does."""
        if (event := await self.receive()) is None:
            raise StopAsyncIteration
        return event

    # ---------------------------------------------------------------- the connection; `open_session` calls these

    async def connect(self) -> None:
        """Dial, and start or resume; raises what the daemon has against it."""
        stream: trio.abc.Stream | None = None
        early: list[messages.Event] = []
        try:
            with trio.fail_after(self._timeout_s):
                stream, connection = await self._dial()
                ask = partial(_ask, stream, connection, early)
                hello = await ask(connection.open())
                if not isinstance(hello, Hello):
                    raise ConnectionLostError(f"the daemon said `{hello.type}` where `hello` was due")
                op: Start | Resume | None = self._resuming.greeting()
                while op is not None:
                    answer = await ask(connection.op(op))
                    op = self._resuming.answered(answer, trio.current_time())
        except trio.TooSlowError:
            await _abandon(stream)
            raise TimeoutError("the daemon does not answer") from None
        except BaseException:
            await _abandon(stream)
            raise
        self.hello = hello
        if isinstance(answer, Started):
            self.started = answer
        self._stream, self._connection = stream, connection
        self._hear(early)

    async def read_forever(self) -> None:
        """Take what arrives, over one connection after the other, until the session is over; run by `open_session`."""
        while self._resuming.phase is not Phase.OVER:
            if self._resuming.phase is Phase.OPEN:
                await self._read()
            else:
                await self._try()

    async def write_forever(self) -> None:
        """Write what the program says, until the session is over; run by `open_session`."""
        while self._resuming.phase is not Phase.OVER:
            changed = self._changed
            async with self._sending:
                said = self._resuming.take()
                if said is not None:
                    if await self._write(self._connection.message(said)):
                        self._resuming.written()
                    self._notify()
            if said is None:
                await changed.wait()

    async def aclose(self) -> None:
        """Leave, done or not: the daemon gives up what it was doing for this session. May be called twice."""
        self._resuming.abandon(None)
        self._notify()
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_FAREWELL_S):
                async with self._sending:
                    if not self._connection.closed:
                        await self._write(self._connection.close())
            await trio.aclose_forcefully(self._stream)

    # ---------------------------------------------------------------- helpers

    def _is_alive(self) -> bool:
        """Whether what is said will be heard, or counted; raises what ended the session."""
        if self._resuming.phase is Phase.OVER:
            raise self._resuming.error or ConnectionLostError("the session has ended")
        return True

    async def _say(self, op: Configure | Finalize | Stop) -> None:
        async with self._speaking:
            self._resuming.say(op)
            self._notify()
            await self._flush()

    async def _flush(self) -> None:
        """Wait until all that was said is with the kernel, or kept for the next connection."""
        await trio.lowlevel.checkpoint()
        while self._resuming.unwritten and self._is_alive() and self._resuming.phase is Phase.OPEN:
            await self._changed.wait()

    async def _read(self) -> None:
        while self._resuming.inbox.full:
            await self._changed.wait()
        try:
            data = bytes(await self._stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        try:
            self._hear(self._connection.receive(data))
        except SttdError as error:  # what answers breaks the protocol
            self._resuming.abandon(error)
            self._notify()
        if reply := self._connection.data_to_send():
            async with self._sending:
                await self._write(reply)

    def _hear(self, events: list[messages.Event]) -> None:
        for event in events:
            self._resuming.heard(event)
        if self._connection.closed:
            self._resuming.lost(self._connection, trio.current_time())
        self._notify()

    async def _write(self, data: bytes) -> bool:
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # the reading task hears the daemon out, and says what happened
        return True

    async def _try(self) -> None:
        """One try at another connection, once it is due."""
        await trio.sleep(self._resuming.due_s(trio.current_time()))
        if self._resuming.phase is not Phase.AWAY:
            return  # it was given up meanwhile
        lost = self._stream
        await trio.aclose_forcefully(lost)
        async with self._sending:
            try:
                await self.connect()
            except (OSError, SttdError) as error:
                self._resuming.failed(error, trio.current_time())
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _ask(
    stream: trio.abc.Stream, connection: AudioConnection, early: list[messages.Event], request: bytes
) -> messages.Event:
    """Send `request` and wait for the event that answers it; others that come are left in `early`."""
    said = request
    while True:
        with suppress(trio.BrokenResourceError):  # what the daemon said before it went is read all the same
            await stream.send_all(said)
        if early:
            return early.pop(0)
        if connection.closed:
            raise connection.error() or ConnectionLostError("the daemon ended the session at once")
        try:
            data = bytes(await stream.receive_some())
        except trio.BrokenResourceError:
            data = b""
        early += connection.receive(data)
        said = connection.data_to_send()


async def _abandon(stream: trio.abc.Stream | None) -> None:
    if stream is not None:
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(stream)


async def _dial(
    socket_path: str | os.PathLike[str] | None, tcp: TcpAddress | None
) -> tuple[trio.abc.Stream, AudioConnection]:
    if tcp is None:
        return await connect_first_async(audio_sockets(socket_path)), AudioConnection()
    context = tcp.context() if tcp.tls else None
    try:
        plain = await trio.open_tcp_stream(tcp.host, tcp.port)
        for option in TCP_OPTIONS:
            plain.setsockopt(*option)
        stream: trio.abc.Stream = plain
        if context is not None:
            stream = await _secured(plain, context, tcp)
    except OSError as error:
        raise tcp.refused(error) from error
    return stream, AudioConnection(host=tcp.authority, token=tcp.token)


async def _secured(stream: trio.abc.Stream, context: ssl.SSLContext, tcp: TcpAddress) -> trio.abc.Stream:
    try:
        secure = trio.SSLStream(stream, context, server_hostname=tcp.host)
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise error.__cause__ if isinstance(error.__cause__, OSError) else tcp.refused(error) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure
