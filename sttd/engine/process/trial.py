"""What of a call is decoded again after its process has died, and how. No IO, no clock, no threads.

Rules:

1. All items of a call are tried together.
2. What was known of an item before the process died stands; the others are tried again.
3. A process that died with one item in it, and nothing else, died of that: a **strike**. With several in it nobody
   knows of which; all of them are **suspects**, and a suspect is tried alone, with nothing else in the process.
4. A process that was ended because *this* call did not answer: a strike for each item that was in it, and they are
   suspects. Because *another* call did not answer: it is tried again as if nothing had been.
5. `STRIKES` strikes, and the item has failed. So a guilty item costs three processes at most (once together, twice
   alone), and one that was beside it, or beside whoever kills processes for a pastime, is not lost by it.
6. **Time.** The first try may take `FIRST_SHARE` of it all, so that something is left for a second one; of several
   suspects each may take an equal part of what is left.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Iterable
from typing import Final

import attrs

STRIKES: Final = 2
FIRST_SHARE: Final = 0.75  # chosen: what takes longer is a slow model as often as one that hangs


class Fate(enum.Enum):
    """How a process died during a try."""

    ALONE = "alone"  # nothing but one item was in it
    TOGETHER = "together"  # other items or other calls were in it, too
    HUNG = "hung"  # it was ended, for this call did not answer
    BYSTANDER = "bystander"  # it was ended, for another call did not answer


@attrs.frozen
class Try:
    """Items to decode in one call, by their numbers. `share`: of the time that is left, how much it may take."""

    items: tuple[int, ...]
    alone: bool
    share: float


@attrs.define(eq=False)
class Trial:
    """The rules above for the items of one call."""

    count: int
    failed: set[int] = attrs.field(factory=set, init=False)
    _done: set[int] = attrs.field(factory=set, init=False)
    _suspects: set[int] = attrs.field(factory=set, init=False)
    _strikes: Counter[int] = attrs.field(factory=Counter, init=False)

    def next_try(self) -> Try | None:
        """What to do now; None where nothing is left to do."""
        left = [index for index in range(self.count) if index not in self._done and index not in self.failed]
        if not left:
            return None
        unsuspected = [index for index in left if index not in self._suspects]
        if unsuspected:
            return Try(tuple(unsuspected), alone=False, share=FIRST_SHARE)
        # After one strike there is no third try to keep time for.
        spare = 0 if self._strikes[left[0]] else 1
        return Try((left[0],), alone=True, share=1 / (len(left) + spare))

    def answered(self, items: Iterable[int]) -> None:
        """The results of these are known."""
        self._done.update(items)

    def died(self, tried: Try, fate: Fate) -> None:
        """The process died before it had answered all of this."""
        open_items = [index for index in tried.items if index not in self._done]
        if fate is Fate.BYSTANDER:
            return
        self._suspects.update(open_items)
        if fate is not Fate.TOGETHER:
            self._strikes.update(open_items)
        self.failed.update(index for index in open_items if self._strikes[index] >= STRIKES)
