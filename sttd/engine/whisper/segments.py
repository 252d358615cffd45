"""From tokens to timed text: segments at the timestamps that Whisper wrote, words by aligning with the audio."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np

from sttd.core.types import FRAME_MS, FRAME_SAMPLES, Certainty, Samples, Word
from sttd.engine.whisper.features import Encoded
from sttd.engine.whisper.tokens import TextCodec

TIMESTAMP_S: Final = 0.02  # one timestamp token
SENTENCE_ENDS: Final = frozenset(".。!！?？")  # noqa: RUF001
OPENING: Final = "\"'“¿([{-"  # belongs to the word after it
CLOSING: Final = "\"'.。,，!！?？:：”)]}、"  # noqa: RUF001 - belongs to the word before it
MAX_MEDIAN_S: Final = 0.7
SILENCE: Final = 0.03  # of the loudest frame: -30 dB, below which no consonant lies in clean speech
VOWELS: Final = 0.1  # of the loudest frame: -20 dB, above which the vowels of a speaker lie; chosen
SYLLABLE_S: Final = 0.2  # chosen: so much of them is a word


@attrs.frozen(kw_only=True)
class Piece:
    """Tokens between two timestamps."""

    tokens: tuple[int, ...]
    start_s: float
    end_s: float


@attrs.frozen(kw_only=True)
class Split:
    """The pieces, and where decoding should go on: the model opened a segment there and wrote nothing into it."""

    pieces: tuple[Piece, ...]
    resume_s: float | None = None


def split_at_timestamps(tokens: Sequence[int], *, timestamp_begin: int, duration_s: float) -> Split:
    """Cut at each pair of timestamps, `<end><start>`.

    Differs from faster-whisper in one point: text after the last pair without an end of its own is kept to the
    end of the audio, not thrown away to be decoded again, because a window here ends where speech pauses.
    """
    pieces: list[Piece] = []
    start_s = 0.0
    text: list[int] = []
    for token in tokens:
        if token < timestamp_begin:
            text.append(token)
            continue
        time_s = min(round((token - timestamp_begin) * TIMESTAMP_S, 2), duration_s)
        if text:
            pieces.append(Piece(tokens=tuple(text), start_s=start_s, end_s=max(start_s, time_s)))
            text = []
        start_s = time_s
    if text:
        pieces.append(Piece(tokens=tuple(text), start_s=start_s, end_s=duration_s))
        return Split(pieces=tuple(pieces))
    ends_open = len(tokens) >= 2 and tokens[-1] >= timestamp_begin and tokens[-2] >= timestamp_begin
    return Split(pieces=tuple(pieces), resume_s=start_s if ends_open else None)


@attrs.frozen(kw_only=True)
class Aligned:
    """A text beside its audio: words with their times and token counts, and the probability of every token."""

    words: tuple[tuple[Word, int], ...] = ()
    probabilities: tuple[float, ...] = ()


def align(
    encoded: Encoded, texts: Sequence[Sequence[int]], *, codec: TextCodec, tokenizer: Any, frames: Sequence[int]
) -> list[Aligned]:
    """Words with their times, and the probabilities of the tokens, one value an item.

    Dynamic time warping over the cross-attention of the model's alignment heads (OpenAI's `timing.py`); one
    call for the whole batch, which must have one language. Text tokens only, no timestamps.
    """
    results = encoded.whisper.align(
        encoded.output, tokenizer.sot_sequence, [list(text) for text in texts], [max(1, count) for count in frames]
    )
    return [
        Aligned(
            words=tuple(_words(result, tokenizer.split_to_word_tokens([*text, codec.eot]))),
            probabilities=tuple(result.text_token_probs),
        )
        if text
        else Aligned()
        for result, text in zip(results, texts, strict=True)
    ]


def certainties(
    tokens: Sequence[int], probabilities: Sequence[float], *, codec: TextCodec, tokenizer: Any
) -> tuple[Certainty, ...]:
    """The words of a text with the least probability of their tokens; `tokens` are of text alone."""
    found: list[Certainty] = []
    first = 0
    for word, ids in zip(*tokenizer.split_to_word_tokens(list(tokens)), strict=True):
        pairs = list(zip(ids, probabilities[first : first + len(ids)], strict=True))
        spoken = [probability for token, probability in pairs if not codec.is_punctuation(token)]
        found.append(Certainty(word=word, least=min(spoken or [probability for _, probability in pairs])))
        first += len(ids)
    return tuple(found)


def ending(tokens: Sequence[int], probabilities: Sequence[float], *, codec: TextCodec) -> float | None:
    """The probability of the mark that a text ends with, if it does."""
    return probabilities[-1] if tokens and codec.is_punctuation(tokens[-1]) else None


def speaks_on(samples: Samples, *, after_s: float) -> bool:
    """Whether anything as loud as the vowels of the speaker is heard behind a place; in noise as loud, it always is."""
    loudness = _loudness(samples)
    rest = loudness[round(1000 * after_s / FRAME_MS) :]
    if not len(rest):
        return False
    return int(np.count_nonzero(rest > VOWELS * loudness.max())) * FRAME_MS >= 1000 * SYLLABLE_S


def start_at_sound(words: Sequence[tuple[Word, int]], samples: Samples) -> Sequence[tuple[Word, int]]:
    """Move the start of the first word past the silence before it.

    The alignment begins at 0 whatever is heard there, and an utterance comes with its pre-roll. In noise above
    `SILENCE` nothing is silent and nothing moves.
    """
    loudness = _loudness(samples)
    if not words or not len(loudness):
        return words
    onset_s = float(np.argmax(loudness > SILENCE * loudness.max())) * FRAME_MS / 1000
    (word, count), *rest = words
    start_s = max(word.start_s, min(onset_s, word.end_s))
    return [(attrs.evolve(word, start_s=start_s), count), *rest]


def _loudness(samples: Samples) -> Samples:
    """Of each frame."""
    whole = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
    loudness: Samples = np.sqrt(np.mean(whole**2, axis=1))
    return loudness


def _words(result: Any, split: tuple[list[str], list[list[int]]]) -> list[tuple[Word, int]]:
    """Put token times together to words; a word lasts until the next begins.

    Tokens without text count with the word after them, or the last.
    """
    texts, tokens = split
    times: dict[int, float] = {}
    for token, position in result.alignments:
        times.setdefault(token, round(position * TIMESTAMP_S, 2))
    words: list[tuple[Word, int]] = []
    first = without_text = 0
    for text, ids in zip(texts[:-1], tokens[:-1], strict=True):  # the last is the end token
        after = first + len(ids)
        if not text:
            without_text += len(ids)
            first = after
            continue
        start_s = times.get(first, words[-1][0].end_s if words else 0.0)  # less than a frame of audio has no times
        word = Word(
            word=text,
            start_s=start_s,
            end_s=times.get(after, start_s),
            probability=statistics.fmean(result.text_token_probs[first:after]),
        )
        words.append((word, without_text + len(ids)))
        first, without_text = after, 0
    if words:
        words[-1] = (words[-1][0], words[-1][1] + without_text)
    return _merge_punctuation(_shorten(words))


def _shorten(words: list[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Cut words that swallowed a pause to twice the median length: the first word, and words round a sentence end.

    The pause belongs before a first word of a sentence and after a mark that ends one (OpenAI's `timing.py`,
    where it reads "hack": the attention of a word often spreads over the silence beside it).
    """
    lengths = [word.end_s - word.start_s for word, _ in words if word.end_s > word.start_s]
    longest = 2 * min(MAX_MEDIAN_S, statistics.median(lengths)) if lengths else 0.0
    result: list[tuple[Word, int]] = []
    begins = True
    for word, count in words:
        ends = word.word.strip() in SENTENCE_ENDS
        if word.end_s - word.start_s > longest and (ends or begins):
            start_s, end_s = (word.start_s, word.start_s + longest) if ends else (word.end_s - longest, word.end_s)
            word = attrs.evolve(word, start_s=start_s, end_s=end_s)
        result.append((word, count))
        begins = ends
    return result


def _merge_punctuation(words: list[tuple[Word, int]]) -> list[tuple[Word, int]]:
    """Join opening marks to the word after them and closing marks to the word before."""
    merged: list[tuple[Word, int]] = []
    for word, count in words:
        if merged and _joins(merged[-1][0].word, word.word):
            before, tokens = merged.pop()
            # Times are those of the spoken part.
            spoken = word if before.word.strip() in OPENING else before
            merged.append((attrs.evolve(spoken, word=before.word + word.word), tokens + count))
        else:
            merged.append((word, count))
    return merged


def _joins(before: str, word: str) -> bool:
    return (before.startswith(" ") and before.strip() in OPENING) or (not before.endswith(" ") and word in CLOSING)
