"""The two detectors: what Silero is asked, when, and that grouping frames into pushes changes nothing."""

from __future__ import annotations

import subprocess
import sys

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.types import FRAME_SAMPLES
from sttd.engine import vad
from sttd.engine.vad import CONTEXT_SAMPLES, STEP_SAMPLES, SileroModel, VoiceDetector

SECOND = 50  # frames


@attrs.define(eq=False)
class RecordingSilero:
    """Answers with the last sample of each step, so that an answer tells which step it is of."""

    steps: list[np.ndarray] = attrs.field(factory=list)

    def run(self, steps, *, h, c):
        self.steps += list(steps)
        return np.clip(steps[:, -1], 0, 1), h + len(steps), c


def noise(frames: int, *, level: float = 0.3, seed: int = 1) -> np.ndarray:
    samples = np.random.default_rng(seed).normal(0, level, (frames, FRAME_SAMPLES)).clip(-1, 1)
    return samples.astype(np.float32)


def silence(frames: int) -> np.ndarray:
    return np.zeros((frames, FRAME_SAMPLES), np.float32)


def detector(silero=None, **options) -> VoiceDetector:
    return VoiceDetector(**{"aggressiveness": 2, "silero": silero} | options)


def listen(machine: VoiceDetector, frames: np.ndarray, *, cuts: list[int]) -> tuple[np.ndarray, np.ndarray]:
    pieces = [machine.push(piece) for piece in np.split(frames, sorted(cuts))]
    return (
        np.concatenate([piece.webrtc for piece in pieces]),
        np.concatenate([piece.probability for piece in pieces]),
    )


def test_silero_gets_every_sample_with_the_context_before_it():
    silero = RecordingSilero()
    frames = noise(2 * SECOND)
    listen(detector(silero), frames, cuts=list(range(1, 2 * SECOND)))
    padded = np.concatenate([np.zeros(CONTEXT_SAMPLES, np.float32), frames.reshape(-1)])
    assert len(silero.steps) == frames.size // STEP_SAMPLES
    for index, step in enumerate(silero.steps):
        np.testing.assert_array_equal(step, padded[index * STEP_SAMPLES :][: CONTEXT_SAMPLES + STEP_SAMPLES])


def test_a_frame_shows_the_newest_step_that_it_completes():
    frames = noise(20)
    probability = detector(RecordingSilero()).push(frames).probability
    flat = np.clip(frames.reshape(-1), 0, 1)
    for index, value in enumerate(probability):
        steps = (index + 1) * FRAME_SAMPLES // STEP_SAMPLES
        assert value == (flat[steps * STEP_SAMPLES - 1] if steps else 0.0)


@given(
    runs=st.lists(st.tuples(st.booleans(), st.integers(1, 3 * SECOND)), min_size=1, max_size=8),
    seed=st.integers(0, 99),
    data=st.data(),
)
def test_grouping_changes_nothing(runs, seed, data):
    frames = np.concatenate([noise(n, seed=seed) if loud else silence(n) for loud, n in runs])
    cuts = data.draw(st.lists(st.integers(0, len(frames)), max_size=30))
    one, other = RecordingSilero(), RecordingSilero()
    whole, cut = listen(detector(one), frames, cuts=[]), listen(detector(other), frames, cuts=cuts)
    np.testing.assert_array_equal(whole[0], cut[0])
    np.testing.assert_array_equal(whole[1], cut[1])
    np.testing.assert_array_equal(one.steps, other.steps)


def test_without_silero_the_probability_is_unknown():
    activity = detector().push(noise(SECOND))
    assert np.isnan(activity.probability).all()
    assert activity.webrtc[10:].all()


def test_full_scale_does_not_wrap():
    tone = np.sin(np.arange(SECOND * FRAME_SAMPLES) * 2 * np.pi * 300 / 16_000).astype(np.float32)
    loud, quieter = (detector().push((tone * level).reshape(SECOND, -1)).webrtc for level in (1.0, 0.98))
    np.testing.assert_array_equal(loud, quieter)


def test_aggressiveness_can_change_and_a_reset_forgets():
    burst = np.concatenate([noise(20), silence(20)])
    voiced = []
    machine = detector(aggressiveness=0)
    for aggressiveness in (0, 3):
        machine.configure(aggressiveness=aggressiveness)
        machine.reset()
        voiced.append(machine.push(burst).webrtc.sum())
    assert machine.aggressiveness == 3
    assert voiced[0] > voiced[1]  # the hangover of mode 0 is 40 ms longer


def test_the_real_network_hears_no_speech_in_noise():
    silero = SileroModel()
    frames = np.concatenate([noise(2 * SECOND), silence(SECOND), noise(SECOND, level=0.01)])
    assert not silero.loaded
    silero.load()
    assert silero.loaded
    silero.load()  # does nothing more
    whole = detector(silero).push(frames)
    assert whole.webrtc[:SECOND].any()
    assert (whole.probability < 0.35).all()
    _, cut = listen(detector(silero), frames, cuts=list(range(0, len(frames), 3)))
    np.testing.assert_allclose(cut, whole.probability, atol=1e-3)  # a library may sum in another order


def test_a_missing_network_says_what_brings_it(monkeypatch):
    monkeypatch.setattr(vad.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="faster-whisper is not installed"):
        SileroModel().load()


def test_a_package_without_the_network_is_named(monkeypatch, tmp_path):
    spec = vad.util.find_spec("attrs")
    monkeypatch.setattr(spec, "submodule_search_locations", [str(tmp_path)])
    monkeypatch.setattr(vad.util, "find_spec", lambda name: spec)
    with pytest.raises(FileNotFoundError, match="silero_vad_v6"):
        SileroModel().load()


def test_loading_stays_quiet_on_the_network_and_off_the_heavy_imports():
    script = (
        "import os, sys; from sttd.engine.vad import SileroModel; SileroModel().load();"
        "print(os.environ['ORT_DISABLE_TELEMETRY'], 'faster_whisper' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["1", "False"]
