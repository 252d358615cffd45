"""The text of several utterances as one that only grows: for wires on which what was sent cannot be taken back.

Rules:

1. Each input answers with what there is to append; all answers together are `text`, to the character.
2. Of live text only the stable beginning counts (`lock_stable`: the final begins with it). The final brings the rest.
3. Utterances follow one another in the order of their numbers, from 1. Stable text of a later one waits until those
   before it have their finals.
4. Between two utterances with text stands what the language puts between sentences (`wire/names.py`).
5. What was appended stays, whatever a final says: one that does not begin with it adds nothing.
"""

from __future__ import annotations

import attrs

from sttd.wire.names import separator


@attrs.define(eq=False)
class GrowingText:
    """The rules above for one text. `language`: what is known of it; that of the finals counts more."""

    language: str | None = None
    text: str = attrs.field(default="", init=False)
    _current: int = attrs.field(default=1, init=False)  # the utterance whose final comes next
    _begins_at: int = attrs.field(default=0, init=False)  # of its own text, in `text`
    _waiting: dict[int, str] = attrs.field(factory=dict, init=False)  # stable texts of later ones

    def stable(self, utterance: int, text: str) -> str:
        """So much of an utterance will not change any more. Returns what is to be appended."""
        if utterance > self._current:
            self._waiting[utterance] = text
            return ""
        return self._grow(text) if utterance == self._current else ""

    def final(self, utterance: int, text: str, *, language: str | None = None) -> str:
        """The final of an utterance; they come in order. Returns what is to be appended."""
        self.language = language or self.language
        end = self._grow(text)
        self._current, self._begins_at = utterance + 1, len(self.text)
        return end + self._grow(self._waiting.pop(self._current, ""))

    def _grow(self, text: str) -> str:
        told = self.text[self._begins_at :]
        if not text or not text.startswith(told):
            return ""
        if not told and self.text:
            between = separator(self.language)
            self.text += between
            self._begins_at = len(self.text)
        else:
            between = ""
        end = text[len(told) :]
        self.text += end
        return between + end
