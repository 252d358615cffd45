"""What the wires of other systems are given of a session: its texts, as far as they look at them.

The wire knows nothing of the core; the core's events have these fields.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sttd.wire.cues import TimedWord


class Word(TimedWord, Protocol):
    """A word with its place in seconds, and how sure it is."""

    @property
    def probability(self) -> float: ...


class Spoken(Protocol):
    """What is known of the words of a text. They are None where they were not asked for."""

    @property
    def confidence(self) -> float: ...
    @property
    def words(self) -> Sequence[Word] | None: ...


class Text(Spoken, Protocol):
    """The text of an utterance, and its language."""

    @property
    def text(self) -> str: ...
    @property
    def language(self) -> str: ...


class Utterance(Text, Protocol):
    """The same with its place in seconds."""

    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


class Final(Utterance, Protocol):
    """The same with its number, why it ended, and what decoded it."""

    @property
    def utterance(self) -> int: ...
    @property
    def reason(self) -> str: ...
    @property
    def model(self) -> str: ...


class Interim(Protocol):
    """Text so far of an utterance."""

    @property
    def utterance(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def stable_chars(self) -> int: ...
    @property
    def end_s(self) -> float: ...
