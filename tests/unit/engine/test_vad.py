"""The two detectors: what Silero is asked, when it sleeps, and that grouping frames into pushes changes nothing."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.recordings import SILERO, load, room_noise
from sttd.core.types import FRAME_SAMPLES
from sttd.core.utterance import Closed, Opened, UtteranceAssembler
from sttd.engine import vad
from sttd.engine.silero import CONTEXT_SAMPLES, STEP_SAMPLES
from sttd.engine.vad import NAP_FRAMES, WARM_STEPS, VoiceDetector
from sttd.options import Endpointing

SECOND = 50  # frames


@attrs.define(eq=False)
class RecordingSilero:
    """Answers with the last sample of each step, so that an answer tells which step it is of."""

    steps: list[np.ndarray] = attrs.field(factory=list)

    def run(self, batch):
        (asked,) = batch
        self.steps += list(asked.samples)
        return [np.clip(asked.samples[:, -1], 0, 1).tolist()]


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
    SILERO.load()
    frames = np.concatenate([noise(2 * SECOND), silence(SECOND), noise(SECOND, level=0.01)])
    whole = detector(SILERO).push(frames)
    assert whole.webrtc[:SECOND].any()
    assert (whole.probability < 0.35).all()
    _, cut = listen(detector(SILERO), frames, cuts=list(range(0, len(frames), 3)))
    np.testing.assert_allclose(cut, whole.probability, atol=1e-5)  # sums are in another order


# ---------------------------------------------------------------- sleep


def test_silero_sleeps_where_nothing_is_heard_and_is_warmed_when_it_wakes():
    quiet, loud = silence(2 * NAP_FRAMES), noise(SECOND)
    frames = np.concatenate([quiet, loud])
    silero = RecordingSilero()
    machine = detector(silero)
    machine.push(quiet)
    assert machine.asleep
    before = NAP_FRAMES * FRAME_SAMPLES // STEP_SAMPLES
    assert len(silero.steps) == before
    activity = machine.push(loud)
    assert not machine.asleep
    woken = quiet.size // STEP_SAMPLES  # the step in which the first loud frame lies
    flat = np.concatenate([np.zeros(CONTEXT_SAMPLES, np.float32), frames.reshape(-1)])
    expected = [*range(before), *range(woken - WARM_STEPS, frames.size // STEP_SAMPLES)]
    assert len(silero.steps) == len(expected)
    for step, index in zip(silero.steps, expected, strict=True):
        np.testing.assert_array_equal(step, flat[index * STEP_SAMPLES :][: CONTEXT_SAMPLES + STEP_SAMPLES])
    assert activity.probability[-1] == max(silero.steps[-1][-1], 0)


def test_asleep_it_hears_nothing_whatever_it_heard_last():
    class Sure(RecordingSilero):
        def run(self, batch):
            return [[1.0] * len(batch[0].samples)]

    probability = detector(Sure()).push(silence(2 * NAP_FRAMES)).probability
    assert (probability[2:NAP_FRAMES] == 1.0).all()
    assert (probability[NAP_FRAMES:] == 0.0).all()


@pytest.fixture
def deaf(monkeypatch):
    """WebRTC hears nothing."""
    monkeypatch.setattr(VoiceDetector, "_ask_webrtc", lambda self, frames: np.zeros(len(frames), np.bool_))


def test_what_webrtc_does_not_hear_wakes_it_by_rising_above_the_floor(deaf):
    room = room_noise(8, level=3e-5).reshape(-1, FRAME_SAMPLES)
    machine = detector(RecordingSilero())
    machine.push(room)
    assert machine.asleep
    machine.push(noise(SECOND, level=1e-3))  # -60 dB
    assert not machine.asleep


def test_a_steady_noise_puts_it_to_sleep_too(deaf):
    machine = detector(RecordingSilero())
    machine.push(silence(SECOND))
    for second in range(30):
        machine.push(noise(SECOND, level=1e-3, seed=second))
    assert machine.asleep


def boundaries(frames: np.ndarray) -> list[tuple[str, int]]:
    assembler = UtteranceAssembler(Endpointing(), max_utterance_s=28.0)
    events = [*assembler.push(frames, detector(SILERO).push(frames)), *assembler.finalize("stop")]
    opened = [("opened", event.at_sample) for event in events if isinstance(event, Opened)]
    return opened + [("closed", event.end_sample) for event in events if isinstance(event, Closed)]


def test_sleep_moves_no_boundary_of_real_speech_after_pauses_of_seconds(monkeypatch):
    SILERO.load()
    clips = sorted((clip for clip in load().values() if clip.is_speech), key=lambda clip: len(clip.samples))[:12]
    assert len(clips) == 12
    for clip in clips:
        audio = np.concatenate([room_noise(6, seed=1), clip.samples, room_noise(6, seed=2), clip.samples])
        frames = audio[: len(audio) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        with monkeypatch.context() as patch:
            patch.setattr(vad, "NAP_FRAMES", len(frames))
            awake = boundaries(frames)
        asleep = boundaries(frames)
        assert (detector(SILERO).push(frames).probability == 0).sum() > SECOND
        assert [kind for kind, _ in asleep] == [kind for kind, _ in awake], clip.name
        moved = max((abs(one[1] - other[1]) for one, other in zip(asleep, awake, strict=True)), default=0)
        assert moved <= FRAME_SAMPLES, clip.name
