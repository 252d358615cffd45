"""What a session has to say, in order, until its client reads it.

Putting never waits and never fails: it happens inside decisions. The bound is kept elsewhere: a newer interim
takes the place of an unread one of its utterance, a final that of all of them, and whoever produces more than
interims waits in `wait_for_room` first, so that a client which does not read stops its own session and nothing
else. Finals and errors are never dropped.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from sttd.core.types import Final, Interim, Progress, SessionEvent

CAPACITY = 256  # events; an interim counts like any other


@attrs.define(eq=False)
class Outbox:
    """An ordered queue from one session to one client."""

    _events: deque[SessionEvent] = attrs.field(factory=deque, init=False)
    _abandoned: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _readable: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _roomy: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    def __len__(self) -> int:
        return len(self._events)

    @property
    def full(self) -> bool:
        """Whether the client is far behind in reading."""
        return len(self._events) >= CAPACITY

    def put(self, event: SessionEvent) -> None:
        """Append an event; an interim or a progress takes the place of an unread one before it."""
        if self._abandoned:
            return
        if self._events and _replaces(event, self._events[-1]):
            self._events[-1] = event
            return
        if isinstance(event, Final):
            self._forget_interims(event.utterance)
        self._events.append(event)
        self._readable.unpark()

    def _forget_interims(self, utterance: int) -> None:
        """Live text that was not read while it was live is of no more use beside its final."""
        kept = [event for event in self._events if not (isinstance(event, Interim) and event.utterance == utterance)]
        self._events = deque(kept)

    def abandon(self) -> None:
        """The client is gone: forget what is unread, and do not hold up the session for its sake."""
        self._abandoned = True
        self._events.clear()
        self._roomy.unpark_all()

    def close(self) -> None:
        """Nothing more will come; what is in it can still be read."""
        self._closed = True
        self._readable.unpark_all()
        self._roomy.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait until the client has read enough. Returns at once after `close`."""
        await trio.lowlevel.checkpoint()
        while self.full and not self._closed:
            await self._roomy.park()

    async def receive(self) -> SessionEvent:
        """The next event. Raises trio.EndOfChannel after the last one; cancelling loses nothing."""
        await trio.lowlevel.checkpoint_if_cancelled()  # whoever writes what was received lets others have their turns
        while not self._events:
            if self._closed:
                raise trio.EndOfChannel
            await self._readable.park()
        event = self._events.popleft()
        if not self.full:
            self._roomy.unpark_all()
        return event


def _replaces(event: SessionEvent, last: SessionEvent) -> bool:
    # Only the newest event is looked at: replacing an older one would move text past a later speech_end.
    if isinstance(event, Interim):
        return isinstance(last, Interim) and last.utterance == event.utterance
    return isinstance(event, Progress) and isinstance(last, Progress)
