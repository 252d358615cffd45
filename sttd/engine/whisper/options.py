"""The options of presets with `backend = "whisper"`."""

from __future__ import annotations

import attrs

from sttd.engine.whisper.features import WINDOW_BUCKETS
from sttd.fields import integer, integers, number, numbers

_MAX_BEAMS = 32  # chosen: memory and time grow with each, and beyond 10 hardly a word changes


@attrs.frozen(kw_only=True)
class Settings:
    """The options of a whisper preset."""

    beam_size: int = integer("beams of finals and files", minimum=1, maximum=_MAX_BEAMS, default=5)
    interim_beam_size: int = integer("beams of interims", minimum=1, maximum=_MAX_BEAMS, default=1)
    temperatures: tuple[float, ...] = numbers(
        "tried in turn until a text is believed; interims: one",
        minimum=0,
        maximum=1,  # the last of Whisper's own
        min_items=1,
        max_items=10,  # chosen; Whisper's own are six
        default=(0.0, 0.4, 0.8),
    )
    interim_windows: tuple[int, ...] = integers(
        "short encoder windows that interims may use, in frames of 10 ms. Where a preset does not say: those that have "
        "passed the gate (`benchmarks interim_windows`) with its model, on a CPU",
        choices=WINDOW_BUCKETS,
        default=(),
    )
    final_windows: tuple[int, ...] = integers(
        "the same for finals; the gate is `benchmarks final_windows`",
        choices=WINDOW_BUCKETS,
        default=(),
    )
    compression_ratio_threshold: float = number(
        "a text that repeats itself more is not believed", minimum=0, default=2.4
    )
    log_prob_threshold: float = number("a text less probable than that, a token, is not believed", default=-1.0)
    no_speech_threshold: float = number(
        "an improbable text is silence where silence is more probable than that", minimum=0, default=0.6
    )
