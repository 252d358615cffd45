"""When did the sample at this position arrive? The clock behind every latency that sttd reports."""

from __future__ import annotations

from collections import deque

import attrs

# Twice the longest utterance in chunks of 20 ms. Older arrivals no longer matter to anybody.
_MAX_CHUNKS = 3000


@attrs.define(eq=False)
class Arrivals:
    """Positions on the audio clock (samples) with the time (seconds, monotonic) at which they had arrived."""

    _marks: deque[tuple[int, float]] = attrs.field(factory=lambda: deque(maxlen=_MAX_CHUNKS))

    def mark(self, position: int, now: float) -> None:
        """All samples below `position` have arrived by `now`."""
        self._marks.append((position, now))

    def of(self, position: int) -> float | None:
        """When the sample before `position` had arrived; None if that is not known (any more)."""
        answer: float | None = None
        for mark, when in reversed(self._marks):
            if mark < position:
                break
            answer = when
        return answer
