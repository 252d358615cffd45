"""What of a text that was heard of an item and its lead is the item's own.

The lead was decoded before, and what was heard of it then is out. Heard again, with what follows, it may be worded
otherwise, and then the two together are the better text; but only the rest can still be said. So the text that is out
is laid beside the new one, letter by letter, and the rest begins behind the word where both agree best: a match counts
one, a letter that differs, is missing or is too many counts against it (Needleman and Wunsch 1970). Letters, not words:
the end of the text that is out is half a word, or another that sounds like it, and decides where the rest begins.

Where words of the item are stable already, the rest begins with those if it can: at the best place before them that is
worse by no more than they are long, for words that follow like ones that went before are taken for these.

There is no rest to be had where the two hardly agree (`_LEAST`), or where what is left is too little for the speech
(`_WORD_S`, `_PACE`): a decoder may end after the first of two sentences. Then the item is decoded alone; an
interim says nothing, for the next one is soon, and finals wait behind a second decode of it (rule 7 of `core/turn.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import attrs
import numpy as np
import numpy.typing as npt

from sttd.core import text as text_rules
from sttd.core.forms import same_words, spelt
from sttd.core.text import Token
from sttd.core.types import Certainty, DecodeItem, Effort, Hypothesis, Lead, Segment, Word, seconds

_Piece = TypeVar("_Piece", Word, Certainty)

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


def divide(lead: Lead, text: str, *, keep: str = "", language: str = "en") -> Divided | None:
    """Where the text of the lead ends in the text of both; None where they hardly agree.

    Args:
        lead: with the text that is out.
        text: what was heard of both.
        keep: the words that the item is known to begin with.
        language: of the texts.
    """
    said = "".join(_letters(text_rules.tokenise(text_rules.tidy(lead.text))))
    tokens = text_rules.tokenise(text_rules.tidy(text))
    ends = np.cumsum([len(each) for each in _letters(tokens)], dtype=np.int64)
    if not said or not tokens:
        return None
    scores = _scores(said, "".join(_letters(tokens)))[ends]
    best = int(scores.argmax())  # of equals the first: a syllable twice is better than a word lost
    if scores[best] < _LEAST * len(said):
        return None
    known = text_rules.tokenise(text_rules.tidy(keep))
    if known:
        near = np.flatnonzero(scores >= scores[best] - len("".join(_letters(known))))
        places = [int(place) for place in near if same_words(known, tokens[place + 1 :], language=language) is not None]
        best = max(places, key=lambda place: int(scores[place]), default=best)
    return Divided(tokens[: best + 1], tokens[best + 1 :])


def own(item: DecodeItem, heard: Hypothesis) -> Hypothesis | None:
    """What was heard of the item alone, its times counted from its own beginning; None: it must be decoded alone.

    Of an interim of which that would be so: nothing.
    """
    assert item.lead is not None
    divided = divide(item.lead, heard.text, keep=item.options.keep, language=heard.language)
    lead_s, end_s = seconds(item.lead.samples), seconds(len(item.samples))
    if divided is None or not divided.own or _breaks_off(divided, lead_s=lead_s, own_s=end_s - lead_s):
        interim = item.options.effort is Effort.QUICK
        return attrs.evolve(heard, text="", segments=(), certainties=None, ending=None) if interim else None
    tokens, first = [*divided.lead, *divided.own], len(divided.lead)
    words = _behind(heard.words, tokens, first=first)
    certainties = None if heard.certainties is None else _behind(heard.certainties, tokens, first=first) or None
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


def _breaks_off(divided: Divided, *, lead_s: float, own_s: float) -> bool:
    """Whether the item's own words are too few for its speech."""
    words_a_second = max(1 / _WORD_S, _PACE * len(divided.lead) / lead_s)
    return len(divided.own) < words_a_second * (own_s - _EDGES_S)


def _letters(tokens: Sequence[Token]) -> list[str]:
    return [spelt(token.key) for token in tokens]


def _behind(pieces: Sequence[_Piece], tokens: Sequence[Token], *, first: int) -> tuple[_Piece, ...]:
    """The pieces of the tokens from one on; nothing where it is not known which are whose.

    A piece may be of tokens on both sides, a dash between them or two characters of Chinese: what is behind is left.
    """
    places = text_rules.word_places(tokens, pieces)
    if not places:
        return ()
    behind = list(pieces[min(places[first - 1] + 1, places[first]) :])
    letters = [text_rules.tidy(piece.word).replace(" ", "") for piece in behind]
    before = sum(map(len, letters)) - (tokens[-1].until - tokens[first - 1].until)
    if before:
        space = " " if behind[0].word.startswith(" ") else ""
        behind[0] = attrs.evolve(behind[0], word=space + letters[0][before:])
    return tuple(behind)


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
