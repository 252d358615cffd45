import shutil

import pytest
from sttd_client.say import SpeakError, synthesise

needs_espeak = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")


@needs_espeak
def test_speaks_about_as_long_as_the_words_take():
    spoken = synthesise("Turn on the kitchen light.")
    assert 1.0 < len(spoken.pcm) / 2 / spoken.sample_rate < 3.0
    assert len(spoken.pcm) % 2 == 0


@needs_espeak
def test_text_that_looks_like_an_option_is_spoken():
    assert synthesise("-v is a letter").pcm


@needs_espeak
def test_a_text_without_sound_is_an_error():
    with pytest.raises(SpeakError, match="nothing to say"):
        synthesise("")


def test_a_missing_program_is_named(monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(SpeakError, match="espeak-ng is not installed"):
        synthesise("hello")
