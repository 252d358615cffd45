"""The bundled recordings of people: what is said where, and that their script makes them."""

import importlib.machinery
import importlib.util
import json

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.running import read_pcm

ASSETS = ROOT / "sttd" / "assets"
RATE = 16_000


@pytest.fixture(scope="module")
def samples():
    return np.frombuffer(read_pcm(ASSETS / "speech.flac"), "<i2")


@pytest.fixture(scope="module")
def described():
    return json.loads((ASSETS / "speech.json").read_text())


def test_the_script_makes_just_these_samples(samples, described):
    loader = importlib.machinery.SourceFileLoader("make_speech_sample", str(ROOT / "scripts" / "make-speech-sample"))
    script = importlib.util.module_from_spec(importlib.util.spec_from_loader("make_speech_sample", loader))
    loader.exec_module(script)
    made, said = script.compose()
    assert said == described, "run scripts/make-speech-sample"
    assert np.array_equal(made, samples), "run scripts/make-speech-sample"


def test_it_is_short_small_and_free(samples, described):
    assert (ASSETS / "speech.flac").stat().st_size < 600_000
    assert len(samples) / RATE == pytest.approx(described["duration_s"], abs=0.001)
    assert 20 <= described["duration_s"] <= 40
    for utterance in described["utterances"]:
        assert utterance["licence"].startswith("public domain")
        assert utterance["source"]
        assert utterance["recording"]


def test_speech_is_where_it_is_said_to_be(samples, described):
    def loudness(start_s, end_s):
        return np.sqrt(np.mean(np.square(samples[round(start_s * RATE) : round(end_s * RATE)], dtype=np.float64)))

    utterances = described["utterances"]
    ends = [0.0, *(utterance["end_s"] for utterance in utterances)]
    starts = [*(utterance["start_s"] for utterance in utterances), described["duration_s"]]
    pauses = [loudness(end + 0.1, start - 0.1) for end, start in zip(ends, starts, strict=True)]
    words = [loudness(utterance["start_s"], utterance["end_s"]) for utterance in utterances]
    assert min(words) > 5 * max(pauses)
    assert all(start > end for end, start in zip(ends, starts, strict=True))
