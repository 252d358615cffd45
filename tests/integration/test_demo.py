"""`sttd demo` as a user runs it, with its own real daemon; nothing here reaches the network."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from sttd.engine.store import ModelStore
from tests.conftest import ROOT
from tests.running import read_pcm

CLIP = ROOT / "tests" / "data" / "light.flac"
COMMAND = [sys.executable, "-m", "sttd", "demo"]
NOBODY = "http://127.0.0.1:1/"  # no program listens on the first port


@pytest.fixture
def environment(tmp_path_factory):
    """No model but the embedded one, and no network. Whatever a run leaves behind is in `TMPDIR`."""
    folder = tmp_path_factory.mktemp("d")  # not `tmp_path`: a socket's path is short
    (folder / "left").mkdir()
    return {
        **os.environ,
        "TMPDIR": str(folder / "left"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HOME": str(folder / "cache" / "huggingface"),
        "HF_ENDPOINT": NOBODY,
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": NOBODY,
        "PIP_EXTRA_INDEX_URL": "",
        "STTD_MODELS__MODEL": "nonsense",  # this machine's own configuration is not meant
    }


def run(*arguments, environment, status=0):
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, env=environment, timeout=240, check=False
    )
    assert done.returncode == status, done.stdout + done.stderr
    assert not left_behind(environment)
    return done.stdout if status == 0 else done.stderr


def left_behind(environment):
    return [name for name in os.listdir(environment["TMPDIR"]) if name.startswith("sttd")]  # espeak-ng leaves its own


def check_words(out, *, share):
    right, said = map(int, re.search(r"words right +(\d+) of (\d+)", out).groups())
    assert right > said * share
    assert "stopped with status 0" in out


def test_without_a_network_it_says_so_in_a_line_and_goes_on(environment):
    out = run("--fast", environment=environment)
    (line,) = (line for line in out.splitlines() if line.startswith("no model for people could be fetched ("))
    assert line.endswith("); going on with the embedded model and its synthetic voice")
    assert "Turn on the kitchen light." in out
    assert re.search("^model +demo, ", out, flags=re.MULTILINE)
    assert "times real time" in out
    check_words(out, share=0.8)


@pytest.mark.skipif(
    ModelStore().locate("tiny.en") is None, reason="no model for people; get it with: sttd pull tiny.en"
)
def test_people_are_understood_by_a_model_for_people(environment):
    caches = {name: os.environ.get(name) for name in ("XDG_CACHE_HOME", "HF_HOME")}
    own = {name: value for name, value in (environment | caches).items() if value is not None}
    out = run("--fast", environment=own)
    assert "downloading" not in out
    assert "public domain" in out
    assert "he might have been made" in out
    assert re.search(r"^model +tiny\.en, ", out, flags=re.MULTILINE)
    check_words(out, share=0.8)


def test_a_model_that_is_asked_for_and_cannot_be_had_is_an_error(environment):
    error = run("--model", "tiny", environment=environment, status=1)
    assert error.startswith("sttd demo: tiny could not be fetched: ")
    assert len(error.splitlines()) == 1
    assert "there is no preset 'tinny'" in run("--model", "tinny", environment=environment, status=1)


def test_a_file_is_heard(environment):
    out = run("--file", CLIP, "--model", "fake", "--fast", environment=environment)
    assert "streaming light.flac (2 s), as fast as it goes" in out
    assert "w1 w2 w3" in out
    assert re.search(r"^finals +1$", out, flags=re.MULTILINE)
    assert "words right" not in out


@pytest.mark.skipif(not shutil.which("espeak-ng"), reason="espeak-ng is not installed")
def test_it_says_what_it_is_told(environment):
    assert re.search(r"words right +\d of 2", run("--fast", "--say", "Good morning.", environment=environment))


@pytest.mark.slow
def test_in_real_time_it_tells_its_latencies(environment):
    out = run("--model", "demo", environment=environment)
    assert "  ... " in out  # interims
    p50_s, max_s = map(float, re.search(r"final text +p50 ([\d.]+) s, max ([\d.]+) s", out).groups())
    assert 0.2 < p50_s <= max_s < 5


# ---------------------------------------------------------------- Ctrl-C


def interrupted(*arguments, environment, after, number=signal.SIGINT):
    """Status, output and errors of a run that gets a signal once a line begins with `after`."""
    with subprocess.Popen(
        [*COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        lines = []
        while not lines or not re.match(after, lines[-1]):
            lines.append(process.stdout.readline())
            assert lines[-1], process.stderr.read()
        process.send_signal(number)
        out, err = process.communicate(timeout=120)
    assert not left_behind(environment)
    return process.returncode, "".join(lines) + out, err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_it_leaves_no_daemon(environment, number):
    status, out, err = interrupted("--model", "demo", environment=environment, after=r"  \.\.\. ", number=number)
    assert (status, err) == (130, "")
    assert "the daemon was stopped" in out


def test_a_download_can_be_interrupted(environment):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # takes connections, and never answers
        address = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        environment |= {"HF_ENDPOINT": address, "PIP_INDEX_URL": address}
        status, out, err = interrupted(environment=environment, after="downloading")
    assert (status, err) == (130, "")
    assert "the daemon was stopped" in out


# ---------------------------------------------------------------- the microphone


@pytest.fixture
def microphone(tmp_path, environment):
    """A recorder that gives the shell's output: call it with what the shell shall do."""
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "cat", "sleep"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))

    def install(script):
        program = tmp_path / "bin" / "pw-record"
        program.write_text(f'#!/bin/sh\nif [ "$1" != --help ]; then {script}; fi\n')
        program.chmod(0o755)
        return {**environment, "PATH": str(tmp_path / "bin")}

    return install


def test_a_microphone_is_heard_until_it_is_interrupted(microphone, tmp_path):
    (tmp_path / "speech.raw").write_bytes(read_pcm(CLIP) + bytes(64_000))
    environment = microphone(f"cat {tmp_path}/speech.raw; exec sleep 600")
    status, out, err = interrupted("--mic", "--model", "fake", environment=environment, after=r".* s  w1 w2 w3")
    assert (status, err) == (0, "")
    assert "listening to pw-record; Ctrl-C ends" in out
    assert re.search(r"^finals +1$", out, flags=re.MULTILINE)
    assert "after the speech ended, as heard" in out


def test_a_microphone_that_gives_nothing_is_an_error(microphone):
    error = run("--mic", "--model", "fake", environment=microphone("exit 1"), status=1)
    assert error == "sttd demo: pw-record gave no sound; is there a microphone?\n"
