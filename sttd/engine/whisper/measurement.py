"""The measurement behind `engine/speed.py`: an interim and a final of fixed work on a loaded model.

It is remembered for good, so it must not be taken while other programs have the cores. The kernel counts how long a
thread was ready to run and had no core (`/proc/…/schedstat`): where that is more than `BUSY` of the time that the
measurement took, on average over the threads that computed, it says nothing.
"""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import Any, Final

import numpy as np

from sttd.core.types import SAMPLE_RATE, DecodeOptions
from sttd.engine.speed import HOPELESS_S, INTERIM_TOKENS, WINDOW_TOKENS
from sttd.engine.store.ledger import Speed
from sttd.engine.whisper.features import FULL_WINDOW, encode, window_for
from sttd.engine.whisper.options import Settings
from sttd.engine.whisper.tokens import MAX_TOKENS, TextCodec

BUSY: Final = 0.15  # chosen: it makes a measurement a sixth too long at the most
_INTERIM_S = 5
_TRIES = 2  # of the interim; the better one counts, since the first may find the memory not allocated yet


def measure(whisper: Any, codec: TextCodec, settings: Settings, *, threads: int) -> Speed | None:
    """Take the times of a model. Blocks for two interims and a final, or for one interim where that is hopeless.

    Args:
        whisper: a loaded `ctranslate2.models.Whisper` that nobody else uses yet.
        codec: its tokens.
        settings: its windows and beams.
        threads: that compute at the same time.

    Returns:
        None if the machine was busy with something else.
    """
    waited_s, started = _waited_s(), time.monotonic()
    speed = _measured(whisper, codec, settings)
    lost = (_waited_s() - waited_s) / (threads * (time.monotonic() - started))
    return speed if lost <= BUSY else None


def _measured(whisper: Any, codec: TextCodec, settings: Settings) -> Speed:
    window = window_for(_INTERIM_S * SAMPLE_RATE, allowed=settings.interim_windows)
    interim_s = float("inf")
    for _ in range(_TRIES):
        took_s = _decode(whisper, codec, window=window, tokens=INTERIM_TOKENS, beams=settings.interim_beam_size)
        interim_s = min(interim_s, took_s)
        if took_s > HOPELESS_S:
            return Speed(interim_s=round(interim_s, 3))
    window_s = _decode(whisper, codec, window=FULL_WINDOW, tokens=WINDOW_TOKENS, beams=settings.beam_size)
    return Speed(interim_s=round(interim_s, 3), window_s=round(window_s, 3))


def _waited_s() -> float:
    """How long threads of this process were ready and had no core, all in all; 0 where the kernel does not say."""
    waited_ns = 0
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):  # a thread may end meanwhile
            waited_ns += int(path.read_text().split()[1])
    return waited_ns / 1e9


def _decode(whisper: Any, codec: TextCodec, *, window: int, tokens: int, beams: int) -> float:
    """Seconds for a decode of silence into so many tokens."""
    prompt = codec.prompt(DecodeOptions(), language=codec.languages[0], timestamps=False, with_context=False)
    started = time.monotonic()
    encoded = encode(whisper, np.zeros((1, whisper.n_mels, window), np.float32))
    whisper.generate(
        encoded.output,
        [prompt],
        beam_size=beams,
        max_length=min(MAX_TOKENS, max(2 * tokens, tokens + len(prompt))),  # see `Search._generate`
        suppress_blank=False,
        suppress_tokens=[*codec.suppressed, codec.eot],
    )
    return time.monotonic() - started
