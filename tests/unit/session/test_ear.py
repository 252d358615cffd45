"""From bytes to frames: nothing is forgotten of what was dropped, nor of what a resampler holds."""

import numpy as np
import pytest

from sttd.engine.vad import VoiceDetector
from sttd.options import SessionOptions
from sttd.session.ear import Ear
from tests.unit.session.rooms import NOISE, feed, open_room, read_all


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_dropped_samples_advance_the_clock_by_whole_frames_and_none_is_forgotten(rate):
    ear = Ear(SessionOptions(sample_rate=rate), None)
    steps = [ear.skip(2 * rate // 100) for _ in range(100)]  # bytes of half a frame each
    assert sum(steps) == 16_000
    assert {step % 320 for step in steps} == {0}


@pytest.mark.parametrize("rate", [8000, 44_100])
async def test_a_finalize_takes_what_the_resampler_holds_and_leaves_no_utterance_behind(rate):
    async with open_room() as room:
        session = room.session(interim=False, sample_rate=rate)
        await feed(session, (NOISE * 3)[: 2 * rate])
        session.finalize()
        session.stop()
        *_, stopped = await read_all(session)
        assert [(final.utterance, final.reason) for final in room.finals] == [(1, "finalize")]
        assert stopped.audio_s == pytest.approx(1.0, abs=0.021)


def test_a_container_has_no_rest_of_its_own():
    ear = Ear(SessionOptions(encoding="container"), None)
    assert ear.drain().shape == ear.flush().shape == (0, 320)


async def test_the_detector_can_be_tuned(monkeypatch):
    told = []
    monkeypatch.setattr(VoiceDetector, "configure", lambda self, *, aggressiveness: told.append(aggressiveness))
    ear = Ear(SessionOptions(), None)
    ear.tune(3)
    assert told == [3]
    assert len((await ear.detect(np.zeros((2, 320), np.float32))).webrtc) == 2
