"""Captions of what a machine plays, with the sound servers that desktops have and the embedded model."""

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.desktop import wait_for
from tests.running import PATIENCE_S, RunningDaemon
from tests.sound_servers import MICROPHONE, OUTPUT, pipewire, play_until, pulseaudio

pytestmark = pytest.mark.model

DATA = Path(__file__).parents[1] / "data"
STTCTL = Path(sys.executable).with_name("sttctl")
PLAYED, SPOKEN = ("light.flac", "Turn on the kitchen light."), ("question.flac", "What time is it?")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = RunningDaemon.start(tmp_path_factory.mktemp("daemon"), "--tcp", "off", "--model", "demo")
    running.call("load", preset="demo")
    yield running
    assert running.stop() == 0, running.log()


@pytest.fixture(params=["PulseAudio", "PipeWire", "PipeWire without its pulse layer"])
def machine(request, tmp_path):
    """The environment of a desktop with this sound server."""
    if request.param == "PulseAudio":
        server = pulseaudio(tmp_path / "sound")
    else:
        server = pipewire(tmp_path / "sound", pulse_layer=request.param == "PipeWire")
    with server as environ:
        yield environ


@contextmanager
def listening(daemon, environ, *arguments):
    command = [str(STTCTL), "--socket", str(daemon.control), "listen", "-l", "en", *map(str, arguments)]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_the_words_that_are_played_and_those_that_are_said_are_told_apart(daemon, machine, tmp_path):
    path = tmp_path / "call.srt"
    with listening(daemon, machine, "--both", "-o", path) as process:
        wait_for(lambda: path.exists() or process.poll() is not None, "no sound comes")

        def is_written():
            assert process.poll() is None, process.communicate()
            text = path.read_text()
            return f"system: {PLAYED[1]}" in text and f"you: {SPOKEN[1]}" in text

        play_until(is_written, machine, (OUTPUT, DATA / PLAYED[0]), (MICROPHONE, DATA / SPOKEN[0]))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (0, "")
    assert f"system: {PLAYED[1]}" in out
    text = path.read_text()
    assert f"you: {PLAYED[1]}" not in text
    assert f"system: {SPOKEN[1]}" not in text
    starts = re.findall(r"^(\S+) --> ", text, flags=re.MULTILINE)
    assert starts == sorted(starts)


@pytest.mark.parametrize("machine", ["PulseAudio", "PipeWire"], indirect=True)
def test_what_another_output_plays_is_heard_by_its_name(daemon, machine, tmp_path):
    path = tmp_path / "talk.jsonl"
    with listening(daemon, machine, "--system", "--sink", MICROPHONE, "-o", path, "--once") as process:
        wait_for(lambda: path.exists() or process.poll() is not None, "no sound comes")
        play_until(
            lambda: process.poll() is not None, machine, (OUTPUT, DATA / PLAYED[0]), (MICROPHONE, DATA / SPOKEN[0])
        )
        assert process.communicate()[1] == ""
    assert process.returncode == 0
    said = [json.loads(line)["text"] for line in path.read_text().splitlines()]
    assert said
    assert not any("kitchen" in text for text in said)


def test_an_output_that_is_not_there_is_refused_where_the_server_would_take_another(daemon, machine):
    with listening(daemon, machine, "--system", "--sink", "nonsense") as process:
        err = process.communicate(timeout=PATIENCE_S)[1]
    assert process.returncode == 1
    assert err == f"sttctl: there is no output nonsense; there are: {OUTPUT}, {MICROPHONE}\n"


def test_the_doctor_says_what_can_be_heard(daemon, machine):
    command = [str(STTCTL), "--socket", str(daemon.control), "--json", "doctor"]
    done = subprocess.run(command, env=machine, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    findings = {finding["about"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert findings["system"]["verdict"] == "good"
    assert f"records what {OUTPUT} plays" in findings["system"]["text"]
    assert "is what the machine plays" in findings["microphone"]["text"]  # a monitor stands for one


@pytest.mark.slow
def test_captions_go_on_with_the_output_that_becomes_the_default(daemon, tmp_path):
    """As when a headset is connected. PipeWire moves who records; PulseAudio does not (docs/how-to/captions.md)."""
    path = tmp_path / "talk.txt"
    with (
        pipewire(tmp_path / "sound") as environ,
        listening(daemon, environ, "--system", "-o", path) as process,
    ):
        wait_for(path.exists, "no sound comes")
        play_until(lambda: PLAYED[1] in path.read_text(), environ, (OUTPUT, DATA / PLAYED[0]))
        subprocess.run(["pactl", "set-default-sink", MICROPHONE], env=environ, check=True, timeout=PATIENCE_S)
        play_until(lambda: SPOKEN[1] in path.read_text(), environ, (MICROPHONE, DATA / SPOKEN[0]))
        process.send_signal(signal.SIGINT)
        assert process.wait(PATIENCE_S) == 0
