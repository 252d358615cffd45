"""When does an utterance start, pause, go on and end? One frame (20 ms) in, at most one event out.

It hears two witnesses per frame: the WebRTC flag, quick and gullible, and the newest Silero probability, sure and
some 50 ms late. Without Silero (NaN) WebRTC speaks for both.

Rules:
 1. **Start.** WebRTC in at least 8 of the last 12 frames, and Silero at `SPEECH_ON` or above in at least 4 of the
    last 7 (which is 2 of its last 4 steps). Or Silero alone, in at least 16 of the last 20: WebRTC hears nothing that
    is fainter than some 50 dB below full scale, and Silero hears speech that is 6 to 12 dB fainter. The onset lies
    where Silero's run began, less its delay; or where WebRTC's run began, if that is at most 300 ms before.
 2. WebRTC without Silero is not believed in its first 500 ms: its noise model is untrained and fires on near-silence.
 3. **End of speech.** Silero's edge: the last frame at `SPEECH_OFF` or above, less Silero's delay. WebRTC's edge, its
    last frame less its hangover, takes its place where it lies up to 300 ms later: final consonants are too faint for
    Silero. Further apart they disagree, and Silero is believed: in loud noise WebRTC never ends.
 4. **Pause.** After `speculate_ms` from the end of speech the utterance is paused, and the end stays where it is
    until Silero reaches `SPEECH_OFF` again: then it is resumed. So what was heard up to a pause is all that an endpoint
    confirms.
 5. **Endpoint.** After the silence time from the end of speech, with nothing from Silero since. If WebRTC woke just
    then, Silero gets 100 ms to say that it is speech: it is that much slower.
 6. **Silence time**, between `silence_ms_min` and `silence_ms_max`: the least after a hint that the sentence has
    ended, the most after a hint that it goes on, else from the speaker's own pauses: mean plus twice the mean
    deviation, as TCP times its retransmissions (RFC 6298), because both guess "nothing will come any more" from how
    late things came so far. A hint holds until speech resumes. A start soon after an endpoint shows a pause that was
    taken for an end: it counts as a pause.
 7. **Client finalizes** (no options): opens with the first frame, never ends, pauses only while both are silent.

Positions are samples on the session's clock, at frame boundaries except for the corrections above. They never decrease.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator

import attrs
import numpy as np
import numpy.typing as npt

from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE, Samples
from sttd.options import TUNING, Endpointing

SPEECH_ON, SPEECH_OFF = 0.5, 0.35  # Silero's own recommendation, as hysteresis

_START_WINDOW, _START_VOICED = 0xFFF, 8  # the last 12 frames (240 ms); chosen: two thirds of them
_CONFIRM_WINDOW, _CONFIRM_FRAMES = 0x7F, 4  # the last 7 frames: four Silero steps
_SURE_WINDOW, _SURE_FRAMES = 0xFFFFF, 16  # the last 20 frames (400 ms); chosen: four fifths of them
_HISTORY_FRAMES = 48  # how far back an onset is looked for: 960 ms, more than the reach of rule 1; chosen
_HISTORY = (1 << _HISTORY_FRAMES) - 1
_ONSET_GAP = 3  # frames that a run of speech may be interrupted by: a stop consonant's 60 ms; chosen


def _samples(ms: float) -> int:
    return round(ms * SAMPLE_RATE / 1000)


_PENDING_FRAMES = 3  # chosen, what is believed to be a word when the client ends the audio
_UNTRAINED = _samples(500)
_LONGEST_PAUSE = _samples(1000)  # chosen: a longer one was an end
_ONSET_REACH = _samples(300)
_REACTION_FRAMES = 5  # 100 ms: twice what Silero takes to change its mind
_AGREE = _samples(300)
_ONSET_DELAY = _samples(40)  # onset → start of the first frame that shows Silero ≥ 0.5; median over the recordings
_OFFSET_DELAY = _samples(80)  # end of speech → end of the last frame that shows Silero ≥ 0.35; likewise
_DEFAULTS = Endpointing()  # the detector's aggressiveness where the client finalizes
_FADING_FRAMES = 5  # 100 ms: from Silero's edge to the pause, by default
_HANGOVER = (_samples(160), _samples(160), _samples(120), _samples(120))  # of WebRTC, by aggressiveness


class TurnHint(enum.Enum):
    """What the text so far says about whether the speaker is done."""

    ENDED = enum.auto()
    CONTINUES = enum.auto()
    NEUTRAL = enum.auto()


@attrs.frozen(kw_only=True, eq=False)
class Activity:
    """What the detectors say about n frames: arrays of n. Probabilities of NaN, all of them: there is no Silero."""

    webrtc: npt.NDArray[np.bool_]
    probability: Samples

    @property
    def evidence(self) -> Samples:
        """The best guess at the probability of speech."""
        alone = len(self.probability) and np.isnan(self.probability[0])
        return self.webrtc.astype(np.float32) if alone else self.probability

    @property
    def is_quiet(self) -> bool:
        """Whether WebRTC hears nothing and Silero is sure that nothing is there, in all frames."""
        return not np.count_nonzero(self.webrtc) and not np.count_nonzero(self.probability)  # faster than `any`

    def __iter__(self) -> Iterator[tuple[bool, float]]:
        """Frame by frame: the WebRTC flag and the probability."""
        return zip(self.webrtc.tolist(), self.probability.tolist(), strict=True)


@attrs.frozen(kw_only=True)
class SpeechStarted:
    onset_sample: int


@attrs.frozen(kw_only=True)
class SpeechPaused:
    end_sample: int


@attrs.frozen(kw_only=True)
class SpeechResumed:
    pass


@attrs.frozen(kw_only=True)
class SpeechEnded:
    end_sample: int
    silence_ms: int


EndpointerEvent = SpeechStarted | SpeechPaused | SpeechResumed | SpeechEnded


@attrs.define(eq=False)
class PauseEstimate:
    """A running estimate of how long this speaker pauses without being done."""

    mean_ms: float | None = None
    deviation_ms: float = 0.0

    def learn(self, pause_ms: float) -> None:
        """Take one pause into account; the gains are those of RFC 6298, which forget within about ten pauses."""
        if self.mean_ms is None:
            self.mean_ms, self.deviation_ms = pause_ms, pause_ms / 2
        else:
            self.deviation_ms += (abs(pause_ms - self.mean_ms) - self.deviation_ms) / 4
            self.mean_ms += (pause_ms - self.mean_ms) / 8

    def silence_ms(self, options: Endpointing) -> float:
        """How long to wait, within the limits; halfway while nothing is known of the speaker."""
        low, high = options.silence_ms_min, options.silence_ms_max
        if self.mean_ms is None:
            return (low + high) / 2
        return min(max(self.mean_ms + 2 * self.deviation_ms, low), high)


@attrs.define(eq=False)
class Endpointer:
    """The start and the end of utterances.

    Args:
        options: limits of the silence time and WebRTC's aggressiveness; None: the client finalizes. May be replaced
            between utterances.
        speculate_ms: trailing silence after which an utterance is paused.
    """

    options: Endpointing | None
    speculate_ms: int = attrs.field(default=TUNING.speculate_ms, kw_only=True)
    pauses: PauseEstimate = attrs.field(factory=PauseEstimate, kw_only=True)

    _now: int = attrs.field(default=0, init=False)  # the end of the newest frame
    _voiced: int = attrs.field(default=0, init=False)  # WebRTC's last frames as bits, the newest lowest
    _confirmed: int = attrs.field(default=0, init=False)  # the same of Silero ≥ SPEECH_ON
    _webrtc_end: int = attrs.field(default=0, init=False)  # corrected, see rule 3
    _silero_end: int | None = attrs.field(default=None, init=False)  # None: no speech since the last close
    _speaking: bool = attrs.field(default=False, init=False)
    _silent_frames: int = attrs.field(default=_FADING_FRAMES + 1, init=False)  # since the last one with speech
    _onset: int = attrs.field(default=0, init=False)
    _paused_end: int | None = attrs.field(default=None, init=False)
    _hint: TurnHint = attrs.field(default=TurnHint.NEUTRAL, init=False)
    _doubtful_end: int | None = attrs.field(default=None, init=False)  # of an utterance that may not have been done

    @property
    def paused_end(self) -> int | None:
        """Where the speech ended if the open utterance is paused."""
        return self._paused_end

    @property
    def fades(self) -> bool:
        """Whether speech was heard until just now: a pause may be near, or it was a plosive."""
        return self._speaking and self._paused_end is None and 0 < self._silent_frames <= _FADING_FRAMES

    @property
    def end_sample(self) -> int:
        """The best estimate of where the speech of the open utterance ended, or has come to (rule 3)."""
        if self._paused_end is not None:
            return self._paused_end
        if self._silero_end is None:
            return self._now
        agree = self._silero_end < self._webrtc_end <= self._silero_end + _AGREE
        return max(self._webrtc_end if agree else self._silero_end, self._onset)

    @property
    def silence_ms(self) -> int:
        """How long a silence ends the open utterance (rule 6); 0 if none does."""
        if self.options is None:
            return 0
        if self._hint is TurnHint.ENDED:
            return self.options.silence_ms_min
        if self._hint is TurnHint.CONTINUES:
            return self.options.silence_ms_max
        return round(self.pauses.silence_ms(self.options))

    def hint(self, hint: TurnHint) -> None:
        """What the text of the open utterance suggests; replaced by the next hint, forgotten when speech resumes."""
        self._hint = hint

    def push(self, *, voiced: bool, probability: float) -> EndpointerEvent | None:
        """Take one frame."""
        self._now += FRAME_SAMPLES
        delay = _OFFSET_DELAY
        alone = probability != probability  # NaN: WebRTC speaks for both
        if alone or (voiced and self.options is None):
            probability, delay = float(voiced), self._hangover
        self._voiced = (self._voiced << 1 | voiced) & _HISTORY
        self._confirmed = (self._confirmed << 1 | (probability >= SPEECH_ON)) & _HISTORY
        if voiced:
            self._webrtc_end = self._now - self._hangover
        self._silent_frames += 1
        if probability >= SPEECH_OFF:
            self._silero_end = self._now - delay
            self._silent_frames = 0
        if not self._speaking:
            return self._start(trained=not alone or self._now > _UNTRAINED)
        return self._wait() if self._silent_frames else self._resume()

    def pass_quiet(self, frames: int) -> None:
        """Take so many frames in which neither witness hears anything, between utterances that the detectors open.

        The same as a `push` of each, and no event: what begins an utterance (rule 1) is not made by silence.
        """
        assert not self._speaking, "only while nobody speaks"
        assert self.options is not None, "where the client finalizes, silence opens an utterance too"
        self._now += frames * FRAME_SAMPLES
        self._voiced = self._voiced << frames & _HISTORY
        self._confirmed = self._confirmed << frames & _HISTORY

    def pending_onset(self) -> int | None:
        """Where speech began that is too short for a start so far; for the client that says stop right after a word."""
        recent = (1 << 2 * _START_WINDOW.bit_length()) - 1
        if min((self._voiced & recent).bit_count(), (self._confirmed & recent).bit_count()) < _PENDING_FRAMES:
            return None
        return self._find_onset()

    def close(self) -> None:
        """The open utterance has ended; what was heard so far starts no other."""
        self._speaking = False
        self._paused_end = self._silero_end = None
        self._voiced = self._confirmed = 0

    def anchor(self, onset_sample: int) -> None:
        """The open utterance begins here: its onset had to yield to another's audio, or it is the rest after a cut."""
        self._onset = onset_sample
        self._paused_end = None

    def skip(self, samples: int) -> None:
        """Audio is missing: the clock goes on, the speech does not. Only between utterances."""
        self._now += samples
        self.close()

    @property
    def _hangover(self) -> int:
        return _HANGOVER[(self.options or _DEFAULTS).aggressiveness]

    def _start(self, *, trained: bool) -> EndpointerEvent | None:
        if self.options is None:
            self._onset = self._now - FRAME_SAMPLES
        elif trained and (self._both_hear_speech() or self._silero_is_sure()):
            self._onset = self._find_onset()
        else:
            return None
        if self._doubtful_end is not None:
            self._learn_pause(self._onset - self._doubtful_end)
            self._doubtful_end = None
        self._speaking = True
        self._hint = TurnHint.NEUTRAL
        return SpeechStarted(onset_sample=self._onset)

    def _both_hear_speech(self) -> bool:
        return (self._voiced & _START_WINDOW).bit_count() >= _START_VOICED and (
            self._confirmed & _CONFIRM_WINDOW
        ).bit_count() >= _CONFIRM_FRAMES

    def _silero_is_sure(self) -> bool:
        return (self._confirmed & _SURE_WINDOW).bit_count() >= _SURE_FRAMES

    def _resume(self) -> EndpointerEvent | None:
        if self._paused_end is None:
            return None
        self._learn_pause(self._now - FRAME_SAMPLES - _ONSET_DELAY - self._paused_end)
        self._paused_end = None
        self._hint = TurnHint.NEUTRAL
        return SpeechResumed()

    def _wait(self) -> EndpointerEvent | None:
        end = self.end_sample
        silence = self._now - end
        if self.options is not None and silence >= self._wait_samples():
            event = SpeechEnded(end_sample=end, silence_ms=self.silence_ms)
            self._doubtful_end = None if self._hint is TurnHint.ENDED else end
            self.close()
            return event
        if self._paused_end is None and silence >= _samples(self.speculate_ms):
            self._paused_end = end
            return SpeechPaused(end_sample=end)
        return None

    def _wait_samples(self) -> int:
        woke = self._voiced & 1 and not self._voiced >> _REACTION_FRAMES & 1
        return _samples(self.silence_ms) + (_REACTION_FRAMES * FRAME_SAMPLES if woke else 0)

    def _learn_pause(self, samples: int) -> None:
        if samples <= _LONGEST_PAUSE:
            self.pauses.learn(samples * 1000 / SAMPLE_RATE)

    def _find_onset(self) -> int:
        """The start of the run of speech that is under way (rule 1)."""
        frames = _run_length(self._confirmed)
        silero = self._now - frames * FRAME_SAMPLES - _ONSET_DELAY
        webrtc = self._now - (frames - 1 + _run_length(self._voiced >> frames - 1)) * FRAME_SAMPLES
        return webrtc if silero - _ONSET_REACH <= webrtc < silero else silero


def _run_length(bits: int) -> int:
    """How many frames back the newest run of ones begins, seen over gaps of up to `_ONSET_GAP` frames; at least 1."""
    length = 1
    for back in range(1, bits.bit_length() + 1):
        if bits >> back - 1 & 1:
            length = back
        elif back - length > _ONSET_GAP:
            break
    return length
