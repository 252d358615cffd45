"""sttctl as a program, against a real daemon with the fake recogniser and with the embedded model."""

import fcntl
import json
import os
import pty
import select
import shutil
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
import wave
from pathlib import Path

import pytest

from tests.running import PATIENCE_S

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "sttd" / "assets" / "sample.flac"
SHORT = ROOT / "tests" / "data" / "light.flac"
STTCTL = Path(sys.executable).with_name("sttctl")


def sttctl(daemon, *arguments, **options):
    """Run it to the end: (exit status, standard output, standard error)."""
    command = [str(STTCTL), "--socket", str(daemon.control), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options)
    return done.returncode, done.stdout, done.stderr


def sttctl_json(daemon, *arguments):
    status, out, err = sttctl(daemon, *arguments, "--json")
    assert status == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """One daemon for most of the tests here: none of them leaves anything in it."""
    from tests.running import RunningDaemon

    running = RunningDaemon.start(tmp_path_factory.mktemp("daemon"), "--tcp", "off", "--model", "fake")
    yield running
    assert running.stop() == 0, running.log()


def test_the_commands_that_show_the_daemon(daemon):
    assert "ready" in sttctl(daemon, "status")[1]
    assert sttctl_json(daemon, "status")["server"]["pid"] == daemon.process.pid
    assert "final, interim" in sttctl(daemon, "models")[1]
    assert sttctl_json(daemon, "sessions") == {"sessions": []}
    assert sttctl_json(daemon, "config", "models.model")["values"]["models.model"]["value"] == "fake"
    assert sttctl(daemon, "reload")[1] == "nothing changed\n"
    assert json.loads(sttctl(daemon, "raw", "ping")[1]) == {"id": 1, "result": {}}


def test_models_are_loaded_and_unloaded(daemon):
    sttctl(daemon, "unload", "--all")  # what tests before this one had loaded
    assert not sttctl_json(daemon, "load", "fake", "--cpu-threads", 2, "--keep-alive", -1)["cache_hit"]
    (entry,) = sttctl_json(daemon, "status")["models"]["entries"]
    assert (entry["preset"], entry["cpu_threads"], entry["pinned"]) == ("fake", 2, True)
    assert sttctl(daemon, "load", "fake", "--cpu-threads", 2)[1] == "fake was loaded already\n"
    assert sttctl_json(daemon, "unload", "--all")["unloaded"] == 1


def test_exit_statuses(daemon, tmp_path):
    assert sttctl(daemon, "load", "nonsense")[0] == 5
    assert sttctl(daemon, "close", "nonsense")[0] == 5
    assert sttctl(daemon, "load", "fake", "--cpu-threads", 65)[0] == 2
    assert sttctl(daemon, "transcribe", tmp_path / "absent.wav")[0] == 1
    assert sttctl(daemon, "transcribe", "-m", "nonsense", SHORT)[0] == 5
    absent = subprocess.run([STTCTL, "--socket", tmp_path / "absent", "status"], capture_output=True, check=False)
    assert absent.returncode == 3


@pytest.mark.root
@pytest.mark.parametrize("command", ["status", "doctor"])
def test_a_daemon_of_another_user_is_denied_not_absent(daemon, command):
    """Changes the user behind the imports: the environment that runs the tests may be root's alone."""
    program = f"""
        import os, sys, sttd_client.ctl.status, sttd_client.ctl.doctor
        from sttd_client.ctl.main import main
        os.setuid(65534)
        sys.exit(main(["--socket", {str(daemon.control)!r}, {command!r}]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 4, done.stderr
    assert "permission denied" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_model_that_is_not_on_disk_is_named_with_the_command_that_gets_it(daemon):
    status, _, err = sttctl(
        daemon, "transcribe", "-m", "large-v3", SHORT, env={**os.environ, "HF_HOME": "/nonexistent"}
    )
    assert status == 5
    assert "model_not_local" in err
    assert "sttctl pull large-v3" in err


def test_the_doctor_finds_a_healthy_daemon_and_a_missing_one(daemon, tmp_path):
    report = json.loads(sttctl(daemon, "doctor", "--json")[1])
    bad = [finding["text"] for finding in report["findings"] if finding["verdict"] == "bad"]
    assert report["healthy"] == (not bad)
    assert all("its loop is" in text for text in bad)  # where this machine is busy with other things
    about = {finding["about"] for finding in report["findings"]}
    assert {"daemon", "model", "gpu", "sandbox", "microphone"} <= about
    status, out, _ = sttctl(daemon, "doctor", "--socket", tmp_path / "absent")
    assert status == 3
    assert "sttd serve" in out


# ---------------------------------------------------------------- transcribe


@pytest.mark.parametrize("kind", ["txt", "srt", "vtt", "json", "tsv"])
def test_a_file_becomes_a_transcript_in_every_format(daemon, kind):
    status, out, err = sttctl(daemon, "transcribe", "-f", kind, SHORT)
    assert (status, err) == (0, "")
    assert "w1 w2 w3" in out
    begins = {"txt": "w1", "srt": "1\n00:00:0", "vtt": "WEBVTT\n", "json": "{", "tsv": "start\tend\ttext\n"}
    assert out.startswith(begins[kind])


def test_output_goes_to_a_file_whose_ending_decides_the_format(daemon, tmp_path):
    assert sttctl(daemon, "transcribe", SHORT, "-o", tmp_path / "light.vtt") == (0, "", "")
    assert (tmp_path / "light.vtt").read_text().startswith("WEBVTT")
    assert [path.name for path in tmp_path.iterdir()] == ["light.vtt"]


@pytest.mark.parametrize("output", ["absent/light.srt", "subtitles/"])
def test_a_place_that_is_not_there_is_said_before_the_work(daemon, tmp_path, output):
    status, out, err = sttctl(daemon, "transcribe", SHORT, "-o", f"{tmp_path}/{output}")
    assert (status, out) == (2, "")
    assert "there is no directory" in err
    assert list(tmp_path.iterdir()) == []


def test_several_files_go_to_a_directory_and_a_bad_one_spoils_no_other(daemon, tmp_path):
    broken = tmp_path / "broken.mp3"
    broken.write_bytes(b"this is no sound" * 100)
    target = tmp_path / "out"
    target.mkdir()
    status, _, err = sttctl(
        daemon, "transcribe", broken, SHORT, SHORT.with_name("date.flac"), "-f", "srt", "-o", target
    )
    assert status == 1
    assert "broken.mp3" in err
    assert "bad_audio" in err
    assert sorted(path.name for path in target.iterdir()) == ["date.srt", "light.srt"]


def test_several_files_on_standard_output(daemon):
    other = SHORT.with_name("date.flac")
    _, out, _ = sttctl(daemon, "transcribe", SHORT, other)
    assert out.splitlines()[0] == f"==> {SHORT} <=="
    assert f"==> {other} <==" in out
    assert [row["file"] for row in sttctl_json(daemon, "transcribe", SHORT, other)] == [str(SHORT), str(other)]
    assert sttctl(daemon, "transcribe", SHORT, other, "-f", "srt")[0] == 2
    assert sttctl(daemon, "transcribe", "-", "-")[0] == 2


def test_standard_input_is_a_file_too(daemon):
    with SHORT.open("rb") as stdin:
        status, out, _ = sttctl(daemon, "transcribe", "-", stdin=stdin)
    assert status == 0
    assert out.startswith("w1 w2")


@pytest.mark.model
@pytest.mark.parametrize("asked", [("-l", "de"), ("--languages", "de,fr"), ("--translate",)])
def test_what_a_model_cannot_do_is_an_error_with_its_reason(serve, tmp_path, asked):
    """Nothing in the name of the folder says that the model is English."""
    shutil.copytree(ROOT / "sttd" / "assets" / "demo-model", tmp_path / "mine")
    daemon = serve("--tcp", "off", "--set", f"presets.mine.model={tmp_path / 'mine'}", "--model", "mine")
    status, out, err = sttctl(daemon, "transcribe", *asked, SHORT)
    assert (status, out) == (2, "")
    assert "'mine' knows English only" in err


def test_ctrl_c_leaves_nothing_behind(serve, tmp_path):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=2000")
    target = tmp_path / "out.txt"
    command = [STTCTL, "--socket", daemon.control, "transcribe", SAMPLE, "-o", target]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        while daemon.call("status")["sessions"]["active"] == 0:
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not [path for path in tmp_path.iterdir() if path.name != "run"]
    deadline = time.monotonic() + PATIENCE_S
    while daemon.call("status")["sessions"]["active"] and time.monotonic() < deadline:
        time.sleep(0.05)
    assert daemon.call("status")["sessions"]["active"] == 0


def test_a_reader_that_has_seen_enough_is_no_error(daemon):
    command = f"'{STTCTL}' --socket '{daemon.control}' config | head -n 1"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=PATIENCE_S, check=True)
    assert done.stdout.startswith("KEY")
    assert done.stderr == ""


def in_terminal(daemon, *arguments, until, env=None):
    """Run it at a pseudo-terminal until `until` was printed, then interrupt it; (exit status, everything printed)."""
    terminal, its_end = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    environment = {**os.environ, "TERM": "xterm", **(env or {})}
    command = [str(STTCTL), "--socket", str(daemon.control), *map(str, arguments)]
    printed, deadline, interrupted = b"", time.monotonic() + PATIENCE_S, False
    with subprocess.Popen(command, stdin=its_end, stdout=its_end, stderr=its_end, env=environment) as process:
        os.close(its_end)
        while time.monotonic() < deadline:
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    printed += os.read(terminal, 65536)
                except OSError:  # the other side is closed
                    break
            if until.encode() in printed and not interrupted:
                process.send_signal(signal.SIGINT)
                interrupted = True
    os.close(terminal)
    return process.returncode, printed.decode(errors="replace")


def test_status_can_stay_on_the_screen(daemon):
    status, printed = in_terminal(daemon, "status", "--watch", "--interval", "0.1", until="resident")
    assert status == 0
    assert "\x1b[?1049h" in printed
    assert printed.rstrip().endswith("\x1b[?1049l")
    assert "\x1b[32mready" in printed


def test_no_color_is_honoured(daemon):
    _, printed = in_terminal(daemon, "status", until="resident", env={"NO_COLOR": "1"})
    assert "ready" in printed
    assert "\x1b[3" not in printed


def test_progress_is_drawn_at_a_terminal_and_goes(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=300")
    status, printed = in_terminal(daemon, "transcribe", SAMPLE, until="never")
    assert status == 0
    assert "sample.flac" in printed
    assert "━" in printed
    assert "w1 w2" in printed


# ---------------------------------------------------------------- listen, watch, close


@pytest.fixture
def recording(tmp_path):
    """A second of silence, two of a tone that `fake` takes for speech, and silence: a microphone's stand-in."""
    import av

    path = tmp_path / "speech.wav"
    resampler = av.AudioResampler(format="s16", layout="mono", rate=16000)
    with av.open(str(SHORT)) as container, wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(16000)
        for frame in container.decode(audio=0):
            for part in resampler.resample(frame):
                file.writeframes(part.to_ndarray().tobytes())
        file.writeframes(bytes(32000))
    return path


def test_listen_prints_events_as_json_lines(daemon, recording):
    status, out, err = sttctl(daemon, "listen", "--file", recording, "--json")
    assert (status, err) == (0, "")
    events = [json.loads(line) for line in out.splitlines()]
    kinds = [event["type"] for event in events]
    assert kinds[-1] == "stopped"
    assert {"speech_start", "interim", "speech_end", "final"} <= set(kinds)
    shown = {event["utterance"] for event in events if event["type"] == "speech_start"}
    assert {event["utterance"] for event in events if event["type"] == "final"} == shown


def test_listen_once_ends_with_the_first_utterance(daemon, recording):
    status, out, _ = sttctl(daemon, "listen", "--file", recording, "--once")
    assert status == 0
    assert "w1 w2" in out


def test_listen_grows_captions_in_place(daemon, recording):
    status, printed = in_terminal(daemon, "listen", "--file", recording, until="w1 w2")
    assert status == 0  # Ctrl-C is how one stops listening
    assert "listening to" in printed
    assert "\x1b[2m" in printed  # the tail of an interim is dim


def until_it_watches(daemon, process):
    """Open sessions until it tells of one."""
    while not select.select([process.stdout], [], [], 0)[0]:
        with daemon.connect() as other:
            other.send('{"op": "start", "label": "anybody there"}')
            while json.loads(other.recv())["type"] != "started":
                pass


def told_of(process, label):
    """The next event about a session of that label."""
    return next(event for line in process.stdout if (event := json.loads(line))["label"] == label)


def test_watch_sees_a_session_that_close_ends(daemon):
    command = [STTCTL, "--socket", daemon.control, "watch", "sessions", "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process, daemon.connect() as socket_:
        until_it_watches(daemon, process)
        json.loads(socket_.recv())
        socket_.send('{"op": "start", "label": "mine"}')
        session = json.loads(socket_.recv())["session"]
        assert session in sttctl(daemon, "sessions")[1]
        assert sttctl(daemon, "close", session)[0] == 0
        opened, closed = (told_of(process, "mine") for _ in range(2))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
    assert (opened["event"], opened["label"], closed["event"]) == ("opened", "mine", "closed")
    assert opened["session"] == closed["session"] == session


@pytest.mark.model
def test_the_embedded_model_transcribes_the_sample(serve):
    daemon = serve("--tcp", "off", "--model", "demo")
    status, out, _ = sttctl(daemon, "transcribe", "-l", "en", SHORT)
    assert status == 0
    assert out.strip().rstrip(".").lower() == "turn on the kitchen light"
