"""Live audio for programs at a terminal: the microphone, what the machine plays, or a recording in their place.

All are file descriptors that give PCM as it is spoken, to be selected on beside a session.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import threading
import time
import wave
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress

import attrs

from sttd_client.options import StartOptions
from sttd_client.sound import RATE, NoMicrophoneError, recorder, system_recorder

_CHUNK_S = 0.04
PIPE_BYTES = 1 << 20  # 32 s at 16 kHz: what is said while a connection is made, or a model loads, waits in the kernel
_TERMINATE_S = 2.0


@attrs.frozen(kw_only=True)
class LiveAudio:
    """A source of PCM. `options` is what `open_session` has to know about it."""

    descriptor: int
    name: str
    options: StartOptions
    is_recorder: bool  # it gives 16-bit PCM as long as it is listened to; that it ends is a fault


def widen(descriptor: int) -> None:
    """Let the pipe of a recorder hold half a minute; where a user has used up what pipes may hold, two seconds."""
    with suppress(OSError):
        fcntl.fcntl(descriptor, fcntl.F_SETPIPE_SZ, PIPE_BYTES)


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
    with _recording_by(command) as audio:
        yield audio


@contextmanager
def system_sound(sink: str | None = None) -> Iterator[LiveAudio]:
    """Record what the machine plays; the recorder ends with the context.

    Args:
        sink: the output whose sound is meant; None is the default one.

    Raises:
        NoSoundError: nothing here can record it, or there is no such output.
    """
    with _recording_by(system_recorder(sink)) as audio:
        yield audio


@contextmanager
def _recording_by(command: Sequence[str]) -> Iterator[LiveAudio]:
    # A session of its own: Ctrl-C in the terminal is for the program that records, which then ends the recorder.
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        try:
            assert process.stdout is not None
            widen(process.stdout.fileno())
            yield LiveAudio(
                descriptor=process.stdout.fileno(), name=command[0], options={"sample_rate": RATE}, is_recorder=True
            )
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
        NoMicrophoneError: the file is no WAV file, or not 16- or 32-bit PCM.
    """
    with closing(_opened(path)) as file:
        encodings: dict[int, StartOptions] = {2: {"encoding": "pcm_s16le"}, 4: {"encoding": "pcm_s32le"}}
        if file.getsampwidth() not in encodings:
            raise NoMicrophoneError(f"{path} is not 16-bit or 32-bit PCM")
        options: StartOptions = {"sample_rate": file.getframerate(), "channels": file.getnchannels()}
        options |= encodings[file.getsampwidth()]
        read_end, write_end = os.pipe()
        player = threading.Thread(target=_play, args=(file, write_end), name=f"play {path}")
        player.start()
        try:
            yield LiveAudio(descriptor=read_end, name=path, options=options, is_recorder=False)
        finally:
            os.close(read_end)  # the player then finds its pipe broken and ends within one chunk
            player.join()


def _opened(path: str) -> wave.Wave_read:
    try:
        return wave.open(path, "rb")
    except (wave.Error, EOFError):
        raise NoMicrophoneError(f"{path} is no WAV file; `sttctl transcribe` reads any other") from None


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
