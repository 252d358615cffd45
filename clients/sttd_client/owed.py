"""What a program has said to a daemon that nothing has answered yet; it outlives the session.

Rules:

1. **Audio is owed a final** until one covers it, or until the daemon has stopped in good order. For raw audio a final
   covers what lies before its end on the audio clock; of a container nobody here knows the clock, and a final covers
   what was sent before it came. A `finalize` covers all that was sent before it.
2. **What is owed when a session is lost is lost**, silence too: nobody has heard whether it was silence.
3. **Every `finalize` gets its final** (reason `finalize`). One that went down with a session is said again in the next,
   whose daemon answers it with an empty text.
"""

from __future__ import annotations

import math
from collections import deque

from sttd.wire.messages import Event, Final, Start, Stopped

_SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_s32le": 4, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
_CLOCK_S = 0.001  # events tell times to a millisecond


def frame_bytes(start: Start) -> int:
    """The bytes of one sample of all channels; 0 for a container."""
    return _SAMPLE_BYTES.get(start.encoding or "pcm_s16le", 0) * (start.channels or 1)


class Owed:
    """The accounts of one session object, over all the sessions that it had."""

    def __init__(self, start: Start) -> None:
        self._bytes_per_s = frame_bytes(start) * (start.sample_rate or 16_000)  # 0: a container
        self._sent = 0  # bytes in this session
        self._settled = 0  # of them
        self._finalizes: deque[int] = deque()  # what had been sent before each that is not answered

    def audio(self, count: int) -> None:
        """So many bytes are about to be sent."""
        self._sent += count

    def finalize(self) -> None:
        """A finalize is about to be sent."""
        self._finalizes.append(self._sent)

    def heard(self, event: Event) -> None:
        """Take what the daemon says."""
        if isinstance(event, Final) and event.reason == "finalize" and self._finalizes:
            self._settle(self._finalizes.popleft())
        elif isinstance(event, Final):
            self._settle(self._bytes_until(event.end_s))
        elif isinstance(event, Stopped):
            self._settle(self._bytes_until(event.audio_s))

    def begin_anew(self) -> tuple[int, int]:
        """The session is another one.

        Returns:
            The bytes that are lost, and how many finalizes are to be said again.
        """
        lost, self._sent, self._settled = max(self._sent - self._settled, 0), 0, 0
        self._finalizes = deque(0 for _ in self._finalizes)
        return lost, len(self._finalizes)

    def _settle(self, count: int) -> None:
        self._settled = max(self._settled, count)

    def _bytes_until(self, at_s: float) -> int:
        return math.ceil((at_s + _CLOCK_S) * self._bytes_per_s) if self._bytes_per_s else self._sent
