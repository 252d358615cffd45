"""What a session says, as what is to be typed. Decides; `hand` does it.

Rules:

1. Utterances are written in the order of their numbers; live text of a later one waits for the finals before it.
2. **Without `revise` nothing is taken back**: of live text only the stable beginning is written, the session has
   `lock_stable`, so that the final begins with it. A final that does not (no daemon sends one) adds nothing. The two
   exceptions are what the speaker asks for ("scratch that"), and the final of an utterance that was heard anew, by
   another daemon.
3. **With `revise`** all of the live text is written, and what changed is taken back and written anew, but never across
   a new line; new lines and commands are obeyed only where the text is stable or final.
4. What each utterance becomes, `page` says. Its table is that of the language as it is known when the utterance begins,
   or that of its final where nothing of it was written before.
5. Punctuation that waits (rule 4 there) waits for `HOLD_S` after a final, unless somebody speaks; then, and at the end
   of the dictation, it is written.
6. What stood before the first word is known only if this agent wrote it a moment ago: `before` is what it wrote.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from typing import TypeAlias

import attrs

from sttd.options import SPACELESS_LANGUAGES
from sttd_client.dictation.page import Page
from sttd_client.dictation.phrases import ANY, Table
from sttd_client.events import Event, Final, Interim, Reconnected, SpeechStart

HOLD_S = 1.5  # chosen: after a longer pause few begin with a mark, and a sentence without its dot looks unfinished
_WAITING_MAX = 16  # utterances ahead of their turn; the daemon has two or three open at most


@attrs.frozen
class Write:
    """Type this."""

    text: str


@attrs.frozen
class Erase:
    """Press Backspace so many times."""

    count: int


@attrs.frozen
class Halt:
    """The speaker said that this is all."""


Action: TypeAlias = Write | Erase | Halt


@attrs.define(eq=False, kw_only=True)
class Typist:
    """One dictation. Give it what the session says, and do what it answers."""

    tables: Mapping[str, Table]
    language: str | None  # as asked for, or what is likely; finals know better
    revise: bool = False
    next_utterance: int = 1
    before: Page = attrs.field(factory=Page)
    due_at_s: float | None = attrs.field(default=None, init=False)  # when to call `tick`
    _base: Page = attrs.field(init=False)  # before the utterance that is being written
    _page: Page = attrs.field(init=False)  # with it
    _shown: str = attrs.field(init=False)  # what was typed
    _waiting: dict[int, Interim] = attrs.field(factory=dict, init=False)
    _spoken: str | None = attrs.field(init=False)  # the language of the last final
    _scratches: int = attrs.field(init=False)  # that were obeyed
    _anew: bool = attrs.field(default=False, init=False)  # the utterance is heard again, in a new session
    _halted: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._base, self._page, self._shown = self.before.copy(), self.before.copy(), self.before.text
        self._spoken, self._scratches = self.language, self.before.scratches

    @property
    def page(self) -> Page:
        """What stands now, for the next dictation to go on from."""
        return self._base.copy()

    def feed(self, event: Event, *, now_s: float) -> list[Action]:
        """Take an event of the session."""
        match event:
            case SpeechStart():
                self.due_at_s = None
            case Interim() if event.utterance == self.next_utterance:
                return self._live(event)
            case Interim() if event.utterance > self.next_utterance and len(self._waiting) < _WAITING_MAX:
                self._waiting[event.utterance] = event
            case Final() if event.utterance >= self.next_utterance:
                return self._final(event, now_s=now_s)
            case Reconnected():
                return self._reconnected(event)
        return []

    def tick(self, now_s: float) -> list[Action]:
        """Time has come, if it has."""
        if self.due_at_s is None or now_s < self.due_at_s:
            return []
        return self.end()

    def end(self) -> list[Action]:
        """Nothing more is coming, or not soon: what waits is written."""
        self.due_at_s = None
        self._page.settle()
        self._base = self._page.copy()
        return self._show()

    def cut(self) -> Page:
        """What stands now, where the rest of the utterance is given up."""
        page = self._page.copy()
        page.text, page.tail = self._shown, ""
        return page

    # ---------------------------------------------------------------- events

    def _live(self, interim: Interim) -> list[Action]:
        self.due_at_s = None
        heard = interim.text if self.revise else interim.text[: interim.stable_chars]
        self._compose(heard, self._spoken, done=False, certain=interim.stable_chars)
        return self._show()

    def _final(self, final: Final, *, now_s: float) -> list[Action]:
        written = self._page.text != self._base.text
        self._compose(final.text, self._spoken if written else final.language or self._spoken, done=True, certain=None)
        actions = self._show(mend=self._anew)
        self._anew = False
        self._spoken = final.language or self._spoken
        self._next(final.utterance + 1)
        self.due_at_s = now_s + HOLD_S if self._page.tail else None
        waiting = self._waiting.pop(self.next_utterance, None)
        return actions + (self._live(waiting) if waiting else [])

    def _reconnected(self, lost: Reconnected) -> list[Action]:
        """The utterance that was open is heard again, in place of what was written of it, unless it is lost."""
        self._waiting.clear()
        self.next_utterance = 1
        self._anew = lost.again_bytes > 0 and not lost.lost_bytes
        if not self._anew:
            self._next(1)
        return []

    def _next(self, utterance: int) -> None:
        self.next_utterance = utterance
        self._waiting = {number: waiting for number, waiting in self._waiting.items() if number >= utterance}
        self._shown = self._shown[self._page.forget() :]
        self._base = self._page.copy()

    # ---------------------------------------------------------------- text

    def _compose(self, heard: str, language: str | None, *, done: bool, certain: int | None) -> None:
        self._page = self._base.copy()
        table = self.tables.get(language or ANY) or self.tables[ANY]
        spaced = language not in SPACELESS_LANGUAGES
        self._page.write(heard, table=table, spaced=spaced, done=done, certain=certain)

    def _show(self, *, mend: bool = False) -> list[Action]:
        """What makes the screen show the page; without the right to, the page is what the screen shows."""
        if self._halted:
            return []
        page, shown = self._page, self._shown
        actions: list[Action] = []
        if page.text.startswith(shown):
            actions = [Write(page.text[len(shown) :])] if page.text != shown else []
        elif self.revise or mend or page.scratches > self._scratches:
            actions, page.text = _mended(shown, page.text)
        else:  # rule 2
            page.text, page.tail = shown, ""
        self._shown, self._scratches = page.text, page.scratches
        if page.stopped:
            self._halted = True
            actions.append(Halt())
        return actions


def _mended(shown: str, wanted: str) -> tuple[list[Action], str]:
    """Take back what differs, as far as the last new line, and write the rest; and what then is shown."""
    line = shown.rfind("\n") + 1
    if not wanted.startswith(shown[:line]):  # above the line it stays as it is
        wanted = shown[:line] + wanted[wanted.rfind("\n") + 1 :]
    same = next((at for at, (old, new) in enumerate(zip(shown, wanted, strict=False)) if old != new), None)
    same = min(len(shown), len(wanted)) if same is None else same
    while line < same < len(wanted) and unicodedata.combining(wanted[same]):  # Backspace takes a letter and its accents
        same -= 1
    erased = sum(not unicodedata.combining(char) for char in shown[same:])
    actions: list[Action] = [Erase(erased)] if erased else []
    return actions + ([Write(wanted[same:])] if wanted[same:] else []), wanted
