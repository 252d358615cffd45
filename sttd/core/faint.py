"""Speech that is too quiet to be heard, so that somebody can turn the microphone up.

WebRTC VAD has a floor: what lies below some -50 dBFS it takes for nothing, and without it nothing is speech
(`endpointer.py`). Silero knows a voice far below that. Where it is sure of more speech than both hear together, and of
`ENOUGH_S` of it, the session says so, once. Measured: a sentence with its peak at -52 dBFS has 1.1 s of such speech,
those at usual levels 0.1 s at the most, and noise, music, dishes, keys and a bicycle have none.
"""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np

from sttd.core.endpointer import Activity
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE

ENOUGH_S: Final = 1.0  # chosen: a short sentence
_SURE: Final = 0.5
_FRAMES_PER_S: Final = SAMPLE_RATE / FRAME_SAMPLES


@attrs.define(eq=False)
class FaintSpeech:
    """Counts it in one session."""

    _faint: int = attrs.field(default=0, init=False)  # frames
    _heard: int = attrs.field(default=0, init=False)
    _told: bool = attrs.field(default=False, init=False)

    def push(self, activity: Activity) -> bool:
        """What the detectors said of some frames. Returns whether the client should be told now."""
        if self._told:
            return False
        voice = activity.probability >= _SURE  # never of a network that is not there: its NaN is no number
        heard = int(np.count_nonzero(voice & activity.webrtc))
        self._heard += heard
        self._faint += int(np.count_nonzero(voice)) - heard
        self._told = self._faint >= ENOUGH_S * _FRAMES_PER_S and self._faint > self._heard
        return self._told
