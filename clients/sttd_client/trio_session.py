"""A speech session on Trio: PCM in, events out; one task may send while another listens.

    async with open_session(lang="en") as session:
        await session.send(pcm)
        await session.stop()
        async for event in session:
            print(event)

A task of the session reads all the time, so pings are answered and events are never late because the program was busy
sending. Events wait in an inbox until they are taken.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TypeVar, Unpack

import trio

from sttd.errors import SttdError
from sttd.wire.messages import Configure, Finalize, Start, Stop
from sttd.wire.schema import parse
from sttd_client.addresses import ConnectionLostError, TcpAddress, audio_sockets
from sttd_client.connection import AudioConnection, failure_error, retry_delay_s
from sttd_client.events import Event, Failure, Hello, Reconnected, Started
from sttd_client.inbox import Inbox
from sttd_client.options import ConfigureOptions, StartOptions
from sttd_client.owed import Owed
from sttd_client.trio_streams import connect_first_async, owned_nursery

_FAREWELL_S = 1.0  # for the close frame of a session that is left early; a dead daemon must not hold its client

Answer = TypeVar("Answer", Hello, Started)
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
        reconnect_s: how long to try for a new session after the connection was lost; 0 does not try. A daemon that is
            restarted still sends finals and `Stopped`; then comes `Reconnected`.
        timeout_s: for the daemon's answer to the start.

    Raises:
        NoDaemonError: nobody listens.
        TimeoutError: the daemon does not answer.
        SttdError: an option is wrong, or the daemon refuses (`overloaded`, `model_not_local`, `forbidden`, ...).
    """

    async def dial() -> tuple[trio.abc.Stream, AudioConnection]:
        return await _dial(socket_path, tcp, timeout_s=timeout_s)

    session = Session(dial, start=parse(Start, options), reconnect_s=reconnect_s, timeout_s=timeout_s)
    await session.connect()
    async with owned_nursery() as nursery:
        nursery.start_soon(session.read_forever)
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
        self._start = start
        self._reconnect_s = reconnect_s
        self._timeout_s = timeout_s
        self._stopping = False
        self._inbox = Inbox()
        self._changed = trio.Event()  # replaced whenever the inbox or the connection changed
        self._sending = trio.Lock()
        self._owed = Owed(start)
        self._error: Exception | None = None
        self._done = False

    # ---------------------------------------------------------------- to the daemon

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send audio in the encoding that the session was started with.

        Returns when the kernel has taken it: this is how the daemon holds back a client that is too fast for it.
        While a lost connection is being made anew, audio is dropped; `Reconnected` counts it among what was lost.

        Cancellation: half a message may be out, so the session's connection is closed.

        Raises:
            SttdError: the session ended with this error.
            ConnectionLostError: the connection was lost, and not asked or not possible to make anew.
        """

        def audio() -> bytes:
            self._owed.audio(memoryview(data).nbytes)
            return self._connection.audio(data)

        await self._write(audio)

    async def finalize(self) -> None:
        """End the current utterance now; its `Final` follows (of text "" where none was open).

        One that goes down with a connection that is made anew is said again: its `Final` comes after `Reconnected`.
        """

        def finalize() -> bytes:
            self._owed.finalize()
            return self._connection.op(Finalize())

        await self._write(finalize)

    async def configure(self, **changes: Unpack[ConfigureOptions]) -> None:
        """Change options from the next utterance on; they survive a reconnect only if `start` named them too."""
        change = parse(Configure, changes)
        if not await self._write(lambda: self._connection.op(change)):
            self._owed.unsaid(change)

    async def stop(self) -> None:
        """No more audio. Iterate to the end to get what is still pending."""
        self._stopping = True
        await self._write(lambda: self._connection.op(Stop()))

    # ---------------------------------------------------------------- from the daemon

    async def receive(self) -> Event | None:
        """Wait for the next event and return it; None after the last one. May be cancelled without loss.

        Raises:
            SttdError: the session ended with this error; every event before it was returned first.
            ConnectionLostError: the connection ended before the session did.
        """
        await trio.lowlevel.checkpoint()
        while not self._inbox and not self._done:
            await self._changed.wait()
        event = self._inbox.get()
        if event is None and self._error is not None:
            raise self._error
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

    async def connect(self) -> int:
        """Dial and start; raises what the daemon has against it. The events of an earlier connection stay.

        Returns:
            The bytes that were lost with the earlier connection.
        """
        early: list[Event] = []
        async with self._sending:  # who sends meanwhile must not come before the handshake
            self._stream, self._connection = await self._dial()
            try:
                with trio.fail_after(self._timeout_s):
                    self.hello = await self._answer(Hello, request=self._connection.open(), early=early)
                    self.started = await self._answer(Started, request=self._connection.op(self._start), early=early)
            except trio.TooSlowError:
                await self._abandon()
                raise TimeoutError("the daemon does not answer") from None
            except BaseException:
                await self._abandon()
                raise
            lost_bytes, again = self._owed.begin_anew()
            said = [*again, Stop()] if self._stopping else again
            await self._send_all(b"".join(self._connection.op(op) for op in said))
        for event in early:
            self._inbox.put(event)
        return lost_bytes

    async def read_forever(self) -> None:
        """Take what arrives until the session is over; run by `open_session`."""
        try:
            while True:
                while not self._connection.closed:
                    await self._read()
                if not await self._reconnect():
                    self._error = self._connection.error()
                    break
        except (OSError, SttdError) as error:
            self._error = error
        finally:
            self._done = True
            self._notify()

    async def aclose(self) -> None:
        """Leave, done or not: the daemon gives up what it was doing for this session. May be called twice."""
        self._done = True
        with trio.CancelScope(shield=True):
            with trio.move_on_after(_FAREWELL_S):
                async with self._sending:
                    if not self._connection.closed:
                        await self._send_all(self._connection.close())
            await trio.aclose_forcefully(self._stream)

    # ---------------------------------------------------------------- helpers

    async def _answer(self, kind: type[Answer], *, request: bytes, early: list[Event]) -> Answer:
        """Send `request` and wait for the event that answers it; an error in its place is raised."""
        try:
            await self._stream.send_all(request)
            while not early:
                if self._connection.closed:
                    raise self._connection.error() or ConnectionLostError("the daemon ended the session at once")
                early += self._connection.receive(bytes(await self._stream.receive_some()))
        except trio.BrokenResourceError:
            raise ConnectionLostError("the daemon closed the connection") from None
        event = early.pop(0)
        if isinstance(event, Failure):
            raise failure_error(event)
        if not isinstance(event, kind):
            raise ConnectionLostError(f"the daemon said `{event.type}` where `{kind.type}` was due")
        return event

    async def _abandon(self) -> None:
        self._connection.closed = True
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self._stream)

    async def _read(self) -> None:
        while self._inbox.full:
            await self._changed.wait()
        try:
            data = bytes(await self._stream.receive_some())
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            data = b""
        for event in self._connection.receive(data):
            self._owed.heard(event)
            self._inbox.put(event)
        self._notify()
        if reply := self._connection.data_to_send():
            async with self._sending:
                await self._send_all(reply)

    async def _write(self, make: Callable[[], bytes]) -> bool:
        """Send what `make` makes, after what others are sending; False while there is no connection to send it on."""
        async with self._sending:
            if self._done:
                raise self._error or ConnectionLostError("the session has ended")
            return await self._send_all(make())

    async def _send_all(self, data: bytes) -> bool:
        if not data:
            return False
        try:
            await self._stream.send_all(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return False  # the reading task hears the daemon out, and says what happened
        except trio.Cancelled:
            await trio.aclose_forcefully(self._stream)
            raise
        return True

    async def _reconnect(self) -> bool:
        """Try for a new session until one starts (True) or the time for it is over (raises). False: no use trying."""
        if not self._reconnect_s or self._stopping or not self._connection.worth_retrying:
            return False
        deadline = trio.current_time() + self._reconnect_s
        for attempt in itertools.count():
            await trio.aclose_forcefully(self._stream)
            try:
                lost_bytes = await self.connect()
                break
            except (OSError, SttdError) as error:
                delay_s = retry_delay_s(attempt, error)
                if trio.current_time() + delay_s > deadline or (isinstance(error, SttdError) and not error.retryable):
                    raise
                await trio.sleep(delay_s)
        self._inbox.put(Reconnected(session=self.started.session, lost_bytes=lost_bytes))
        self._notify()
        return True

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


async def _dial(
    socket_path: str | os.PathLike[str] | None, tcp: TcpAddress | None, *, timeout_s: float
) -> tuple[trio.abc.Stream, AudioConnection]:
    if tcp is None:
        return await connect_first_async(audio_sockets(socket_path)), AudioConnection()
    try:
        stream: trio.abc.Stream = await trio.open_tcp_stream(
            tcp.host, tcp.port
        )  # sets TCP_NODELAY: live audio must not wait
        if tcp.tls:
            with trio.fail_after(timeout_s):
                stream = await _secured(stream, tcp)
    except trio.TooSlowError:
        raise TimeoutError("the daemon does not answer") from None
    except OSError as error:
        raise tcp.refused(error) from error
    return stream, AudioConnection(host=tcp.authority, token=tcp.token)


async def _secured(stream: trio.abc.Stream, tcp: TcpAddress) -> trio.abc.Stream:
    try:
        secure = trio.SSLStream(stream, tcp.context(), server_hostname=tcp.host)
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        await trio.aclose_forcefully(stream)
        raise error.__cause__ if isinstance(error.__cause__, OSError) else tcp.refused(error) from error
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return secure
