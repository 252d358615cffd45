"""Is this speech? Two detectors per session, one opinion per 20 ms frame of each.

WebRTC VAD reacts within a frame, and takes clicks, chords and loud noise for speech. Silero v6 (the ONNX file that
faster-whisper ships) does not, and needs 32 ms steps and about 50 ms to change its mind. Who believes whom is decided
in `core/endpointer.py`; here they are only asked.

Silero is nearly all the CPU time of a session's ingest: 0.27 % of a core when asked step by step, 0.19 % in runs of 5,
with bitwise equal answers. Not to ask it while WebRTC hears nothing would save more, and was tried: its state
remembers seconds, so what it says after a nap of 1 s differs, and with it the boundaries in 11 of 12 composed sessions.
"""

from __future__ import annotations

import os
import threading
from importlib import util
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import webrtcvad

from sttd.core.endpointer import Activity
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE, Samples
from sttd.host import privacy

STEP_SAMPLES = 512  # 32 ms, what Silero v6 was trained on
CONTEXT_SAMPLES = 64  # of the step before, in front of each step
STATE_SHAPE = (1, 1, 128)  # of the LSTM's h and c; their batch axis is 1, so sessions cannot share a run
MAX_RUN = 64  # steps in one run: bounds memory, and gains nothing beyond


@attrs.define(eq=False)
class SileroModel:
    """The network, shared by all sessions and threads: a run has no state of its own.

    `load` goes before `run`, in a thread: it imports onnxruntime and reads the file, which takes a quarter of a second.
    """

    _session: Any = attrs.field(default=None, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def loaded(self) -> bool:
        """Whether `run` may be called."""
        return self._session is not None

    def load(self) -> None:
        """Load the network unless that is done. Blocks.

        Raises:
            FileNotFoundError: faster-whisper is not installed or ships no such file.
            Exception: whatever onnxruntime makes of a file or a machine that it does not like.
        """
        with self._lock:
            if self._session is None:
                self._session = _open_session(_model_path())

    def run(self, steps: Samples, *, h: Samples, c: Samples) -> tuple[Samples, Samples, Samples]:
        """Probabilities of `steps` (float32, shape (n, 64 + 512)) in order, and the state after the last."""
        probability, h, c = self._session.run(None, {"input": steps, "h": h, "c": c})
        return probability, h, c


def _model_path() -> Path:
    package = util.find_spec("faster_whisper")  # finds without importing: the import takes a second
    if package is None or not package.submodule_search_locations:
        raise FileNotFoundError("faster-whisper is not installed; it brings the Silero network")
    path = Path(package.submodule_search_locations[0]) / "assets" / "silero_vad_v6.onnx"
    if not path.is_file():
        raise FileNotFoundError(f"faster-whisper brings no {path.name}")
    return path


def _open_session(path: Path) -> Any:
    privacy.silence(os.environ)
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False  # hundreds of sessions' odd-sized runs would only grow it
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@attrs.define(eq=False, kw_only=True)
class VoiceDetector:
    """The two detectors of one session.

    Args:
        aggressiveness: of WebRTC VAD, 0 (hears much) to 3 (hears little).
        silero: the shared network; None leaves WebRTC alone, and probabilities are NaN.
    """

    aggressiveness: int
    silero: SileroModel | None

    _webrtc: Any = attrs.field(init=False)
    _unrun: Samples = attrs.field(init=False)  # the context of the next step and what there is of it
    _h: Samples = attrs.field(init=False)
    _c: Samples = attrs.field(init=False)
    _newest: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next frame is the first."""
        self._webrtc = webrtcvad.Vad(self.aggressiveness)
        self._unrun = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._h = self._c = np.zeros(STATE_SHAPE, np.float32)
        self._newest = 0.0

    def configure(self, *, aggressiveness: int) -> None:
        """Change WebRTC's mode; what it has learned of the noise stays."""
        self.aggressiveness = aggressiveness
        self._webrtc.set_mode(aggressiveness)

    def push(self, frames: Samples) -> Activity:
        """What the detectors say about `frames`, float32 of shape (n, 320), however frames are grouped into pushes."""
        if self.silero is None:
            probability = np.full(len(frames), np.nan, np.float32)
        else:
            probability = self._ask_silero(frames, silero=self.silero)
        return Activity(webrtc=self._ask_webrtc(frames), probability=probability)

    def _ask_webrtc(self, frames: Samples) -> npt.NDArray[np.bool_]:
        pcm = (frames * np.float32(32767)).astype(np.int16)
        view = pcm.reshape(-1).data.cast("B")
        size = 2 * FRAME_SAMPLES
        is_speech = self._webrtc.is_speech
        flags = [is_speech(view[start : start + size], SAMPLE_RATE) for start in range(0, len(view), size)]
        return np.array(flags, np.bool_)

    def _ask_silero(self, frames: Samples, *, silero: SileroModel) -> Samples:
        """The newest probability at the end of each frame."""
        unrun = np.concatenate([self._unrun, frames.reshape(-1)])
        steps = (len(unrun) - CONTEXT_SAMPLES) // STEP_SAMPLES
        values = [self._newest]  # before any of these steps, then after each
        for first in range(0, steps, MAX_RUN):
            values += self._run(unrun[first * STEP_SAMPLES :], count=min(MAX_RUN, steps - first), silero=silero)
        waited = len(self._unrun) - CONTEXT_SAMPLES
        ends = range(waited + FRAME_SAMPLES, waited + FRAME_SAMPLES * len(frames) + 1, FRAME_SAMPLES)
        self._newest = values[-1]
        self._unrun = unrun[steps * STEP_SAMPLES :].copy()
        return np.array([values[end // STEP_SAMPLES] for end in ends], np.float32)

    def _run(self, samples: Samples, *, count: int, silero: SileroModel) -> list[float]:
        """Run the first `count` steps of `samples`, which begins with the context of the first."""
        size = CONTEXT_SAMPLES + STEP_SAMPLES
        if count == 1:  # the usual case, a live session
            steps = samples[:size].reshape(1, size)
        else:
            stride = samples.itemsize
            view: Samples = np.ndarray((count, size), np.float32, samples, strides=(STEP_SAMPLES * stride, stride))
            steps = np.ascontiguousarray(view)
        probability, self._h, self._c = silero.run(steps, h=self._h, c=self._c)
        values: list[float] = probability.tolist()
        return values
