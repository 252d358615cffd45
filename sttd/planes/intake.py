"""What was read from a connection and not yet taken by its session, and how fast to read on.

The rule of the protocol is double: `overflow: wait` loses nothing (the daemon reads more slowly and TCP holds the
client back), and a connection is never left unread for more than 5 s, since a client's keep-alive pings lie behind its
audio in the same stream, and a client whose ping is not answered in time (20 s is a usual limit) hangs up. Reading one
message now and then keeps to the letter only: in front of a ping lies what the kernels of both sides buffer, 1 to 2 MB
with the settings of planes/http.py. So:

1. Up to `CHUNKS` messages and `AUDIO_S` seconds of audio are taken in at the speed of the client. A session that keeps
   up never gets there.
2. Beyond, reading waits for the session to take something, message by message. But every `PAUSE_S` at the latest
   `SLICE_BYTES` are read in one go, wanted or not: eight times as fast as 16 kHz speech, so a ping waits for 8 s.
3. The more is held, the smaller the slice, down to one message: at `HELD_BYTES` for one connection or `ALL_HELD_BYTES`
   for all of the plane. From then on the speed of reading is that of the session, and memory does not grow.
4. A session that takes nothing even then is given up, with an error that says so, rather than the memory of the others.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

CHUNKS = 64
AUDIO_S = 30.0
PAUSE_S = 1.0
SLICE_BYTES = 256 * 1024
HELD_BYTES = 64 * 1024 * 1024  # 35 minutes of 16-bit audio at 16 kHz
ALL_HELD_BYTES = 4 * HELD_BYTES

Message = str | bytes


@attrs.define(eq=False)
class Held:
    """What all connections of a plane hold together."""

    total_bytes: int = 0


@attrs.define(eq=False)
class Intake:
    """A queue from the reader of one connection to its session, with the policy above.

    `bytes_per_second` is that of the declared audio; before `start`, and for compressed audio, it is a guess. Whoever
    makes one calls `discard` in the end, so that `held` is right.
    """

    held: Held = attrs.field(factory=Held)
    bytes_per_second: float = 32_000.0
    held_bytes: int = attrs.field(default=0, init=False)
    _messages: deque[Message] = attrs.field(factory=deque, init=False)
    _slice_due: float | None = attrs.field(default=None, init=False)  # while there is no room: when to read anyway
    _allowance: int = attrs.field(default=0, init=False)  # bytes of a slice that are still to be read
    _closed: bool = attrs.field(default=False, init=False)
    _discarding: bool = attrs.field(default=False, init=False)
    _filled: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _emptied: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def full(self) -> bool:
        """Reading on is no longer free (rule 1)."""
        return len(self._messages) >= CHUNKS or self.held_bytes >= AUDIO_S * self.bytes_per_second

    @property
    def may_read(self) -> bool:
        """The next message may be read now."""
        return self._allowance > 0 or not self.full

    @property
    def overrun(self) -> bool:
        """The session must be given up (rule 4)."""
        return self.held_bytes >= 1.25 * HELD_BYTES

    def put(self, message: Message) -> None:
        """Append what was read. Never waits: `wait_for_room` goes before reading."""
        if self._discarding:
            return
        self._messages.append(message)
        self._count(len(message))
        self._allowance = max(0, self._allowance - len(message))
        self._filled.unpark()

    def close(self) -> None:
        """Nothing more will be read; what is held can still be taken."""
        self._closed = True
        self._filled.unpark_all()

    def discard(self) -> None:
        """What is held and what will be read is of no more use; reading goes on, so that a close is seen."""
        self._discarding = True
        self._messages.clear()
        self._count(-self.held_bytes)
        self._emptied.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait until the next message may be read (rule 2)."""
        await trio.lowlevel.checkpoint()
        if self.may_read:
            return
        if self._slice_due is None:
            self._slice_due = trio.current_time() + PAUSE_S
        with trio.move_on_at(self._slice_due):
            while self.full:
                await self._emptied.park()
        if self.full:
            self._allowance = self._slice_bytes()
            self._slice_due = trio.current_time() + PAUSE_S

    def _slice_bytes(self) -> int:
        filled = max(self.held_bytes / HELD_BYTES, self.held.total_bytes / ALL_HELD_BYTES)
        return max(1, int(SLICE_BYTES * (1 - filled)))

    def _count(self, change_bytes: int) -> None:
        self.held_bytes += change_bytes
        self.held.total_bytes += change_bytes

    async def take(self) -> Message:
        """The next message in order. Raises trio.EndOfChannel when closed and empty; cancelling loses nothing."""
        while not self._messages:
            if self._closed:
                raise trio.EndOfChannel
            await self._filled.park()
        await trio.lowlevel.checkpoint_if_cancelled()
        message = self._messages.popleft()
        self._count(-len(message))
        if not self._messages:
            self._slice_due = None  # the session has caught up
        self._emptied.unpark()
        return message
