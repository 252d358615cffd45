"""What every synthesiser here returns: 16 kHz samples with the times of their words and phones."""

from __future__ import annotations

from typing import Final

import attrs
import numpy as np
import soxr
from numpy.typing import NDArray

RATE: Final = 16_000

#: What synthesisers call a pause.
SILENT: Final = frozenset({"_", "_:", "_!", "pau", "h#", "brth", "ssil"})

#: Samples quieter than this (of 32768) at the ends of a synthesised sentence count as silence.
_SILENCE: Final = 60


@attrs.frozen(kw_only=True)
class Span:
    """A labelled stretch of a recording, in seconds from its first sample."""

    label: str
    start_s: float
    end_s: float


@attrs.frozen(kw_only=True, eq=False)
class Speech:
    """One synthesised sentence: `samples` is int16, mono, 16 kHz; `words` has one span for each word of the text."""

    samples: NDArray[np.int16]
    text: str
    speaker: str
    words: tuple[Span, ...]
    phones: tuple[Span, ...]


@attrs.frozen(kw_only=True)
class Mark:
    """Where the synthesiser says a word (its index in the text) or a phone (its name) begins."""

    what: int | str
    start_s: float


def build(
    samples: NDArray[np.int16], *, rate: float, text: str, speaker: str, words: list[Mark], phones: list[Mark]
) -> Speech | None:
    """Resamples a synthesiser's output to 16 kHz and turns its marks into spans; None when nothing was spoken.

    A `rate` other than the synthesiser's own shifts pitch, formants and tempo together: a cheap further speaker. The
    marks are in seconds at that `rate`. Words without a mark (synthesisers join `of the`) share the time between their
    neighbours by length. Pauses before, between and after the phones belong to no phone.
    """
    resampled = soxr.resample(samples.astype(np.float32), rate, RATE, quality="MQ")
    loud = np.flatnonzero(np.abs(resampled) > _SILENCE)
    if not len(loud):
        return None
    begin, end = int(loud[0]) / RATE, (int(loud[-1]) + 1) / RATE
    spoken = [span for span in _phone_spans(phones, begin=begin, end=end) if span.label not in SILENT]
    if not spoken:
        return None
    begin, end = spoken[0].start_s, spoken[-1].end_s
    return Speech(
        samples=np.clip(resampled, -32768, 32767).astype(np.int16),
        text=text,
        speaker=speaker,
        words=_word_spans(text.split(), words, begin=begin, end=end),
        phones=tuple(spoken),
    )


def _word_spans(tokens: list[str], marks: list[Mark], *, begin: float, end: float) -> tuple[Span, ...]:
    starts: list[float | None] = [None] * len(tokens)
    for mark in marks:
        assert isinstance(mark.what, int)
        starts[mark.what] = min(max(mark.start_s, begin), end)
    starts[0] = begin
    known = [index for index, start in enumerate(starts) if start is not None]
    times: list[float] = []
    for first, last in zip(known, [*known[1:], len(tokens)], strict=True):
        left = starts[first]
        right = starts[last] if last < len(tokens) else end
        assert left is not None
        assert right is not None
        letters = [len(token) for token in tokens[first:last]]
        times += [left + (right - left) * sum(letters[:i]) / sum(letters) for i in range(len(letters))]
    return tuple(
        Span(label=token, start_s=start, end_s=max(stop, start))
        for token, start, stop in zip(tokens, times, [*times[1:], end], strict=True)
    )


def _phone_spans(marks: list[Mark], *, begin: float, end: float) -> tuple[Span, ...]:
    stops = [mark.start_s for mark in marks[1:]] + [end]
    return tuple(
        Span(label=str(mark.what), start_s=max(mark.start_s, begin), end_s=min(stop, end))
        for mark, stop in zip(marks, stops, strict=True)
        if min(stop, end) > max(mark.start_s, begin)
    )
