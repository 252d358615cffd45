"""What other systems call models and languages: the rules of wire/names.py."""

import pytest

from sttd.errors import ModelError, ProtocolError
from sttd.language_names import language_name
from sttd.options import LANGUAGES
from sttd.wire.names import find_language, find_preset, join

PRESETS = {"auto": "auto", "base": "Systran/faster-whisper-base", "tiny.en": "Systran/faster-whisper-tiny.en"}


@pytest.mark.parametrize(
    ("asked", "preset"),
    [
        ("base", "base"),
        ("BASE", "base"),
        ("systran/faster-whisper-base", "base"),
        ("whisper-base", "base"),
        ("openai/whisper-tiny.en", "tiny.en"),
        (None, None),
        ("", None),
        ("default", None),
        ("whisper-1", None),
        ("gpt-4o-mini-transcribe", None),
    ],
)
def test_a_model_is_known_by_its_usual_names(asked, preset):
    assert find_preset(asked, PRESETS) == preset


def test_an_api_has_names_of_its_own_for_the_configured_pair_but_a_preset_goes_first():
    assert find_preset("nova-3", PRESETS, prefixes=("nova", "base")) is None
    assert find_preset("base-general", PRESETS, prefixes=("nova", "base")) is None
    assert find_preset("base", PRESETS, prefixes=("nova", "base")) == "base"


@pytest.mark.parametrize("asked", ["nova-3", "small", "whisper", "x" * 10_000])
def test_an_unknown_model_is_refused_with_those_that_there_are(asked):
    with pytest.raises(ModelError) as caught:
        find_preset(asked, PRESETS)
    assert caught.value.code == "model_not_found"
    assert "tiny.en" in caught.value.message
    assert len(caught.value.message) < 500


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ("de", "de"),
        ("DE", "de"),
        ("en-US", "en"),
        ("en_GB", "en"),
        ("zh-Hant-TW", "zh"),
        ("german", "de"),
        ("Haitian Creole", "ht"),
        ("jv", "jw"),
        (None, None),
        ("", None),
        ("auto", None),
        ("multi", None),
    ],
)
def test_a_language_is_known_by_code_tag_and_name(asked, code):
    assert find_language(asked) == code


@pytest.mark.parametrize("asked", ["klingon", "xx", "-", "e" * 10_000])
def test_an_unknown_language_is_refused(asked):
    with pytest.raises(ProtocolError) as caught:
        find_language(asked)
    assert caught.value.code == "bad_option"
    assert len(caught.value.message) < 500


def test_every_language_has_a_name_of_its_own_that_is_understood():
    names = {language_name(code) for code in LANGUAGES}
    assert len(names) == len(LANGUAGES)
    assert {find_language(name) for name in names} == set(LANGUAGES)


def test_finals_are_joined_as_the_language_writes():
    assert join(["One.", "", "Two."], language="en") == "One. Two."
    assert join(["一。", "二。"], language="zh") == "一。二。"
    assert join([], language=None) == ""
