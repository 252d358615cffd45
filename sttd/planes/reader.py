"""What a connection hears from its client: one message at a time, and how it is known that nothing comes.

A client is idle while its connection waits for its next message. What takes time between two messages, such as a
session that is behind, is not the client. Nor is a daemon that stood still, which has to look first at what came
meanwhile.
"""

from __future__ import annotations

import math
from typing import Final

import attrs
import trio
from trio_websocket import WebSocketConnection

_GRACE_S: Final = 1.0  # for what a client sent and nobody has looked at yet; chosen
_GLANCE_S: Final = 0.02  # chosen


@attrs.define(eq=False)
class Reader:
    """Reads from one client; one task at a time."""

    socket: WebSocketConnection
    _waiting_since: float = attrs.field(default=math.inf, init=False)  # for the next message; inf: nobody waits

    async def next_message(self) -> str | bytes:
        """The next message. Raises ConnectionClosed when the client is gone and all was read."""
        self._waiting_since = trio.current_time()
        message: str | bytes = await self.socket.get_message()
        self._waiting_since = math.inf
        return message

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
            since = self._waiting_since
            if math.isinf(since):
                await trio.sleep(idle_s)
                continue
            await trio.sleep_until(since + idle_s)
            await trio.sleep(min(_GRACE_S, idle_s))  # a daemon that stood still has not read what came
            if self._waiting_since == since:
                return
