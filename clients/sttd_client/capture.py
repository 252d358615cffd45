"""Live audio for programs at a terminal: the microphone, or a recording in its place.

Both are file descriptors that give PCM as it is spoken, to be selected on beside a session.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import threading
import time
import wave
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress

import attrs

from sttd_client.options import StartOptions

RATE = 16_000  # what the models hear; anything above is thrown away
_CHUNK_S = 0.04
_PIPE_BYTES = 1 << 20  # 32 s at 16 kHz: what is said while a connection is made, or a model loads, waits in the kernel
_TERMINATE_S = 2.0
_HELP_S = 5.0  # for a program to print its help on a busy machine


class NoMicrophoneError(OSError):
    """There is no program to record with, or it gave no sound. The message says what to do."""


@attrs.frozen(kw_only=True)
class LiveAudio:
    """A source of PCM. `options` is what `open_session` has to know about it."""

    descriptor: int
    name: str
    options: StartOptions


# How to record raw 16 kHz mono, and how to name the microphone, best program first.
_RECORDERS: Mapping[str, tuple[list[str], str]] = {
    "pw-record": ([f"--rate={RATE}", "--channels=1", "--format=s16", "--latency=30ms"], "--target"),
    "parec": ([f"--rate={RATE}", "--channels=1", "--format=s16le", "--raw", "--latency-msec=30"], "--device"),
    "arecord": (["--quiet", f"--rate={RATE}", "--channels=1", "--format=S16_LE", "--file-type=raw"], "--device"),
}


def recorder(device: str | None = None) -> list[str] | None:
    """The command that records to standard output, with the first program that is installed; None: there is none."""
    for program, (options, device_option) in _RECORDERS.items():
        if shutil.which(program):
            named = [f"{device_option}={device}"] if device else []
            return [program, *options, *named, *_to_stdout(program)]
    return None


def _to_stdout(program: str) -> list[str]:
    """What makes a recorder write bare samples to standard output."""
    if program != "pw-record":
        return []
    # Newer versions write an .au file to `-` unless told `--raw`, which older ones do not know.
    try:
        told = subprocess.run([program, "--help"], capture_output=True, text=True, check=False, timeout=_HELP_S)
    except subprocess.TimeoutExpired:
        return ["-"]
    return ["--raw", "-"] if "--raw" in told.stdout + told.stderr else ["-"]


def widen(descriptor: int) -> None:
    """Let the pipe of a recorder hold half a minute; where a user has used up what pipes may hold, two seconds."""
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


@contextmanager
def microphone(device: str | None = None) -> Iterator[LiveAudio]:
    """Record from the microphone; the recorder ends with the context.

    Raises:
        NoMicrophoneError: no recorder is installed.
    """
    command = recorder(device)
    if command is None:
        raise NoMicrophoneError(
            "no program to record with; install one: "
            "pipewire-bin (pw-record), pulseaudio-utils (parec) or alsa-utils (arecord)"
        )
    with _running(command) as process:
        assert process.stdout is not None
        yield LiveAudio(descriptor=process.stdout.fileno(), name=command[0], options={"sample_rate": RATE})


@contextmanager
def _running(command: Sequence[str]) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C in the terminal is for the program that records, which then ends the recorder.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            widen(process.stdout.fileno())
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_TERMINATE_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def recording(path: str) -> Iterator[LiveAudio]:
    """Play a WAV file into a pipe as fast as it was spoken, in place of a microphone.

    Raises:
        NoMicrophoneError: the file is not 16- or 32-bit PCM.
    """
    with closing(wave.open(path)) as file:
        encodings: dict[int, StartOptions] = {2: {"encoding": "pcm_s16le"}, 4: {"encoding": "pcm_s32le"}}
        if file.getsampwidth() not in encodings:
            raise NoMicrophoneError(f"{path} is not 16-bit or 32-bit PCM")
        options: StartOptions = {"sample_rate": file.getframerate(), "channels": file.getnchannels()}
        options |= encodings[file.getsampwidth()]
        read_end, write_end = os.pipe()
        player = threading.Thread(target=_play, args=(file, write_end), name=f"play {path}")
        player.start()
        try:
            yield LiveAudio(descriptor=read_end, name=path, options=options)
        finally:
            os.close(read_end)  # the player then finds its pipe broken and ends within one chunk
            player.join()


def _play(file: wave.Wave_read, descriptor: int) -> None:
    frames = round(file.getframerate() * _CHUNK_S)
    due = time.monotonic()
    try:
        while data := file.readframes(frames):
            due += _CHUNK_S
            time.sleep(max(0.0, due - time.monotonic()))
            os.write(descriptor, data)
    except BrokenPipeError:
        pass
    finally:
        os.close(descriptor)
