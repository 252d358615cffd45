"""Is this speech? Two detectors per session, one opinion per 20 ms frame of each.

WebRTC VAD reacts within a frame, and takes clicks, chords and loud noise for speech. Silero v6 (the ONNX file that
faster-whisper ships) does not, and needs 32 ms steps and about 50 ms to change its mind. Who believes whom is decided
in `core/endpointer.py`; here they are only asked.

Silero costs about 90 µs a step when asked step by step, 57 µs a step in runs of 16: nearly all the CPU time that a
session's ingest takes. While nobody speaks it is therefore not asked: after `LAZY_AFTER` steps in which WebRTC heard
nothing and Silero agreed, steps are kept instead of run, the newest `CATCH_UP` of them, and all run at once when
WebRTC stirs again. WebRTC precedes Silero at every onset and a start needs both, so no start comes later.
"""

from __future__ import annotations

import os
import threading
from importlib import util
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import webrtcvad

from sttd.core.endpointer import SPEECH_OFF, Activity
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE, Samples

STEP_SAMPLES = 512  # 32 ms, what Silero v6 was trained on
CONTEXT_SAMPLES = 64  # of the step before, in front of each step
STATE_SHAPE = (1, 1, 128)  # of the LSTM's h and c; their batch axis is 1, so sessions cannot share a run
MAX_RUN = 64  # steps in one run: bounds memory, and gains nothing beyond
LAZY_AFTER = 32  # 1 s
CATCH_UP = 16  # 0.5 s: enough for the LSTM to settle (benchmarks/ingest.py compares)


@attrs.define(eq=False)
class SileroModel:
    """The network, shared by all sessions and threads: a run has no state of its own.

    Loaded on first use; `load` may be called before, from a thread, so that no session pays for it.
    """

    _session: Any = attrs.field(default=None, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def load(self) -> None:
        """Load the network unless that is done (about 0.1 s).

        Raises:
            FileNotFoundError: faster-whisper is not installed or ships no such file.
        """
        with self._lock:
            if self._session is None:
                self._session = _open_session(_model_path())

    def run(self, steps: Samples, *, h: Samples, c: Samples) -> tuple[Samples, Samples, Samples]:
        """Probabilities of `steps` (float32, shape (n, 64 + 512)) in order, and the state after the last."""
        if self._session is None:
            self.load()
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
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # read at import; 1.29 and later phone home otherwise
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
        lazy: do not run Silero while WebRTC hears nothing.
    """

    aggressiveness: int
    silero: SileroModel | None
    lazy: bool = True

    _webrtc: Any = attrs.field(init=False)
    _unrun: Samples = attrs.field(init=False)  # context, whole steps not yet run, the start of the next step
    _waiting: int = attrs.field(init=False)  # how many whole steps that is
    _filled: int = attrs.field(init=False)  # samples of the next step
    _heard: bool = attrs.field(init=False)  # WebRTC heard something in the next step
    _quiet: int = attrs.field(init=False)  # steps since it last did
    _h: Samples = attrs.field(init=False)
    _c: Samples = attrs.field(init=False)
    _newest: float = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was heard: the next frame is the first."""
        self._webrtc = webrtcvad.Vad(self.aggressiveness)
        self._unrun = np.zeros(CONTEXT_SAMPLES, np.float32)
        self._waiting = self._filled = self._quiet = 0
        self._heard = False
        self._h = self._c = np.zeros(STATE_SHAPE, np.float32)
        self._newest = 0.0

    def configure(self, *, aggressiveness: int) -> None:
        """Change WebRTC's mode; what it has learned of the noise stays."""
        self.aggressiveness = aggressiveness
        self._webrtc.set_mode(aggressiveness)

    def push(self, frames: Samples) -> Activity:
        """What the detectors say about `frames`, float32 of shape (n, 320), however frames are grouped into pushes."""
        webrtc = self._ask_webrtc(frames)
        if self.silero is None:
            probability = np.full(len(frames), np.nan, np.float32)
        else:
            probability = self._ask_silero(frames, webrtc=webrtc, silero=self.silero)
        return Activity(webrtc=np.array(webrtc, np.bool_), probability=probability)

    def _ask_webrtc(self, frames: Samples) -> list[bool]:
        pcm = np.clip(frames * np.float32(32768), -32768, 32767).astype("<i2")
        view = memoryview(pcm.reshape(-1)).cast("B")
        size = 2 * FRAME_SAMPLES
        is_speech = self._webrtc.is_speech
        return [is_speech(view[start : start + size], SAMPLE_RATE) for start in range(0, len(view), size)]

    def _ask_silero(self, frames: Samples, *, webrtc: list[bool], silero: SileroModel) -> Samples:
        """The newest probability at the end of each frame."""
        heard_in_step, steps_by_frame = self._steps(webrtc)
        values = [self._newest]  # after each step; the first: before any
        unrun = np.concatenate([self._unrun, frames.reshape(-1)])
        begin = due = 0

        def run() -> None:
            nonlocal begin, due
            if due == 0:
                return
            count = self._waiting + due
            values.extend(self._run(unrun[begin:], count=count, silero=silero)[-due:])
            begin += count * STEP_SAMPLES
            self._newest = values[-1]
            self._waiting = due = 0

        for heard in heard_in_step:
            self._quiet = 0 if heard else self._quiet + 1
            if self.lazy and self._quiet > LAZY_AFTER:
                run()
                if self._newest < SPEECH_OFF:
                    values.append(self._newest)
                    self._waiting += 1
                    if self._waiting > CATCH_UP:
                        self._waiting -= 1
                        begin += STEP_SAMPLES
                    continue
            due += 1
            if due == MAX_RUN:
                run()
        run()
        self._unrun = unrun[begin:].copy()
        return np.array(values, np.float32)[steps_by_frame]

    def _steps(self, webrtc: list[bool]) -> tuple[list[bool], list[int]]:
        """Of each step that these frames complete, whether WebRTC heard something; how many each frame completes."""
        heard_in_step: list[bool] = []
        steps_by_frame: list[int] = []
        for voiced in webrtc:
            self._heard |= voiced
            self._filled += FRAME_SAMPLES
            if self._filled >= STEP_SAMPLES:
                self._filled -= STEP_SAMPLES
                heard_in_step.append(self._heard)
                self._heard = voiced  # the rest of this frame is the start of the next step
            steps_by_frame.append(len(heard_in_step))
        return heard_in_step, steps_by_frame

    def _run(self, samples: Samples, *, count: int, silero: SileroModel) -> list[float]:
        """Run the first `count` steps of `samples` (which begins with the context of the first)."""
        size = CONTEXT_SAMPLES + STEP_SAMPLES
        steps: Samples = np.ndarray(
            (count, size), np.float32, buffer=samples, strides=(STEP_SAMPLES * samples.itemsize, samples.itemsize)
        )
        probability, self._h, self._c = silero.run(np.ascontiguousarray(steps), h=self._h, c=self._c)
        values: list[float] = probability.tolist()
        return values
