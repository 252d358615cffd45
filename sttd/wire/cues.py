"""Subtitles: texts with their times cut into cues, and cues as SubRip and WebVTT.

Rules:

1. At most two lines of 42 characters and seven seconds a cue, as broadcasters ask (BBC subtitle guidelines, Netflix
   timed text guide); a Chinese or Japanese character is as wide as two. A text that is longer is cut between words,
   timed by its words where it has them, otherwise in proportion to the characters.
2. Between two words there is what the text has there: a space, or nothing in scripts that have none.
3. A cue had better end with its sentence, where there is a pause or the cue has a line already.
4. Where several speak, every cue says who does, within the limits of rule 1.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, Protocol

import attrs

LINE_CHARS: Final = 42
CUE_LINES: Final = 2
CUE_S: Final = 7.0
_SHORTEST_S: Final = 0.1  # chosen: a moment
_PAUSE_S: Final = 0.4  # a pause that a listener hears as one
_SENTENCE_ENDS: Final = (".", "?", "!", "…", "。", "？", "！")  # noqa: RUF001  (the Chinese and Japanese ones)


class TimedWord(Protocol):
    """A word with its place, in seconds."""

    @property
    def word(self) -> str: ...
    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...


class TimedText(Protocol):
    """A text with its place, in seconds; its words where they are known."""

    @property
    def text(self) -> str: ...
    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...
    @property
    def words(self) -> Sequence[TimedWord] | None: ...


@attrs.frozen(kw_only=True)
class Cue:
    """One subtitle: its text, and the lines that it is shown in."""

    start_s: float
    end_s: float
    text: str
    lines: tuple[str, ...]
    speaker: str = ""


def subrip(cues: Iterable[Cue], *, after: int = 0) -> str:
    """SubRip (.srt), or what goes on with it after so many cues."""
    blocks = (
        f"{number}\n{clock(cue.start_s, ',')} --> {clock(cue.end_s, ',')}\n{_said_by(cue)}"
        + "\n".join(cue.lines)
        + "\n"
        for number, cue in enumerate(cues, start=after + 1)
    )
    return "".join(("\n" if number > 1 else "") + block for number, block in enumerate(blocks, start=after + 1))


WEBVTT_HEAD: Final = "WEBVTT\n"


def webvtt(cues: Iterable[Cue]) -> str:
    """WebVTT (.vtt)."""
    return WEBVTT_HEAD + webvtt_blocks(cues)


def webvtt_blocks(cues: Iterable[Cue]) -> str:
    """Cues as they follow the head of a WebVTT file."""
    return "".join(
        f"\n{clock(cue.start_s, '.')} --> {clock(cue.end_s, '.')}\n"
        + (f"<v {_escaped(cue.speaker).replace('>', '&gt;')}>" if cue.speaker else "")
        + _escaped("\n".join(cue.lines))
        + "\n"
        for cue in cues
    )


def _escaped(text: str) -> str:
    """`&` and `<` are markup in WebVTT, and `-->` would end a cue."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("-->", "--&gt;")


def _said_by(cue: Cue) -> str:
    return f"{cue.speaker}: " if cue.speaker else ""


def clock(seconds: float, point: str) -> str:
    """hh:mm:ss and milliseconds behind `point`."""
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{ms:03}"


def is_wide(char: str) -> bool:
    """Whether a character is as wide as two Latin ones, and its script has no spaces."""
    return unicodedata.east_asian_width(char) in ("W", "F") and not "\uac00" <= char <= "\ud7a3"  # Korean has spaces


# ---------------------------------------------------------------- cutting


@attrs.frozen(kw_only=True)
class _Piece:
    """A word, or a character of a script without spaces: no line is broken in it. `text` has the space before it."""

    start_s: float
    end_s: float
    text: str


def cues_of(entry: TimedText, *, speaker: str = "") -> list[Cue]:
    """A text cut into subtitles, in order; none where it says nothing. Each lasts a moment at least."""
    return list(_cues(_pieces(entry), speaker)) if entry.text.strip() else []


def _pieces(entry: TimedText) -> list[_Piece]:
    """Every word with its time."""
    words = entry.words
    if not words:
        return _in_proportion(entry)
    spaced = any(word.word[:1].isspace() for word in words)
    pieces, place = [], 0
    for number, word in enumerate(words):
        text = word.word.strip()
        at = entry.text.find(text, place)
        if at >= 0:  # rule 2
            space = any(char.isspace() for char in entry.text[place:at])
            place = at + len(text)
        else:
            space = word.word[:1].isspace() or (not spaced and number > 0)
        pieces.append(_Piece(start_s=word.start_s, end_s=word.end_s, text=" " * space + text))
    return pieces


def _in_proportion(entry: TimedText) -> list[_Piece]:
    texts = [" " + word for word in entry.text.split()]
    texts = [piece for text in texts for piece in _parts(text)]
    length_s = (entry.end_s - entry.start_s) / sum(map(len, texts))
    pieces, at_s = [], entry.start_s
    for text in texts:
        end_s = at_s + length_s * len(text)
        pieces.append(_Piece(start_s=at_s, end_s=end_s, text=text))
        at_s = end_s
    return pieces


def _parts(word: str) -> list[str]:
    """A word cut before each wide letter: Chinese and Japanese. Punctuation stays with what it follows."""
    parts = [""]
    for char in word:
        if parts[-1].strip() and is_wide(char) and char.isalnum():
            parts.append("")
        parts[-1] += char
    return parts


def _cues(pieces: Sequence[_Piece], speaker: str) -> Iterator[Cue]:
    """Words gathered into cues that keep the limits. One that is too long by itself is a cue by itself."""
    held: list[_Piece] = []
    for piece in pieces:
        if held and (not _fits([*held, piece], speaker) or _ends_well(held, before=piece)):
            yield _joined(held, speaker)
            held = []
        held.append(piece)
    if held:
        yield _joined(held, speaker)


def _joined(pieces: Sequence[_Piece], speaker: str) -> Cue:
    start_s = pieces[0].start_s
    return Cue(
        start_s=start_s,
        end_s=max(pieces[-1].end_s, start_s + _SHORTEST_S),
        text="".join(piece.text for piece in pieces).strip(),
        lines=tuple(_lines(pieces, speaker)),
        speaker=speaker,
    )


def _lines(pieces: Sequence[_Piece], speaker: str) -> list[str]:
    lines, taken = [""], _width(f"{speaker}: ") if speaker else 0  # of the line that is being filled
    for piece in pieces:
        if lines[-1] and taken + _width(lines[-1] + piece.text) > LINE_CHARS:
            lines.append("")
            taken = 0
        lines[-1] += piece.text if lines[-1] else piece.text.lstrip()
    return lines


def _width(text: str) -> int:
    return len(text) + sum(map(is_wide, text))


def _fits(pieces: Sequence[_Piece], speaker: str) -> bool:
    return len(_lines(pieces, speaker)) <= CUE_LINES and pieces[-1].end_s - pieces[0].start_s <= CUE_S


def _ends_well(words: Sequence[_Piece], *, before: _Piece) -> bool:
    """Whether a cue had better end here: at a sentence's end, if there is a pause or the cue has a line already."""
    if words[-1].text[-1:] not in _SENTENCE_ENDS:
        return False
    pause_s = before.start_s - words[-1].end_s
    return pause_s >= _PAUSE_S or sum(_width(word.text) for word in words) >= LINE_CHARS
