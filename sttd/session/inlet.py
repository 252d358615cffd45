"""The way into a session: audio and what the client says about it, in one channel and one order.

The channel holds `PIECES` pieces of at most `HELD_S` seconds together. When it is full, `overflow: wait` makes the
sender wait and loses nothing; `overflow: drop` takes the oldest audio out again and leaves a `Dropped` in its place.
What the client asked for between dropped pieces stays, in order. Iterate over the inlet to get all of it.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from sttd.options import SAMPLE_BYTES, SessionChanges, SessionOptions

PIECES = 64
HELD_S = 30.0
CONTAINER_PIECE_BYTES = 64 * 1024
_MAX_OVERTAKEN = 64  # then a client that drops must wait too


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
class Inlet:
    """One client's input. `feed` and `put` are the plane's ends; the session iterates, or reads a container's bytes
    from `receive`, of which none are dropped."""

    options: SessionOptions
    receive: trio.MemoryReceiveChannel[Item] = attrs.field(init=False)
    _send: trio.MemorySendChannel[Item] = attrs.field(init=False)
    _overtaken: deque[Control] = attrs.field(factory=deque, init=False)  # older than all that is in the channel
    _waiting: bool = attrs.field(default=False, init=False)  # for the next item

    def __attrs_post_init__(self) -> None:
        self._send, self.receive = trio.open_memory_channel[Item](PIECES)

    @property
    def bytes_per_sample(self) -> int:
        """Of all channels together; 1 for a container, whose samples nobody can count."""
        return SAMPLE_BYTES.get(self.options.encoding, 1) * self.options.channels

    @property
    def _piece_bytes(self) -> int:
        if self.options.encoding == "container":
            return CONTAINER_PIECE_BYTES
        return max(1, int(HELD_S / PIECES * self.options.sample_rate)) * self.bytes_per_sample

    async def feed(self, data: bytes) -> None:
        """Take audio; waits where nothing may be dropped. What comes after the end is ignored.

        Cancelling it may lose the rest of `data`.
        """
        size = self._piece_bytes
        for start in range(0, len(data), size):
            await self.put(data[start : start + size] if len(data) > size else data)

    async def put(self, item: Item) -> None:
        """Put one item behind the others."""
        try:
            while True:
                try:
                    self._send.send_nowait(item)
                except trio.WouldBlock:
                    if not self._make_room():
                        await self._send.send(item)
                        return
                else:
                    break
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the session is ending; nobody wants it
        await trio.lowlevel.checkpoint()

    def end(self) -> None:
        """Nothing more will come; what is in it can still be read. Idempotent."""
        self._send.close()

    def __aiter__(self) -> Inlet:
        return self

    async def __anext__(self) -> Item:
        """The next item; what was overtaken is older than all that is in the channel."""
        if self._overtaken:
            return self._overtaken.popleft()
        self._waiting = True
        try:
            return await self.receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        finally:
            self._waiting = False

    def close(self) -> None:
        """The session takes no more; whoever feeds is let go."""
        self.receive.close()

    def _make_room(self) -> bool:
        """Take the oldest item out. False where nothing may be dropped: half a container is none."""
        if self.options.overflow != "drop" or self.options.encoding == "container":
            return False
        if len(self._overtaken) >= _MAX_OVERTAKEN:
            return False
        if self._waiting and not self.receive.statistics().tasks_waiting_receive:
            return False  # an item is on its way to the session; what were taken out now would overtake it
        oldest = self.receive.receive_nowait()
        if not isinstance(oldest, bytes):
            self._overtaken.append(oldest)
        elif self._overtaken and isinstance(self._overtaken[-1], Dropped):
            self._overtaken[-1] = Dropped(self._overtaken[-1].count + len(oldest))
        else:
            self._overtaken.append(Dropped(len(oldest)))
        return True
