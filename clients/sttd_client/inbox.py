"""The events that a session received and its program has not taken yet."""

from __future__ import annotations

from collections import deque

from sttd_client.events import Event, Interim

CAPACITY = 4096  # about an hour of finals with their speech marks; a program that sends a file and reads afterwards


class Inbox:
    """A queue in order of arrival, in which a newer interim takes the place of an older one of its utterance.

    So a program that does not read loses no final, and what waits for it grows with the speech only. `full` asks the
    session to stop reading: then the daemon notices, and treats the client as slow.
    """

    def __init__(self) -> None:
        self._events: deque[Event] = deque()

    def __len__(self) -> int:
        return len(self._events)

    @property
    def full(self) -> bool:
        """Whether the session should read no more for now."""
        return len(self._events) >= CAPACITY

    def put(self, event: Event) -> None:
        """Add one event."""
        last = self._events[-1] if self._events else None
        if isinstance(event, Interim) and isinstance(last, Interim) and last.utterance == event.utterance:
            self._events.pop()
        self._events.append(event)

    def take_all(self) -> list[Event]:
        """All events, oldest first, taken out."""
        events = list(self._events)
        self._events.clear()
        return events

    def get(self) -> Event | None:
        """The oldest event, taken out; None when there is none."""
        return self._events.popleft() if self._events else None
