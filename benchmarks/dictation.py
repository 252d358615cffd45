"""Dictation: how soon does a key press listen, how soon is the first word in the window, and are the words right there?

A desktop of its own: an X server without a screen (Xvfb), a text field that writes down every 50 ms what it shows, an
agent, and a recording in place of a microphone, which begins to play when it is opened.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.recordings import Recording, as_bytes, english, room_noise
from benchmarks.sessions import speech_bounds_s
from benchmarks.sttctl import percentiles
from benchmarks.words import word_errors
from tests.desktop import Window, microphone, wait_for, window, x_server

PRESSES = 40
CLIPS = 12  # the first ones in the manifest of at most LONGEST_S
LONGEST_S = 12.0
_NOT_OURS = ("STTD_", "WAYLAND_", "DBUS_")  # this machine's own desktop is not meant
STTCTL = Path(sys.executable).with_name("sttctl")


def main(options: Options) -> None:
    """Presses with the fake model, words with a real one."""
    with tempfile.TemporaryDirectory() as folder, x_server() as display:
        home = Path(folder)
        environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(_NOT_OURS)},
            **microphone(home, room_noise_bytes(1.0)),
            "DISPLAY": display,
            "XDG_RUNTIME_DIR": str(home),
            "XDG_CONFIG_HOME": str(home / "config"),
        }
        with load.daemon("--model", "fake") as directory, agent(environ, directory, home) as ours:
            rows = presses(ours, home)
        report.write(
            "dictation_press",
            rows,
            {
                "measures": "start of the program → the agent has opened the microphone",
                "cpu": "of the program that was started",
            },
        )
        model = options.model
        with load.daemon(*model.serve) as directory:
            load.call(directory, "load", preset=model.preset)
            with agent(environ, directory, home) as ours:
                rows = words(ours, home)
        report.write(
            "dictation_words",
            rows,
            {
                "first_letter": "in the window, after the speech began; the window is read every 50 ms",
                "taken_back": "letters that were in the window and are not any more",
            },
            model=model.name,
        )


def room_noise_bytes(seconds: float) -> bytes:
    """A quiet room, as a microphone gives it."""
    return as_bytes(room_noise(seconds))


def dictate(environ: Mapping[str, str], *arguments: str) -> str:
    """Run `sttctl dictate`."""
    command = [str(STTCTL), "dictate", *arguments]
    return subprocess.run(command, env=dict(environ), check=True, capture_output=True, text=True).stdout


@contextmanager
def agent(environ: Mapping[str, str], daemon: Path, home: Path) -> Iterator[dict[str, str]]:
    """The environment of an agent of this daemon, which the first press starts; it leaves at the end."""
    ours = {**environ, "STTD_SOCKET": str(daemon / "control.sock")}
    try:
        yield ours
    finally:
        dictate(ours, "quit")
        wait_for(lambda: not (home / "sttd-dictate.sock").exists(), "the agent does not leave")


def cpu_of(environ: Mapping[str, str], *arguments: str) -> float:
    """Run `sttctl dictate`; returns its own CPU seconds: a busy machine changes them less than the time on the wall."""
    process = subprocess.Popen([str(STTCTL), "dictate", *arguments], env=dict(environ), stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime


def until_idle(environ: Mapping[str, str]) -> None:
    """Until the last dictation is over."""
    wait_for(lambda: json.loads(dictate(environ, "status", "--json"))["state"] == "idle", "a dictation does not end")


def presses(environ: Mapping[str, str], home: Path) -> list[dict[str, object]]:
    """Rows of how long a press takes: the first, which starts the agent, and later ones in two ways."""
    took: dict[str, list[float]] = {"sttctl dictate --hold start": [], "a line on the socket": []}
    cpu: list[float] = []
    began = time.perf_counter()
    dictate(environ, "start")
    first_ms = 1000 * (time.perf_counter() - began)
    for _ in range(PRESSES):
        for name, found in took.items():
            dictate(environ, "stop")
            until_idle(environ)
            began = time.perf_counter()
            if name.startswith("sttctl"):
                cpu.append(1000 * cpu_of(environ, "--hold", "start"))
            else:
                with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as agent:
                    agent.connect(str(home / "sttd-dictate.sock"))
                    agent.sendall(b"start\n")
                    agent.recv(4096)
            found.append(1000 * (time.perf_counter() - began))
    first = {
        "press": "the first one, which starts the agent",
        "p50_ms": round(first_ms),
        "p95_ms": None,
        "cpu_ms": None,
    }
    rows: list[dict[str, object]] = [first]
    for name, found in took.items():
        p50, p95 = percentiles(found)
        cpu_ms = round(percentiles(cpu)[0], 1) if name.startswith("sttctl") else None
        rows.append({"press": name, "p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "cpu_ms": cpu_ms})
    return rows


def words(environ: Mapping[str, str], home: Path) -> list[dict[str, object]]:
    """A row of what comes of real recordings, each dictated by a held key."""
    letters, wrong, said, taken_back, ends = [], 0, 0, 0, []
    clips = english(longest_s=LONGEST_S)[:CLIPS]
    for clip in clips:
        with window(home / "typed", environ) as entry:
            first_s, end_s, back = dictated(environ, home, clip, entry)
            errors, count = word_errors(clip.text, entry.text)
        letters.append(1000 * first_s)
        ends.append(1000 * end_s)
        wrong, said, taken_back = wrong + errors, said + count, taken_back + back
    first, end = percentiles(letters), percentiles(ends)
    return [
        {
            "clips": len(clips),
            "words": said,
            "wrong": wrong,
            "taken_back": taken_back,
            "first_letter_p50_ms": round(first[0]),
            "first_letter_p95_ms": round(first[1]),
            "release_to_last_letter_p50_ms": round(end[0]),
        }
    ]


def dictated(environ: Mapping[str, str], home: Path, clip: Recording, entry: Window) -> tuple[float, float, int]:
    """Dictate a clip: seconds to the first letter after its speech began, from release to idle, letters taken back."""
    (home / "microphone.pcm").write_bytes(as_bytes(clip.samples))
    dictate(environ, "--hold", "start", "--language", "en")
    pressed_s = time.perf_counter()
    first_s, back, before = 0.0, 0, ""
    while time.perf_counter() - pressed_s < clip.duration_s + 0.3:
        text = entry.text
        first_s = first_s or (time.perf_counter() if text else 0.0)
        back += sum(at >= len(text) or text[at] != letter for at, letter in enumerate(before))
        before = text
        time.sleep(0.01)
    dictate(environ, "--hold", "stop")
    released_s = time.perf_counter()
    until_idle(environ)
    end_s = time.perf_counter() - released_s
    first_s = first_s or time.perf_counter()
    time.sleep(0.2)  # for the window to write down the last letters
    return first_s - pressed_s - speech_bounds_s(clip)[0], end_s, back
