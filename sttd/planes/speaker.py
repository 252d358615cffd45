"""What the audio plane says to its client: refusals, events, goodbyes, each as the protocol writes them."""

from __future__ import annotations

from typing import Any

import attrs
import trio

from sttd.core.types import Failure, SessionEvent
from sttd.errors import SessionError, SttdError
from sttd.planes import mapping
from sttd.planes.line import Line
from sttd.wire.messages import encode_event
from sttd.wire.resuming import Resuming
from sttd.wire.talk import Answer, Fail, Refuse, Talk


@attrs.define(eq=False, kw_only=True)
class Speaker:
    """Says things on a line. `talk` learns that the client does not read.

    `numbering` is that of a resumable session: its events get their numbers here, and are kept.
    """

    line: Line
    talk: Talk
    numbering: Resuming | None = attrs.field(default=None, init=False)
    _catching_up: bool = attrs.field(default=False, init=False)
    _untold: SttdError | None = attrs.field(default=None, init=False)  # fatal, and not written yet

    @property
    def stalled(self) -> trio.Event:
        """Set when the client does not read."""
        return self.line.stalled

    async def say(self, name: str, fields: dict[str, Any]) -> None:
        """Write a message of this plane."""
        await self._write(encode_event(name, fields))

    async def event(self, event: SessionEvent) -> None:
        """Write an event of the session."""
        if self.numbering is None:
            await self._write(mapping.event_message(event))
            return
        text = self.numbering.number(*mapping.event_fields(event))
        if not self._catching_up:
            await self._write(text)

    async def catch_up(self, last_seq: int) -> None:
        """Write the events that were missed, and those that come meanwhile behind them."""
        assert self.numbering is not None, "a session that was resumed has numbers"
        self._catching_up = True
        while missed := self.numbering.missed(last_seq):
            for text in missed:
                await self._write(text)
            last_seq += len(missed)
        self._catching_up = False

    async def tell(self, answer: Answer | None) -> None:
        """Write a refusal, fatal or not. Of an op, or nothing, there is nothing to tell."""
        if isinstance(answer, Refuse | Fail):
            await self.event(Failure.of(answer.error, fatal=isinstance(answer, Fail)))

    def tell_last(self, error: SttdError) -> None:
        """This is said before the close, if the client reads again in time.

        Not to one whose session goes on: it is asleep then, and the code of the close says the rest.
        """
        self._untold = error

    def progress(self) -> None:
        """Something was taken from the client."""
        self.line.progress()

    async def close(self, session_code: int | None) -> bool:
        """Say goodbye. Idempotent, bounded. True: the client has answered, so it had everything."""
        untold, self._untold = self._untold, None
        last = None
        if untold is not None and self.numbering is None:
            last = mapping.event_message(Failure.of(untold, fatal=True))
        return await self.line.close(*self.talk.close_with(session_code), last=last)

    async def _write(self, text: str) -> None:
        stalled = self.stalled.is_set()
        await self.line.send(text)
        if self.stalled.is_set() and not stalled:
            self.tell_last(
                self.talk.overrule(SessionError("the client does not read what it is sent", code="slow_consumer"))
            )
