"""Which part of the live text will not change any more, and what is shown behind it. One stabiliser an utterance.

Each interim brings a new hypothesis of the whole utterance so far. A word is as sure as its least probable token, in
the two newest hypotheses that have it and say so. The rules:

 1. **Stable** becomes a word that one of the tiers of `LiveText.commit` lets through: so sure, in so many hypotheses
    running, over so many seconds of audio. It is compared without case and punctuation; what was shown when it became
    stable stays. Never the last word of a hypothesis, and none behind the first that no tier lets through. Where no
    hypothesis says how sure it is, `AGREED` decides.
 2. **Hold-back.** Words of a hypothesis that has times and no probabilities are not stable where they end within
    `hold_back_s` of the end of the audio: the decoder hears words there of which it has only the beginning.
 3. **Shown**, behind what is stable, is a word that is as sure as `show_from` in the newest hypothesis; or that all
    hypotheses of the last `show_after_s` have, two at least; or that is shown already and heard again. None behind the
    first that is not. In the first `_EARLY_S` of audio both ask for less, in proportion: an utterance begins to be
    shown soon, while there is little that could be taken back.
 4. **A shown word gives way** to another only if that is as sure as `change_from`, or the hypothesis before had it too.
    Else what was shown stays, however the newest hypothesis goes on.
 5. **Case and punctuation** of a shown word stay, unless the hypothesis before wrote it as the newest does, or it
    becomes stable now. Behind the last word no punctuation is shown: the ends of hypotheses are full of periods that
    are gone with the next word.
 6. What does not say how sure it is (an engine without probabilities, a speculative final) is shown as it is, and gives
    way as it is.
 7. **Punctuation** after a word becomes stable with the next word.
 8. **Never back.** The shown text always begins with the stable text. Where a hypothesis contradicts it, its beginning
    up to where the last stable words come counts as them, and the rest is shown after the stable text. If they do not
    come, the beginning that is nearest to the stable words (edit distance) counts. Nothing more becomes stable of such
    a hypothesis: what is stable may be wrong, and the less stands behind it, the less a final loses that keeps it.
 9. **Loops** of the decoder are cut before anything else, so that none becomes stable. What may have been said in that
    much audio is no loop (guard 2 of `core/text.py`).
10. **The final keeps the stable text** where its words begin with the stable ones but for their form (`core/forms.py`),
    and in any case with `lock_stable`. Else it is free; that it hardly ever is, whoever decodes sees to (rule 6 of
    `core/turn.py`).

Scripts without spaces go by characters. Positions are code points, and none falls between a letter and its marks.

Agreement of hypotheses is from Liu et al. 2020 (LocalAgreement); a stability from several signs, with a threshold, from
McGraw and Gruenstein 2012; that what is shown may resist, from Bruguier et al. 2023. Measured: with small models words
that two hypotheses agree on are wrong in one of ten cases where the least probability is below 0.5, however many more
agree; from 0.8 on in one of two hundred.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sttd.core.forms import same_words
from sttd.core.text import Evidence, Token, joined, tidy, tokenise, without_loops, word_places
from sttd.core.types import Certainty, Word
from sttd.live_text import LiveText, Tier, tiers
from sttd.options import TUNING

AGREED = Tier(probability=0.0, hypotheses=3, over_s=0.0)  # measured: two are contradicted half as often again, or twice
_EARLY_S = 1.5  # measured (`benchmarks live_text`): first text 1.5 -> 0.7 s after the onset, erasure 0.02 more
_SAME_S = 0.01  # less is no difference between two lengths of audio


@attrs.frozen
class StableText:
    """The text to show; its first `stable_chars` code points never change in later interims.

    `words` are those of the text, joined they are the text; `stable` of them are stable.
    """

    text: str
    stable_chars: int
    words: tuple[Certainty, ...] = ()
    stable: int = 0


@attrs.frozen
class _Heard:
    """A word of a hypothesis: what it is compared by, and how sure it is; None where that is not known."""

    token: Token
    least: float | None

    @property
    def key(self) -> str:
        return self.token.key


@attrs.frozen
class _Before:
    """A hypothesis from before: how much audio it was of, and what followed the stable words."""

    audio_s: float
    words: tuple[_Heard, ...]


@attrs.define(eq=False, kw_only=True)
class Stabiliser:
    """Turns the hypotheses of one utterance into text with a stable beginning."""

    rules: LiveText = TUNING.live_text
    lock_stable: bool = False  # the final must keep the stable text
    hold_back_s: float = TUNING.hold_back_ms / 1000
    _tiers: tuple[Tier, ...] = attrs.field(init=False)
    _stable: str = attrs.field(default="", init=False)
    _settled: list[_Heard] = attrs.field(factory=list, init=False)  # the stable words
    _pieces: list[Certainty] = attrs.field(factory=list, init=False)  # of the stable text
    _tail: list[_Heard] = attrs.field(factory=list, init=False)  # what is shown behind them
    _before: list[_Before] = attrs.field(factory=list, init=False)  # newest first
    _audio_s: float = attrs.field(default=0.0, init=False)

    @_tiers.default
    def _read_tiers(self) -> tuple[Tier, ...]:
        return tiers(self.rules.commit)

    @property
    def stable_text(self) -> str:
        """What will not change."""
        return self._stable

    def push(
        self,
        text: str,
        *,
        words: Sequence[Word] = (),
        certainties: Sequence[Certainty] | None = None,
        audio_s: float,
        compression_ratio: float = 1.0,
        temperature: float = 0.0,
        language: str = "en",
    ) -> StableText:
        """Take the next hypothesis.

        Args:
            text: of the hypothesis.
            words: its words with times, if it has any.
            certainties: how sure each piece of it is; None where that is not known.
            audio_s: seconds of audio that it is of. Less than before counts as no more.
            compression_ratio: the decoder's, for rule 9.
            temperature: the same.
            language: of the text, for what is the same in another form.
        """
        self._audio_s = max(self._audio_s, audio_s)
        whole = tokenise(tidy(text))
        evidence = Evidence(speech_s=audio_s, compression_ratio=compression_ratio, temperature=temperature, words=words)
        least = _least(whole, certainties)
        tokens = [_Heard(token, least[token.until]) for token in without_loops(whole, evidence)]
        kept = self._kept_length(tokens, language=language)
        past = self._resumption(tokens) if kept is None else kept
        rest = tokens[past:]
        until = _held_back(whole, words, before_s=audio_s - self.hold_back_s) if certainties is None else None
        agreed = 0
        while kept is not None and agreed < len(rest) - 1 and self._commits(rest, agreed, until=until):
            agreed += 1
        tail = rest[: self._length_to_show(rest, agreed=agreed)]
        if certainties is not None and not self._gives_way(tail, agreed=agreed):
            tail = [*rest[:agreed], *self._tail[agreed:]]
        tail = [*tail[:agreed], *self._as_written(tail)[agreed:]]
        if tail:
            tail[-1] = _bare(tail[-1])
        shown, pieces = self._shown(tokens[:past], tail)
        if agreed:
            self._stable, self._pieces = self._shown(tokens[:past], [*tail[: agreed - 1], _bare(tail[agreed - 1])])
            self._settled += tail[:agreed]
            tail = tail[agreed:]
            self._before = [_Before(before.audio_s, before.words[agreed:]) for before in self._before]
        self._before.insert(0, _Before(self._audio_s, tuple(rest[agreed:])))
        self._tail = tail
        return StableText(shown, len(self._stable), tuple(pieces), len(self._settled))

    def finalise(self, text: str, *, language: str = "en") -> str:
        """The final text (rule 10)."""
        tokens = [_Heard(token, None) for token in tokenise(tidy(text))]
        past = self._kept_length(tokens, language=language)
        if past is None and not self.lock_stable:
            return tidy(text)
        past = self._resumption(tokens) if past is None else past
        return self._shown(tokens[:past], tokens[past:])[0]

    def keeps(self, text: str, *, language: str = "en") -> bool:
        """Whether a final of that text would begin with the stable words."""
        return self._kept_length([_Heard(token, None) for token in tokenise(tidy(text))], language=language) is not None

    # ---------------------------------------------------------------- rules

    def _commits(self, rest: Sequence[_Heard], index: int, *, until: int | None) -> bool:
        """Whether a tier lets a word through (rules 1 and 2)."""
        word = rest[index]
        if until is not None and word.token.until > until:
            return False
        first_s, running, known = self._audio_s, 1, [word.least]
        for before in self._before:
            if index >= len(before.words) or before.words[index].key != word.key:
                break
            first_s, running = before.audio_s, running + 1
            known.append(before.words[index].least)
        sure = [least for least in known if least is not None][:2]
        return any(
            min(sure, default=1.0) >= tier.probability
            and running >= tier.hypotheses
            and self._audio_s - first_s >= tier.over_s - _SAME_S
            for tier in (self._tiers if sure else (AGREED,))
        )

    def _length_to_show(self, rest: Sequence[_Heard], *, agreed: int) -> int:
        """How many words may be shown, of which so many become stable (rules 3 and 6)."""
        length = max(agreed, self._heard_for_long(rest), _common(rest, self._tail))
        while length < len(rest) and _as_sure(rest[length], self._less_early(self.rules.show_from)):
            length += 1
        return length

    def _less_early(self, wanted: float) -> float:
        """What is wanted of a word that is not shown yet (rule 3)."""
        return wanted * min(1.0, self._audio_s / _EARLY_S)

    def _heard_for_long(self, rest: Sequence[_Heard]) -> int:
        """How many words all hypotheses of the last `show_after_s` have."""
        since_s = self._audio_s - self._less_early(self.rules.show_after_s) + _SAME_S
        same = len(rest)
        for before in self._before:
            same = min(same, _common(rest, before.words))
            if before.audio_s <= since_s:
                return same
        return 0

    def _gives_way(self, tail: Sequence[_Heard], *, agreed: int) -> bool:
        """Whether what is shown may be replaced by a tail of which so many words become stable (rules 4 and 6)."""
        place = _common(self._tail, tail)
        if place == len(self._tail) or place < agreed or not self.rules.change_from:
            return True
        if place >= len(tail):
            return False
        had = self._before[0].words[place : place + 1]
        return _as_sure(tail[place], self.rules.change_from) or (bool(had) and had[0].key == tail[place].key)

    def _as_written(self, tail: Sequence[_Heard]) -> list[_Heard]:
        """What is to be shown, written as it was (rule 5)."""
        written = list(tail)
        before = self._before[0].words if self._before else ()
        for index in range(_common(self._tail, tail)):
            was, word = self._tail[index].token, tail[index]
            followed = index == len(self._tail) - 1 and index < len(tail) - 1
            twice = before[index : index + 1] and before[index].token.piece == word.token.piece
            if not followed and not twice:
                written[index] = attrs.evolve(word, token=was._replace(until=word.token.until))
        return written

    def _resumption(self, tokens: Sequence[_Heard]) -> int:
        """How many tokens of a text that contradicts the stable text stand for it (rule 8)."""
        return resumption([word.key for word in self._settled], [token.key for token in tokens])

    def _kept_length(self, tokens: Sequence[_Heard], *, language: str) -> int | None:
        """How many tokens of a text are the stable words (rule 10); None where it does not begin with them."""
        return same_words([word.token for word in self._settled], [word.token for word in tokens], language=language)

    def _shown(self, past: Sequence[_Heard], rest: Sequence[_Heard]) -> tuple[str, list[Certainty]]:
        """The stable text, the punctuation that the hypothesis puts behind it, and the rest; and the words of it."""
        if not self._stable:
            text = joined(word.token for word in rest)
            pieces = [_piece(word) for word in rest]
            first = [attrs.evolve(piece, word=piece.word.lstrip()) for piece in pieces[:1]]
            return text, [*first, *pieces[1:]]
        tail = past[-1].token.tail if past else ""
        last = attrs.evolve(self._pieces[-1], word=self._pieces[-1].word + tail)
        pieces = [*self._pieces[:-1], last, *map(_piece, rest)]
        return "".join(piece.word for piece in pieces), pieces


def _piece(word: _Heard) -> Certainty:
    return Certainty(word=word.token.piece, least=1.0 if word.least is None else word.least)


def _bare(word: _Heard) -> _Heard:
    """Without the punctuation behind it (rule 7)."""
    return attrs.evolve(word, token=word.token._replace(tail=""))


def _as_sure(word: _Heard, probability: float) -> bool:
    return word.least is None or word.least >= probability


def _common(some: Sequence[_Heard], others: Sequence[_Heard]) -> int:
    """How many words both begin with."""
    pairs = enumerate(zip(some, others, strict=False))
    return next((index for index, (one, other) in pairs if one.key != other.key), min(len(some), len(others)))


def _least(tokens: Sequence[Token], certainties: Sequence[Certainty] | None) -> dict[int, float | None]:
    """How sure each token is, by where it ends. A piece may be of several tokens, and a token of several pieces."""
    places = word_places(tokens, certainties or ())
    if not certainties or not places:
        return {token.until: None for token in tokens}
    found: dict[int, float | None] = {}
    first = 0
    for token, place in zip(tokens, places, strict=True):
        pieces = certainties[min(first, place) : place + 1]
        spoken = [piece for piece in pieces if any(char.isalnum() for char in piece.word)]
        found[token.until] = min(piece.least for piece in spoken or pieces)
        first = place + 1
    return found


def _held_back(tokens: Sequence[Token], words: Sequence[Word], *, before_s: float) -> int | None:
    """Characters, spaces not counted, up to where words may become stable (rule 2); None without times."""
    places = word_places(tokens, words)
    if not places:
        return None
    return max(
        (token.until for token, place in zip(tokens, places, strict=True) if words[place].end_s <= before_s),
        default=0,
    )


def resumption(stable: Sequence[str], keys: Sequence[str]) -> int:
    """How much of a hypothesis stands for the stable words, when it does not begin with them (rule 8)."""
    last = list(stable[-_ANCHOR:])
    places = [end for end in range(_ANCHOR, len(keys) + 1) if keys[end - _ANCHOR : end] == last]
    if places:
        return min(places, key=lambda end: abs(end - len(stable)))
    return nearest_prefix(stable, keys)


_ANCHOR = 3  # words


def nearest_prefix(wanted: Sequence[str], keys: Sequence[str]) -> int:
    """The length of the prefix of `keys` with the least edit distance to `wanted`; of equals the nearest in length."""
    distances = list(range(len(keys) + 1))  # from the empty start of `wanted` to each prefix
    for row, key in enumerate(wanted, start=1):
        diagonal, distances[0] = distances[0], row
        for column, other in enumerate(keys, start=1):
            replaced = diagonal + (key != other)
            diagonal = distances[column]
            distances[column] = min(replaced, diagonal + 1, distances[column - 1] + 1)
    return min(range(len(keys) + 1), key=lambda length: (distances[length], abs(length - len(wanted))))
