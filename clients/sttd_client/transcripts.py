"""Finals as a transcript: plain text, SubRip, WebVTT, JSON, tab-separated values.

Rules:

1. Subtitles follow what broadcasters ask for: at most two lines of 42 characters and seven seconds a cue (BBC subtitle
   guidelines, Netflix timed text guide); a Chinese or Japanese character is as wide as two. A final that is longer is
   cut between words, timed by its words where it has them, otherwise in proportion to the characters.
2. Between two words there is what the text of the final has there: a space, or nothing in scripts that have none.
3. **A hole is seen**: where audio could not be transcribed every format says so, in its place on the clock.
"""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from sttd_client.events import Final, as_message

LINE_CHARS = 42
CUE_LINES = 2
CUE_S = 7.0
_PAUSE_S = 0.4  # a pause that a listener hears as one
_SENTENCE_ENDS = (".", "?", "!", "…", "。", "？", "！")  # noqa: RUF001  (the Chinese and Japanese ones)


@attrs.frozen(kw_only=True)
class Cue:
    """One subtitle: its text, and the lines that it is shown in."""

    start_s: float
    end_s: float
    text: str
    lines: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Hole:
    """Audio that could not be transcribed, and why. `end_s` None: nobody knows how much is missing at the end."""

    start_s: float
    end_s: float | None
    code: str
    message: str

    @property
    def text(self) -> str:
        """What a transcript shows in its place."""
        end = "the end" if self.end_s is None else _clock(self.end_s, ".")
        return f"[not transcribed from {_clock(self.start_s, '.')} to {end}: {self.code}]"


def plain(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> str:
    """One line for each utterance that has text."""
    return "".join(f"{entry.text}\n" for entry in _in_order(finals, holes))


def subrip(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> str:
    """SubRip (.srt)."""
    cues = (
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n" + "\n".join(cue.lines) + "\n"
        for number, cue in enumerate(cues_of(finals, holes), start=1)
    )
    return "\n".join(cues)


def webvtt(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> str:
    """WebVTT (.vtt); `&` and `<` are markup there."""
    cues = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        + "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;")
        + "\n"
        for cue in cues_of(finals, holes)
    )
    return "\n".join(["WEBVTT\n", *cues])


def values(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> str:
    """Start and end in milliseconds and text, tab-separated, with a header line."""
    rows = (
        f"{entry.start_s * 1000:.0f}\t{_end_s(entry) * 1000:.0f}\t{' '.join(entry.text.split())}\n"
        for entry in _in_order(finals, holes)
    )
    return "".join(["start\tend\ttext\n", *rows])


def as_object(finals: Sequence[Final], holes: Sequence[Hole] = (), *, file: str, audio_s: float) -> dict[str, Any]:
    """Everything that is known, as one JSON object."""
    utterances = [{key: value for key, value in as_message(final).items() if key != "type"} for final in finals]
    languages = {final.language for final in finals if final.text and final.language}
    return {
        "file": file,
        "audio_s": audio_s,
        "language": languages.pop() if len(languages) == 1 else None,
        "text": _in_one(final.text for final in finals if final.text),
        "utterances": utterances,
        "holes": [attrs.asdict(hole) for hole in holes],
    }


def formatted(finals: Sequence[Final], holes: Sequence[Hole] = (), *, kind: str, file: str, audio_s: float) -> str:
    """A transcript in the format `kind`: txt, srt, vtt, json or tsv."""
    if kind == "json":
        return json.dumps(as_object(finals, holes, file=file, audio_s=audio_s), ensure_ascii=False, indent=2) + "\n"
    return {"txt": plain, "srt": subrip, "vtt": webvtt, "tsv": values}[kind](finals, holes)


def _in_order(finals: Iterable[Final], holes: Iterable[Hole]) -> list[Final | Hole]:
    return sorted([*(final for final in finals if final.text), *holes], key=lambda entry: entry.start_s)


def _end_s(entry: Final | Hole) -> float:
    return entry.start_s + _UNKNOWN_S if entry.end_s is None else entry.end_s


_UNKNOWN_S = 3.0  # how long a hole without an end is shown


def _in_one(texts: Iterable[str]) -> str:
    """Texts one after the other, with a space between them where their scripts have any."""
    whole = ""
    for text in texts:
        whole += " " if whole and not (_is_wide(whole[-1]) and _is_wide(text[0])) else ""
        whole += text
    return whole


# ---------------------------------------------------------------- cues


@attrs.frozen(kw_only=True)
class _Piece:
    """A word, or a character of a script without spaces: no line is broken in it. `text` has the space before it."""

    start_s: float
    end_s: float
    text: str


def cues_of(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> list[Cue]:
    """The finals cut into subtitles. They do not overlap, and each lasts a moment at least."""
    entries = (entry for entry in _in_order(finals, holes) if entry.text.strip())
    return [cue for entry in entries for cue in _cues(_pieces(entry))]


def _pieces(entry: Final | Hole) -> list[_Piece]:
    """Every word with its time."""
    words = entry.words if isinstance(entry, Final) else None
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


def _in_proportion(entry: Final | Hole) -> list[_Piece]:
    texts = [" " + word for word in entry.text.split()]
    texts = [piece for text in texts for piece in _parts(text)]
    length_s = (_end_s(entry) - entry.start_s) / sum(map(len, texts))
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
        if parts[-1].strip() and _is_wide(char) and char.isalnum():
            parts.append("")
        parts[-1] += char
    return parts


def _cues(pieces: Sequence[_Piece]) -> Iterator[Cue]:
    """Words gathered into cues that keep the limits. One that is too long by itself is a cue by itself."""
    held: list[_Piece] = []
    for piece in pieces:
        if held and (not _fits([*held, piece]) or _ends_well(held, before=piece)):
            yield _joined(held)
            held = []
        held.append(piece)
    if held:
        yield _joined(held)


def _joined(pieces: Sequence[_Piece]) -> Cue:
    start_s = pieces[0].start_s
    return Cue(
        start_s=start_s,
        end_s=max(pieces[-1].end_s, start_s + 0.1),
        text="".join(piece.text for piece in pieces).strip(),
        lines=tuple(_lines(pieces)),
    )


def _lines(pieces: Sequence[_Piece]) -> list[str]:
    lines = [""]
    for piece in pieces:
        if lines[-1] and _width(lines[-1] + piece.text) > LINE_CHARS:
            lines.append("")
        lines[-1] += piece.text if lines[-1] else piece.text.lstrip()
    return lines


def _width(text: str) -> int:
    return len(text) + sum(map(_is_wide, text))


def _is_wide(char: str) -> bool:
    return unicodedata.east_asian_width(char) in ("W", "F") and not "\uac00" <= char <= "\ud7a3"  # Korean has spaces


def _fits(pieces: Sequence[_Piece]) -> bool:
    return len(_lines(pieces)) <= CUE_LINES and pieces[-1].end_s - pieces[0].start_s <= CUE_S


def _ends_well(words: Sequence[_Piece], *, before: _Piece) -> bool:
    """Whether a cue had better end here: at a sentence's end, if there is a pause or the cue has a line already."""
    if words[-1].text[-1:] not in _SENTENCE_ENDS:
        return False
    pause_s = before.start_s - words[-1].end_s
    return pause_s >= _PAUSE_S or sum(_width(word.text) for word in words) >= LINE_CHARS


def _clock(seconds: float, point: str) -> str:
    """hh:mm:ss and milliseconds behind `point`."""
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{ms:03}"
