"""What the files of a model say of its languages is what the loaded model says."""

from __future__ import annotations

import json
import os

import attrs
import pytest

from sttd.engine.contract import Preset
from sttd.engine.store.models import embedded_model
from sttd.engine.whisper.knowledge import languages_on_disk
from tests.unit.engine.whisper.loaded import backend, load
from tests.unit.engine.whisper.random_whisper import SMALL, SMALL_EN, build

pytestmark = pytest.mark.model


def preset(folder):
    return Preset(name="mine", backend="whisper", model=str(folder))


@pytest.mark.parametrize(
    ("shape", "count"), [(SMALL_EN, 1), (SMALL, 99), (attrs.evolve(SMALL, vocabulary=51_866), 100)]
)
def test_before_it_is_loaded_as_after(tmp_path, shape, count):
    folder = build(tmp_path / "mine", shape)
    known = backend().languages(preset(folder))
    assert len(known) == count
    assert known == set(load(preset(folder))._codec.languages)


def test_the_embedded_model_knows_english():
    assert languages_on_disk(embedded_model()) == {"en"}


def test_a_vocabulary_may_be_text(tmp_path):
    """As older conversions have it, those of `.en` models among them."""
    (tmp_path / "tokenizer.json").write_text('["<|de|>","<|en|>","<|0.00|>","<|startoftranscript|>"]')
    vocabulary = tmp_path / "vocabulary.txt"
    vocabulary.write_text("a\n\nb\n")
    assert languages_on_disk(tmp_path) == {"de", "en"}
    vocabulary.write_text("a\nbc\n")
    assert languages_on_disk(tmp_path) == {"en"}


@pytest.mark.parametrize(
    "content", ["", "no JSON", "{}", "[" * 100_000, "\xff"], ids=["empty", "no", "map", "deep", "odd"]
)
def test_what_the_files_do_not_say_is_not_known(tmp_path, content):
    assert languages_on_disk(tmp_path) is None
    (tmp_path / "vocabulary.json").write_bytes(content.encode("latin-1"))
    assert languages_on_disk(tmp_path) is None  # nor is there a tokenizer
    (tmp_path / "tokenizer.json").write_text("{}")
    assert languages_on_disk(tmp_path) in (None, {"en"})


def test_a_model_put_in_its_place_is_looked_at_again(tmp_path):
    (tmp_path / "tokenizer.json").write_text('["<|de|>"]')
    vocabulary = tmp_path / "vocabulary.json"
    vocabulary.write_text(json.dumps(["a", ""]))
    assert languages_on_disk(tmp_path) == {"de"}
    vocabulary.write_text(json.dumps(["a"]))
    os.utime(vocabulary, (1, 1))
    assert languages_on_disk(tmp_path) == {"en"}
