"""Is this speech? Two detectors per session, one opinion per 20 ms frame of each.

WebRTC VAD reacts within a frame, and takes clicks, chords and loud noise for speech. Silero (`engine/silero.py`) does
not, and needs 32 ms steps and about 50 ms to change its mind. Who believes whom is decided in `core/endpointer.py`;
here they are only asked.

Silero costs ten times as much, so it sleeps where nothing can be speech:

 1. **Asleep** it is after `NAP_FRAMES` in which WebRTC heard nothing and no frame rose above the floor. It is said to
    hear nothing then: a probability of 0.
 2. A frame **rises above the floor** with `_RISE` times its power, if it can be heard at all: WebRTC does not hear
    speech that is fainter than some 50 dB below full scale, Silero does. The floor is the least power, and forgets it
    by 1 dB a second.
 3. **Awake** it is again with the first frame that WebRTC hears or that rises. What it remembers is from before its
    sleep, so it is warmed: the last `WARM_STEPS` before that frame are run first, and their answers thrown away.

Its state remembers silences, so what it says after a sleep is not quite what it would have said. Measured: in 82
sessions (all recordings twice with 4 to 5 s between, composed sessions with pauses up to 9 s, speech at -50 to -62 dB)
no boundary of an utterance moves; asleep after 2 s, or warmed from an empty state, in every sixth or fourth, by up to
0.5 s. After pauses of 20 to 30 s boundaries move by more than 20 ms in 7 of 44 sessions. That is less than what chance
does: with Silero awake throughout they move in 13 of the same 44, if only the first pause is 5 s shorter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import webrtcvad

from sttd.core.endpointer import Activity
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE, Samples
from sttd.engine.silero import CONTEXT_SAMPLES, STEP_SAMPLES, SileroModel, SileroState, Steps

NAP_FRAMES = 250  # 5 s
WARM_STEPS = 32  # 1 s

_RISE = 4.0  # 6 dB; chosen
_INAUDIBLE = 1e-7  # mean square: -70 dB of full scale, below what Silero hears
_FORGETS = 10 ** (0.1 / 50)  # 1 dB in 50 frames
_LEAST_FLOOR = 1e-8  # -80 dB: after digital zeros any room would rise above it for ever
_ASLEEP = -1  # the place of a frame about which Silero was not asked


@attrs.frozen(eq=False, kw_only=True)
class Question:
    """What Silero is to be asked about some frames, and what WebRTC says about them.

    Args:
        webrtc: its flag of each frame.
        steps: what to run; None: nothing.
    """

    webrtc: npt.NDArray[np.bool_]
    steps: Steps | None
    _places: list[int]  # of each frame: which answer it shows, counted from 1; 0: the one before; `_ASLEEP`: none
    _detector: VoiceDetector

    def answered(self, values: Sequence[float]) -> Activity:
        """What the detectors say, `values` being the probabilities of `steps`."""
        return Activity(webrtc=self.webrtc, probability=self._detector.learn(values, self._places))


@attrs.define(eq=False, kw_only=True)
class VoiceDetector:
    """The two detectors of one session. Frames are float32 of shape (n, 320).

    Args:
        aggressiveness: of WebRTC VAD, 0 (hears much) to 3 (hears little).
        silero: the shared network; None leaves WebRTC alone, and probabilities are NaN.
    """

    aggressiveness: int
    silero: SileroModel | None

    _webrtc: Any = attrs.field(init=False)
    _state: SileroState = attrs.field(init=False)
    _audio: deque[Samples] = attrs.field(init=False)  # what Silero may still be asked about, and what goes before
    _audio_from: int = attrs.field(init=False)  # the position of its first sample
    _heard: int = attrs.field(init=False)  # the position after its last
    _complete: int = attrs.field(init=False)  # steps that are
    _next: int = attrs.field(init=False)  # the step after the last that was run
    _quiet: int = attrs.field(init=False)  # frames since the last that may have been speech
    _floor: float = attrs.field(init=False)  # mean square
    _newest: float = attrs.field(init=False)  # probability

    def __attrs_post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next frame is the first."""
        self._webrtc = webrtcvad.Vad(self.aggressiveness)
        self._state = SileroState()
        self._audio = deque([np.zeros(CONTEXT_SAMPLES, np.float32)])
        self._audio_from = -CONTEXT_SAMPLES
        self._heard = self._complete = self._next = self._quiet = 0
        self._floor = 1.0
        self._newest = 0.0

    @property
    def asleep(self) -> bool:
        """Whether nothing was heard for so long that Silero sleeps."""
        return self.silero is not None and self._quiet > NAP_FRAMES

    def configure(self, *, aggressiveness: int) -> None:
        """Change WebRTC's mode; what it has learned of the noise stays."""
        self.aggressiveness = aggressiveness
        self._webrtc.set_mode(aggressiveness)

    def push(self, frames: Samples) -> Activity:
        """What the detectors say about `frames`, however frames are grouped into pushes."""
        question = self.take(frames)
        if question.steps is None:
            return question.answered(())
        assert self.silero is not None, "without Silero there is nothing to run"
        return question.answered(self.silero.run([question.steps])[0])

    def take(self, frames: Samples) -> Question:
        """The first half of `push`, so that many sessions can ask Silero at once.

        The question is answered before the next frames are taken.
        """
        webrtc = self._ask_webrtc(frames)
        if self.silero is None:
            return Question(webrtc=webrtc, steps=None, places=[_ASLEEP] * len(frames), detector=self)
        rows, places = self._due(frames, webrtc)
        self._audio.append(frames.reshape(-1))
        steps = Steps(self._samples(rows), self._state) if rows else None
        self._forget()
        return Question(webrtc=webrtc, steps=steps, places=places, detector=self)

    def learn(self, values: Sequence[float], places: Sequence[int]) -> Samples:
        """The second half, for `Question`: the probability that each frame shows."""
        if self.silero is None:
            return np.full(len(places), np.nan, np.float32)
        known = [self._newest, *values, 0.0]  # the last is that of `_ASLEEP`
        if places:
            self._newest = known[places[-1]]
        return np.array([known[place] for place in places], np.float32)

    def _ask_webrtc(self, frames: Samples) -> npt.NDArray[np.bool_]:
        pcm = (frames * np.float32(32767)).astype(np.int16)
        view = pcm.reshape(-1).data.cast("B")
        size = 2 * FRAME_SAMPLES
        is_speech = self._webrtc.is_speech
        flags = [is_speech(view[start : start + size], SAMPLE_RATE) for start in range(0, len(view), size)]
        return np.array(flags, np.bool_)

    def _due(self, frames: Samples, webrtc: npt.NDArray[np.bool_]) -> tuple[list[int], list[int]]:
        """The steps to run, in order, those included that only warm; and the places of the frames."""
        rows: list[int] = []
        places: list[int] = []
        place = 0
        powers = (np.einsum("ij,ij->i", frames, frames) / FRAME_SAMPLES).tolist()
        floor, quiet, asleep_after = self._floor, self._quiet, NAP_FRAMES
        for power, voiced in zip(powers, webrtc.tolist(), strict=True):
            floor *= _FORGETS
            if power < floor:
                floor = power if power > _LEAST_FLOOR else _LEAST_FLOOR
            quiet = 0 if voiced or (power > _INAUDIBLE and power > _RISE * floor) else quiet + 1
            self._heard += FRAME_SAMPLES
            completes, self._complete = self._complete, self._heard // STEP_SAMPLES
            if quiet > asleep_after:
                place = _ASLEEP
            elif completes < self._complete:  # a frame is shorter than a step, so it is one
                rows += range(max(self._next, completes - WARM_STEPS), self._complete)
                self._next = self._complete
                place = len(rows)
            places.append(place)
        self._floor, self._quiet = floor, quiet
        return rows, places

    def _samples(self, rows: list[int]) -> Samples:
        """The audio of these steps, each with its context."""
        audio = np.concatenate(self._audio)
        self._audio = deque([audio])
        offset = rows[0] * STEP_SAMPLES - CONTEXT_SAMPLES - self._audio_from
        stride = audio.itemsize
        shape = rows[-1] + 1 - rows[0], CONTEXT_SAMPLES + STEP_SAMPLES
        view: Samples = np.ndarray(shape, np.float32, audio[offset:], strides=(STEP_SAMPLES * stride, stride))
        return view if len(rows) == len(view) else view[np.array(rows) - rows[0]]

    def _forget(self) -> None:
        """Let go of audio that is of no more use."""
        keep_from = max(self._next, self._complete - WARM_STEPS) * STEP_SAMPLES - CONTEXT_SAMPLES
        if len(self._audio) == 1:
            self._audio[0] = self._audio[0][keep_from - self._audio_from :].copy()
            self._audio_from = keep_from
        while self._audio_from + len(self._audio[0]) <= keep_from:
            self._audio_from += len(self._audio.popleft())
