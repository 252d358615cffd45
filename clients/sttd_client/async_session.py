"""A speech session on an event loop, whichever it is: PCM in, events out; one task may send while another listens.

A task of the session reads all the time, so pings are answered and events are never late because the program was busy
sending. Events wait in an inbox until they are taken. The same task makes a lost connection anew, as `resuming.py`
decides; another one writes, so that a `send` that is cancelled leaves no half message behind.

What is decided here is who waits for whom; the rest is in `talk.py`. `trio_session.py` and
`asyncio_session.py` open it.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Unpack

from sttd.errors import SttdError
from sttd.wire.messages import Configure, Finalize, Start, Stop
from sttd.wire.schema import parse
from sttd_client.async_loop import Dial, Loop, Stream
from sttd_client.connection import pieces
from sttd_client.events import Event, Hello, Started
from sttd_client.options import ConfigureOptions, StartOptions
from sttd_client.resuming import Phase
from sttd_client.talk import Talk

_FAREWELL_S = 1.0  # for the close frame of a session that is left early; a dead daemon must not hold its client


@asynccontextmanager
async def run_session(
    loop: Loop, dial: Dial, *, options: StartOptions, reconnect_s: float, timeout_s: float
) -> AsyncIterator[Session]:
    """What `open_session` of each loop does."""
    session = Session(loop, dial, start=parse(Start, options), reconnect_s=reconnect_s, timeout_s=timeout_s)
    await session.connect()
    async with loop.tasks() as start_soon:
        start_soon(session.read_forever)
        start_soon(session.write_forever)
        try:
            yield session
        finally:
            await session.aclose()


class Session:
    """A running session; `open_session` makes it. `hello` and `started` are the daemon's answers."""

    def __init__(self, loop: Loop, dial: Dial, *, start: Start, reconnect_s: float, timeout_s: float) -> None:
        self._loop = loop
        self._dial = dial
        self._timeout_s = timeout_s
        self._talk = Talk(start, reconnect_s=reconnect_s, chance=random.random)
        self._resuming = self._talk.resuming
        self._stream: Stream
        self._changed = loop.event()  # replaced whenever something may go on
        self._speaking = loop.lock()  # of the program's tasks, so that pieces of one `send` stay together
        self._sending = loop.lock()  # of the stream

    @property
    def hello(self) -> Hello:
        """What the daemon says of itself."""
        return self._talk.hello

    @property
    def started(self) -> Started:
        """The options that the session has got."""
        return self._talk.started

    # ---------------------------------------------------------------- to the daemon

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send audio in the encoding that the session was started with.

        Returns when the kernel has taken it: this is how the daemon holds back a client that is too fast for it.
        While a lost connection is made anew it returns at once, and waits once no more audio can be kept. Where the
        session cannot be resumed, the newest 4 MiB are kept for the next one; `Reconnected` counts the rest as lost.

        Cancellation: some of the audio may have been taken, all of it once it has begun to wait for the kernel.

        Raises:
            SttdError: the session ended with this error.
            ConnectionLostError: the connection was lost, and not asked or not possible to make anew.
        """
        async with self._speaking:
            for piece in pieces(data):
                while not self._resuming.has_room:
                    self._talk.check()
                    await self._changed.wait()
                self._resuming.audio(piece)
                self._notify()
            await self._flush()

    async def finalize(self) -> None:
        """End the current utterance now; its `Final` follows (of text "" where none was open).

        One that goes down with a session is said again in the next, at its place.
        """
        await self._say(Finalize())

    async def configure(self, **changes: Unpack[ConfigureOptions]) -> None:
        """Change options from the next utterance on; a session in place of a lost one begins with them."""
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
        await self._loop.checkpoint()
        while not self._resuming.inbox and self._talk.goes_on():
            await self._changed.wait()
        event = self._resuming.inbox.get()
        self._notify()
        return event

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> Event:
        """Events up to the end of the session; raises as `receive` does."""
        if (event := await self.receive()) is None:
            raise StopAsyncIteration
        return event

    # ---------------------------------------------------------------- the connection; `run_session` calls these

    async def connect(self) -> None:
        """Dial, and start or resume; raises what the daemon has against it, or TimeoutError."""
        stream: Stream | None = None
        try:
            async with self._loop.fail_after(self._timeout_s):
                stream, connection = await self._dial()
                opening = self._talk.opening(connection)
                said = opening.begin()
                while not opening.done:
                    await stream.send(said)  # what the daemon said before it went is read all the same
                    said = opening.receive(await stream.receive(), self._loop.now())
        except TimeoutError:
            await _abandon(stream)
            raise TimeoutError("the daemon does not answer") from None
        except BaseException:
            await _abandon(stream)
            raise
        self._stream = stream
        self._talk.opened(opening, self._loop.now())
        self._notify()

    async def read_forever(self) -> None:
        """Take what arrives, over one connection after the other, until the session is over."""
        await self._reply()
        while self._resuming.phase is not Phase.OVER:
            if self._resuming.phase is Phase.OPEN:
                await self._read()
            else:
                await self._try()

    async def write_forever(self) -> None:
        """Write what the program says, until the session is over."""
        while self._resuming.phase is not Phase.OVER:
            changed = self._changed
            async with self._sending:
                message = self._talk.message()
                if message is not None:
                    if await self._stream.send(message):
                        self._resuming.written()
                    self._notify()  # else the reading task hears the daemon out, and says what happened
            if message is None:
                await changed.wait()

    async def aclose(self) -> None:
        """Leave, done or not: the daemon gives up what it was doing for this session. May be called twice."""
        farewell = self._talk.farewell()
        self._notify()
        try:
            async with self._loop.farewell(_FAREWELL_S), self._sending:  # an answer to the daemon's close goes first
                if farewell:
                    await self._stream.send(farewell)
        finally:
            await self._stream.close()

    # ---------------------------------------------------------------- helpers

    async def _say(self, op: Configure | Finalize | Stop) -> None:
        async with self._speaking:
            self._resuming.say(op)
            self._notify()
            await self._flush()

    async def _flush(self) -> None:
        """Wait until all that was said is with the kernel, or kept for the next connection."""
        await self._loop.checkpoint()
        while not self._talk.is_written():
            await self._changed.wait()

    async def _read(self) -> None:
        while self._resuming.inbox.full:
            await self._changed.wait()
        data = await self._stream.receive()
        self._talk.receive(data, self._loop.now())
        self._notify()
        await self._reply()

    async def _reply(self) -> None:
        if reply := self._talk.reply():
            async with self._sending:
                await self._stream.send(reply)

    async def _try(self) -> None:
        """One try at another connection, once it is due."""
        await self._loop.sleep(self._resuming.due_s(self._loop.now()))
        if self._resuming.phase is not Phase.AWAY:
            return  # it was given up meanwhile
        await self._stream.close()
        async with self._sending:
            try:
                await self.connect()
            except (OSError, SttdError) as error:
                self._resuming.failed(error, self._loop.now())
        self._notify()
        await self._reply()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = self._loop.event()


async def _abandon(stream: Stream | None) -> None:
    if stream is not None:
        await stream.close()
