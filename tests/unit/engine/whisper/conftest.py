"""Models that several files of this folder decode with; loaded once."""

from __future__ import annotations

import json

import pytest

from sttd.engine.contract import Preset
from tests.running import read_samples
from tests.unit.engine.whisper.loaded import DATA, load
from tests.unit.engine.whisper.random_whisper import SMALL, SMALL_EN, build


@pytest.fixture(scope="session")
def demo():
    model = load()
    yield model
    model.close()


@pytest.fixture(scope="session")
def clips():
    """Name → (samples, text, start, end of the speech) of the project's own clips of one sentence."""
    found = {}
    for name in ("date", "light", "number", "question"):
        path = DATA / f"{name}.flac"
        utterance = json.loads(path.with_suffix(".json").read_text())["utterances"][0]
        samples = read_samples(path)
        samples.flags.writeable = False
        found[path.stem] = (samples, utterance["text"], utterance["start_s"], utterance["end_s"])
    return found


@pytest.fixture(scope="session")
def multilingual(tmp_path_factory):
    """99 languages, random weights."""
    path = build(tmp_path_factory.mktemp("multilingual"), SMALL)
    model = load(Preset(name="random", backend="whisper", model=str(path)), temperatures=[0.0], beam_size=2)
    yield model
    model.close()


@pytest.fixture(scope="session")
def english_only(tmp_path_factory):
    path = build(tmp_path_factory.mktemp("english"), SMALL_EN)
    model = load(Preset(name="random.en", backend="whisper", model=str(path)), temperatures=[0.0], beam_size=2)
    yield model
    model.close()
