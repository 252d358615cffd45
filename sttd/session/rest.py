"""Whether a session's client is away: a resumable session outlives its connection (`wire/resuming.py`)."""

from __future__ import annotations

import math

import attrs
import trio


@attrs.define(eq=False)
class Rest:
    """Told by whoever keeps the session; ordinary sessions are awake until they end."""

    asleep: bool = attrs.field(default=False, init=False)
    kept_bytes: int = attrs.field(default=0, init=False)  # of events, while it is asleep
    dismissed: trio.Event = attrs.field(
        factory=trio.Event, init=False
    )  # ended at once: it need not wait for its client
    _woken_at: float = attrs.field(default=-math.inf, init=False)

    def sleep(self, *, kept_bytes: int) -> None:
        """The client is gone for now."""
        self.asleep, self.kept_bytes = True, kept_bytes

    def wake(self, *, now: float) -> None:
        """It is back."""
        self.asleep, self.kept_bytes, self._woken_at = False, 0, now

    def heard_live(self, arrived: float) -> bool:
        """Whether the client has been there ever since this moment: else it waited for itself."""
        return not self.asleep and arrived >= self._woken_at
