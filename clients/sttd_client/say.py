"""Speaks text with the `espeak-ng` program, for `sttd demo --say`: the demo model knows only synthetic voices."""

from __future__ import annotations

import io
import subprocess
import wave
from typing import Final

import attrs

#: espeak-ng speaks some hundred times faster than real time; longer than this means that it hangs.
TIMEOUT_S: Final = 20.0


class SpeakError(Exception):
    """espeak-ng is not installed, or did not speak. The message says what to do."""


@attrs.frozen(kw_only=True)
class Spoken:
    """Mono 16-bit little-endian samples at `sample_rate` (espeak-ng's own, 22,050 Hz; the daemon resamples)."""

    sample_rate: int
    pcm: bytes


def synthesise(text: str, *, voice: str = "en-us", words_per_minute: int = 150) -> Spoken:
    """Returns `text` as speech.

    Blocks for some milliseconds, at most `TIMEOUT_S`: call it in a thread from async code. An unknown voice is
    replaced by espeak-ng's default.

    Raises:
        SpeakError: espeak-ng is missing, fails, hangs, or found nothing to say.
    """
    command = ["espeak-ng", "-v", voice, "-s", str(words_per_minute), "--stdout", "--", text]
    try:
        done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True)
    except FileNotFoundError:
        raise SpeakError("espeak-ng is not installed; try: apt install espeak-ng (or dnf, pacman, brew)") from None
    except subprocess.TimeoutExpired:
        raise SpeakError(f"espeak-ng did not finish within {TIMEOUT_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip() or f"exit status {error.returncode}"
        raise SpeakError(f"espeak-ng could not speak: {reason}") from None
    # On a pipe espeak-ng cannot know the length in advance and writes a huge one; `wave` then reads to the end.
    with wave.open(io.BytesIO(done.stdout)) as file:
        pcm = file.readframes(len(done.stdout))
        if not pcm.strip(b"\0"):
            raise SpeakError("espeak-ng found nothing to say in the text")
        return Spoken(sample_rate=file.getframerate(), pcm=pcm)
