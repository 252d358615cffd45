"""The index of an MP4 or QuickTime file, looked at before FFmpeg sees it. No IO.

FFmpeg makes room for every sample that an index counts before it reads one of them: 60 million, in a file of 2.5 kB,
took 2.1 GB and 17 s (measured). So a box of the file is handed on when all of it has come and was found to be honest;
only `mdat`, where the sound is, goes by as it comes.

Rules:

1. A box that is not `mdat` has at most `MAX_BOX_BYTES`.
2. Samples cost memory: each that a table counts (`stsz`, `stz2`, `trun`), once for each edit of an edit list. There are
   at most `MAX_SAMPLES`, and each has a byte at least: what is counted beyond `ALLOWED` must have come as bytes, before
   the box is handed on. Who hears a stream does not wait for that, so there it is refused.
3. The samples of PCM cost nothing, but what a chunk of them has (`stsc`) is divided into packets, for as many chunks as
   there are (`stco`, `co64`): at most `_SAMPLES_A_BYTE` for each byte that came.
4. A compressed index (`cmov`, of QuickTime 3) is refused; nobody writes it.
5. Tables are looked for by their names, wherever these stand: FFmpeg finds them on every level. Only a picture is left
   out (`covr`), and only where all boxes round it are as they should be; and PCM is taken for PCM only there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final, NoReturn

import attrs
import numpy as np

from sttd.errors import ProtocolError

MAX_BOX_BYTES: Final = 16 << 20  # chosen: the index of a day of AAC has that
MAX_SAMPLES: Final = 4_000_000  # chosen: 22 hours in frames of 20 ms, 140 MB to FFmpeg
ALLOWED: Final = 1 << 16  # chosen: 22 minutes in frames of 20 ms, 2 MB to FFmpeg
_SAMPLES_A_BYTE: Final = 64  # chosen: the densest sound has 5, and chunks differ in length
_MAX_TABLES: Final = 10_000  # chosen: of a name in a box
_MAX_TRACKS: Final = 64  # chosen: each of their `stsc` is read whole
_PCM_COST: Final = 512  # samples of PCM are in packets of 1024 (FFmpeg's `mov.c`), one table's rounding included
_FILES: Final = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})  # with what they begin
_PARTS: Final = frozenset({b"styp", b"sidx", b"moof", b"uuid", b"emsg", b"prft"})  # and parts of one
_COUNTS: Final = ((b"stsz", 12), (b"stz2", 12), (b"trun", 8))  # and how far behind its name a table's count stands
_CHUNKS: Final = ((b"stco", 8), (b"co64", 8))
_EDITS: Final = ((b"elst", 8),)
_PARENTS: Final = frozenset({b"moov", b"trak", b"mdia", b"minf", b"udta", b"ilst"})


def may_be_iso(head: bytes) -> bool:
    """Whether a file with these first bytes is to be looked at, and may be MP4 or QuickTime then; else it may not."""
    return is_iso(head) or head[4:8] in _PARTS


def is_iso(head: bytes) -> bool:
    """MP4, M4A, 3GP, QuickTime: a whole one, which may have its index anywhere."""
    return head[4:8] in _FILES


def index_place(head: bytes) -> str:
    """Where the index of an MP4 is: "front", "behind" the audio, or "" if the head does not say yet."""
    at = 0
    while at + 16 <= len(head):
        size, kind = int.from_bytes(head[at : at + 4], "big"), head[at + 4 : at + 8]
        if kind in (b"moov", b"moof"):
            return "front"
        if kind == b"mdat" or size == 0:
            return "behind"
        at += int.from_bytes(head[at + 8 : at + 16], "big") if size == 1 else max(size, 8)
    return ""


@attrs.define(eq=False, kw_only=True)
class IsoIndex:
    """The rules above, for one file.

    Args:
        waits: whether bytes that are counted and have not come are waited for, as of a file that is kept.
    """

    waits: bool
    received: int = attrs.field(default=0, init=False)  # bytes
    _owed: float = attrs.field(default=0, init=False)  # bytes that must have come before what was looked at goes on
    _owes_from: int = attrs.field(default=0, init=False)  # where the first box begins that waits for them
    _done: int = attrs.field(default=0, init=False)  # bytes that were looked at
    _skip: float = attrs.field(default=0, init=False)  # of the rest of an `mdat`
    _box: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _samples: int = attrs.field(default=0, init=False)

    @property
    def ready(self) -> int:
        """So many bytes of the file may be handed on."""
        return self._done if self._owed <= self.received else self._owes_from

    def feed(self, data: bytes) -> None:
        """The next bytes. Raises ProtocolError where what they say cannot be."""
        self.received += len(data)
        at = 0
        while at < len(data):
            if self._skip:
                step = int(min(self._skip, len(data) - at))
                self._skip -= step
                self._done += step
            else:
                step = int(min(self._size() - len(self._box), len(data) - at))
                self._box += data[at : at + step]
                self._look()
            at += step

    def end(self) -> None:
        """The file has ended; what there is of its last box is handed on. Raises ProtocolError, as `feed`."""
        if self._box:
            self._close()
        if self._owed > self.received:
            self._refuse("counts more samples than the file has bytes")

    def _size(self) -> float:
        """Of the box that comes, as far as it is known: of its head first."""
        known = len(self._box)
        if known < 8:
            return 8
        size = int.from_bytes(self._box[:4], "big")
        if size == 1:
            size = int.from_bytes(self._box[8:16], "big") if known >= 16 else 16
        return size if size >= 8 else math.inf  # 0: to the end of the file; of less FFmpeg makes nothing

    def _look(self) -> None:
        size, known = self._size(), len(self._box)
        head = 16 if self._box[:4] == b"\0\0\0\1" else 8
        if known < head:
            return
        if self._box[4:8] == b"mdat" and size >= head:
            self._done += known
            self._skip = size - known
            self._box.clear()
        elif known > MAX_BOX_BYTES or (math.isfinite(size) and size > MAX_BOX_BYTES):
            self._refuse(f"has more than {MAX_BOX_BYTES >> 20} MiB")
        elif known >= size:
            self._close()

    def _close(self) -> None:
        """All of a box is there."""
        box = bytes(self._box)
        owed = self._claims(box)  # what it refuses does not become ready
        if owed > self.received and not self.waits:
            self._refuse("counts more samples than have come; send it as a file, or with its index in fragments")
        if owed > self._owed:
            if self._owed <= self.received:
                self._owes_from = self._done
            self._owed = owed
        self._done += len(box)
        self._box.clear()

    def _claims(self, box: bytes) -> float:
        """How many bytes must have come for this box to be honest. Raises ProtocolError: it never is."""
        if b"cmov" in box:
            self._refuse("is compressed")
        if any(box.count(name) > _MAX_TABLES for name, _ in (*_COUNTS, *_CHUNKS, *_EDITS)):
            self._refuse("has too many tables")
        if box.count(b"stsc") > _MAX_TRACKS or box.count(b"trak") > _MAX_TRACKS:
            self._refuse("has too many tracks")
        pictures, pcm = _known(box)
        edits = max((1, *(count for _, count in _numbers(box, _EDITS, pictures))))
        for at, count in _numbers(box, _COUNTS, pictures):
            self._samples += math.ceil(count / _PCM_COST) if at in pcm else count
        if self._samples * edits > MAX_SAMPLES:
            self._refuse("counts more samples than one file may have")
        chunks = sum(min(count, len(box)) for _, count in _numbers(box, _CHUNKS, pictures))
        most = max((_chunk_samples(box, at) for at in _places(box, b"stsc", pictures)), default=0)
        return max(self._samples * edits - ALLOWED, most * chunks / _SAMPLES_A_BYTE - ALLOWED)

    def _refuse(self, why: str) -> NoReturn:
        raise ProtocolError(f"the audio cannot be decoded: the index of this MP4 file {why}", code="bad_audio")


def _known(box: bytes) -> tuple[Sequence[range], frozenset[int]]:
    """Where pictures lie in it, and where the names of tables stand that count samples of PCM."""
    pictures, pcm = list[range](), set[int]()
    for name, _, start, end in _inside(box, 0, len(box), ()):
        if name == b"covr":
            pictures.append(range(start, end))
        elif name == b"trak" and (at := _pcm_table(box, start, end)) is not None:
            pcm.add(at)
    return pictures, frozenset(pcm)


def _pcm_table(box: bytes, start: int, end: int) -> int | None:
    """Where the name of the table of a track stands whose samples last one tick each, and are all as long."""
    track = box[start:end]
    if track.count(b"stts") != 1 or track.count(b"stsz") != 1 or b"stz2" in track:
        return None
    found = {
        name: at
        for name, at, inner, outer in _inside(box, start, end, (b"trak",))
        if name == b"stbl"
        for name, at, _, _ in _children(box, inner, outer)
    }
    if (times := found.get(b"stts")) is None or (sizes := found.get(b"stsz")) is None:
        return None
    one_tick = box[times + 8 : times + 12] == b"\0\0\0\1" and box[times + 16 : times + 20] == b"\0\0\0\1"
    return sizes if one_tick and box[sizes + 8 : sizes + 12] != bytes(4) else None


def _inside(box: bytes, start: int, end: int, path: tuple[bytes, ...]) -> Iterator[tuple[bytes, int, int, int]]:
    """All boxes on all levels of those that are known, while they are as they should be."""
    for name, at, inner, outer in _children(box, start, end):
        yield name, at, inner, outer
        if name in _PARENTS and len(path) < 8:
            yield from _inside(box, inner, outer, (*path, name))
        elif name == b"meta" and box[inner : inner + 4] == bytes(4) and box[inner + 8 : inner + 12] == b"hdlr":
            yield from _inside(box, inner + 4, outer, (*path, name))


def _children(box: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int, int]]:
    """Of each: its name and where that stands, where its content begins and ends."""
    while start + 8 <= end:
        size = int.from_bytes(box[start : start + 4], "big")
        if not 8 <= size <= end - start:
            return
        yield box[start + 4 : start + 8], start + 4, start + 8, start + size
        start += size


def _places(box: bytes, name: bytes, without: Sequence[range]) -> Iterator[int]:
    at = box.find(name)
    while at >= 0:
        if not any(at in picture for picture in without):
            yield at
        at = box.find(name, at + 1)


def _numbers(box: bytes, tables: Sequence[tuple[bytes, int]], without: Sequence[range]) -> Iterator[tuple[int, int]]:
    """Where the names of such tables stand, and what they count."""
    for name, behind in tables:
        for at in _places(box, name, without):
            yield at, int.from_bytes(box[at + behind : at + behind + 4], "big")


def _chunk_samples(box: bytes, at: int) -> int:
    """How many samples a chunk has at most by such a table, as far as there are bytes of it."""
    rows = min(int.from_bytes(box[at + 8 : at + 12], "big"), max(0, len(box) - at - 12) // 12)
    table = np.frombuffer(box, ">u4", count=3 * rows, offset=at + 12) if rows else np.zeros(0, ">u4")
    return int(table[1::3].max(initial=0))
