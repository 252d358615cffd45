"""What a program has said to a daemon that nothing has answered yet; it outlives the session.

Rules:

1. **Audio is owed a final** until one covers it, or until the daemon has stopped in good order. For raw audio a final
   covers what lies before its end on the audio clock; of a container nobody here knows the clock, and a final covers
   what was sent before it came. A `finalize` covers all that was sent before it.
2. **What is owed when a session is lost is said again** in the next one, silence too: nobody has heard whether it was
   silence. Of that no more than so many bytes are kept, the newest; the rest is lost, and so is all of a container,
   which nobody can begin in its middle.
3. **Twice at most.** What two sessions running were told again, and both were lost with, may be what kills them: the
   third begins behind it. A final that covers some of it, or answers a `finalize`, begins the count again.
4. **Every `finalize` gets its final** (reason `finalize`). One that went down with a session is said again in the next,
   at its place in the audio; where none of the audio before it is left, the daemon answers with an empty text.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator

import attrs

from sttd.wire.messages import Event, Final, Finalize, Start, Stopped

_SAMPLE_BYTES = {"pcm_s16le": 2, "pcm_s32le": 4, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
_CLOCK_S = 0.001  # events tell times to a millisecond
_TOLD_AGAIN = 2  # chosen: a daemon that is restarted twice running is not rare


def frame_bytes(start: Start) -> int:
    """The bytes of one sample of all channels; 0 for a container."""
    return _SAMPLE_BYTES.get(start.encoding or "pcm_s16le", 0) * (start.channels or 1)


@attrs.frozen
class Anew:
    """With what a session begins in place of one that was lost."""

    lost_bytes: int  # no final covers them, and none will
    again_bytes: int  # of audio in `again`
    again: tuple[bytes | Finalize, ...]  # in order


class Owed:
    """The accounts of one session object, over all the sessions that it had.

    Args:
        start: of all of them.
        room_bytes: of audio are kept at most, to be said again; nothing where it is 0.
    """

    def __init__(self, start: Start, *, room_bytes: int = 0) -> None:
        self._frame_bytes = frame_bytes(start)  # 0: a container
        self._bytes_per_s = self._frame_bytes * (start.sample_rate or 16_000)
        self._room = room_bytes if self._frame_bytes else 0
        self._sent = 0  # bytes in this session
        self._settled = 0  # of them
        self._finalizes: deque[int] = deque()  # what had been sent before each that is not answered
        self._kept: deque[bytes] = deque()  # the newest of what is not settled
        self._kept_from = 0  # the bytes before it
        self._told_again = 0  # sessions running

    def audio(self, data: bytes) -> None:
        """This is about to be sent."""
        self._sent += len(data)
        if data and self._room:
            self._kept.append(data)
        else:
            self._kept_from = self._sent
        while self._sent - self._kept_from > self._room:
            self._forget()

    def finalize(self) -> None:
        """A finalize is about to be sent."""
        self._finalizes.append(self._sent)

    def heard(self, event: Event) -> None:
        """Take what the daemon says."""
        if isinstance(event, Final) and event.reason == "finalize" and self._finalizes:
            self._told_again = 0
            self._settle(self._finalizes.popleft())
        elif isinstance(event, Final):
            self._settle(self._bytes_until(event.end_s))
        elif isinstance(event, Stopped):
            self._settle(self._bytes_until(event.audio_s))

    def begin_anew(self) -> Anew:
        """The session is another one, which is about to be told `again`."""
        if self._told_again >= _TOLD_AGAIN:
            self._kept.clear()
            self._kept_from = self._sent
        again = tuple(self._behind(self._first_again()))
        again_bytes = sum(len(said) for said in again if isinstance(said, bytes))
        lost_bytes = max(self._sent - again_bytes - self._settled, 0)
        anew = Anew(lost_bytes=lost_bytes, again_bytes=again_bytes, again=again)
        self._told_again = self._told_again + 1 if anew.again_bytes else 0
        self._sent = self._settled = self._kept_from = 0
        self._kept, self._finalizes = deque(), deque()
        for said in anew.again:
            if isinstance(said, bytes):
                self.audio(said)
            else:
                self.finalize()
        return anew

    # ---------------------------------------------------------------- helpers

    def _first_again(self) -> int:
        """The bytes of the session before the first whole sample that is kept and not settled."""
        if not self._frame_bytes:
            return self._sent
        settled = min(self._settled, self._sent) // self._frame_bytes * self._frame_bytes
        return max(settled, -(-self._kept_from // self._frame_bytes) * self._frame_bytes)

    def _behind(self, first: int) -> Iterator[bytes | Finalize]:
        finalizes, at = list(self._finalizes), self._kept_from
        for piece in self._kept:
            while finalizes and finalizes[0] <= at:
                yield Finalize()
                del finalizes[0]
            if said := piece[max(first - at, 0) :]:
                yield said
            at += len(piece)
        yield from (Finalize() for _ in finalizes)

    def _settle(self, count: int) -> None:
        if count > self._settled:
            self._settled, self._told_again = count, 0
        while self._kept and self._kept_from + len(self._kept[0]) <= self._settled:
            self._forget()

    def _forget(self) -> None:
        self._kept_from += len(self._kept.popleft())

    def _bytes_until(self, at_s: float) -> int:
        return math.ceil((at_s + _CLOCK_S) * self._bytes_per_s) if self._bytes_per_s else self._sent
