"""What of a text that was heard of an item and its lead is the item's own.

The lead was decoded before, and what was heard of it then is out. Heard again, with what follows, it may be worded
otherwise, and then the two together are the better text; but only the rest can still be said. So the text that is out
is laid beside the new one, letter by letter, and the rest begins behind the word where both agree best: a match counts
one, a letter that differs, is missing or is too many counts against it (Needleman and Wunsch 1970). Letters, not words:
the end of the text that is out is half a word, or another that sounds like it, and decides where the rest begins.

There is no rest to be had where the two hardly agree (`_LEAST`), or where what is left is too little for the speech
(`_WORD_S`, `_PACE`): a decoder may end after the first of two sentences. Then the item is decoded alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from sttd.core import text as text_rules
from sttd.core.forms import spelt
from sttd.core.text import Token
from sttd.core.types import DecodeItem, Hypothesis, Lead, Segment, Word, seconds

_Piece = TypeVar("_Piece")

_LEAST = 0.25  # chosen: matches less mismatches, of the letters that are laid beside each other
_WORD_S = 1.5  # chosen: slow speakers say a word in half of it
_PACE = 0.4  # chosen: of the words a second that were heard of the lead
_EDGES_S = 0.5  # quiet before and behind the speech of an item


@attrs.frozen
class Divided:
    """The tokens of a text: those of the lead, and those of the item."""

    lead: Sequence[Token]
    own: Sequence[Token]

    @property
    def lead_text(self) -> str:
        """What was heard of the lead."""
        return text_rules.joined(self.lead)

    @property
    def own_text(self) -> str:
        """What was heard of the item."""
        return text_rules.joined(self.own)


def divide(lead: Lead, text: str) -> Divided | None:
    """Where the text of the lead ends in the text of both; None where they hardly agree."""
    said = "".join(spelt(token.key) for token in text_rules.tokenise(text_rules.tidy(lead.text)))
    tokens = text_rules.tokenise(text_rules.tidy(text))
    letters = [spelt(token.key) for token in tokens]
    ends = np.cumsum([len(each) for each in letters], dtype=np.int64)
    if not said or not tokens:
        return None
    scores = _scores(said, "".join(letters))[ends]
    best = int(scores.argmax())  # of equals the first: a syllable twice is better than a word lost
    if scores[best] < _LEAST * len(said):
        return None
    return Divided(tokens[: best + 1], tokens[best + 1 :])


def own(item: DecodeItem, heard: Hypothesis) -> Hypothesis | None:
    """What was heard of the item alone, its times counted from its own beginning; None: it must be decoded alone."""
    assert item.lead is not None
    divided = divide(item.lead, heard.text)
    lead_s, end_s = seconds(item.lead.samples), seconds(len(item.samples))
    if divided is None or not divided.own:
        return None
    words_a_second = max(1 / _WORD_S, _PACE * len(divided.lead) / lead_s)
    if len(divided.own) < words_a_second * (end_s - lead_s - _EDGES_S):
        return None
    tokens, first = [*divided.lead, *divided.own], len(divided.lead)
    words = _behind(heard.words, text_rules.word_places(tokens, heard.words), first=first)
    certainties = heard.certainties
    if certainties is not None:
        certainties = _behind(certainties, text_rules.word_places(tokens, certainties), first=first) or None
    words = tuple(_shifted(word, by_s=lead_s) for word in words)
    last_s = words[-1].end_s if words else max((segment.end_s for segment in heard.segments), default=end_s) - lead_s
    segment = Segment(
        text=divided.own_text,
        start_s=words[0].start_s if words else 0.0,
        end_s=max(0.0, last_s),
        avg_logprob=heard.avg_logprob,
        no_speech_prob=heard.no_speech_prob,
        words=words,
    )
    return attrs.evolve(heard, text=divided.own_text, segments=(segment,), certainties=certainties)


def _behind(pieces: Sequence[_Piece], places: Sequence[int], *, first: int) -> tuple[_Piece, ...]:
    """The pieces of the tokens from one on; nothing where it is not known which are whose."""
    return tuple(pieces[places[first - 1] + 1 :]) if places else ()


def _shifted(word: Word, *, by_s: float) -> Word:
    return attrs.evolve(word, start_s=max(0.0, word.start_s - by_s), end_s=max(0.0, word.end_s - by_s))


def _scores(said: str, heard: str) -> npt.NDArray[np.int64]:
    """How well `said` agrees with each beginning of `heard`, by its length."""
    letters = np.array([ord(char) for char in heard], np.int64)
    steps = np.arange(len(letters) + 1)
    scores = -steps
    for row, char in enumerate(said, start=1):
        below = np.maximum(scores[:-1] + np.where(letters == ord(char), 1, -1), scores[1:] - 1)
        # A letter too many counts one against it, for as many as there are: the best of all places before.
        scores = np.maximum.accumulate(np.concatenate([[-row], below]) + steps) - steps
    return scores
