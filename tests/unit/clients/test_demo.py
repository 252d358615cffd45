"""The demo without a daemon: what it is asked for, what it streams, and which model it settles on."""

import argparse
import io

import pytest
from rich.console import Console
from sttd_client import demo
from sttd_client.demo_model import NotFetchedError, fetch
from sttd_client.demo_speech import Speech, audio_file, people, synthetic
from sttd_client.trio_control import open_control

from sttd import cli
from sttd.wire.rpc import encode_notification, encode_response
from tests.conftest import ROOT

CLIP = ROOT / "tests" / "data" / "light.flac"


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=200)


# ---------------------------------------------------------------- the arguments


def options(parser):
    return {
        name: (action.metavar, action.help, type(action))
        for action in parser._actions
        for name in action.option_strings
        if action.dest != "help"
    }


def test_sttd_declares_the_options_that_the_client_has():
    commands = next(a for a in cli._parser()._actions if isinstance(a, argparse._SubParsersAction))
    assert options(commands.choices["demo"]) == options(demo.parser())


@pytest.mark.parametrize(
    ("given", "handed_on"),
    [
        ([], []),
        (["--fast", "--say=--help me"], ["--say=--help me", "--fast"]),
        (["--mic", "--model", "base"], ["--mic", "--model=base"]),
        (["--file", "talk.mp3"], ["--file=talk.mp3"]),
        (["-h"], ["--help"]),
    ],
)
def test_sttd_hands_them_on_as_they_are(monkeypatch, given, handed_on):
    commands = []
    monkeypatch.setattr("os.execv", lambda _, command: commands.append(command))
    cli._demo(cli._parser().parse_args(["demo", *given]))
    assert commands[0][1:] == ["-m", "sttd_client.demo", *handed_on]


@pytest.mark.parametrize(
    "given", [["--mic", "--say", "x"], ["--file", "x", "--mic"], ["--file", "x", "--say", "y"], ["--mic", "--fast"]]
)
def test_what_excludes_each_other_is_a_usage_error(given, capsys):
    with pytest.raises(SystemExit) as exit_:
        demo.main(given)
    assert exit_.value.code == 2
    assert "not allowed with argument" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "words"),
    [(["--file", "no-such-file"], "no-such-file cannot be read"), (["--mic"], "pipewire-bin")],
)
def test_what_cannot_be_heard_is_said_before_anything_is_started(given, words, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))  # no recorder
    assert demo.main(given) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert len(err.splitlines()) == 1


# ---------------------------------------------------------------- what is streamed


def test_pieces_of_any_length_become_chunks_of_one():
    speech = Speech(title="", pieces=(b"a" * 50, b"", b"b" * 175), sample_rate=1000)
    chunks = list(speech.chunks(0.04))
    assert [len(chunk) for chunk in chunks] == [80, 80, 65]
    assert b"".join(chunks) == b"a" * 50 + b"b" * 175


@pytest.mark.parametrize("sample", [people, synthetic])
def test_a_bundled_sample_says_what_is_said_in_it(sample):
    with sample() as speech:
        audio_s = sum(map(len, speech.pieces)) / 2 / speech.sample_rate
        assert audio_s == pytest.approx(speech.seconds, abs=0.01)
        assert all(0 < u.start_s < u.end_s < audio_s for u in speech.utterances)
        assert bool(speech.recordings) == (sample is people)


def test_a_file_is_decoded_while_it_is_read():
    with audio_file(CLIP) as speech:
        assert speech.title == "light.flac"
        assert speech.utterances == ()
        pieces = iter(speech.pieces)
        first = next(pieces)
        assert 0 < len(first) < 2 * speech.sample_rate * speech.seconds


def test_a_file_that_is_no_audio_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no audio\n" * 100)
    with pytest.raises(OSError, match=r"notes.txt (holds no audio|cannot be read)"), audio_file(tmp_path / "notes.txt"):
        pass


def test_a_file_that_breaks_off_is_an_error_with_its_name(monkeypatch):
    import av

    class Broken:
        def __init__(self, **_):
            pass

        def resample(self, _):
            raise av.error.InvalidDataError(1, "damaged")

    monkeypatch.setattr(av, "AudioResampler", Broken)
    with audio_file(CLIP) as speech, pytest.raises(OSError, match=r"light.flac cannot be decoded: damaged"):
        list(speech.pieces)


# ---------------------------------------------------------------- its model


def models(*, local):
    return {"models": {"presets": [{"preset": "tiny.en", "local": local}]}}


async def test_a_model_on_disk_is_not_fetched(control_socket, fake_control, console):
    with fake_control(models(local=True)) as requests:
        async with open_control(control_socket) as control:
            await fetch(control, "tiny.en", console)
            await fetch(control, "no such preset", console)  # the daemon says so when it shall load it
    assert [request.method for request in requests] == ["models", "models"]
    assert console.file.getvalue() == ""


async def test_a_model_that_is_missing_is_fetched_once(control_socket, fake_control, console):
    def answer(request, send):
        if request.method == "pull":
            progress = {"msgid": request.msgid, "done_bytes": 1, "total_bytes": None, "file": None}
            send(encode_notification("progress", params=progress))
        result = {"models": models(local=False)["models"], "pull": {"path": "/m"}}[request.method]
        send(encode_response(request.msgid, result=result))

    with fake_control(answer) as requests:
        async with open_control(control_socket) as control:
            await fetch(control, "tiny.en", console)
    assert [request.method for request in requests] == ["models", "pull"]
    first, last = console.file.getvalue().splitlines()
    assert first.startswith("downloading tiny.en")
    assert last.startswith("tiny.en is on disk")


UNREACHABLE = {"code": "model_load_failed", "message": "The index\n cannot be reached. Try again."}


async def fetched(control_socket, fake_control, console, *given):
    with fake_control(models(local=False) | {"pull": UNREACHABLE}):
        async with open_control(control_socket) as control:
            return await demo._fetched(control, demo.parser().parse_args(given), console)


async def test_without_a_model_the_embedded_one_hears_what_it_can(control_socket, fake_control, console):
    assert await fetched(control_socket, fake_control, console) == "demo"
    last = console.file.getvalue().splitlines()[-1]
    assert last == (
        "no model for people could be fetched (The index cannot be reached); "
        "going on with the embedded model and its synthetic voice"
    )


@pytest.mark.parametrize("given", [["--mic"], ["--file", "talk.mp3"], ["--model", "tiny.en"]])
async def test_in_place_of_what_was_asked_for_there_is_none(control_socket, fake_control, console, given):
    with pytest.raises(NotFetchedError, match=r"^tiny.en could not be fetched: The index cannot be reached. "):
        await fetched(control_socket, fake_control, console, *given)


async def test_a_synthetic_voice_is_heard_by_the_embedded_model(control_socket, fake_control, console):
    assert await fetched(control_socket, fake_control, console, "--say", "Hello.") == "demo"
    assert console.file.getvalue() == ""
