"""What `transcribe` and `listen` ask alike of a session."""

import pytest
from sttd_client.ctl.parser import parse_arguments
from sttd_client.ctl.speech import place, speech_options

from sttd.errors import ProtocolError


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


@pytest.mark.parametrize("content", [b"", b"\n", b"two\nlines", b"\xff\xfe", b"a\0b"])
def test_a_file_without_a_token_is_named(tmp_path, content):
    file = tmp_path / "token"
    file.write_bytes(content)
    with pytest.raises(ProtocolError, match="holds no token"):
        place(parse_arguments(["listen", "--url", "wss://stt.example", "--token-file", str(file)]))


def test_an_authority_without_tls_is_refused():
    with pytest.raises(ProtocolError, match="wss"):
        place(parse_arguments(["listen", "--url", "ws://stt.example", "--ca", "ca.pem"]))
