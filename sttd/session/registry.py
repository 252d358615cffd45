"""Who is connected: the sessions that live now, counted by user, listed page by page; and how one is run."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import attrs
import trio

from sttd.errors import NotFoundError, OverloadedError, ProtocolError
from sttd.session.session import Session

# A client that comes back at once meets the same limit; one that waits this long probably does not.
_RETRY_AFTER_S = 5.0


@attrs.define(eq=False)
class Registry:
    """Live sessions by id, in the order in which they were opened. Ids sort in that order too."""

    limit: int
    limit_per_uid: int
    peak: int = attrs.field(default=0, init=False)
    total: int = attrs.field(default=0, init=False)
    expected: Counter[int] = attrs.field(factory=Counter, init=False)  # places that are kept, by user
    promised: Counter[int] = attrs.field(factory=Counter, init=False)  # those that no room is kept for, by user
    refused: int = attrs.field(default=0, init=False)  # sessions that were not admitted, for want of room
    _sessions: dict[str, Session] = attrs.field(factory=dict, init=False)
    _per_uid: Counter[int] = attrs.field(factory=Counter, init=False)

    def __len__(self) -> int:
        """With those that are expected."""
        return len(self._sessions) + self.expected.total()

    def all(self) -> tuple[Session, ...]:
        """A copy: sessions come and go while the caller walks it."""
        return tuple(self._sessions.values())

    def by_user(self) -> dict[int, float]:
        """How many sessions each user has."""
        return dict(self._per_uid + self.expected)

    def apis(self) -> dict[str, int]:
        """How many sessions there are of each wire that one came by."""
        return dict(Counter(session.api for session in self._sessions.values()))

    def asleep(self) -> tuple[int, int]:
        """How many wait for their clients to come back, and the bytes of events that are kept for those."""
        waiting = [session.rest.kept_bytes for session in self._sessions.values() if session.rest.asleep]
        return len(waiting), sum(waiting)

    def taken(self, uid: int) -> float:
        """How much of the room for sessions of this user is taken; from 1 on one more is one too many."""
        return max(len(self) / self.limit, self._of(uid) / self.limit_per_uid)

    def refusal(self, uid: int) -> OverloadedError:
        """What is said to this user then."""
        retry = {"retry_after_s": _RETRY_AFTER_S}
        if len(self) >= self.limit:
            return OverloadedError(f"all {self.limit} sessions are taken; come again later", data=retry)
        return OverloadedError(
            f"user {uid} has {self._of(uid)} sessions, and one user may have {self.limit_per_uid}", data=retry
        )

    def _of(self, uid: int) -> int:
        return self._per_uid[uid] + self.expected[uid]

    def new_id(self) -> str:
        """An id that no session of this daemon has had."""
        self.total += 1
        return f"s{self.total:06d}"

    def add(self, session: Session) -> None:
        """A session begins."""
        self._sessions[session.id] = session
        self._per_uid[session.uid] += 1
        self.peak = max(self.peak, len(self._sessions))

    def remove(self, session: Session) -> None:
        """It has ended; idempotent."""
        if self._sessions.pop(session.id, None) is not None:
            self._per_uid[session.uid] -= 1
            if not self._per_uid[session.uid]:
                del self._per_uid[session.uid]

    def visible(self, *, uid: int | None) -> list[Session]:
        """Sessions of this user; with None all of them."""
        return [session for session in self._sessions.values() if uid is None or session.uid == uid]

    def find(self, session_id: str, *, uid: int | None) -> Session:
        """One session. Raises NotFoundError, also where it belongs to another user than `uid`."""
        session = self._sessions.get(session_id)
        if session is None or (uid is not None and session.uid != uid):
            raise NotFoundError(f"there is no session {session_id!r} of yours; `sttctl sessions` lists them")
        return session

    def page(self, *, uid: int | None, limit: int, cursor: str | None) -> tuple[list[Session], str | None]:
        """Up to `limit` sessions after `cursor`, and the cursor of the next page. Raises ProtocolError."""
        if cursor is not None and not (cursor.startswith("s") and cursor[1:].isdecimal()):
            raise ProtocolError("`cursor` is not one that this daemon gave", code="bad_option")
        after = int(cursor[1:]) if cursor else 0
        rest = [session for session in self.visible(uid=uid) if int(session.id[1:]) > after]
        page = rest[:limit]
        return page, (page[-1].id if len(rest) > limit else None)


@asynccontextmanager
async def running(session: Session) -> AsyncIterator[None]:
    """Run a session beside the block, and wait for it after.

    `Session.run` raises nothing, so the only errors that can come out of this nursery are the block's own: they
    leave it as they are, not wrapped in a group.
    """
    error: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.run)
        try:
            yield
        except Exception as exc:
            error = exc
        session.end("disconnect")  # where the client had stopped: it reads no more
    if error is not None:
        raise error
