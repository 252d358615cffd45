"""A voice that only one detector hears is said, once, and nothing else is."""

import numpy as np

from sttd.core.endpointer import Activity
from sttd.core.faint import ENOUGH_S, FaintSpeech

ENOUGH = round(ENOUGH_S * 50)


def frames(count, *, webrtc, probability):
    return Activity(webrtc=np.full(count, webrtc), probability=np.full(count, probability, np.float32))


def test_a_second_of_a_voice_that_one_detector_alone_hears_is_said_once():
    faint = FaintSpeech()
    told = [faint.push(frames(1, webrtc=False, probability=0.9)) for _ in range(3 * ENOUGH)]
    assert told == [number == ENOUGH - 1 for number in range(3 * ENOUGH)]


def test_speech_that_both_hear_noise_and_a_missing_network_are_not():
    for webrtc, probability in ((True, 0.9), (True, 0.1), (False, 0.1), (False, np.nan)):
        assert not FaintSpeech().push(frames(10 * ENOUGH, webrtc=webrtc, probability=probability))


def test_the_soft_parts_of_speech_that_is_heard_are_not():
    faint = FaintSpeech()
    for _ in range(100):
        assert not faint.push(frames(9, webrtc=True, probability=0.9))
        assert not faint.push(frames(3, webrtc=False, probability=0.9))
