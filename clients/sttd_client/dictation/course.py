"""The course of dictations: keys, session and desktop in; microphone, `finalize` and letters out.

A dictation goes through these states; everything else that comes is answered and changes nothing:

    idle ── start ──> listening ── stop ──> finishing ── the final that answers ──> idle

Rules:

1. A key that is pressed again where it has nothing to do is no error: keyboards repeat, releases get lost.
2. `stop` closes the microphone and asks for the rest with `finalize`; every `finalize` gets one final of that reason.
   What is said up to the release is typed. If no answer comes within `FINISH_S`, the dictation is over without it.
3. `cancel` drops what is not typed yet, finals that are still to come included. What is typed stays.
4. `start` while finishing goes on with the same dictation; after a `cancel` a new one begins at once, and its text is
   told from the cancelled one by the answer to the `finalize`. Letters that wait for the hand are dropped, too.
5. **Nobody is listened to by mistake**: a dictation stops by itself after the first final that has text (`once`), after
   `SILENT_S` without any text, and on "stop dictation". When the screen is locked or the machine sleeps, it is
   cancelled: the rest would be typed where it does not belong.
6. When the session or the microphone is lost, what is there is typed, the rest is given up, and the reason is told.
7. A dictation that begins within `GOES_ON_S` of the last one goes on in its text (spaces, capitals); else what stands
   before the cursor is unknown, and nothing is put before the first word.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import attrs

from sttd_client.dictation.page import Page
from sttd_client.dictation.typist import Erase, Halt, Typist, Write
from sttd_client.events import Event, Final, Interim, Reconnected

FINISH_S = 60.0  # chosen: a final takes a second; on a machine that is overloaded it may take thirty (measured)
SILENT_S = 120.0  # chosen: a forgotten microphone is worse than one more key
GOES_ON_S = 30.0  # chosen: after that the cursor is likely to be elsewhere

State = Literal["idle", "listening", "finishing"]
TypistFor = Callable[[int, Page], Typist]


@attrs.frozen
class Listen:
    """Open the microphone and send what it hears."""


@attrs.frozen
class Deafen:
    """Close the microphone."""


@attrs.frozen
class Flush:
    """Send `finalize`, after all the audio that was heard."""


@attrs.frozen
class Discard:
    """Forget letters that wait to be typed."""


@attrs.frozen
class Drop:
    """Give the session up: it does not answer."""


@attrs.frozen
class Show:
    """Tell the user and whoever waits: the state, and why it came to it where that is no key."""

    state: State
    note: str = ""


Do: TypeAlias = Listen | Deafen | Flush | Discard | Drop | Show | Write | Erase


@attrs.define(eq=False)
class Course:
    """The rules above. Every method returns what is to be done, in that order."""

    state: State = attrs.field(default="idle", init=False)
    _once: bool = attrs.field(default=False, init=False)
    _new: TypistFor | None = attrs.field(default=None, init=False)
    _typist: Typist | None = attrs.field(default=None, init=False)
    _next: int = attrs.field(default=1, init=False)  # the utterance after the last final
    _owed: int = attrs.field(default=0, init=False)  # answers to `finalize`
    _page: Page = attrs.field(factory=Page, init=False)
    _ended_s: float = attrs.field(default=float("-inf"), init=False)
    _heard_s: float = attrs.field(default=0.0, init=False)  # when text came last, or the dictation began
    _finish_by_s: float = attrs.field(default=0.0, init=False)

    # ---------------------------------------------------------------- keys

    def start(self, new: TypistFor, *, once: bool, now_s: float) -> list[Do]:
        """Begin. `new` makes the typist for a dictation from an utterance on, behind a page."""
        if self.state == "listening":
            return []
        self._once, self._heard_s = once, now_s
        if self.state == "finishing":
            self.state = "listening"
            return [Listen(), Show("listening")]
        self.state, self._new = "listening", new
        if now_s - self._ended_s > GOES_ON_S:
            self._page = Page()
        if not self._owed:
            self._typist = new(self._next, self._page)
        return [Listen(), Show("listening")]

    def stop(self, *, now_s: float, note: str = "") -> list[Do]:
        """End, and type what was said."""
        if self.state != "listening":
            return []
        self.state, self._finish_by_s = "finishing", now_s + FINISH_S
        self._owed += 1
        return [Deafen(), Flush(), Show("finishing", note)]

    def cancel(self, *, now_s: float, note: str = "") -> list[Do]:
        """End, and type nothing more."""
        if self.state == "idle":
            return []
        flush: list[Do] = []
        if self.state == "listening":
            self._owed += 1
            flush = [Deafen(), Flush()]
        if self._typist is not None:
            self._page, self._typist = self._typist.cut(), None
        return [*flush, Discard(), *self._over(now_s, note)]

    # ---------------------------------------------------------------- what happens

    def event(self, event: Event, *, now_s: float) -> list[Do]:
        """The session says something."""
        if isinstance(event, Final | Interim) and event.text:
            self._heard_s = now_s
        done = self._written(self._typist.feed(event, now_s=now_s) if self._typist else [], now_s=now_s)
        if isinstance(event, Reconnected):
            self._next = 1
        if isinstance(event, Final):
            self._next = event.utterance + 1
            if event.reason == "finalize" and self._owed:
                self._owed -= 1
            if not self._owed and self.state == "finishing":
                done += self._over(now_s, "")
            elif not self._owed and self.state == "listening" and self._typist is None and self._new:
                self._typist = self._new(self._next, self._page)
            elif self._once and event.text and self._typist is not None:
                done += self.stop(now_s=now_s)
        return done

    def lost(self, note: str, *, now_s: float) -> list[Do]:
        """The session is gone; the next one counts its utterances from 1."""
        self._next, self._owed = 1, 0
        return self._broken(note, now_s=now_s)

    def deaf(self, note: str, *, now_s: float) -> list[Do]:
        """The microphone gives nothing any more."""
        return self.stop(now_s=now_s, note=note)

    # ---------------------------------------------------------------- time

    @property
    def due_at_s(self) -> float | None:
        """When to call `tick`; None: not before something else happens."""
        if self.state == "idle":
            return None
        waits = self._typist.due_at_s if self._typist else None
        return self._limit_s if waits is None else min(waits, self._limit_s)

    def tick(self, *, now_s: float) -> list[Do]:
        """Time has come, if it has."""
        if self.state == "idle":
            return []
        done = self._written(self._typist.tick(now_s) if self._typist else [], now_s=now_s)
        if now_s < self._limit_s:
            return done
        if self.state == "listening":
            return done + self.stop(now_s=now_s, note=f"nothing was heard for {SILENT_S:.0f} s")
        return [*done, Drop(), *self.lost("the daemon does not answer", now_s=now_s)]

    @property
    def _limit_s(self) -> float:
        return self._finish_by_s if self.state == "finishing" else self._heard_s + SILENT_S

    # ---------------------------------------------------------------- helpers

    def _written(self, actions: list[Write | Erase | Halt], *, now_s: float) -> list[Do]:
        done: list[Do] = []
        for action in actions:
            done += self.stop(now_s=now_s) if isinstance(action, Halt) else [action]
        return done

    def _broken(self, note: str, *, now_s: float) -> list[Do]:
        if self.state == "idle":
            return []
        deafen: list[Do] = [Deafen()] if self.state == "listening" else []
        return [*deafen, *self._over(now_s, note)]

    def _over(self, now_s: float, note: str) -> list[Do]:
        """The dictation ends; what waits is typed, unless it was cancelled."""
        done: list[Do] = []
        self.state, self._ended_s = "idle", now_s
        if self._typist is not None:
            done = [action for action in self._typist.end() if not isinstance(action, Halt)]
            self._page, self._typist = self._typist.page, None
        return [*done, Show("idle", note)]
