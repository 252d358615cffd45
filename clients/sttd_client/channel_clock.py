"""One clock for several channels, sans IO: where the sound of each lies on it, and how much of it never came.

Rules:

1. **Zero** is the first sound of the channel that was heard first. The first sound of each is older than the moment at
   which it was read by its own length.
2. **Silence in place of what never came.** A recorder may give nothing while nothing plays, or while its device sleeps.
   A channel that is `GAP_S` behind, with nothing left to read, is to say that much silence: so utterances end, and what
   comes after lies where it was heard. Sound that is late after all goes behind the silence; the channel is then ahead,
   and is owed less silence next time.
3. **A bound**: of a long gap (a program that was stopped and went on) `SILENCE_S` are said, and the rest is left out of
   the session. What comes after it is moved on the clock instead.
4. **A new session** in place of one that was lost counts from zero again, where what it is told again began. (What is
   said before that is known moves it: an eighth of a second.)
5. A recording in place of a microphone has a clock of its own; nothing is added to it.
6. The machine's sleep is no time: nobody spoke. (The clock is the monotonic one, which stands still then.)
"""

from __future__ import annotations

import bisect

import attrs

GAP_S = 1.0  # chosen: a recorder on a busy machine is late by tenths, and an utterance may end a second later
SILENCE_S = 5.0  # chosen: every endpointer has ended its utterance by then


@attrs.define(eq=False)
class Epoch:
    """The zero of all channels; None while no sound came."""

    at: float | None = None


@attrs.define(eq=False, kw_only=True)
class ChannelClock:
    """The rules above for one channel. `now` is of the monotonic clock, in seconds."""

    epoch: Epoch
    bytes_per_s: int
    is_filled: bool
    _began: float | None = attrs.field(default=None, init=False)
    _bytes: int = attrs.field(default=0, init=False)  # said so far, silence too
    _before_s: float = attrs.field(default=0.0, init=False)  # said to sessions before this one
    _moved: list[tuple[float, float]] = attrs.field(init=False)  # behind so much that was said, by so many seconds

    def __attrs_post_init__(self) -> None:
        self._moved = [(0.0, 0.0)]

    @property
    def has_begun(self) -> bool:
        """Whether any sound came."""
        return self._began is not None

    @property
    def position_s(self) -> float:
        """How much was said."""
        return self._bytes / self.bytes_per_s

    def said(self, count: int, now: float) -> None:
        """So many bytes of sound were read."""
        if self._began is None:
            self._began = now - count / self.bytes_per_s
            if self.epoch.at is None:
                self.epoch.at = self._began
        self._bytes += count

    def silence(self, now: float) -> int:
        """How many bytes of silence are to be said now, in whole samples of 16 bits; nothing is left to read."""
        if self._began is None or not self.is_filled:
            return 0
        behind_s = now - self._began - self.position_s - self._moved[-1][1]
        if behind_s < GAP_S:
            return 0
        silence_s = min(behind_s, SILENCE_S)
        count = round(silence_s * self.bytes_per_s) // 2 * 2
        self._bytes += count
        if behind_s > silence_s:
            self._moved.append((self.position_s, self._moved[-1][1] + behind_s - silence_s))
        return count

    def begin_anew(self, again_bytes: int) -> None:
        """Another session hears so much of what was said, and what is said from now on."""
        self._before_s = self.position_s - again_bytes / self.bytes_per_s

    def on_epoch(self, at_s: float) -> float:
        """A time on the audio clock of the channel's session as a time on the clock of all."""
        if self._began is None or self.epoch.at is None:
            return at_s
        at_s += self._before_s
        moved_s = self._moved[max(0, bisect.bisect_right(self._moved, (at_s, float("inf"))) - 1)][1]
        return round(max(0.0, at_s + moved_s + self._began - self.epoch.at), 3)
