"""`sttctl transcribe` of a recording, as a user runs it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.words import words

STTCTL = Path(sys.executable).with_name("sttctl")
TIME = r"\d\d:\d\d:\d\d,\d{3}"

pytestmark = pytest.mark.real


@pytest.fixture
def jfk(testdata):
    return testdata / "speech" / "jfk.flac"


def transcribe(daemon, *arguments):
    done = subprocess.run(
        [STTCTL, "--socket", daemon.control, "transcribe", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_subtitles(daemon_with, jfk):
    cues = transcribe(daemon_with("tiny.en"), "--format", "srt", jfk).strip().split("\n\n")
    for number, cue in enumerate(cues, 1):
        first, times, *lines = cue.splitlines()
        assert first == str(number)
        assert re.fullmatch(f"{TIME} --> {TIME}", times)
        assert lines
    text = " ".join(line for cue in cues for line in cue.splitlines()[2:])
    assert {"americans", "country"} <= set(words(text))


def test_json(daemon_with, jfk, tmp_path):
    target = tmp_path / "jfk.json"
    transcribe(daemon_with("tiny.en"), "--format", "json", "--output", target, jfk)
    transcript = json.loads(target.read_text())
    assert {"americans", "country"} <= set(words(json.dumps(transcript, ensure_ascii=False)))
