"""What a client sent and its session has not taken yet, and how fast to read on: one queue, one order.

Audio and what the client says about it (a finalize, other options) lie in one queue, so that each takes effect exactly
between the samples where the client said it. The rule of the protocol for `overflow: wait` is double: nothing is lost
(the daemon reads more slowly, and TCP holds the client back), and a connection is never left unread for more than 5 s,
since a client's keep-alive pings lie behind its audio in the same stream, and a client whose ping is not answered in
time (20 s is a usual limit) hangs up. Reading a message now and then keeps to the letter only: in front of a ping lies
what the kernels of both sides buffer, 1 to 2 MB with the settings of planes/http.py. So:

1. Up to `PIECES` messages (or pieces of larger ones) and `AUDIO_S` seconds of audio are read at the client's speed. A
   session that keeps up never gets there.
2. Beyond, `overflow: drop` takes the oldest audio out again and leaves a `Dropped` in its place; what the client asked
   for in between stays, in order. Of that there may be `MAX_OVERTAKEN`, or one that only asks would fill the memory;
   then it must wait like the others. Half a container is none, so nothing of it is dropped.
3. Beyond, `overflow: wait` has reading wait for the session to take something. But every `PAUSE_S` at the latest
   `SLICE_BYTES` are read in one go, wanted or not: eight times as fast as 16 kHz speech, so a ping waits for 8 s. The
   more is held, the smaller the slice; at `HELD_BYTES` for one session, `USER_HELD_BYTES` for those of one user or
   `ALL_HELD_BYTES` for all it is nothing, and the speed of reading is that of the session.
4. A session that is full and has taken nothing for `STUCK_S` is given up, with an error that says so.
5. The session takes pieces of `AUDIO_S / PIECES` at most, however large the messages were: what one turn of the event
   loop has to do is not the client's choice. Smaller ones that lie there together are taken as one.
6. When the client is gone, what lies beyond `AUDIO_S` goes: nobody waits for it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable

import attrs
import trio

from sttd.errors import OverloadedError
from sttd.options import CONTAINER, SAMPLE_BYTES, SessionChanges, SessionOptions

PIECES = 64  # chosen: a second of audio in messages of 20 ms, and some
AUDIO_S = 30.0  # chosen: as much as Whisper takes in one window
CONTAINER_PIECE_BYTES = 64 * 1024
MAX_OVERTAKEN = 64
PAUSE_S = 1.0
SLICE_BYTES = 256 * 1024
HELD_BYTES = 64 * 1024 * 1024  # 35 minutes of 16-bit audio at 16 kHz
ALL_HELD_BYTES = 4 * HELD_BYTES
USER_HELD_BYTES = 2 * HELD_BYTES
STUCK_S = 120.0  # what a decode may take before the daemon takes it for hung (`scheduler.decode_timeout_s`)

_CONTAINER_BYTES_PER_SECOND = 32_000.0  # a guess on the high side: they are compressed, mostly


@attrs.frozen
class Finalize:
    """The client ends the utterance here."""


@attrs.frozen
class Dropped:
    """So many bytes were dropped here."""

    count: int


Control = Finalize | Dropped | SessionChanges
Item = bytes | Control


@attrs.define(eq=False)
class Held:
    """What all sessions hold together, and those of each user."""

    total_bytes: int = 0
    by_user: Counter[int] = attrs.field(factory=Counter)

    def count(self, change_bytes: int, *, uid: int) -> None:
        """So much more, or less."""
        self.total_bytes += change_bytes
        self.by_user[uid] += change_bytes
        if not self.by_user[uid]:
            del self.by_user[uid]


@attrs.define(eq=False)
class Inbox:
    """One client's input. Its plane calls `wait_for_room` and then puts what it read; the session iterates.

    Putting never waits. Whoever makes an inbox calls `close` in the end, so that `held` is right.
    """

    options: SessionOptions
    held: Held = attrs.field(factory=Held)
    clock: Callable[[], float] = trio.current_time
    uid: int = 0  # whose it is, for `held`
    held_bytes: int = attrs.field(default=0, init=False)
    _items: deque[Item] = attrs.field(factory=deque, init=False)
    _overtaken: deque[Control] = attrs.field(factory=deque, init=False)  # older than all items
    _taken_at: float = attrs.field(init=False)
    _slice_due: float | None = attrs.field(default=None, init=False)  # while there is no room: when to read anyway
    _allowance: int = attrs.field(default=0, init=False)  # bytes of a slice that are still to be read
    _ended: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _filled: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _emptied: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    def __attrs_post_init__(self) -> None:
        self._taken_at = self.clock()

    def __len__(self) -> int:
        return len(self._items) + len(self._overtaken)

    # ---------------------------------------------------------------- the plane's end

    @property
    def may_read(self) -> bool:
        """The next message may be read now."""
        return self._ended or self._allowance > 0 or not self.full

    @property
    def full(self) -> bool:
        """Reading on is no longer free (rules 1 and 2)."""
        if self._drops:
            return len(self._overtaken) >= MAX_OVERTAKEN
        return self._brimful

    async def wait_for_room(self) -> None:
        """Wait until the next message may be read (rule 3).

        Raises:
            OverloadedError: the session takes nothing any more (rule 4).
        """
        while not self.may_read:
            if self._slice_due is None:
                self._slice_due = self.clock() + PAUSE_S
            with trio.move_on_at(self._slice_due):
                while not self.may_read:
                    await self._emptied.park()
            if not self.may_read:
                if self.clock() - self._taken_at >= STUCK_S:
                    raise OverloadedError(
                        f"the session has taken no audio for {STUCK_S:.0f} s, and no more can be held for it"
                    )
                self._allowance = self._slice_bytes()
                self._slice_due = self.clock() + PAUSE_S
        await trio.lowlevel.checkpoint_if_cancelled()

    async def wait_until_free(self) -> None:
        """Wait until reading on is free (rules 1 and 2), or nothing more is taken."""
        await trio.lowlevel.checkpoint()
        while self.full and not self._ended:
            await self._emptied.park()

    def put(self, item: Item) -> None:
        """Append what was read. What comes after the end is ignored."""
        if self._ended:
            return
        if isinstance(item, bytes):
            size = self._piece_bytes
            self._items.extend(item[at : at + size] for at in range(0, len(item), size))
            self._count(len(item))
            self._allowance = max(0, self._allowance - len(item))
        else:
            self._items.append(item)
        if self._drops:
            while self._brimful and self._drop_oldest():
                pass
        self._filled.unpark()

    def end(self) -> None:
        """Nothing more will come; what is held can still be taken. Idempotent."""
        self._ended = True
        self._filled.unpark_all()
        self._emptied.unpark_all()

    def shorten(self) -> None:
        """The client is gone (rule 6)."""
        most = int(AUDIO_S * self._bytes_per_second)
        while self._items and self.held_bytes > most:
            item = self._items.pop()
            if isinstance(item, bytes):
                self._count(-len(item))
                kept = item[: max(0, most - self.held_bytes) // self.bytes_per_sample * self.bytes_per_sample]
                if kept:
                    self._items.append(kept)
                    self._count(len(kept))
                    return

    # ---------------------------------------------------------------- the session's end

    def __aiter__(self) -> Inbox:
        return self

    async def __anext__(self) -> Item:
        try:
            return await self.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    async def receive(self) -> Item:
        """The next item in order (rule 5). Raises trio.EndOfChannel after the last; cancelling loses nothing."""
        if len(self):
            await trio.lowlevel.checkpoint()
        while not len(self):
            if self._ended or self._closed:
                raise trio.EndOfChannel
            await self._filled.park()
        item: Item = self._overtaken.popleft() if self._overtaken else self._items.popleft()
        if isinstance(item, bytes):
            item = self._with_more(item)
            self._count(-len(item))
        self._taken_at = self.clock()
        if not len(self):
            self._slice_due = None  # the session has caught up
        self._emptied.unpark_all()
        return item

    def close(self) -> None:
        """The session takes no more: what is held goes, and whoever feeds is let go."""
        self._ended = self._closed = True
        self._items.clear()
        self._overtaken.clear()
        self._count(-self.held_bytes)
        self._filled.unpark_all()
        self._emptied.unpark_all()

    # ---------------------------------------------------------------- inside

    @property
    def bytes_per_sample(self) -> int:
        """Of all channels together; 1 for a container, whose samples nobody can count."""
        return SAMPLE_BYTES.get(self.options.encoding, 1) * self.options.channels

    @property
    def _bytes_per_second(self) -> float:
        if self.options.encoding == CONTAINER:
            return _CONTAINER_BYTES_PER_SECOND
        return float(self.bytes_per_sample * self.options.sample_rate)

    @property
    def _piece_bytes(self) -> int:
        if self.options.encoding == CONTAINER:
            return CONTAINER_PIECE_BYTES
        return max(1, int(AUDIO_S / PIECES * self.options.sample_rate)) * self.bytes_per_sample

    @property
    def _drops(self) -> bool:
        return self.options.overflow == "drop" and self.options.encoding != CONTAINER

    @property
    def _brimful(self) -> bool:
        return len(self._items) >= PIECES or self.held_bytes >= AUDIO_S * self._bytes_per_second

    def _with_more(self, piece: bytes) -> bytes:
        """A piece and the audio that lies right behind it, as one (rule 5)."""
        if self.options.encoding == CONTAINER:
            return piece
        pieces, size, most = [piece], len(piece), self._piece_bytes
        while self._items and isinstance(behind := self._items[0], bytes) and size + len(behind) <= most:
            pieces.append(behind)
            size += len(behind)
            self._items.popleft()
        return piece if len(pieces) == 1 else b"".join(pieces)

    def _drop_oldest(self) -> bool:
        """Take the oldest item out (rule 2). False where no more may be kept of what was asked for."""
        if len(self._overtaken) >= MAX_OVERTAKEN:
            return False
        oldest = self._items.popleft()
        if not isinstance(oldest, bytes):
            self._overtaken.append(oldest)
            return True
        self._count(-len(oldest))
        if self._overtaken and isinstance(self._overtaken[-1], Dropped):
            self._overtaken[-1] = Dropped(self._overtaken[-1].count + len(oldest))
        else:
            self._overtaken.append(Dropped(len(oldest)))
        return True

    def _slice_bytes(self) -> int:
        filled = max(
            self.held_bytes / HELD_BYTES,
            self.held.by_user[self.uid] / USER_HELD_BYTES,
            self.held.total_bytes / ALL_HELD_BYTES,
        )
        return max(0, int(SLICE_BYTES * (1 - filled)))

    def _count(self, change_bytes: int) -> None:
        self.held_bytes += change_bytes
        self.held.count(change_bytes, uid=self.uid)
