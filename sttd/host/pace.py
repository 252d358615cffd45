"""How many bytes a second a user may send, over all of his connections together.

Rules:

1. What was read is paid for by time, at `bytes_per_s`; who has not sent for a while has `BURST_S` for nothing.
2. Who owes time is read from when it has passed, and TCP holds him back. Nobody else waits for that, nothing is lost,
   and he is told nothing: this is a speed that no recording is worth, and no error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, Protocol

import attrs
import trio

BURST_S: Final = 1.0  # chosen
_REMEMBERED: Final = 1024  # users; who owes nothing is forgotten then


class Pace(Protocol):
    """Called after every read of a connection."""

    async def __call__(self, count: int) -> bool:
        """Return when its user may be read from again, and whether he was kept waiting; cancelling loses nothing."""


@attrs.define(eq=False)
class Paces:
    """The rules above for all users. `bytes_per_s` may change at any time; 0 is no bound."""

    bytes_per_s: float
    clock: Callable[[], float] = trio.current_time
    _paid_at: dict[int, float] = attrs.field(factory=dict, init=False)  # by user: when all that was read is paid for
    _second: int = attrs.field(default=0, init=False)  # the one that is counted now
    _counts: tuple[Counter[int], Counter[int]] = attrs.field(init=False)  # by user: of that one, of the one before

    def __attrs_post_init__(self) -> None:
        self._counts = Counter(), Counter()

    def of(self, uid: int) -> Pace:
        """That of one user."""
        return partial(self._keep, uid)

    def owed_s(self, count: int, *, uid: int) -> float:
        """So many more bytes of this user were read. Returns how long not to read from him."""
        now = self.clock()
        self._turn(now)
        self._counts[0][uid] += count
        if not self.bytes_per_s:
            return 0.0
        if len(self._paid_at) >= _REMEMBERED:
            self._paid_at = {user: at for user, at in self._paid_at.items() if at > now - BURST_S}
        begun = max(self._paid_at.get(uid, 0.0), now - BURST_S)
        self._paid_at[uid] = begun + count / self.bytes_per_s
        return max(0.0, self._paid_at[uid] - now)

    def lately(self) -> Mapping[int, float]:
        """Bytes of each user in the last whole second."""
        self._turn(self.clock())
        return self._counts[1]

    async def _keep(self, uid: int, count: int) -> bool:
        if owed_s := self.owed_s(count, uid=uid):
            await trio.sleep(owed_s)
        return owed_s > 0

    def _turn(self, now: float) -> None:
        if (passed := int(now) - self._second) > 0:
            self._counts = Counter(), self._counts[0] if passed == 1 else Counter()
            self._second = int(now)
