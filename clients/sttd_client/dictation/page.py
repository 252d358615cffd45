"""The text of a dictation as it is written: words of utterances in, text out, with spaces, capitals and commands.

Rules:

1. Words are read from the left. What a word becomes depends on what stands before it and on the words of one phrase
   after it, never on more. So the text of a longer beginning begins with the text of a shorter one, as long as no
   phrase takes something back; `hypothesis` tries it.
2. **A phrase of the table** is the longest that fits; case and punctuation do not matter, but no punctuation may stand
   between its words ("something new. Line up" is none). After a word of `words_after` it is meant as words. What might
   become a phrase waits for the next word, `MAX_WORDS` at most; at the end of the utterance it is decided.
3. **The last word may still grow** until a space follows or the utterance ends. It is written as far as it is known,
   unless it may become (part of) a phrase or its case depends on the rest of it.
4. **Punctuation after a word waits** for the next word, which may be a spoken mark: Whisper hears "hello comma" and
   writes "Hello, comma,". A spoken mark replaces it; before a new line only the end of a sentence stays.
5. **Spaces**: one between words, none at the very beginning, after a new line, and where a mark joins. Languages
   without spaces have none between utterances either.
6. **Capitals**: after a spoken end of a sentence and after a new line a word of small letters gets one. The first word
   of an utterance that goes on a sentence loses it where the table lists the word in `lower`.
7. **"Scratch that"** takes back what this utterance wrote so far or else the utterance before it, never across a new
   line: Enter may have sent it.
8. Control characters of a transcript become spaces: nobody dictates into a terminal what it would obey.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import attrs

from sttd_client.dictation.phrases import Entry, Table, key_of

_WAITING = ",.;:!?…"
_ENDS = ".!?…"
_WORD = re.compile(r"(\s*)(\S+)")
_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f]+")
_KEPT_CHARS = 2000  # of what stands before: as far as "scratch that" reaches; chosen


@attrs.frozen
class _Word:
    """One word of an utterance as it was heard."""

    space: str
    raw: str
    end: int  # in the utterance
    is_open: bool  # it may still grow
    core: str  # without the punctuation that waits
    tail: str
    key: str


@attrs.define(eq=False, kw_only=True)
class Page:
    """What was written, and what waits. Copy it with `copy` to write an utterance once more."""

    text: str = ""
    tail: str = ""  # punctuation that waits
    stopped: bool = False  # "stop dictation" was said
    scratches: int = 0  # how often something was taken back
    _starts: tuple[int, ...] = (0,)  # where the utterances begin that may be taken back, in `text`
    _glued: bool = False  # no space before the next word
    _capital: bool = False  # the next word begins a sentence
    _fresh: bool = True  # nothing of this utterance was written

    def copy(self) -> Page:
        """The page as it is now."""
        return attrs.evolve(self)

    def settle(self) -> None:
        """Write the punctuation that waits: no mark will replace it."""
        begins = len(self.text) == self._starts[-1]
        self.text += self.tail
        self.tail = ""
        if begins:  # it belongs to the utterance before
            self._starts = (*self._starts[:-1], len(self.text))

    def forget(self) -> int:
        """Drop text too old to be taken back; returns how many characters."""
        count = max(0, len(self.text) - _KEPT_CHARS)
        self.text = self.text[count:]
        self._starts = tuple(at - count for at in self._starts if at >= count) or (len(self.text),)
        return count

    def write(self, heard: str, *, table: Table, spaced: bool, done: bool, certain: int | None = None) -> None:
        """Write an utterance, or as much of its beginning as is known.

        Args:
            heard: its text, all of it.
            spaced: its language puts a space between sentences.
            done: this is the whole utterance.
            certain: so many characters of it will not change; new lines and commands are obeyed within these only.
        """
        if len(self.text) != self._starts[-1]:
            self._starts = (*self._starts, len(self.text))
        self._fresh = True
        words = _words(_CONTROLS.sub(" ", heard), done=done)
        certain = len(heard) if certain is None else certain
        at, before = 0, ""  # the word before, unless something separates it
        while at < len(words) and not self.stopped:
            meant = before in table.words_after
            look = None if meant else _look(words, at, table, done=done)
            if look is _WAIT:
                return
            entry, count = look or (None, 1)
            if entry is not None and (entry.command or "\n" in entry.text) and words[at + count - 1].end > certain:
                return
            if entry is not None and entry.command == "literal":
                at += 1
                look = None if at == len(words) else _look(words, at, table, done=done)
                if look is _WAIT or (at == len(words) and not done):
                    return
                entry, count = None, look[1] if look else 1
                at = min(at, len(words) - 1)  # said alone it is a word
            said = words[at : at + count]
            if entry is None and not self._plain(said, table, spaced=spaced):
                return
            if entry is not None:
                self._become(entry, said[-1], spaced=spaced)
            at, before = at + count, said[-1].key if entry is None and not said[-1].tail else ""

    # ---------------------------------------------------------------- one phrase, one word

    def _plain(self, words: Sequence[_Word], table: Table, *, spaced: bool) -> bool:
        """Write words as they were heard; False where the case of an open one is not known yet."""
        for word in words:
            if not word.core:  # punctuation on its own, as French has it
                self.tail += (word.space[:1] if self.text or self.tail else "") + word.raw
                continue
            ends = (self.text + self.tail).rstrip()[-1:]
            goes_on = self._fresh and ends != "" and ends not in _ENDS and not self._capital
            core = word.core
            may_lose_capital = goes_on and core[:1].isupper() and any(low.startswith(word.key) for low in table.lower)
            if word.is_open and (may_lose_capital or self._capital):
                return False
            if goes_on and word.key in table.lower and core[1:] == core[1:].lower():
                core = core[0].lower() + core[1:]
            if self._capital and core == core.lower():
                core = core[0].upper() + core[1:]
            self._put(core, spaced=spaced)
            self.tail = word.tail
        return True

    def _become(self, entry: Entry, last: _Word, *, spaced: bool) -> None:
        if entry.command == "scratch":
            self._scratch()
        elif entry.command == "stop":
            self.settle()
            self.stopped = True
        elif entry.is_word:
            self._put(entry.text, spaced=spaced)
            self.tail = last.tail
        else:
            self._mark(entry, spaced=spaced)

    def _put(self, text: str, *, spaced: bool) -> None:
        """Write a word behind what waits, with the space that belongs before it."""
        self.settle()
        needs_space = bool(self.text) and not self._glued and not self.text[-1].isspace()
        self.text += (" " if needs_space and (spaced or not self._fresh) else "") + text
        self._fresh = self._glued = self._capital = False

    def _mark(self, entry: Entry, *, spaced: bool) -> None:
        text, is_line = entry.text, "\n" in entry.text
        if is_line and text.strip():  # such as ".\n"
            self.tail = ""
        elif is_line:
            self.tail = self.tail if self.tail[-1:] in tuple(_ENDS) else ""
        elif entry.join in ("left", "both"):
            self.tail = ""
        if entry.join in ("left", "both"):
            self.settle()
            if text != self.text[-len(text) :] or is_line:  # Whisper may have written it already
                self.text += text
        else:
            self._put(text, spaced=spaced)
        self._glued = entry.join in ("right", "both")
        self._capital = is_line or text.strip()[-1:] in tuple(_ENDS)
        self._fresh = False
        if is_line:
            self._starts = (len(self.text),)

    def _scratch(self) -> None:
        self.tail = ""
        if len(self.text) <= self._starts[-1] and len(self._starts) > 1:
            self._starts = self._starts[:-1]
        self.text = self.text[: self._starts[-1]]
        self.scratches += 1
        self._fresh, self._glued, self._capital = True, False, self.text.endswith("\n")


# ---------------------------------------------------------------- reading

_WAIT: tuple[Entry, int] = (Entry(), 0)  # what may become a phrase, once more is known


def _words(heard: str, *, done: bool) -> list[_Word]:
    words = []
    for match in _WORD.finditer(heard):
        space, raw = match.groups()
        core = raw.rstrip(_WAITING)
        is_open = not done and match.end() == len(heard)
        words.append(_Word(space, raw, match.end(), is_open, core, raw[len(core) :], key_of(raw)))
    return words


def _look(words: Sequence[_Word], at: int, table: Table, *, done: bool) -> tuple[Entry, int] | None:
    """The phrase that begins here and how many words it has; None for a word; `_WAIT`."""
    found: tuple[Entry, int] | None = None
    keys: tuple[str, ...] = ()
    for count, word in enumerate(words[at : at + table.longest], 1):
        if not word.key or (keys and not word.raw[0].isalnum()):
            break
        keys += (word.key,)
        if word.is_open:
            return _WAIT if table.may_become(keys, open_word=True) else found
        if keys in table.phrases:
            found = table.phrases[keys], count
        if word.tail or not word.raw[-1].isalnum() or not table.may_become(keys, open_word=False):
            break
        if at + count == len(words) and not done:
            return _WAIT
    return found
