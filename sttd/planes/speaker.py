"""What a connection says to its client: one message at a time, and how it is known that nobody reads.

A client is a slow consumer when a message could not be written for `stall_s` while nothing was taken from it either
(`progress`). One that writes a whole recording before it begins to read is none until both directions stand still.
"""

from __future__ import annotations

from typing import Any

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from sttd.core.types import Failure, SessionEvent
from sttd.errors import SessionError, SttdError
from sttd.planes import mapping
from sttd.wire.messages import encode_event
from sttd.wire.talk import Answer, Fail, Refuse, Talk


@attrs.define(eq=False, kw_only=True)
class Speaker:
    """Writes to one client. Nothing happens where it is gone: whoever reads sees that, and ends what there is.

    Args:
        socket: the connection.
        talk: learns that the client does not read.
        stall_s: how long a message may take.
        close_s: how long the client may take for its half of the closing handshake.
    """

    socket: WebSocketConnection
    talk: Talk
    stall_s: float
    close_s: float
    stalled: trio.Event = attrs.field(factory=trio.Event, init=False)
    _writing: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _patience: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)  # for the message written now
    _untold: SttdError | None = attrs.field(default=None, init=False)  # fatal, and not written yet

    async def say(self, name: str, fields: dict[str, Any]) -> None:
        """Write a message of this plane."""
        await self._write(encode_event(name, fields))

    async def event(self, event: SessionEvent) -> None:
        """Write an event of the session."""
        await self._write(mapping.event_message(event))

    async def tell(self, answer: Answer | None) -> None:
        """Write a refusal, fatal or not. Of an op, or nothing, there is nothing to tell."""
        if isinstance(answer, Refuse | Fail):
            await self._write(_told(answer.error, fatal=isinstance(answer, Fail)))

    def tell_last(self, error: SttdError) -> None:
        """This is said before the close, if the client reads again in time."""
        self._untold = error

    def progress(self) -> None:
        """Something was taken from the client."""
        if self._writing.locked():
            self._patience.deadline = trio.current_time() + self.stall_s

    async def close(self, session_code: int | None) -> None:
        """Say goodbye. Idempotent, bounded; the stream never closes in the middle of a message."""
        untold, self._untold = self._untold, None
        with trio.move_on_after(self.close_s if untold is None else self.stall_s):
            async with self._writing:  # behind what somebody else is telling the client
                try:
                    if untold is not None:
                        await self.socket.send_message(_told(untold, fatal=True))
                except ConnectionClosed:
                    return
                await self.socket.aclose(*self.talk.close_with(session_code))

    async def _write(self, text: str) -> None:
        async with self._writing:
            with trio.move_on_after(self.stall_s) as self._patience:
                try:
                    await self.socket.send_message(text)
                except ConnectionClosed:
                    return
            if self._patience.cancelled_caught:
                slow = SessionError("the client does not read what it is sent", code="slow_consumer")
                self.tell_last(self.talk.overrule(slow))
                self.stalled.set()


def _told(error: SttdError, *, fatal: bool) -> str:
    return mapping.event_message(Failure.of(error, fatal=fatal))
