"""`sttctl listen --both` of a call between people: a machine plays one of them, its microphone hears the other."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.words import words
from tests.desktop import wait_for
from tests.running import PATIENCE_S
from tests.sound_servers import MICROPHONE, OUTPUT, play_until, pulseaudio

STTCTL = Path(sys.executable).with_name("sttctl")

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_a_call_becomes_subtitles_that_say_who_spoke(daemon_with, testdata, tmp_path):
    daemon, path = daemon_with("tiny.en"), tmp_path / "talk.srt"
    command = [STTCTL, "--socket", daemon.control, "listen", "--both", "--names", "me,call", "-o", path]
    with (
        pulseaudio(tmp_path / "sound") as environ,
        subprocess.Popen(command, env=environ, stdout=subprocess.DEVNULL) as process,
    ):
        try:
            wait_for(lambda: path.exists() or process.poll() is not None, "no sound comes")
            speech = testdata / "speech"
            play_until(
                lambda: "country" in path.read_text() and "lamp" in path.read_text(),
                environ,
                (OUTPUT, speech / "jfk.flac"),
                (MICROPHONE, speech / "wy-lamp.flac"),
            )
            process.send_signal(signal.SIGINT)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()
    said = {"me": "", "call": ""}
    for cue in path.read_text().strip().split("\n\n"):
        who, text = re.fullmatch(r"\d+\n\S+ --> \S+\n(me|call): (.+)", cue, re.DOTALL).groups()
        said[who] += f" {text}"
    assert {"living", "room", "lamp"} <= set(words(said["me"]))
    assert {"ask", "your", "country"} <= set(words(said["call"]))
    assert not {"lamp", "country"} & set(words(said["me"])) & set(words(said["call"]))
