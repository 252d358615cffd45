"""The sending side of a connection: one message at a time, and how it is known that nobody reads.

A client is a slow consumer when a message could not be written for `stall_s` while nothing was taken from it either
(`progress`). One that writes a whole recording before it begins to read is none until both directions stand still.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from sttd.planes.websocket import shook_hands


@attrs.frozen(kw_only=True)
class LineLimits:
    """How long a connection by another system's wire may take for what, in seconds."""

    handshake_s: float = 5.0
    stall_s: float = 10.0  # with both directions standing still
    farewell_s: float = 30.0  # after a fatal error, for the finals that are owed
    close_s: float = 5.0  # for the client's half of the closing handshake
    keepalive_s: float = 10.0  # Deepgram: without any message from the client
    idle_s: float = 3600.0  # Realtime, Wyoming: the same


@attrs.define(eq=False, kw_only=True)
class Outflow:
    """Writes to one client, whatever the wire.

    Args:
        stall_s: how long a message may take.
    """

    stall_s: float
    stalled: trio.Event = attrs.field(factory=trio.Event, init=False)  # the client does not read
    _writing: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _patience: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)  # for the message written now

    async def write(self, send: Callable[[], Awaitable[object]]) -> None:
        """Let `send` write a message, behind those that are being written. Raises what it raises."""
        try:
            self._writing.acquire_nowait()  # `acquire` would take a turn of the loop
        except trio.WouldBlock:
            await self._writing.acquire()
        try:
            with trio.move_on_after(self.stall_s) as self._patience:
                await send()
            if self._patience.cancelled_caught:
                self.stalled.set()
        finally:
            self._writing.release()

    def progress(self) -> None:
        """Something was taken from the client."""
        if self._writing.locked():
            self._patience.deadline = trio.current_time() + self.stall_s


@attrs.define(eq=False, kw_only=True)
class Line(Outflow):
    """Writes to one WebSocket. Nothing happens where it is gone: whoever reads sees that, and ends what there is.

    Args:
        socket: the connection.
        close_s: how long the client may take for its half of the closing handshake.
    """

    socket: WebSocketConnection
    close_s: float

    async def send(self, text: str) -> None:
        """Write a message, behind those that are being written."""
        with suppress(ConnectionClosed):
            await self.write(partial(self.socket.send_message, text))

    async def reach(self) -> bool:
        """Ping, and wait for the answer: then what was written before has arrived. False: the client is gone."""
        try:
            await self.socket.ping()
        except ConnectionClosed:
            return False
        return True

    async def close(self, code: int, reason: str | None = None, *, last: str | None = None) -> bool:
        """Say goodbye. Idempotent, bounded; the stream never closes in the middle of a message.

        `last` is said before, if the client reads again in time. True: the client has answered, so it had everything.
        """
        with trio.move_on_after(self.close_s if last is None else self.stall_s):
            async with self._writing:  # behind what somebody else is telling the client
                try:
                    if last is not None:
                        await self.socket.send_message(last)
                except ConnectionClosed:
                    return False
                await self.socket.aclose(code, reason)
        return shook_hands(self.socket)
