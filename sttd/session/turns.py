"""Whose turn it is to be heard, of those who send faster than anybody speaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio


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
