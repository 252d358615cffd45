"""Finals as a transcript: plain text, SubRip, WebVTT, JSON, tab-separated values.

Subtitles follow what broadcasters ask for: at most two lines of 42 characters and seven seconds a cue (BBC subtitle
guidelines, Netflix timed text guide). A final that is longer is cut at word boundaries, timed by its words where it
has them, otherwise in proportion to the characters.
"""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterable, Sequence
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
    """One subtitle."""

    start_s: float
    end_s: float
    text: str


def plain(finals: Iterable[Final]) -> str:
    """One line for each utterance that has text."""
    return "".join(f"{final.text}\n" for final in finals if final.text)


def subrip(finals: Iterable[Final]) -> str:
    """SubRip (.srt)."""
    cues = (
        f"{number}\n{_clock(cue.start_s, ',')} --> {_clock(cue.end_s, ',')}\n{_wrapped(cue.text)}\n"
        for number, cue in enumerate(cues_of(finals), start=1)
    )
    return "\n".join(cues)


def webvtt(finals: Iterable[Final]) -> str:
    """WebVTT (.vtt); `&` and `<` are markup there."""
    cues = (
        f"{_clock(cue.start_s, '.')} --> {_clock(cue.end_s, '.')}\n"
        f"{_wrapped(cue.text).replace('&', '&amp;').replace('<', '&lt;')}\n"
        for cue in cues_of(finals)
    )
    return "\n".join(["WEBVTT\n", *cues])


def values(finals: Iterable[Final]) -> str:
    """Start and end in milliseconds and text, tab-separated, with a header line."""
    rows = (
        f"{final.start_s * 1000:.0f}\t{final.end_s * 1000:.0f}\t{' '.join(final.text.split())}\n"
        for final in finals
        if final.text
    )
    return "".join(["start\tend\ttext\n", *rows])


def as_object(finals: Sequence[Final], *, file: str, audio_s: float) -> dict[str, Any]:
    """Everything that is known, as one JSON object."""
    utterances = [{key: value for key, value in as_message(final).items() if key != "type"} for final in finals]
    languages = {final.language for final in finals if final.text and final.language}
    return {
        "file": file,
        "audio_s": audio_s,
        "language": languages.pop() if len(languages) == 1 else None,
        "text": " ".join(final.text for final in finals if final.text),
        "utterances": utterances,
    }


def formatted(finals: Sequence[Final], *, kind: str, file: str, audio_s: float) -> str:
    """A transcript in the format `kind`: txt, srt, vtt, json or tsv."""
    if kind == "json":
        return json.dumps(as_object(finals, file=file, audio_s=audio_s), ensure_ascii=False, indent=2) + "\n"
    return {"txt": plain, "srt": subrip, "vtt": webvtt, "tsv": values}[kind](finals)


# ---------------------------------------------------------------- cues


def cues_of(finals: Iterable[Final]) -> list[Cue]:
    """The finals cut into subtitles. They do not overlap, and each lasts a moment at least."""
    return [cue for final in finals if final.text.strip() for cue in _cues(_timed_words(final))]


def _timed_words(final: Final) -> list[Cue]:
    """Every word with its time."""
    if final.words:
        return [Cue(start_s=word.start_s, end_s=word.end_s, text=word.word.strip()) for word in final.words]
    words = final.text.split()
    length_s = (final.end_s - final.start_s) / sum(len(word) + 1 for word in words)
    timed, at_s = [], final.start_s
    for word in words:
        end_s = at_s + length_s * (len(word) + 1)
        timed.append(Cue(start_s=at_s, end_s=end_s, text=word))
        at_s = end_s
    return timed


def _cues(words: Sequence[Cue]) -> Iterable[Cue]:
    """Words gathered into cues that keep the limits. One that is too long by itself is a cue by itself."""
    held: list[Cue] = []
    for word in words:
        if held and (not _fits([*held, word]) or _ends_well(held, before=word)):
            yield _joined(held)
            held = []
        held.append(word)
    if held:
        yield _joined(held)


def _joined(words: Sequence[Cue]) -> Cue:
    start_s = words[0].start_s
    return Cue(start_s=start_s, end_s=max(words[-1].end_s, start_s + 0.1), text=" ".join(word.text for word in words))


def _fits(words: Sequence[Cue]) -> bool:
    lines = textwrap.wrap(" ".join(word.text for word in words), LINE_CHARS)
    return len(lines) <= CUE_LINES and words[-1].end_s - words[0].start_s <= CUE_S


def _ends_well(words: Sequence[Cue], *, before: Cue) -> bool:
    """Whether a cue had better end here: at a sentence's end, if there is a pause or the cue has a line already."""
    if words[-1].text[-1:] not in _SENTENCE_ENDS:
        return False
    pause_s = before.start_s - words[-1].end_s
    return pause_s >= _PAUSE_S or sum(len(word.text) + 1 for word in words) >= LINE_CHARS


def _wrapped(text: str) -> str:
    return "\n".join(textwrap.wrap(text, LINE_CHARS, break_long_words=False))


def _clock(seconds: float, point: str) -> str:
    """hh:mm:ss and milliseconds behind `point`."""
    whole, ms = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{ms:03}"
