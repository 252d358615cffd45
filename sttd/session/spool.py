"""Room for containers that have to be sought in, and so are kept while they are read.

Rules:

1. All of them together have `TOTAL_BYTES`, and those of one user `UID_BYTES`: one user leaves room for another.
   Temporary directories often lie in memory.
2. What is kept counts from its first byte, in memory or on disk, until its container is closed.
3. A container that finds no more room ends with `overloaded`; those that have it go on.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Final

import attrs

from sttd.errors import OverloadedError

TOTAL_BYTES: Final = 4 << 30
UID_BYTES: Final = 2 << 30  # the largest file that a session may send
RETRY_S: Final = 5.0


@attrs.define(eq=False)
class Room:
    """What there is, and who has it. Any thread may ask."""

    total_bytes: int = TOTAL_BYTES
    uid_bytes: int = UID_BYTES
    _taken: Counter[int] = attrs.field(factory=Counter, init=False)  # by user
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    @property
    def taken_bytes(self) -> int:
        """All that is taken."""
        return self._taken.total()

    def take(self, count: int, *, uid: int) -> None:
        """So many more bytes for a user. Raises OverloadedError where there is no room for them."""
        with self._lock:
            if self._taken[uid] + count > self.uid_bytes:
                raise _full(f"the files of user {uid} that are read at the moment take {self.uid_bytes >> 20} MiB")
            if self._taken.total() + count > self.total_bytes:
                raise _full(f"the files that are read at the moment take {self.total_bytes >> 20} MiB")
            self._taken[uid] += count

    def give_back(self, count: int, *, uid: int) -> None:
        """A container is closed."""
        with self._lock:
            self._taken[uid] -= count
            if not self._taken[uid]:
                del self._taken[uid]


def _full(why: str) -> OverloadedError:
    return OverloadedError(f"{why}, and there is no room for more; come again later", data={"retry_after_s": RETRY_S})


room = Room()
