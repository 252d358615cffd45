"""A transcript that is written while people speak, sans IO: which bytes of its file change with each utterance.

    begin() ──> Change ── add(entry) ──> Change ── add(entry) ──> ...

A `Change` keeps the first `keep` bytes of the file and puts `data` in place of the rest.

Rules:

1. **Written at once.** An utterance waits for nothing: what was said is on disk when its final comes, so who is killed
   loses nothing that was shown.
2. **In order of time.** A final of one channel that began before others that are written already (somebody said "yes"
   in the middle of a long sentence of somebody else) goes before them: those are written once more, behind it. Of two
   that began at once the one that came first is first.
3. **A bound.** The newest `MOVED` entries can be moved, older ones stay where they are: a final that would belong
   before them goes directly behind.
4. **One channel only adds**: its finals come in order, and `keep` is all of the file.
5. JSON is one object and has an end, so it is written anew each time. It alone is kept whole, in memory; for days of
   speech there are JSON lines.
6. After each change the file is a whole transcript of its format.
"""

from __future__ import annotations

import bisect
from collections import deque

import attrs

from sttd_client.transcripts import Entry, document, head, part

MOVED = 64  # chosen: more than others say within the longest utterance (29 s) and its decode


@attrs.frozen
class Change:
    """The file is its first `keep` bytes and `data`, from now on."""

    keep: int
    data: bytes


@attrs.frozen
class _Placed:
    """An entry that is written, the bytes before it, and the cues."""

    entry: Entry
    at: int
    after: int


class GrowingTranscript:
    """The rules above for one file in the format `kind`; `channels`: it says whose each entry is."""

    def __init__(self, kind: str, *, channels: bool, moved: int = MOVED) -> None:
        self._kind = kind
        self._channels = channels
        self._moved = moved
        self._size = 0  # bytes
        self._shown = 0  # cues
        self._newest: deque[_Placed] = deque()
        self._all: list[Entry] = []  # of JSON

    def begin(self) -> Change:
        """The file while nothing is said."""
        if self._kind == "json":
            return self._anew()
        data = _encoded(head(self._kind, channels=self._channels))
        self._size = len(data)
        return Change(0, data)

    def add(self, entry: Entry) -> Change:
        """Take an utterance or a hole."""
        if self._kind == "json":
            bisect.insort(self._all, entry, key=lambda entry: entry.start_s)
            return self._anew()
        moved: list[Entry] = []
        while self._newest and self._newest[-1].entry.start_s > entry.start_s:
            last = self._newest.pop()
            self._size, self._shown = last.at, last.after
            moved.append(last.entry)
        keep = self._size
        return Change(keep, b"".join(self._place(one) for one in (entry, *reversed(moved))))

    def _place(self, entry: Entry) -> bytes:
        text, cues = part(entry, kind=self._kind, after=self._shown)
        data = _encoded(text)
        self._newest.append(_Placed(entry, self._size, self._shown))
        if len(self._newest) > self._moved:
            self._newest.popleft()
        self._size += len(data)
        self._shown += cues
        return data

    def _anew(self) -> Change:
        audio_s = max((entry.end_s for entry in self._all), default=0.0)
        return Change(0, _encoded(document(self._all, file=None, audio_s=audio_s)))


def _encoded(text: str) -> bytes:
    return text.encode(errors="replace")  # half a character cannot be written; the rest can
