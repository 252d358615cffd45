"""When the next interim is due.

1. After `interim_min_ms` of new audio since the last one was submitted; or of less, once no more has come for so long:
   a client that stops sending does not say so, and its last words would be shown to nobody.
2. Not while the last one is being decoded. One that still waits in the queue is no hindrance: it will be replaced.
3. The wish yields to the load. Under load, or when decodes are slow, interims come at longer intervals on the clock:
   one may take three tenths of the time between two, or half of it, once they would come less often than every
   `_OFTEN_MS`; and from a load of one half on the interval grows, up to `_STRETCH` times at full load. So finals, which
   come when they come, find free workers, and no machine is kept busy for text that comes quicker than it is read.
4. Never longer than `max_ms` (unless rule 2 holds): live text that stands still for longer looks broken.
"""

from __future__ import annotations

import attrs

from sttd.options import TUNING

# All six are chosen: half of a model for one speaker's live text leaves the other half for finals and for others.
_SHARE = 0.5  # of the time between two interims may go into decoding one
_OFTEN_SHARE = 0.3  # while they come every `_OFTEN_MS` or more often: at 0.2 s a decode that is 1.5 a second
_OFTEN_MS = 800.0
_BUSY = 0.5  # the load from which on interims yield
_STRETCH = 8.0  # 350 ms become 2.8 s, about the longest interval (`max_ms`)
_NEWEST = 0.3  # weight of the newest decode time in the running mean: about the last three count


@attrs.define(eq=False, kw_only=True)
class Cadence:
    """The interims of one utterance."""

    interim_min_ms: float = TUNING.interim_min_ms
    max_ms: float = 3000.0
    _audio_s: float = attrs.field(default=0.0, init=False)  # of the last one submitted
    _heard_s: float = attrs.field(default=0.0, init=False)  # where the audio ended when it was asked last
    _heard_at: float = attrs.field(default=0.0, init=False)  # when that was new
    _covered_s: float = attrs.field(default=0.0, init=False)  # `_heard_s` as the last one was submitted
    _submitted: float = attrs.field(default=float("-inf"), init=False)
    _decode_s: float = attrs.field(default=0.0, init=False)  # a running mean
    _in_flight: bool = attrs.field(default=False, init=False)

    def due(self, *, audio_s: float, now: float, waiting: bool = False, load: float = 0.0) -> bool:
        """Whether to submit one now. `audio_s` is where the audio ends; `waiting`: the last one is still queued."""
        if audio_s > self._heard_s:
            self._heard_s, self._heard_at = audio_s, now
        if self._in_flight and not waiting:
            return False
        if 1000 * (audio_s - self._audio_s) < self.interim_min_ms and not self._rests(now):
            return False
        return 1000 * (now - self._submitted) >= self._pause_ms(load)

    def submitted(self, *, audio_s: float, now: float) -> None:
        """One was submitted, of audio up to `audio_s`."""
        self._audio_s, self._submitted, self._in_flight = audio_s, now, True
        self._covered_s = self._heard_s

    def completed(self, *, seconds: float | None, now: float) -> None:
        """It came back after `seconds` of decoding; None: it was dropped, or failed."""
        self._in_flight = False
        if seconds is not None:
            newest = _NEWEST if self._decode_s else 1.0
            self._decode_s += newest * (seconds - self._decode_s)

    def _rests(self, now: float) -> bool:
        """Whether no more has come for a while of what was not submitted yet (rule 1)."""
        return self._heard_s > self._covered_s and 1000 * (now - self._heard_at) >= self.interim_min_ms

    def _pause_ms(self, load: float) -> float:
        """The least time on the clock between two (rules 3 and 4)."""
        stretch = 1 + (_STRETCH - 1) * max(0.0, min(1.0, load) - _BUSY) / (1 - _BUSY)
        decode_ms = 1000 * self._decode_s
        wanted_ms = max(decode_ms / _SHARE, min(decode_ms / _OFTEN_SHARE, _OFTEN_MS))
        if stretch > 1:
            wanted_ms = max(wanted_ms, self.interim_min_ms) * stretch
        return min(wanted_ms, self.max_ms)
