"""The samples of a call, in memory that the daemon and the process of a model both see.

A file that has no name and lies in memory (memfd), as long as the longest call needs. Its pages exist once they are
written, so the usual utterance takes some hundred kilobytes; what a large batch took beyond `KEPT_BYTES` goes back
after the call. The process sees it read-only.
"""

from __future__ import annotations

import contextlib
import mmap
import os
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np

from sttd.core.types import Samples

CAPACITY_BYTES: Final = 64 * 1024**2  # 32 windows of 30 s, the largest batch of a GPU, are 61 MB
CAPACITY_SAMPLES: Final = CAPACITY_BYTES // 4
KEPT_BYTES: Final = 4 * 1024**2  # chosen: two windows of 30 s
_ITEM_BYTES: Final = 4


@attrs.frozen(eq=False)
class Room:
    """One side's view of it."""

    _map: mmap.mmap
    _samples: Samples

    @classmethod
    def made(cls) -> tuple[Room, int]:
        """A new one, and its descriptor for the other side, which is the caller's to close. Raises OSError."""
        descriptor = os.memfd_create("sttd-audio", os.MFD_CLOEXEC)
        try:
            os.ftruncate(descriptor, CAPACITY_BYTES)
            view = mmap.mmap(descriptor, CAPACITY_BYTES)
            with contextlib.suppress(OSError):  # a hint
                view.madvise(mmap.MADV_DONTDUMP)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(view, np.frombuffer(view, np.float32)), descriptor

    @classmethod
    def seen(cls, descriptor: int) -> Room:
        """The other side's, read-only. Takes the descriptor. Raises OSError, ValueError."""
        try:
            view = mmap.mmap(descriptor, CAPACITY_BYTES, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)
        return cls(view, np.frombuffer(view, np.float32))

    def put(self, pieces: Sequence[Samples]) -> list[int]:
        """Copy them in, one behind the other; where each begins. Raises ValueError where they are too long."""
        if sum(len(piece) for piece in pieces) > len(self._samples):
            raise ValueError("more audio than a call may have")
        places, at = [], 0
        for piece in pieces:
            self._samples[at : at + len(piece)] = piece
            places.append(at)
            at += len(piece)
        return places

    def part(self, at: int, count: int) -> Samples:
        """A piece of it. Raises ValueError where there is none."""
        if not 0 <= at <= at + count <= len(self._samples):
            raise ValueError("not within the memory of a call")
        return self._samples[at : at + count]

    def shrink(self, samples: int) -> None:
        """So many were put: give back what a usual call does not need."""
        if samples * _ITEM_BYTES > KEPT_BYTES:
            end = -(-samples * _ITEM_BYTES // mmap.PAGESIZE) * mmap.PAGESIZE
            with contextlib.suppress(OSError):  # then it stays until the model goes
                self._map.madvise(mmap.MADV_REMOVE, KEPT_BYTES, end - KEPT_BYTES)
