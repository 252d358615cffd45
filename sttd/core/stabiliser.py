"""Which part of the live text will not change any more. One stabiliser an utterance.

Each interim brings a new hypothesis of the whole utterance so far. The rules:

 1. **LocalAgreement-2** (Liu et al. 2020, as in whisper_streaming): words become stable when two hypotheses running
    agree on them. They are compared without case and punctuation; what was shown when they became stable stays.
 2. **Hold-back.** The last word never becomes stable, nor do words that end within `hold_back_s` of the end of the
    audio, where the decoder gives word times: it hears words there of which it has only the beginning.
 3. **Punctuation** after a word becomes stable with the next word: the ends of hypotheses are full of periods.
 4. **Never back.** The shown text always begins with the stable text. Where a hypothesis contradicts it, its beginning
    up to where the last stable words come counts as them, and the rest is shown after the stable text. If they do not
    come, the beginning that is nearest to the stable words (edit distance) counts.
 5. **Loops** of the decoder are cut before anything else, so that none becomes stable. What may have been said in that
    much audio is no loop (guard 2 of `core/text.py`).

Scripts without spaces go by characters. Positions are code points, and none falls between a letter and its marks.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from sttd.core.text import Evidence, Token, joined, tidy, tokenise, without_loops, word_places
from sttd.core.types import Word
from sttd.options import TUNING


@attrs.frozen
class StableText:
    """The text to show; its first `stable_chars` code points never change in later interims."""

    text: str
    stable_chars: int


@attrs.define(eq=False, kw_only=True)
class Stabiliser:
    """Turns the hypotheses of one utterance into text with a stable beginning."""

    lock_stable: bool = False  # the final must keep the stable text
    hold_back_s: float = TUNING.hold_back_ms / 1000
    _stable: str = attrs.field(default="", init=False)
    _stable_keys: list[str] = attrs.field(factory=list, init=False)
    _previous: list[str] = attrs.field(factory=list, init=False)  # keys that followed the stable ones last time

    @property
    def stable_text(self) -> str:
        """What will not change."""
        return self._stable

    def push(
        self,
        text: str,
        *,
        words: Sequence[Word] = (),
        audio_s: float,
        compression_ratio: float = 1.0,
        temperature: float = 0.0,
    ) -> StableText:
        """Take the next hypothesis, of `audio_s` seconds of audio; `words` may give its word times.

        `compression_ratio` and `temperature` are the decoder's, for rule 5.
        """
        heard = tokenise(tidy(text))
        evidence = Evidence(speech_s=audio_s, compression_ratio=compression_ratio, temperature=temperature, words=words)
        tokens = without_loops(heard, evidence)
        settled = self._settled(heard, words, audio_s)
        past = self._stable_length(tokens)
        rest = tokens[past:]
        agreed = self._agreed(rest, settled)
        shown = self._shown(tokens[:past], rest)
        if agreed:
            self._stable = self._shown(tokens[:past], [*rest[: agreed - 1], rest[agreed - 1]._replace(tail="")])
            self._stable_keys += [token.key for token in rest[:agreed]]
        self._previous = [token.key for token in rest[agreed:]]
        return StableText(shown, len(self._stable))

    def finalise(self, text: str) -> str:
        """The final text: free, unless `lock_stable`; then it begins with the stable text."""
        if not self.lock_stable:
            return tidy(text)
        tokens = tokenise(tidy(text))
        past = self._stable_length(tokens)
        return self._shown(tokens[:past], tokens[past:])

    def _settled(self, tokens: Sequence[Token], words: Sequence[Word], audio_s: float) -> int:
        """Characters, spaces not counted, up to where hypotheses may become stable (rule 2)."""
        places = word_places(tokens, words)
        if not places:
            return tokens[-1].until if tokens else 0
        before_s = audio_s - self.hold_back_s
        return max(
            (token.until for token, place in zip(tokens, places, strict=True) if words[place].end_s <= before_s),
            default=0,
        )

    def _agreed(self, rest: Sequence[Token], settled: int) -> int:
        """How many words after the stable ones become stable now (rules 1 and 2)."""
        agreed = 0
        for token, key in zip(rest[:-1], self._previous, strict=False):
            if token.key != key or token.until > settled:
                break
            agreed += 1
        return agreed

    def _stable_length(self, tokens: Sequence[Token]) -> int:
        """How many tokens of a hypothesis stand for the stable text (rule 4)."""
        keys = [token.key for token in tokens]
        if keys[: len(self._stable_keys)] == self._stable_keys:
            return len(self._stable_keys)
        return resumption(self._stable_keys, keys)

    def _shown(self, past: Sequence[Token], rest: Sequence[Token]) -> str:
        """The stable text, the punctuation that the hypothesis puts behind it, and the rest."""
        if not self._stable:
            return joined(rest)
        tail = past[-1].tail if past else ""
        return self._stable + tail + "".join(token.piece for token in rest)


def resumption(stable: Sequence[str], keys: Sequence[str]) -> int:
    """How much of a hypothesis stands for the stable words, when it does not begin with them (rule 4)."""
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
