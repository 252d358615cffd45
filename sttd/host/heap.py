"""When freed heap goes back to the kernel: after a burst of what clients sent. `settle` is about Python's collector.

The C library keeps what is freed, for the next decode (`engine/memory.py`), and the end of a model gives it back. What
clients sent has no model: 120 connections with 1 MiB of an unfinished message each leave 128 MiB behind. So:

1. What a connection received counts as freed once it has ended, however little of it was still held then: a backlog
   that was worked off stays in the heap too.
2. After `BURST_BYTES` of that the heap is trimmed, `SETTLE_S` later, since those that come together leave together.
3. It is trimmed once in `EVERY_S` at most: the decode after it has its buffers mapped afresh.
"""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Final

import attrs
import trio

from sttd.host import logs

log = logs.get(__name__)

BURST_BYTES: Final = 32 * 1024**2  # chosen: 17 minutes of speech, so one client who talks all day is hardly noticed
SETTLE_S: Final = 2.0  # chosen
EVERY_S: Final = 60.0  # chosen


def settle() -> None:
    """What is there now stays: the collector does not look at it again.

    It goes through all objects now and then, and nobody is served meanwhile. Two thirds are there from the start; with
    them it took 60 ms on a slow machine.
    """
    gc.collect()
    gc.freeze()


@attrs.define(eq=False)
class HeapCare:
    """The rules above. `trim` gives freed heap back; it runs in a thread, since others wait for the heap meanwhile."""

    trim: Callable[[], object]
    _freed_bytes: int = attrs.field(default=0, init=False)  # since the last trim
    _due: trio.Event = attrs.field(factory=trio.Event, init=False)

    def freed(self, count_bytes: int) -> None:
        """A connection has ended that had received so much."""
        self._freed_bytes += count_bytes
        if self._freed_bytes >= BURST_BYTES:
            self._due.set()

    async def run(self) -> None:
        """Trim when it is due, for ever."""
        while True:
            await self._due.wait()
            await trio.sleep(SETTLE_S)
            freed_bytes, self._freed_bytes, self._due = self._freed_bytes, 0, trio.Event()
            await trio.to_thread.run_sync(self.trim)
            log.debug("heap trimmed", freed_bytes=freed_bytes)
            await trio.sleep(EVERY_S)
