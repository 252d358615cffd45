"""What was read from a connection and not yet taken by its session, and how fast to read on.

The rule of the protocol is double: `overflow: wait` loses nothing (the daemon reads more slowly and TCP holds the
client back), and a connection is never left unread for more than 5 s, since a client's keep-alive pings lie behind its
audio in the same stream, and a client whose ping is not answered in time (20 s is a usual limit) hangs up. So:

1. Up to `CHUNKS` messages and `AUDIO_S` seconds of audio are taken in at the speed of the client. A session that keeps
   up never gets there.
2. Beyond, reading pauses until the session has taken something, for `PAUSE_S` at most.
3. After such a pause `SLICE_BYTES` are read at once, wanted or not, then it pauses again. The socket's receive buffer
   is kept small (planes/http.py), so a ping is answered after a few slices. A slice is 8 s of 16 kHz speech for 5 s of
   pause: a client that sends in real time is never held back for good.
4. The more is held, the smaller the slice, down to one message at `HELD_BYTES`: a client that sends a long file to a
   slow machine ends up at the speed of the session, where memory no longer grows.
5. A session so stuck that twice `HELD_BYTES` pile up (many minutes without taking anything) is given up, with an error
   that says so, rather than the memory of all the others.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

CHUNKS = 64
AUDIO_S = 30.0
PAUSE_S = 5.0
SLICE_BYTES = 256 * 1024
HELD_BYTES = 16 * 1024 * 1024  # nearly 9 minutes of 16-bit audio at 16 kHz

Message = str | bytes


@attrs.define(eq=False)
class Intake:
    """A queue from the reader of one connection to its session, with the policy above.

    `bytes_per_second` is that of the declared audio; before `start`, and for compressed audio, it is a guess.
    """

    bytes_per_second: float = 32_000.0
    held_bytes: int = attrs.field(default=0, init=False)
    _messages: deque[Message] = attrs.field(factory=deque, init=False)
    _allowance: int = attrs.field(default=0, init=False)  # bytes to read although there is no room
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
    def overrun(self) -> bool:
        """The session must be given up (rule 5)."""
        return self.held_bytes >= 2 * HELD_BYTES

    def put(self, message: Message) -> None:
        """Append what was read. Never waits: `wait_for_room` goes before reading."""
        if self._discarding:
            return
        self._messages.append(message)
        self.held_bytes += len(message)
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
        self.held_bytes = 0
        self._emptied.unpark_all()

    async def wait_for_room(self) -> None:
        """Wait until the next message may be read: at once where there is room, else rules 2 to 4."""
        if not self.full or self._allowance > 0:
            await trio.lowlevel.checkpoint()
            return
        with trio.move_on_after(PAUSE_S):
            while self.full:
                await self._emptied.park()
        if self.full:
            self._allowance = max(1, int(SLICE_BYTES * (1 - self.held_bytes / HELD_BYTES)))

    async def take(self) -> Message:
        """The next message in order. Raises trio.EndOfChannel when closed and empty; cancelling loses nothing."""
        while not self._messages:
            if self._closed:
                raise trio.EndOfChannel
            await self._filled.park()
        await trio.lowlevel.checkpoint_if_cancelled()
        message = self._messages.popleft()
        self.held_bytes -= len(message)
        self._emptied.unpark()
        return message
