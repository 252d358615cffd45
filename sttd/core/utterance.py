"""Frames and what the detectors say about them → utterances with their audio.

Rules:
 1. The endpointer decides; this machine owns the audio clock and the audio. A position is a sample index since the
    session began; audio that was dropped (`skip`) counts.
 2. An utterance's audio begins `pre_roll_ms` before the onset, and ends `POST_ROLL_MS` after the end of speech where
    silence proved that end (a pause or an endpoint), else with the newest frame. Audio never belongs to two
    utterances.
 3. Every `Opened` is followed by exactly one `Closed` of the same number, before the next `Opened`. Numbers rise by 1.
 4. `Paused` carries the audio that `Closed` will carry unless `Resumed` comes between: a decode begun at a pause is
    the decode of the utterance.
 5. **Limit.** Before an utterance would exceed `max_utterance_s` it is cut: if it is paused, there; else in the middle
    of the longest, of equals the latest, pause of at least 100 ms in the last third; else in its quietest 100 ms.
    What follows the cut is opened at once as the next utterance, unless it is silence.
 6. The client that ends an utterance before a start was confirmed gets the word that was under way as an utterance.
    Who ends it in a pause, or stops, or drains, leaves out nothing but the quiet behind it: what is no more than
    `_RISE_DB` louder than the room was right behind the speech. More than that ends the pause (`Resumed`), whatever the
    detectors make of it: of a word that has just begun they know nothing yet.
 7. Without endpointing the first frame opens, and no audio between finalizes is left out but such quiet.
 8. Options that change in an utterance apply to the next.

Audio that is handed out is a read-only view; the tape under it only ever grows, so a view never changes.
"""

from __future__ import annotations

import attrs
import numpy as np
import numpy.typing as npt

from sttd.core.endpointer import (
    SPEECH_OFF,
    SPEECH_ON,
    Activity,
    Endpointer,
    EndpointerEvent,
    SpeechPaused,
    SpeechResumed,
    SpeechStarted,
    TurnHint,
)
from sttd.core.types import FRAME_MS, FRAME_SAMPLES, SAMPLE_RATE, FinalReason, Samples
from sttd.options import TUNING, Endpointing

POST_ROLL_MS = 120  # final consonants are fainter than both detectors hear; below `speculate_ms`, so it is all heard
_POST_ROLL = POST_ROLL_MS * SAMPLE_RATE // 1000
_LOOK_BACK = 1300 * SAMPLE_RATE // 1000  # the farthest that an onset can lie behind the frame that confirms it
_TAPE_FRAMES = 200  # 4 s, 256 KiB: what an idle session holds
_PAUSE_FRAMES = 5  # the least pause to cut in: 100 ms
_RISE_DB = 10.0  # steady noise varies by less
_INAUDIBLE = 1e-7  # mean square: -70 dB of full scale
_END_LAG, _ONSET_LAG = 4, 2  # frames by which Silero's values trail the audio, as measured for the endpointer


@attrs.frozen(kw_only=True)
class Opened:
    """An utterance has begun: its audio at `start_sample`, its speech at `at_sample`."""

    utterance: int
    at_sample: int
    start_sample: int


@attrs.frozen(kw_only=True, eq=False)
class Paused:
    """Silence long enough to begin the final decode of `samples`, the audio from `start_sample` on."""

    utterance: int
    start_sample: int
    end_sample: int
    samples: Samples


@attrs.frozen(kw_only=True)
class Resumed:
    """Speech went on: what was begun at the pause is void."""

    utterance: int


@attrs.frozen(kw_only=True, eq=False)
class Closed:
    """An utterance is complete.

    `samples` is the audio from `start_sample` on; `end_sample` is the end of speech, which lies in it.
    `silence_ms` is the wait that decided (0: no wait did), `decided_sample` the position at that moment.
    `speech_s` and `mean_probability` say how much speech Silero heard: seconds, and the mean from onset to end.
    """

    utterance: int
    start_sample: int
    end_sample: int
    decided_sample: int
    silence_ms: int
    reason: FinalReason
    samples: Samples
    speech_s: float
    mean_probability: float


UtteranceEvent = Opened | Paused | Resumed | Closed


@attrs.frozen(kw_only=True, eq=False)
class Snapshot:
    """The open utterance so far."""

    utterance: int
    start_sample: int
    end_sample: int
    samples: Samples


@attrs.define(eq=False)
class _Tape:
    """The newest audio and, per frame, the probability of speech. Positions are samples on the session's clock."""

    origin: int = 0  # the position of the first frame
    length: int = 0  # frames
    _audio: Samples = attrs.field(factory=lambda: np.empty((_TAPE_FRAMES, FRAME_SAMPLES), np.float32))
    _speech: Samples = attrs.field(factory=lambda: np.empty(_TAPE_FRAMES, np.float32))

    def append(self, frames: Samples, speech: Samples, *, keep_from: int) -> None:
        """Add frames; what lies before `keep_from` may go."""
        end = self.length + len(frames)
        if end > len(self._audio):
            dropped = max(keep_from - self.origin, 0) // FRAME_SAMPLES
            end -= dropped
            capacity = max(_TAPE_FRAMES, 2 * end)
            audio, probability = np.empty((capacity, FRAME_SAMPLES), np.float32), np.empty(capacity, np.float32)
            audio[: self.length - dropped] = self._audio[dropped : self.length]
            probability[: self.length - dropped] = self._speech[dropped : self.length]
            self._audio, self._speech = audio, probability
            self.origin += dropped * FRAME_SAMPLES
            self.length -= dropped
        self._audio[self.length : end] = frames
        self._speech[self.length : end] = speech
        self.length = end

    def audio(self, start: int, end: int) -> Samples:
        """The audio from position `start` to `end`, flat, as a read-only view."""
        view = self._audio.reshape(-1)[start - self.origin : end - self.origin]
        view.flags.writeable = False
        return view

    def speech(self, start: int, end: int) -> Samples:
        """The probabilities of the frames that begin from `start` to before `end`."""
        return self._speech[-((self.origin - start) // FRAME_SAMPLES) : -((self.origin - end) // FRAME_SAMPLES)]


@attrs.define(eq=False)
class _Open:
    """The utterance under way."""

    number: int
    onset: int
    start: int


class UtteranceAssembler:
    """The utterances of one session.

    Args:
        endpointing: when utterances end; None: only when the client says so.
        max_utterance_s: the longest audio of an utterance when the client finalizes (`endpointing` has its own).
        pre_roll_ms: audio before the onset that belongs to the utterance.
        speculate_ms: silence before `Paused`.
    """

    def __init__(
        self,
        endpointing: Endpointing | None,
        *,
        max_utterance_s: float,
        pre_roll_ms: int = TUNING.pre_roll_ms,
        speculate_ms: int = TUNING.speculate_ms,
    ) -> None:
        self._endpointer = Endpointer(endpointing, speculate_ms=max(speculate_ms, POST_ROLL_MS))
        self._next_options = endpointing
        self._max_utterance_s = max_utterance_s
        self._pre_roll = pre_roll_ms * SAMPLE_RATE // 1000
        self._tape = _Tape()
        self._position = 0
        self._floor = 0  # audio before it belongs to an utterance, or was dropped
        self._numbers = 0
        self._open: _Open | None = None

    @property
    def position(self) -> int:
        """Samples since the session began."""
        return self._position

    @property
    def open_utterance(self) -> int | None:
        """The number of the utterance under way."""
        return self._open.number if self._open else None

    def next_number(self) -> int:
        """Hand out an utterance number, for an utterance without audio."""
        self._numbers += 1
        return self._numbers

    def hint(self, hint: TurnHint) -> None:
        """What the text of the open utterance says about its end."""
        self._endpointer.hint(hint)

    def configure(self, endpointing: Endpointing | None) -> None:
        """Change the options, from the next utterance on."""
        self._next_options = endpointing
        if self._open is None:
            self._endpointer.options = endpointing

    def push(self, frames: Samples, activity: Activity) -> list[UtteranceEvent]:
        """Take frames (n, 320) and what the detectors say about them."""
        keep_from = self._open.start if self._open else self._position - _LOOK_BACK - self._pre_roll
        self._tape.append(frames, activity.evidence, keep_from=keep_from)
        events: list[UtteranceEvent] = []
        if self._open is None and self._endpointer.options is not None and activity.is_quiet:
            self._position += len(frames) * FRAME_SAMPLES
            self._endpointer.pass_quiet(len(frames))
            return events
        for voiced, probability in activity:
            self._position += FRAME_SAMPLES
            event = self._endpointer.push(voiced=voiced, probability=probability)
            if event is not None:
                events.append(self._translate(event))
            while self._open and self._position + FRAME_SAMPLES - self._open.start > self._limit:
                events += self._cut(self._open)
        return events

    def skip(self, samples: int) -> list[UtteranceEvent]:
        """Audio was dropped: the clock jumps over it. An open utterance ends before the hole, as by an endpoint."""
        events = self.finalize("endpoint")
        self._position += samples
        self._floor = self._position
        self._tape = _Tape(origin=self._position)
        self._endpointer.skip(samples)
        return events

    @property
    def fades(self) -> bool:
        """Whether the open utterance has just become silent: it may be about to pause."""
        return self._endpointer.fades

    def snapshot(self) -> Snapshot | None:
        """The open utterance so far, or None."""
        if self._open is None:
            return None
        return Snapshot(
            utterance=self._open.number,
            start_sample=self._open.start,
            end_sample=self._position,
            samples=self._tape.audio(self._open.start, self._position),
        )

    def finalize(self, reason: FinalReason = "finalize") -> list[UtteranceEvent]:
        """End the open utterance, or the word that was about to open one, now; nothing if there is neither."""
        events: list[UtteranceEvent] = []
        if self._open is None:
            onset = self._endpointer.pending_onset()
            if onset is None:
                return events
            events.append(self._begin(onset, start=onset - self._pre_roll))
        end, audio_end = self._endpointer.end_sample, self._position
        if self._endpointer.paused_end is not None:
            if not self._is_quiet_behind(end):
                events.append(Resumed(utterance=self._numbers))
                end = self._position
            else:
                audio_end = end + _POST_ROLL
        events.append(self._close(end, audio_end=audio_end, reason=reason))
        self._endpointer.close()
        return events

    def _is_quiet_behind(self, end: int) -> bool:
        """Whether what follows the post-roll of speech that ended there is as quiet as the room in the pause was."""
        pause = self._endpointer.speculate_ms * SAMPLE_RATE // 1000  # it lasted at least so long
        room = _levels(self._tape.audio(end, end + pause)).min()
        behind = _levels(self._tape.audio(end + _POST_ROLL, self._position))
        width = min(_PAUSE_FRAMES, len(behind))
        loudest = np.convolve(behind, np.full(width, 1 / width), "valid").max() if width else 0.0
        return bool(loudest <= max(room, _INAUDIBLE) * 10 ** (_RISE_DB / 10))

    @property
    def _limit(self) -> int:
        options = self._endpointer.options
        limit_s = self._max_utterance_s if options is None else options.max_utterance_s
        return int(limit_s * SAMPLE_RATE)

    def _translate(self, event: EndpointerEvent) -> UtteranceEvent:
        match event:
            case SpeechStarted(onset_sample=onset):
                return self._begin(onset, start=onset - self._pre_roll)
            case SpeechPaused(end_sample=end):
                return self._pause(end)
            case SpeechResumed():
                return Resumed(utterance=self._numbers)
        audio_end = event.end_sample + _POST_ROLL
        return self._close(event.end_sample, audio_end=audio_end, reason="endpoint", silence_ms=event.silence_ms)

    def _begin(self, onset: int, *, start: int) -> Opened:
        self._open = _Open(number=self.next_number(), onset=max(onset, self._floor), start=max(start, self._floor))
        self._endpointer.anchor(self._open.onset)
        return Opened(utterance=self._open.number, at_sample=self._open.onset, start_sample=self._open.start)

    def _pause(self, end: int) -> Paused:
        assert self._open is not None, "only an open utterance pauses"
        return Paused(
            utterance=self._open.number,
            start_sample=self._open.start,
            end_sample=end,
            samples=self._tape.audio(self._open.start, end + _POST_ROLL),
        )

    def _close(self, end: int, *, audio_end: int, reason: FinalReason, silence_ms: int = 0) -> Closed:
        assert self._open is not None, "only an open utterance closes"
        closing, self._open = self._open, None
        audio_end = min(audio_end, self._position)
        heard = self._tape.speech(closing.onset, audio_end)
        self._floor = audio_end
        self._endpointer.options = self._next_options
        return Closed(
            utterance=closing.number,
            start_sample=closing.start,
            end_sample=end,
            decided_sample=self._position,
            silence_ms=silence_ms,
            reason=reason,
            samples=self._tape.audio(closing.start, audio_end),
            speech_s=int(np.count_nonzero(heard >= SPEECH_ON)) * FRAME_MS / 1000,
            mean_probability=float(heard.mean()),
        )

    def _cut(self, cutting: _Open) -> list[UtteranceEvent]:
        """Close the utterance at its limit and open what follows the cut (rule 5)."""
        everything = self._next_options is None  # rule 7: then the next begins where this one ends
        paused_end = self._endpointer.paused_end
        if paused_end is not None:
            place = _Cut(end=paused_end, at=paused_end + _POST_ROLL, onset=None)
        else:
            place = self._best_cut(cutting)
        audio_end = place.at if everything else min(place.at, place.end + _POST_ROLL)
        events: list[UtteranceEvent] = [self._close(place.end, audio_end=audio_end, reason="max_length")]
        if everything:
            events.append(self._begin(audio_end, start=audio_end))
        elif place.onset is not None:
            events.append(self._begin(place.onset, start=place.onset - self._pre_roll))
        else:
            self._endpointer.close()
        return events

    def _best_cut(self, cutting: _Open) -> _Cut:
        # The frame grid is that of the newest frame's end: utterances need not begin on it.
        end = self._position + min((cutting.start + self._limit - self._position) // FRAME_SAMPLES, 0) * FRAME_SAMPLES
        begin = end - self._limit // 3 // FRAME_SAMPLES * FRAME_SAMPLES
        pause = _longest_run(self._tape.speech(begin, end) < SPEECH_OFF)
        if pause is None:
            frames = self._tape.audio(begin, end).reshape(-1, FRAME_SAMPLES)
            energy = np.convolve(np.square(frames).sum(axis=1), np.ones(_PAUSE_FRAMES), "valid")
            at = begin + (int(energy.argmin()) + _PAUSE_FRAMES // 2) * FRAME_SAMPLES
            return _Cut(end=at, at=at, onset=at)
        first, after = pause
        silent_from, silent_to = max(first - _END_LAG, 0), after - _ONSET_LAG
        goes_on = begin + after * FRAME_SAMPLES < self._position
        return _Cut(
            end=begin + silent_from * FRAME_SAMPLES,
            at=begin + (silent_from + silent_to) // 2 * FRAME_SAMPLES,
            onset=begin + silent_to * FRAME_SAMPLES if goes_on else None,
        )


@attrs.frozen(kw_only=True)
class _Cut:
    """Where an utterance is cut: its speech ended at `end`, its audio ends `at`, and speech goes on at `onset`."""

    end: int
    at: int
    onset: int | None


def _levels(samples: Samples) -> Samples:
    """The mean square of each frame."""
    frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    levels: Samples = np.square(frames).mean(axis=1)
    return levels


def _longest_run(silent: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """First and after-last frame of the longest, of equals the latest, run of at least `_PAUSE_FRAMES`."""
    edges = np.flatnonzero(np.diff(silent, prepend=False, append=False))
    starts, ends = edges[::2], edges[1::2]
    lengths = (ends - starts)[::-1]
    if not len(lengths) or lengths.max() < _PAUSE_FRAMES:
        return None
    index = len(lengths) - 1 - int(lengths.argmax())
    return int(starts[index]), int(ends[index])
