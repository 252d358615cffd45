"""Whose turn it is to be heard, of those who send faster than anybody speaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import attrs
import trio

_AHEAD_S: Final = 1.0  # what a network may hold back and deliver at once; chosen


@attrs.define(eq=False, kw_only=True)
class Headway:
    """How far a client is before what it can have said since it began."""

    began_at: float  # or would have, if it had never been silent

    def is_ahead(self, position_s: float, *, now: float) -> bool:
        """Whether it sends more than it can have said. What it did not say in time it cannot save up."""
        self.began_at = max(self.began_at, now - position_s - _AHEAD_S)
        return position_s > now - self.began_at + _AHEAD_S


@attrs.define(eq=False)
class _User:
    sessions: int = 0  # that have the turn or wait for it
    turn: trio.Lock = attrs.field(factory=trio.Lock)


@attrs.define(eq=False)
class Turns:
    """One at a time, first among users and then among a user's sessions: however many sessions somebody floods, another
    one's file is heard as often as all of these together."""

    everybody: trio.Lock = attrs.field(factory=trio.Lock)
    _users: dict[int, _User] = attrs.field(factory=dict, init=False)

    @asynccontextmanager
    async def of(self, uid: int) -> AsyncIterator[None]:
        """Wait for a turn of this user, and have it for the block."""
        user = self._users.setdefault(uid, _User())
        user.sessions += 1
        try:
            async with user.turn, self.everybody:
                yield
        finally:
            user.sessions -= 1
            if not user.sessions:
                del self._users[uid]
