"""A socket stream as the WebSocket library needs it: with another handshake than the one that was received, and without
the messages, which do not pass through the library (`wire/frames.py`)."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

import attrs
import trio

from sttd.core.accounting import Frequency
from sttd.errors import ProtocolError
from sttd.host.pace import Pace
from sttd.host.sockets import Listener
from sttd.host.ticks import Ticks
from sttd.wire.frames import FrameGuard, LargeMessages
from sttd.wire.jsontext import MAX_MESSAGE_BYTES

RECEIVE_BYTES = 16 * 1024  # of a read; one large message takes a few more turns, in which others get theirs
_CLOSE_FRAME = 0x88  # the first byte of one; the library sends a frame at a time

# What lies in the kernels' buffers is in front of a client's next ping (session/inbox.py). With Linux' defaults that is
# 4.6 MB over loopback, most of it on the client's side, where the buffer grows with the segment size: so both are kept
# small, by the listener, which hands them on. Measured: 1 to 2 MB, and still 300 MB/s.
_RECEIVE_BUFFER_BYTES = 32 * 1024
_SEGMENT_BYTES = 1400  # about that of Ethernet; loopback's is 64 KiB
# A client may write a whole recording before it reads its first event. Trio lets 16 KiB wait in the kernel, which is
# good for a minute of interims; this is good for half an hour.
_SEND_BUFFER_BYTES = 1024 * 1024

_MESSAGES_A_SECOND: Final = 200.0  # chosen: four speakers with messages of 20 ms, a twentieth of a core
_TICK_S: Final = 0.04  # chosen: on average a message waits for half of it
_CALM_S: Final = 0.08  # chosen: a start takes the endpointer 240 ms and more
_MANY_CALM_S: Final = 0.24  # chosen: the same
_JOINED_BYTES: Final = 4096  # chosen: 128 ms of 16-bit audio at 16 kHz


@attrs.define(eq=False)
class Rests:
    """How long a connection waits before it reads on, so that messages which come one by one are dealt with together.

    One speaker has a turn of the loop for each message: nobody waits below `_MESSAGES_A_SECOND` of all connections
    together. Beyond, small messages wait for the next of the ticks that all have in common; and where nobody has spoken
    for a while, for one that comes less often. There they wait for each other even if they are few, if several come in
    that time: an assistant that listens all day need not wake the processor 50 times a second.
    """

    ticks: dict[float, Ticks] = attrs.field(
        factory=lambda: {every_s: Ticks(every_s) for every_s in (_TICK_S, _CALM_S, _MANY_CALM_S)}
    )
    _messages: Frequency = attrs.field(factory=Frequency, init=False)

    async def run(self) -> None:
        """Tick, until cancelled."""
        async with trio.open_nursery() as nursery:
            for ticks in self.ticks.values():
                nursery.start_soon(ticks.run)

    def before_next(self, size_bytes: int, *, messages: int, period_s: float, calm: bool, now: float) -> Ticks | None:
        """What to wait for before the next read, after one of so much; None: nothing.

        `period_s` is how long it took for each message to come.
        """
        if size_bytes >= RECEIVE_BYTES:
            return None  # there is more: it is a recording, and none of the many
        if self._messages.happened(times=messages, now=now) > _MESSAGES_A_SECOND:
            return self.ticks[_MANY_CALM_S if calm else _TICK_S]
        return self.ticks[_CALM_S] if calm and period_s < _CALM_S else None


RESTS = Rests()  # of the event loop that all connections of a process share


class UpgradedStream(trio.abc.Stream):
    """A connection whose handshake was read already, so that `head` takes its place.

    Differs from the stream it wraps in five ways:

    - After `head` nothing is received until `release`, then `rest`, then what the peer sends. The library loses frames
      that arrive before it has accepted the handshake, and some clients do not wait for that.
    - A cancelled `send_all` does not tear what it was sending: the remainder goes out before the next bytes. So a
      client that reads again after it was given up finds whole frames, and the reason of the close after them.
    - What is sent to a peer that is gone is lost, and no error: what it had said before is still to be read, its last
      words and its close among it. The end comes with the end of that.
    - What the peer sends goes past a `FrameGuard`, a few frames a turn. Its messages are for `next_message`, and
      nothing more is received until they were taken; after our close frame they are thrown away. The library gets the
      rest: pings, pongs, the close. After a violation all is thrown away, and `violation` tells whoever waits for it.
      Our close frame ends it then: no answer to it could be found any more.
    - `aclose` ends the sending direction only. Closing a socket with unread data makes the kernel send a reset, which
      can overtake the close frame; whoever owns the socket reads on for a while and then closes it (`linger`).
    """

    def __init__(
        self,
        stream: trio.SocketStream,
        *,
        head: bytes,
        rest: bytes = b"",
        message_bytes: int = MAX_MESSAGE_BYTES,
        large: LargeMessages | None = None,
        pace: Pace | None = None,
    ) -> None:
        self._stream = stream
        self._pace = pace
        self._first = head
        self._rest = rest
        self._received = b""  # and not looked at yet
        self._read_bytes = 0  # by the last read, all of it
        self._guard = FrameGuard(message_bytes, large)
        self._arrived = trio.lowlevel.ParkingLot()  # whoever waits for a message, or for the end of them
        self._called = trio.lowlevel.ParkingLot()  # the library, while there is nothing for it to do
        self._attended = False  # whoever takes the messages receives them too
        self._pumping = False  # somebody is receiving
        self._ended = False  # no more messages will come
        self._gone = False  # nothing at all will come
        self._discards = False  # those that come all the same are thrown away
        self._tick: Ticks | None = None  # to wait for before the next read
        self._pumped_at = -math.inf
        self._violated = trio.Event()
        self._wading = trio.CancelScope()  # through what comes after a violation
        self._released = trio.Event()
        self._unsent = memoryview(b"")
        self._closed = False
        self.received_bytes = 0  # after the handshake
        self.held_back_at = -math.inf  # when the user's pace last kept it from being read; inf: now
        self.calm = False  # nobody is in a hurry for what the peer sends (`Rests`)

    def release(self) -> None:
        """The handshake is over."""
        self._received, self._rest = self._rest, b""
        self._released.set()

    @property
    def has_message(self) -> bool:
        """Whether `next_message` has one at once."""
        return bool(self._guard.messages)

    @contextmanager
    def attended(self) -> Iterator[None]:
        """Within, whoever calls `next_message` again and again receives too, which spares turns of the library's task.

        Pings and the like are then answered between two messages, and not while nobody waits for the next.
        """
        self._attended = True
        try:
            yield
        finally:
            self._attended = False
            self._called.unpark_all()

    async def next_message(self, *, joined: bool = False) -> str | bytes | None:
        """The next message; None: no more will come. One caller at a time.

        `joined`: small binary ones that have come by now are one, for whom it is all the same how they were cut.
        """
        guard = self._guard
        while not guard.messages:
            if self._ended:
                return None
            if self._attended and not self._pumping and not guard.controls and guard.violation is None:
                await self._pump()
            else:
                self._called.unpark_all()
                await self._arrived.park()
        message = guard.messages.popleft()
        if joined and isinstance(message, bytes):
            message = self._with_more(message)
        if not self._is_for_others:
            self._called.unpark_all()
        return message

    def _with_more(self, message: bytes) -> bytes:
        """A small message and those that lie right behind it."""
        waiting, pieces, size = self._guard.messages, [message], len(message)
        while waiting and isinstance(behind := waiting[0], bytes) and size + len(behind) <= _JOINED_BYTES:
            pieces.append(behind)
            size += len(behind)
            waiting.popleft()
        return message if len(pieces) == 1 else b"".join(pieces)

    def message_taken(self) -> None:
        """The oldest of the messages that were received is dealt with; to be told where `large` is shared."""
        self._guard.taken()

    def forget_messages(self) -> None:
        """None of them is needed any more."""
        self._guard.close()

    async def violation(self) -> ProtocolError:
        """Wait until the peer breaks the rules of `FrameGuard`."""
        await self._violated.wait()
        assert self._guard.violation is not None
        return self._guard.violation

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """As trio.abc.ReceiveStream; raises ClosedResourceError after `aclose`. `max_bytes` has room for a header."""
        if not self._first:
            await self._released.wait()
        if self._closed:
            raise trio.ClosedResourceError
        if self._first:
            await trio.lowlevel.checkpoint()
            size = max_bytes or len(self._first)
            data, self._first = self._first[:size], self._first[size:]
            return data
        while True:
            while self._is_for_others or self._pumping:
                self._arrived.unpark_all()
                await self._called.park()
            if self._discards:
                self._guard.messages.clear()
            if self._gone or (self._ended and not self._discards):
                return b""
            if self._guard.controls:
                data = bytes(self._guard.controls)
                self._guard.controls.clear()
                if self._guard.closed:
                    self._end()
                self._arrived.unpark_all()
                return data
            if self._guard.violation is not None:
                await self._wade()
                self._end()
                return b""
            await self._pump()

    @property
    def _is_for_others(self) -> bool:
        """Whether there is nothing that the library has to do: somebody else takes messages, or reads."""
        if self._ended:
            return False
        guard = self._guard
        return bool(guard.messages) or (self._attended and not guard.controls and guard.violation is None)

    async def _pump(self) -> None:
        """Receive more, and look at it. A connection that is lost is one that has ended."""
        self._pumping = True
        try:
            if self._received:
                await trio.lowlevel.checkpoint()
            else:
                if self._tick is not None:
                    await self._tick.readable(self._stream.socket.fileno())
                    self._received = self._at_hand()
                self._received = self._received or bytes(await self._stream.receive_some(RECEIVE_BYTES))
                self._read_bytes = len(self._received)
                self.received_bytes += self._read_bytes
                if self._pace is not None:
                    await self._keep(self._pace)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._received = b""
        finally:
            self._pumping = False
            if self._ended:
                self._called.unpark_all()
        if not self._received:
            self._gone = True
            self._end()
            return
        now = trio.current_time()
        self._received = self._received[self._guard.admit(self._received, now=now) :]
        messages = len(self._guard.messages)
        period_s = (now - self._pumped_at) / max(1, messages)
        self._tick = RESTS.before_next(self._read_bytes, messages=messages, period_s=period_s, calm=self.calm, now=now)
        self._pumped_at = now

    async def _keep(self, pace: Pace) -> None:
        """Read no more before the user has paid for what was read."""
        before, self.held_back_at = self.held_back_at, math.inf
        waited = True
        try:
            waited = await pace(self._read_bytes)
        finally:
            self.held_back_at = trio.current_time() if waited else before

    def _at_hand(self) -> bytes:
        """What has come by now. Trio would give others a turn, which they had in the rest."""
        try:
            return os.read(self._stream.socket.fileno(), RECEIVE_BYTES)
        except OSError:  # nothing, or what Trio will say better
            return b""

    async def _wade(self) -> None:
        """Through what comes after a violation, up to our close frame."""
        self._received = b""
        self._violated.set()
        with self._wading, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            while await self._stream.receive_some(RECEIVE_BYTES):
                pass

    def _end(self) -> None:
        self._ended = True
        self._arrived.unpark_all()
        self._called.unpark_all()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send; one caller at a time. After a cancellation the remainder is kept and sent first the next time."""
        if self._closed:
            raise trio.ClosedResourceError
        self._unsent = memoryview(bytes(self._unsent) + bytes(data))
        await trio.lowlevel.checkpoint_if_cancelled()
        while self._unsent:
            try:
                sent = await self._stream.socket.send(self._unsent)
            except OSError:
                sent = len(self._unsent)
            self._unsent = self._unsent[sent:]
        if data and data[0] == _CLOSE_FRAME:
            self._discards = True
            self._end()
            self._wading.cancel()

    async def wait_send_all_might_not_block(self) -> None:
        """As trio.abc.SendStream."""
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        """End the sending direction. Idempotent."""
        if not self._closed:
            self._closed = True
            self._released.set()
            self._end()
            await send_eof(self._stream)
        await trio.lowlevel.checkpoint()


async def send_eof(stream: trio.SocketStream) -> None:
    """Tell the peer that nothing more will come; nothing happens if it is gone."""
    try:
        await stream.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        await trio.lowlevel.checkpoint()


async def linger(stream: trio.SocketStream, *, timeout_s: float) -> None:
    """Give the peer time to read our last bytes: throw away what it still sends until it closes too, then close."""
    try:
        with trio.move_on_after(timeout_s):
            await send_eof(stream)
            while await stream.receive_some(RECEIVE_BYTES):
                pass
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        await trio.aclose_forcefully(stream)


def bound_inflow(listener: Listener) -> None:
    """Let little of what clients send lie in the kernel. A Unix socket has 200 KB at most anyway."""
    if listener.socket.family != socket.AF_UNIX:
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        listener.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, _SEGMENT_BYTES)


def widen_outflow(stream: trio.SocketStream) -> None:
    """Let the kernel take a lot of what a client does not read yet. (Trio has set TCP_NODELAY.)"""
    if stream.socket.family == socket.AF_UNIX:
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
    else:
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _SEND_BUFFER_BYTES)
