"""Finals as a transcript: plain text, SubRip, WebVTT, JSON, JSON lines, tab-separated values.

Rules:

1. Subtitles are cut as `sttd/wire/cues.py` says.
2. **A hole is seen**: where audio could not be transcribed every format says so, in its place on the clock.
3. Where several channels are one transcript, every entry says whose it is, and plain text when it was.
4. All but JSON grow by their entries: a transcript is `head` and the `part` of each, one after the other.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import attrs

from sttd.wire import cues
from sttd.wire.cues import Cue, TimedWord
from sttd_client.events import Failure, Final, as_message

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


@attrs.frozen(kw_only=True)
class Entry:
    """An utterance or a hole in its place in a transcript. `channel` is "" where there is one only."""

    what: Final | Hole
    channel: str = ""

    @property
    def start_s(self) -> float:
        """Where it begins."""
        return self.what.start_s

    @property
    def end_s(self) -> float:
        """Where it ends, or is taken to."""
        return self.start_s + _UNKNOWN_S if self.what.end_s is None else self.what.end_s

    @property
    def text(self) -> str:
        """What it says."""
        return self.what.text

    @property
    def words(self) -> Sequence[TimedWord] | None:
        """Its words where they are known."""
        return self.what.words if isinstance(self.what, Final) else None


class Failures:
    """Which finals stand for audio that could not be transcribed: a failure comes before the final of its utterance."""

    def __init__(self) -> None:
        self._waiting: deque[Failure] = deque()

    @property
    def last(self) -> Failure | None:
        """The newest one whose utterance has not come."""
        return self._waiting[-1] if self._waiting else None

    def note(self, failure: Failure) -> None:
        """One came; of a fatal one the session ends, and no utterance follows."""
        if not failure.fatal:
            self._waiting.append(failure)

    def behind(self, final: Final) -> Failure | None:
        """Why this utterance has no text of a model; None: it has."""
        was_decoded = bool(final.timing is not None and final.timing.decode_ms)  # what failed took no time in any
        return None if was_decoded or not self._waiting else self._waiting.popleft()


def hole_of(final: Final, failure: Failure) -> Hole:
    """The hole that a final stands for."""
    return Hole(start_s=final.start_s, end_s=final.end_s, code=failure.code, message=failure.message)


def formatted(finals: Sequence[Final], holes: Sequence[Hole] = (), *, kind: str, file: str, audio_s: float) -> str:
    """The whole transcript of a file in the format `kind`: txt, srt, vtt, json, jsonl or tsv."""
    entries = [*(Entry(what=final) for final in finals), *(Entry(what=hole) for hole in holes)]
    if kind == "json":
        return document(entries, file=file, audio_s=audio_s)
    text, shown = head(kind), 0
    for entry in sorted(entries, key=lambda entry: entry.start_s):
        more, cue_count = part(entry, kind=kind, after=shown)
        text, shown = text + more, shown + cue_count
    return text


# ---------------------------------------------------------------- formats that grow


def head(kind: str, *, channels: bool = False) -> str:
    """What a transcript begins with."""
    if kind == "tsv":
        return "start\tend\tchannel\ttext\n" if channels else "start\tend\ttext\n"
    return cues.WEBVTT_HEAD if kind == "vtt" else ""


def part(entry: Entry, *, kind: str, after: int) -> tuple[str, int]:
    """What an entry adds behind the cues that are `after` so many, and how many cues that are."""
    if kind == "jsonl":
        return json.dumps({"type": _type(entry), **_as_row(entry)}, ensure_ascii=False) + "\n", 1
    if not entry.text.strip():
        return "", 0
    if kind in ("srt", "vtt"):
        shown = cues_of(entry)
        return cues.subrip(shown, after=after) if kind == "srt" else cues.webvtt_blocks(shown), len(shown)
    if kind == "tsv":
        cells = [f"{entry.start_s * 1000:.0f}", f"{entry.end_s * 1000:.0f}", " ".join(entry.text.split())]
        return "\t".join([*cells[:2], *([entry.channel] if entry.channel else []), cells[2]]) + "\n", 1
    when = f"[{cues.clock(entry.start_s, '.')[:8]}] {entry.channel}: " if entry.channel else ""
    return f"{when}{entry.text}\n", 1


def cues_of(entry: Entry) -> list[Cue]:
    """An entry as subtitles, in order. They do not overlap."""
    return cues.cues_of(entry, speaker=entry.channel)


def _type(entry: Entry) -> str:
    return "final" if isinstance(entry.what, Final) else "hole"


def _as_row(entry: Entry) -> dict[str, Any]:
    """Everything that is known of an entry."""
    what = entry.what
    known = as_message(what) if isinstance(what, Final) else attrs.asdict(what)
    known.pop("type", None)
    return {**({"channel": entry.channel} if entry.channel else {}), **known}


# ---------------------------------------------------------------- JSON


def document(entries: Sequence[Entry], *, file: str | None, audio_s: float) -> str:
    """Everything that is known, as one JSON object."""
    finals = [entry for entry in entries if isinstance(entry.what, Final)]
    languages = {final.language for final in _finals_in(entries) if final.text and final.language}
    value = {
        **({} if file is None else {"file": file}),
        "audio_s": audio_s,
        "language": languages.pop() if len(languages) == 1 else None,
        "text": _in_one(entry for entry in finals if entry.text),
        "utterances": [_as_row(entry) for entry in finals],
        "holes": [_as_row(entry) for entry in entries if isinstance(entry.what, Hole)],
    }
    return json.dumps(value, ensure_ascii=False, indent=2) + "\n"


def _finals_in(entries: Iterable[Entry]) -> Iterator[Final]:
    return (entry.what for entry in entries if isinstance(entry.what, Final))


def _in_one(entries: Iterable[Entry]) -> str:
    """Texts one after the other, with a space between them where their scripts have any; a line for each of several."""
    whole = ""
    for entry in entries:
        if entry.channel:
            whole += ("\n" if whole else "") + f"{entry.channel}: {entry.text}"
            continue
        whole += " " if whole and not (cues.is_wide(whole[-1]) and cues.is_wide(entry.text[0])) else ""
        whole += entry.text
    return whole
