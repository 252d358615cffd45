"""Which program records what on this machine: asks the sound servers, and decides.

Rules:

1. **Who has the devices is asked**, where there is a choice: `pactl` names PulseAudio, or PipeWire behind its pulse
   layer; where it does not answer, `pw-dump` asks PipeWire itself. That a program is installed says nothing: PipeWire's
   come with many desktops on which PulseAudio has the sound, and the other way round.
2. With PipeWire pw-record comes first: it goes on with the default device when that becomes another. With PulseAudio
   parec does, and where no server answers arecord.
3. **What the machine plays** is never recorded by `@DEFAULT_MONITOR@`: pipewire-pulse 0.3.65 (Debian 12) then gives the
   microphone (tried). pw-record is told `stream.capture.sink`, parec the name of the sink.
4. **A sink that is not there is refused**: given a name that they do not know, PipeWire's programs record the default
   device without a word (tried).
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import attrs

RATE = 16_000  # what the models hear; anything above is thrown away
ASK_S = 5.0  # for a program to answer on a busy machine
_MONITOR = ".monitor"

Program = Literal["pw-record", "parec", "arecord"]


class NoSoundError(OSError):
    """There is nothing to record with, or it gave no sound. The message says what to do."""


class NoMicrophoneError(NoSoundError):
    """The same of the microphone."""


@attrs.frozen(kw_only=True)
class SoundServer:
    """Who has the devices. Names are "" where they are not known."""

    name: Literal["PipeWire", "PulseAudio", "none", "unknown"]  # none: those that were asked do not answer
    sinks: tuple[str, ...] = ()
    default_sink: str = ""
    default_source: str = ""


UNKNOWN = SoundServer(name="unknown")

# How to record raw 16 kHz mono, and how to name the source.
_RECORDERS: Mapping[Program, tuple[list[str], str]] = {
    "pw-record": ([f"--rate={RATE}", "--channels=1", "--format=s16", "--latency=30ms"], "--target"),
    "parec": ([f"--rate={RATE}", "--channels=1", "--format=s16le", "--raw", "--latency-msec=30"], "--device"),
    "arecord": (["--quiet", f"--rate={RATE}", "--channels=1", "--format=S16_LE", "--file-type=raw"], "--device"),
}
_ORDER: Mapping[str, tuple[Program, ...]] = {
    "PipeWire": ("pw-record", "parec", "arecord"),
    "PulseAudio": ("parec", "arecord", "pw-record"),
    "none": ("arecord", "pw-record", "parec"),
    "unknown": ("pw-record", "parec", "arecord"),
}
_OF_SYSTEM = "pipewire-bin (pw-record) or pulseaudio-utils (parec)"

Which = Callable[[str], object]


def recorder(
    device: str | None = None, *, server: SoundServer | None = None, which: Which = shutil.which
) -> list[str] | None:
    """The command that records the microphone to standard output; None: no program is installed that could.

    Args:
        device: the source, as the program names it; None is the default one.
        server: what `look` said; None looks, where more than one program is installed.
    """
    installed = [program for program in _RECORDERS if which(program)]
    if not installed:
        return None
    server = server or (look(which=which) if len(installed) > 1 else UNKNOWN)
    program = next(program for program in _ORDER[server.name] if program in installed)
    return _command(program, device)


def system_recorder(
    sink: str | None = None, *, server: SoundServer | None = None, which: Which = shutil.which
) -> list[str]:
    """The command that records what the machine plays to standard output.

    Args:
        sink: the output, as `pactl list short sinks` or `pw-dump` names it; None is the default one.
        server: what `look` said; None looks.

    Raises:
        NoSoundError: nothing here can, or there is no such output.
    """
    installed = [program for program in _RECORDERS if which(program)]
    if not installed:
        raise NoSoundError(f"no program to record what the machine plays; install {_OF_SYSTEM}")
    if installed == ["arecord"]:
        raise NoSoundError(f"arecord cannot record what the machine plays; install {_OF_SYSTEM}")
    server = server or look(which=which)
    if server.name == "none":
        raise NoSoundError("no sound server answers: neither PipeWire nor PulseAudio runs for this user")
    wanted = (sink or "").removesuffix(_MONITOR)
    if wanted and server.sinks and wanted not in server.sinks:
        raise NoSoundError(f"there is no output {wanted}; there are: {', '.join(server.sinks)}")
    for program in _ORDER[server.name]:
        if program == "pw-record" and program in installed and server.name != "PulseAudio" and _takes_properties():
            return _command(program, wanted, "--properties={ stream.capture.sink=true }")
        if program == "parec" and program in installed:
            if not (wanted or server.default_sink):
                raise NoSoundError("the sound server has no output whose sound could be recorded")
            return _command(program, monitor_of(wanted or server.default_sink))
    raise NoSoundError(f"{server.name} has the sound, and nothing here can record what it plays; install {_OF_SYSTEM}")


def monitor_of(sink: str) -> str:
    """The source of what an output plays, as parec names it."""
    return sink + _MONITOR


def _command(program: Program, device: str | None, *more: str) -> list[str]:
    options, device_option = _RECORDERS[program]
    named = [f"{device_option}={device}"] if device else []
    return [program, *options, *more, *named, *_to_stdout(program)]


def _to_stdout(program: Program) -> list[str]:
    """What makes a recorder write bare samples to standard output."""
    if program != "pw-record":
        return []
    # Newer versions write an .au file to `-` unless told `--raw`, which older ones do not know.
    return ["--raw", "-"] if "--raw" in _help_of_pw_record() else ["-"]


def _takes_properties() -> bool:
    return "--properties" in _help_of_pw_record()


def _help_of_pw_record() -> str:
    try:
        told = subprocess.run(["pw-record", "--help"], capture_output=True, text=True, check=False, timeout=ASK_S)
    except subprocess.TimeoutExpired:
        return ""
    return told.stdout + told.stderr


# ---------------------------------------------------------------- the servers


def look(*, which: Which = shutil.which) -> SoundServer:
    """Who has the devices of this user, and how they are called. Waits for two programs, `ASK_S` for each at most."""
    asked = False
    if which("pactl"):
        asked = True
        if (info := _answer_of("pactl", "info")) is not None:
            return pulse_server(info, _answer_of("pactl", "list", "short", "sinks") or "")
    if which("pw-dump"):
        asked = True
        if (dump := _answer_of("pw-dump")) is not None:
            return pipewire_server(dump)
    return SoundServer(name="none") if asked else UNKNOWN


def pulse_server(info: str, sinks: str) -> SoundServer:
    """What `pactl info` and `pactl list short sinks` say."""
    told = dict(line.strip().partition(": ")[::2] for line in info.splitlines())
    return SoundServer(
        name="PipeWire" if "PipeWire" in told.get("Server Name", "") else "PulseAudio",
        sinks=tuple(row.split("\t")[1] for row in sinks.splitlines() if "\t" in row),
        default_sink=told.get("Default Sink", ""),
        default_source=told.get("Default Source", ""),
    )


def pipewire_server(dump: str) -> SoundServer:
    """What `pw-dump` says."""
    try:
        objects = json.loads(dump)
    except ValueError:
        return SoundServer(name="PipeWire")
    defaults: dict[str, str] = {}
    for entry in (entry for thing in objects for entry in thing.get("metadata") or ()):
        if isinstance(value := entry.get("value"), dict):
            defaults[str(entry.get("key"))] = str(value.get("name", ""))
    nodes = [((thing.get("info") or {}).get("props") or {}) for thing in objects]
    return SoundServer(
        name="PipeWire",
        sinks=_names_of(nodes, "Audio/Sink", "Audio/Duplex"),
        default_sink=defaults.get("default.audio.sink", ""),
        default_source=defaults.get("default.audio.source", ""),
    )


def _names_of(nodes: Sequence[Mapping[str, Any]], *classes: str) -> tuple[str, ...]:
    return tuple(str(node.get("node.name")) for node in nodes if node.get("media.class") in classes)


def _answer_of(*command: str) -> str | None:
    """What a program prints, in English; None where it fails or does not answer."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=ASK_S,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None
