"""What is uploaded at the moment: recordings that came whole, before anything of them was decoded.

Rules:

1. What is held of all uploads together has a bound (`limits.upload_spool_bytes`).
2. A user has a few short uploads that are decoded like the finals of a live session, at a time; further ones are
   files. A script with a thousand clips is no speaker, and would stand before everybody who is.
3. As long as there is one, the daemon is in use.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import attrs

from sttd.config.tree import LimitsConfig
from sttd.host.spool import Room, Spool
from sttd.session.beginning import Beginning, decode_beginning


@attrs.define(eq=False)
class Uploads:
    """The rules above.

    Args:
        room: for what is held.
        finals: of one user at a time (rule 2).
    """

    room: Room
    finals: int
    active: int = attrs.field(default=0, init=False)
    _finals: Counter[int] = attrs.field(factory=Counter, init=False)  # by user

    @asynccontextmanager
    async def receive(self, uid: int) -> AsyncIterator[Spool]:
        """A place for an upload of this user, until the block is left."""
        spool = Spool(self.room, uid)
        self.active += 1
        try:
            yield spool
        finally:
            self.active -= 1
            await spool.aclose()

    async def decode_beginning(self, pieces: AsyncIterable[bytes], *, most_s: float, uid: int) -> Beginning:
        """So much of a container, and whether that is all. Errors and cancellation as `decode_beginning` has them."""
        return await decode_beginning(pieces, most_s=most_s, uid=uid)

    @contextmanager
    def as_final(self, uid: int) -> Iterator[bool]:
        """Whether one more of this user may be a final (rule 2); it counts until the block is left."""
        allowed = self._finals[uid] < self.finals
        if allowed:
            self._finals[uid] += 1
        try:
            yield allowed
        finally:
            if allowed:
                self._finals[uid] -= 1
            if not self._finals[uid]:
                del self._finals[uid]


def uploads_of(limits: LimitsConfig) -> Uploads:
    """With the bounds of the configuration."""
    room = Room(total_bytes=limits.upload_spool_bytes, uid_bytes=limits.upload_spool_bytes_per_uid, what="uploads")
    return Uploads(room=room, finals=limits.final_uploads)
