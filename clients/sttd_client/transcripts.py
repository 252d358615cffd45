"""Finals as a transcript: plain text, SubRip, WebVTT, JSON, tab-separated values.

Rules:

1. Subtitles are cut as `sttd/wire/cues.py` says.
2. **A hole is seen**: where audio could not be transcribed every format says so, in its place on the clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import attrs

from sttd.wire import cues
from sttd.wire.cues import Cue
from sttd_client.events import Final, as_message

_UNKNOWN_S = 3.0  # how long a hole without an end is shown


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
        end = "the end" if self.end_s is None else cues.clock(self.end_s, ".")
        return f"[not transcribed from {cues.clock(self.start_s, '.')} to {end}: {self.code}]"


def plain(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> str:
    """One line for each utterance that has text."""
    return "".join(f"{entry.text}\n" for entry in _in_order(finals, holes))


def subrip(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> str:
    """SubRip (.srt)."""
    return cues.subrip(cues_of(finals, holes))


def webvtt(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> str:
    """WebVTT (.vtt)."""
    return cues.webvtt(cues_of(finals, holes))


def cues_of(finals: Iterable[Final], holes: Iterable[Hole] = ()) -> list[Cue]:
    """Finals and holes as subtitles, in order. They do not overlap."""
    return [cue for entry in _in_order(finals, holes) for cue in cues.cues_of(_timed(entry))]


def _timed(entry: Final | Hole) -> cues.TimedText:
    return entry if isinstance(entry, Final) else _Shown(text=entry.text, start_s=entry.start_s, end_s=_end_s(entry))


@attrs.frozen(kw_only=True)
class _Shown:
    """A hole as a subtitle."""

    text: str
    start_s: float
    end_s: float
    words: None = None


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


def _in_one(texts: Iterable[str]) -> str:
    """Texts one after the other, with a space between them where their scripts have any."""
    whole = ""
    for text in texts:
        whole += " " if whole and not (cues.is_wide(whole[-1]) and cues.is_wide(text[0])) else ""
        whole += text
    return whole
