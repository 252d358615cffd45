"""The texts of an utterance as its client gets them: finals, and the words of interims."""

from __future__ import annotations

import math

import attrs

from sttd.core.stabiliser import StableText
from sttd.core.types import Final, FinalReason, Hypothesis, InterimWord, Timing, seconds
from sttd.core.utterance import Opened
from sttd.options import SessionOptions

NOT_DECODED = Timing(endpoint_ms=0.0, queue_ms=0.0, decode_ms=0.0, speculative=False)


def is_decoded(final: Final) -> bool:
    """Whether a decode made the text, and not what was stable when there could be none."""
    return final.timing != NOT_DECODED


def interim_words(stable: StableText, hypothesis: Hypothesis) -> tuple[InterimWord, ...]:
    """The words of an interim. Where an engine does not say how sure it is of each, it is as sure of all."""
    known = hypothesis.certainties is not None
    mean = math.exp(min(0.0, hypothesis.avg_logprob))
    return tuple(
        InterimWord(word=piece.word, probability=piece.least if known else mean, stable=index < stable.stable)
        for index, piece in enumerate(stable.words)
    )


def final_of(
    opened: Opened,
    options: SessionOptions,
    *,
    text: str,
    end_sample: int,
    reason: FinalReason,
    timing: Timing = NOT_DECODED,
    hypothesis: Hypothesis | None = None,
    language: str | None,
    language_probability: float | None = None,
    model: str,
) -> Final:
    """The final of an utterance, its times on the session's clock.

    Args:
        opened: where the utterance began.
        options: of the utterance.
        text: what is sent as its text; without any, there are no words and no confidence.
        end_sample: where its speech ended.
        reason: why it ended.
        timing: of the decode that made the text.
        hypothesis: that decode's; None if there was none, or it failed.
        language: what is known of it without the hypothesis.
        language_probability: that it is the right one; None where it was not detected.
        model: the preset that was used.
    """
    heard = hypothesis if text else None
    words = None
    if options.words:
        offset_s = seconds(opened.start_sample)
        words = tuple(
            attrs.evolve(word, start_s=word.start_s + offset_s, end_s=word.end_s + offset_s)
            for word in (heard.words if heard is not None else ())
        )
    return Final(
        utterance=opened.utterance,
        text=text,
        start_s=seconds(opened.at_sample),
        end_s=seconds(max(end_sample, opened.at_sample)),
        language=(hypothesis.language if hypothesis is not None else "") or language or "",
        confidence=math.exp(min(0.0, heard.avg_logprob)) if heard is not None else 0.0,
        reason=reason,
        model=model,
        words=words,
        timing=timing,
        language_probability=language_probability if heard is not None else None,
    )


def empty_final(number: int, options: SessionOptions, *, at_sample: int, language: str | None) -> Final:
    """The answer to a finalize with nothing to end."""
    opened = Opened(utterance=number, at_sample=at_sample, start_sample=at_sample)
    return final_of(
        opened, options, text="", end_sample=at_sample, reason="finalize", language=language, model=options.model
    )
