"""What a connection hears from its client: one message at a time, and how it is known that nothing comes.

A client is idle while its connection waits for its next message. What takes time between two messages, such as a
session that is behind, is not the client; nor is the pace that its user has to keep (`host/pace.py`), nor a daemon that
stood still, which has to look first at what came meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Final, TypeVar

import attrs
import trio
from trio_websocket import WebSocketConnection

from sttd.planes.streams import UpgradedStream

_GRACE_S: Final = 1.0  # for what a client sent and nobody has looked at yet; chosen
_GLANCE_S: Final = 0.02  # chosen

T = TypeVar("T")


@attrs.define(eq=False)
class Attention:
    """Waits for what one client sends; one task at a time."""

    _waiting_since: float = attrs.field(default=math.inf, init=False)  # for what comes next; inf: nobody waits

    async def wait_for(self, receive: Callable[[], Awaitable[T]]) -> T:
        """What `receive` returns, which waits for the client."""
        self._waiting_since = trio.current_time()
        try:
            received = await receive()
        except trio.Cancelled:
            self._waiting_since = math.inf
            raise
        self._waiting_since = math.inf
        return received

    def start_over(self) -> None:
        """The client was told something: its silence counts from now."""
        if not math.isinf(self._waiting_since):
            self._waiting_since = trio.current_time()

    async def catch_up(self) -> None:
        """Wait until what had come is obeyed, so that more is waited for; not for ever."""
        since = math.inf
        with trio.move_on_after(_GRACE_S):
            while math.isinf(since) or since != self._waiting_since:
                since = self._waiting_since
                await trio.sleep(_GLANCE_S)

    async def silence(self, idle_s: float) -> None:
        """Wait until a message was waited for so long.

        A task that seldom wakes costs less than a timeout around every message.
        """
        while True:
            since = self._silent_since
            if math.isinf(since):
                await trio.sleep(idle_s)
                continue
            await trio.sleep_until(since + idle_s)
            await trio.sleep(min(_GRACE_S, idle_s))  # a daemon that stood still has not read what came
            if self._silent_since == since:
                return

    @property
    def _silent_since(self) -> float:
        """When the client began to be waited for; inf: it is not."""
        return self._waiting_since


@attrs.define(eq=False)
class Reader(Attention):
    """Reads the messages of one WebSocket; one task at a time."""

    socket: WebSocketConnection
    stream: UpgradedStream

    @property
    def _silent_since(self) -> float:
        return max(self._waiting_since, self.stream.held_back_at)

    def attention(self) -> AbstractContextManager[None]:
        """Within, `next_message` is called again as soon as a message is dealt with."""
        return self.stream.attended()

    async def next_message(self, *, calm: bool = False, joined: bool = False) -> str | bytes:
        """The next message. Raises ConnectionClosed when all was read.

        `calm`: nobody is in a hurry for it. `joined`: as in `UpgradedStream`.
        """
        self.stream.calm = calm
        if self.stream.has_message:
            message = await self.stream.next_message(joined=joined)
        else:
            message = await self.wait_for(partial(self.stream.next_message, joined=joined))
        if message is None:
            await self.wait_for(self.socket.get_message)  # the library knows how it ended
            raise AssertionError("messages do not pass through the library")
        return message
