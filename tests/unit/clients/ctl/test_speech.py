"""What `transcribe` and `listen` ask alike of a session."""

import pytest
from sttd_client.ctl.parser import parse_arguments
from sttd_client.ctl.speech import speech_options


@pytest.mark.parametrize("command", [["transcribe", "a.wav"], ["listen"]])
def test_what_was_not_given_stays_out(command):
    assert set(speech_options(parse_arguments(command)).values()) == {None}


@pytest.mark.parametrize(
    ("text", "languages"), [("es,en", ["es", "en"]), (" es, en,", ["es", "en"]), ("es", ["es"]), ("", []), (",", [])]
)
def test_languages_are_a_list(text, languages):
    assert speech_options(parse_arguments(["listen", "--languages", text]))["languages"] == languages


def test_everything_is_passed_on():
    arguments = ["listen", "-l", "es", "--languages", "es,en", "-m", "base", "--prompt", "Hola", "--translate"]
    assert speech_options(parse_arguments(arguments)) == {
        "lang": "es",
        "languages": ["es", "en"],
        "model": "base",
        "prompt": "Hola",
        "task": "translate",
    }
