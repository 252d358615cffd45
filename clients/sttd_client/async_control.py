"""The control plane on an event loop, whichever it is: many tasks may call over one connection at the same time.

What is decided here is who waits for whom; the rest is in `calls.py`. `trio_control.py` and
`asyncio_control.py` open it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from sttd_client.addresses import control_sockets, lost_error
from sttd_client.async_loop import Loop, Stream, connect_first_async
from sttd_client.calls import Calls, ProgressCallback, request_of

_UNSUBSCRIBE_S = 1.0  # chosen: a daemon that does not answer must not hold who leaves


@asynccontextmanager
async def run_control(loop: Loop, socket_path: str | os.PathLike[str] | None) -> AsyncIterator[Control]:
    """What `open_control` of each loop does."""
    control = Control(loop, await connect_first_async(loop, control_sockets(socket_path)))
    try:
        async with loop.tasks() as start_soon:
            start_soon(control.read_forever)
            yield control
    finally:
        await control.aclose()


class Control:
    """A connection to the control plane; `open_control` makes it."""

    def __init__(self, loop: Loop, stream: Stream) -> None:
        self._loop = loop
        self._stream = stream
        self._calls = Calls()
        self._sending = loop.lock()
        self._changed = loop.event()  # replaced whenever something may go on

    async def call(self, method: str, *, on_progress: ProgressCallback | None = None, **params: Any) -> dict[str, Any]:
        """Call a method and return its result; `sttd.wire.verbs` declares the methods. None means omitted.

        Cancellation: the answer is skipped when it comes; the daemon does what it was asked all the same.

        Raises:
            SttdError: the daemon's error, in the class of its code.
            ConnectionLostError: the daemon went away.
        """
        msgid = self._calls.begin(on_progress=on_progress)
        try:
            async with self._sending:
                if not await self._stream.send(request_of(msgid, method, params)):
                    raise self._calls.lost or lost_error()
            while not self._calls.is_over(msgid):
                await self._changed.wait()
            return self._calls.result(msgid)
        finally:
            self._calls.end(msgid)

    @asynccontextmanager
    async def subscribe(self, *, topics: Sequence[str] | None = None) -> AsyncIterator[Events]:
        """Subscribe, and yield the events; unsubscribed at the end.

        256 events wait at the most. One who does not take them stops the connection, answers to calls included: give
        events a connection of their own where that matters. They end when the daemon goes away.
        """
        self._calls.subscribed(+1)
        try:
            await self.call("subscribe", topics=None if topics is None else list(topics))
            yield Events(self)
        finally:
            self._calls.subscribed(-1)
            self._notify()
            if self._calls.lost is None:
                async with self._loop.farewell(_UNSUBSCRIBE_S):
                    await self.call("unsubscribe")

    async def receive_event(self) -> dict[str, Any] | None:
        """The next event of any subscription; None after the last one. May be cancelled without loss."""
        await self._loop.checkpoint()
        while not self._calls.has_event():
            await self._changed.wait()
        event = self._calls.next_event()
        self._notify()
        return event

    # ---------------------------------------------------------------- the connection; `run_control` calls these

    async def read_forever(self) -> None:
        """Give what arrives to whom it belongs, until the connection ends."""
        while self._calls.lost is None:
            while self._calls.full:
                await self._changed.wait()
            self._calls.receive(await self._stream.receive())
            self._notify()

    async def aclose(self) -> None:
        """Close the connection."""
        await self._stream.close()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = self._loop.event()


class Events:
    """The events of a connection that has subscribed; `Control.subscribe` makes it."""

    def __init__(self, control: Control) -> None:
        self._control = control

    async def receive(self) -> dict[str, Any] | None:
        """The next event; None once the daemon has gone away. May be cancelled without loss."""
        return await self._control.receive_event()

    def __aiter__(self) -> Events:
        return self

    async def __anext__(self) -> dict[str, Any]:
        """Events, until the daemon goes away."""
        if (event := await self.receive()) is None:
            raise StopAsyncIteration
        return event
