"""`sttctl transcribe`, against scripted daemons: what is kept of a file that fails, and what the shell is told."""

import io
import json
import sys

import pytest

SECRET = "no room for the model"


def failure(daemon, *, fatal=False, code="out_of_memory"):
    daemon.say("error", code=code, message=SECRET, retryable=True, fatal=fatal)


def heard(daemon, number, text):
    """A final of a second, decoded."""
    timing = {"endpoint_ms": 0, "queue_ms": 0, "decode_ms": 5.0, "speculative": False}
    daemon.say(
        "final", utterance=number, text=text, start_s=number - 1, end_s=number, reason="max_length", timing=timing
    )


def undecoded(daemon, number):
    timing = {"endpoint_ms": 0, "queue_ms": 0, "decode_ms": 0.0, "speculative": False}
    daemon.say("final", utterance=number, text="", start_s=number - 1, end_s=number, reason="max_length", timing=timing)


def file_session(*steps):
    """A daemon that hears a file out, takes these steps, and stops in good order unless a step was fatal."""

    def script(daemon):
        daemon.greet()
        daemon.hear_until_stop()
        for step in steps:
            step(daemon)
        if not any(step is fatal_end for step in steps):
            daemon.stopped()

    return script


def fatal_end(daemon):
    failure(daemon, fatal=True, code="bad_audio")
    daemon.connection.close(1003)


@pytest.fixture
def recording(tmp_path):
    path = tmp_path / "talk.wav"
    path.write_bytes(b"sound" * 100)
    return path


def test_a_model_that_cannot_be_had_is_an_error_and_no_transcript(sttctl, fake_audio, recording, tmp_path):
    out = tmp_path / "talk.srt"
    script = file_session(failure, lambda daemon: undecoded(daemon, 1))
    with fake_audio(script):
        status, printed, said = sttctl("transcribe", str(recording), "-o", str(out))
    assert (status, printed) == (6, "")
    assert SECRET in said
    assert not out.exists()


@pytest.mark.parametrize("kind", ["txt", "srt", "json"])
def test_a_window_that_failed_is_a_hole_and_an_error(sttctl, fake_audio, recording, kind):
    def script(daemon):
        heard(daemon, 1, "One.")
        failure(daemon)
        undecoded(daemon, 2)
        heard(daemon, 3, "Three.")

    with fake_audio(file_session(script)):
        status, printed, said = sttctl("transcribe", "-f", kind, str(recording))
    assert status == 6
    assert SECRET in said
    if kind == "json":
        (hole,) = json.loads(printed)["holes"]
        assert (hole["start_s"], hole["end_s"], hole["code"]) == (1, 2, "out_of_memory")
    else:
        assert printed.index("One.") < printed.index("[not transcribed") < printed.index("Three.")


def test_a_failure_that_is_said_before_earlier_finals_belongs_to_the_one_without_text(sttctl, fake_audio, recording):
    steps = (failure, lambda d: heard(d, 1, "One."), lambda d: undecoded(d, 2), lambda d: heard(d, 3, "Three."))
    with fake_audio(file_session(*steps)):
        status, printed, _ = sttctl("transcribe", str(recording))
    assert status == 6
    assert [line[:8] for line in printed.splitlines()] == ["One.", "[not tra", "Three."]


def test_a_daemon_that_had_to_wait_has_done_its_work(sttctl, fake_audio, recording):
    busy = file_session(lambda daemon: failure(daemon, code="overloaded"), lambda daemon: heard(daemon, 1, "One."))
    with fake_audio(busy):
        assert sttctl("transcribe", str(recording)) == (0, "One.\n", "")


@pytest.mark.parametrize("end", [fatal_end, lambda daemon: daemon.connection.socket.shutdown(2)])
def test_a_session_that_breaks_off_leaves_what_came_before(sttctl, fake_audio, recording, tmp_path, end):
    out = tmp_path / "talk.srt"
    with fake_audio(file_session(lambda daemon: heard(daemon, 1, "One."), end)):
        status, _, said = sttctl("transcribe", str(recording), "-o", str(out))
    assert status == 1
    assert "talk.wav" in said
    assert "One." in out.read_text()
    assert "to the end" in " ".join(out.read_text().split())


def test_warnings_about_the_audio_are_said(sttctl, fake_audio, recording):
    def script(daemon):
        daemon.say("warning", code="damaged_audio", message="a damaged packet was skipped at 5.5 s")
        heard(daemon, 1, "One.")

    with fake_audio(file_session(script)):
        status, _, said = sttctl("transcribe", str(recording))
    assert status == 0
    assert "damaged packet" in said


@pytest.mark.parametrize("name", ["latin1-\udcfcber.wav", "two\nlines.wav", "あ" * 80 + ".wav"])
def test_any_name_of_a_file_will_do(sttctl, fake_audio, tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"sound")
    out = tmp_path / "out"
    out.mkdir()
    script = file_session(lambda daemon: heard(daemon, 1, "One."))
    with fake_audio(script) as daemons:
        status, _, said = sttctl("transcribe", "-f", "json", "-o", str(out), str(path))
    assert (status, said) == (0, "")
    label = daemons[0].ops[0]["label"]
    assert label.isprintable()
    assert label.encode()
    (written,) = out.iterdir()
    assert json.loads(written.read_text(encoding="utf-8"))["text"] == "One."


def test_a_transcript_that_cannot_be_written_spoils_no_other(sttctl, fake_audio, recording, tmp_path):
    out = tmp_path / "out"
    (out / "talk.srt").mkdir(parents=True)  # in the way
    other = recording.with_name("other.wav")
    other.write_bytes(b"sound")
    with fake_audio(file_session(lambda daemon: heard(daemon, 1, "One."))):
        status, _, said = sttctl("transcribe", "-f", "srt", "-o", str(out), str(recording), str(other))
    assert status == 1
    assert "talk.wav" in said
    assert "One." in (out / "other.srt").read_text()


@pytest.mark.parametrize(("encoding", "shown"), [("latin-1", b"\\u4f60 \xfc"), ("utf-8", "你 ü".encode())])
def test_what_a_terminal_cannot_show_is_an_escape(sttctl, fake_audio, recording, monkeypatch, encoding, shown):
    terminal = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(sys, "stdout", terminal)
    with fake_audio(file_session(lambda daemon: heard(daemon, 1, "你 ü"))):
        assert sttctl("transcribe", str(recording))[0] == 0
    terminal.flush()
    assert terminal.buffer.getvalue() == shown + b"\n"
