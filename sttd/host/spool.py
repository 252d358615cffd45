"""What clients send and the daemon must keep for a while: how much there may be of it, and where it lies.

Rules:

1. A room has so many bytes for all of its users together, and so many for each: one user leaves space for another.
   Temporary directories often lie in memory.
2. What is kept counts from its first byte, in memory or on disk, until whoever keeps it has done with it.
3. Who finds no more room is told `overloaded`; those that have it go on.
4. A spool keeps its first bytes in memory, and all of them in a file without a name once there are more, so that
   nothing is left behind however the daemon ends. The event loop waits for no disk: threads write, read and close.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, Final, TypeVar

import attrs
import trio

from sttd.errors import OverloadedError

T = TypeVar("T")

RETRY_S: Final = 5.0
MEMORY_BYTES: Final = 1 << 20
PIECE_BYTES: Final = 64 * 1024  # of what is read
_WRITE_BYTES: Final = 256 * 1024  # written at a time; chosen: a hop to a thread costs as much as copying so much


@attrs.define(eq=False)
class Room:
    """What there is, and who has it. Any thread may ask."""

    total_bytes: int
    uid_bytes: int
    what: str = "files that are read"  # at the moment, for messages
    _taken: Counter[int] = attrs.field(factory=Counter, init=False)  # by user
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def taken_bytes(self) -> int:
        """All that is taken."""
        return self._taken.total()

    def by_user(self) -> dict[int, float]:
        """All that is taken, by user."""
        with self._lock:
            return dict(self._taken)

    def take(self, count: int, *, uid: int) -> None:
        """So many more bytes for a user. Raises OverloadedError where there is no room for them."""
        with self._lock:
            self.check(count, uid=uid)
            self._taken[uid] += count

    def check(self, count: int, *, uid: int) -> None:
        """Raises OverloadedError where `take` would."""
        if self._taken[uid] + count > self.uid_bytes:
            raise _full(f"the {self.what} of user {uid} at the moment take {self._taken[uid] >> 20} MiB")
        if self._taken.total() + count > self.total_bytes:
            raise _full(f"the {self.what} at the moment take {self._taken.total() >> 20} MiB")

    def give_back(self, count: int, *, uid: int) -> None:
        """It is no longer kept."""
        with self._lock:
            self._taken[uid] -= count
            if not self._taken[uid]:
                del self._taken[uid]


def _full(why: str) -> OverloadedError:
    return OverloadedError(f"{why}, and there is no room for more; come again later", data={"retry_after_s": RETRY_S})


# ---------------------------------------------------------------- spools


# Of their own: a disk that hangs must not take the threads that others wait for.
_threads = trio.CapacityLimiter(8)


def directory() -> str:
    """Where large things lie: not in /tmp, which is memory on many systems."""
    return os.environ.get("TMPDIR") or "/var/tmp"


@attrs.define(eq=False)
class Spool:
    """Bytes that are written once, in order, and then read. One task at a time.

    `aclose` must be awaited in the end; it waits for no more than its own thread, also where it is cancelled.
    """

    room: Room
    uid: int
    size: int = attrs.field(default=0, init=False)  # bytes
    _memory: bytearray = attrs.field(
        factory=bytearray, init=False
    )  # all of them, or those that are still to be written
    _file: Any = attrs.field(default=None, init=False)
    _written: int = attrs.field(default=0, init=False)

    async def write(self, data: bytes) -> None:
        """Append.

        Raises:
            OverloadedError: there is no room, or the disk is full.
        """
        self.room.take(len(data), uid=self.uid)
        self.size += len(data)
        self._memory += data
        if len(self._memory) >= (MEMORY_BYTES if self._file is None else _WRITE_BYTES):
            await self._in_thread(self._flush)

    def pieces(self) -> Pieces:
        """All of it, from the beginning."""
        return Pieces(self)

    async def read(self, at: int) -> bytes:
        """Some bytes from this place on; none at the end.

        Raises:
            OverloadedError: the disk cannot be read.
        """
        if at < self._written:
            count = min(PIECE_BYTES, self._written - at)
            return await self._in_thread(lambda: os.pread(self._file.fileno(), count, at))
        await trio.lowlevel.checkpoint()
        return bytes(self._memory[at - self._written :][:PIECE_BYTES])

    async def aclose(self) -> None:
        """Forget it all. Idempotent."""
        self.room.give_back(self.size, uid=self.uid)
        self.size = self._written = 0
        self._memory.clear()
        file, self._file = self._file, None
        if file is not None:
            with trio.CancelScope(shield=True):  # to free the pages of a large file takes time
                await trio.to_thread.run_sync(file.close, limiter=_threads)

    def _flush(self) -> None:
        """In the thread: everything from memory to the file."""
        if self._file is None:
            self._file = tempfile.TemporaryFile(dir=directory(), buffering=0)  # noqa: SIM115 (closed in aclose)
        view = memoryview(bytes(self._memory))
        while view:
            count = os.write(self._file.fileno(), view)
            self._written += count
            view = view[count:]
        self._memory.clear()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=_threads)
        except OSError as exc:
            message = f"what is sent cannot be kept ({exc.strerror or exc}); come again later"
            raise OverloadedError(message, data={"retry_after_s": RETRY_S}) from exc


@attrs.define(eq=False)
class Pieces:
    """Iterates over a spool; raises as `Spool.read`. Nothing needs to be closed."""

    spool: Spool
    _at: int = attrs.field(default=0, init=False)

    def __aiter__(self) -> Pieces:
        return self

    async def __anext__(self) -> bytes:
        piece = await self.spool.read(self._at)
        if not piece:
            raise StopAsyncIteration
        self._at += len(piece)
        return piece
