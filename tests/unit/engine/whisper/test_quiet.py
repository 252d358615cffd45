"""The quiet behind what is decoded: as much as tells the decoder that the speaker was done."""

from __future__ import annotations

import attrs
import numpy as np
import pytest

from sttd.core.types import SAMPLE_RATE, Effort
from sttd.engine.whisper.decoder import _heard
from sttd.engine.whisper.features import FULL_WINDOW, log_mel
from tests.unit.engine.whisper.loaded import item


def noise(seconds):
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * SAMPLE_RATE)).astype(np.float32)


@pytest.mark.parametrize(
    ("seconds", "effort", "complete", "quiet_s"),
    [
        (1.0, Effort.FULL, False, 0.3),  # a word, ended by an endpoint
        (1.0, Effort.FULL, True, 0.3),  # or by the client
        (1.0, Effort.QUICK, False, 0.0),  # who may be speaking
        (1.0, Effort.TIMED, False, 0.0),
        (3.0, Effort.FULL, False, 0.0),
        (3.0, Effort.FULL, True, 0.1),
    ],
)
def test_a_few_words_have_more_quiet_behind_them(seconds, effort, complete, quiet_s):
    samples = noise(seconds)
    heard = _heard(attrs.evolve(item(samples, effort), complete=complete))
    assert len(heard) == round((seconds + quiet_s) * SAMPLE_RATE)
    assert np.array_equal(heard[: len(samples)], samples)
    assert not heard[len(samples) :].any()


@pytest.mark.model
def test_where_the_quiet_was_the_speaker_may_go_on(demo):
    """A speculation has quiet behind it; what is decoded of the utterance later has not."""
    decoder, whole = demo._decoder, noise(3.0)
    for seconds in (1.0, 1.4, 3.0):
        part = whole[: round(seconds * SAMPLE_RATE)]
        features = decoder._features(attrs.evolve(item(part), recording="one"), window=FULL_WINDOW)
        afresh = log_mel(decoder._extractor, _heard(item(part)), window=FULL_WINDOW)
        assert np.allclose(features, afresh, atol=1e-3)
