"""The table of published models holds together."""

from __future__ import annotations

import re

import pytest

from sttd.engine.store.catalogue import LADDER, PUBLISHED, english_only, lacks, translates
from sttd.engine.store.models import REQUIRED


def test_the_ladder_and_the_smaller_ones_are_in_the_table():
    assert set(LADDER) <= set(PUBLISHED)
    assert len(set(LADDER)) == len(LADDER)
    for name, model in PUBLISHED.items():
        assert model.name == name
        assert model.smaller is None or PUBLISHED[model.smaller].size_bytes < model.size_bytes
        assert 0 < model.interim_s < model.window_s


def test_what_is_smaller_is_quicker():
    for model in PUBLISHED.values():
        if model.smaller is not None and not model.name.startswith("distil"):
            assert PUBLISHED[model.smaller].interim_s < model.interim_s


def test_english_models_are_known_by_their_names():
    assert {name for name, model in PUBLISHED.items() if model.english} == {
        name for name in PUBLISHED if name.endswith(".en") or name.startswith("distil")
    }


@pytest.mark.parametrize(
    ("model", "english"),
    [
        ("tiny.en", True),
        ("distil-large-v3", True),
        ("distil-whisper/distil-large-v3.5-ct2", True),
        ("demo", True),
        ("/var/lib/models/distil-large-v3", True),  # a folder that is called like it
        ("~/faster-distil-whisper-large-v3/", True),
        ("some/where/whisper-small.en/", True),
        ("base", False),
        ("Systran/faster-whisper-large-v3", False),
        ("somebody/distil-large-v3-de", False),  # distilled, from and to what is not known
        ("./a-model", False),
        ("", False),
    ],
)
def test_who_knows_english_only_is_known_by_the_name(model, english):
    assert english_only(model) == english


@pytest.mark.parametrize(
    ("model", "language", "lacking"),
    [
        ("base", "yue", True),
        ("Systran/faster-whisper-large-v2", "yue", True),
        ("large-v3", "yue", False),
        ("large-v3-turbo", "yue", False),
        ("./a-model", "yue", False),  # nobody knows
        ("base", "zh", False),
        ("tiny.en", "de", True),
        ("tiny.en", "en", False),
    ],
)
def test_which_languages_a_model_lacks_is_known_by_the_name(model, language, lacking):
    assert lacks(model, language) == lacking


@pytest.mark.parametrize(
    ("model", "able"),
    [
        ("base", True),
        ("large-v3", True),
        ("./a-model", True),  # nobody knows
        ("large-v3-turbo", False),
        ("somebody/faster-whisper-large-v3-turbo-ct2", False),
        ("tiny.en", False),
        ("distil-large-v3.5", False),
        ("demo", False),
    ],
)
def test_who_cannot_translate_is_known_by_the_name(model, able):
    assert translates(model) == able


@pytest.mark.parametrize("name", ["tiny.en", "base"])
def test_a_model_of_the_package_index_is_whole_and_pinned(name):
    model = PUBLISHED[name]
    assert set(REQUIRED) <= {file.name for file in model.files}
    for file in model.files:
        assert re.fullmatch("[0-9a-f]{64}", file.sha256)
        assert "/" not in file.name
        assert file.members
    for wheel in model.wheels:
        assert re.fullmatch("[0-9a-f]{64}", wheel.sha256)
        assert wheel.filename == f"{wheel.project.replace('-', '_')}-{wheel.version}-py3-none-any.whl"
    assert len(set(model.wheels)) == len(model.wheels) == (2 if name == "base" else 1)
    assert abs(sum(f.size_bytes for f in model.files if f.name == "model.bin") - model.size_bytes) < 1_000_000
