"""What a client's WebSocket frames cost, read from their headers (RFC 6455, section 5.2) before a library sees them.

A library handles all frames of one read in one turn of the event loop, and collects an unfinished message in memory.
Empty fragments and pongs cost 20 µs and 6 bytes each: 64 KiB of them hold the loop for a fifth of a second, which is
the client's choice and everybody's loss. So:

1. At most `FRAMES_A_TURN` frames are handed on at a time.
2. A message that would exceed `MAX_MESSAGE_BYTES` is refused by what its headers declare, before it is there.
3. A message may have `MAX_FRAGMENTS` fragments. (Browsers send one; libraries cut at 16 KiB or more.)
4. Of control frames (pings, pongs) there may be `CONTROLS_A_SECOND` in the long run and `CONTROLS_AT_ONCE` in a burst.

After a violation nothing is handed on. What is wrong with a frame otherwise is the library's business.
"""

from __future__ import annotations

from typing import Final

import attrs

from sttd.errors import ProtocolError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES

FRAMES_A_TURN: Final = 32  # chosen: about a millisecond of the library's time
MAX_FRAGMENTS: Final = 1024  # chosen: the largest message in pieces of 1 KiB
CONTROLS_A_SECOND: Final = 20.0  # chosen: a hundred times what keep-alives need
CONTROLS_AT_ONCE: Final = 100.0

_LENGTHS: Final = {126: 2, 127: 8}  # bytes of the extended length
_MASK_BYTES: Final = 4


@attrs.define(eq=False)
class FrameGuard:
    """The rules above for one connection. Time is an argument, in seconds."""

    violation: ProtocolError | None = attrs.field(default=None, init=False)
    _header: bytearray = attrs.field(factory=bytearray, init=False)  # of a frame that has only begun
    _payload: int = attrs.field(default=0, init=False)  # bytes of the frame under way that are still to come
    _message: int = attrs.field(default=0, init=False)  # bytes of the message under way, declared so far
    _fragments: int = attrs.field(default=0, init=False)
    _controls: float = attrs.field(default=CONTROLS_AT_ONCE, init=False)  # that may come now
    _counted_at: float = attrs.field(default=0.0, init=False)

    def admit(self, data: bytes | bytearray, *, now: float) -> int:
        """How many bytes from the beginning of `data` may be handed on now; the rest is to be asked about again.

        What lies before a violation is still handed on; then it is none, and `violation` says why.
        """
        if self.violation is not None:
            return 0
        at, frames, frame_at = 0, 0, 0
        while at < len(data) and frames < FRAMES_A_TURN:
            if self._payload:
                step = min(self._payload, len(data) - at)
                self._payload -= step
                at += step
                continue
            if not self._header:
                frame_at = at
            self._header.append(data[at])
            at += 1
            if self._header_is_whole():
                frames += 1
                self.violation = self._judge(now)
                self._header.clear()
                if self.violation is not None:
                    return frame_at
        return at

    def _header_is_whole(self) -> bool:
        if len(self._header) < 2:
            return False
        masked = _MASK_BYTES if self._header[1] & 0x80 else 0
        return len(self._header) == 2 + _LENGTHS.get(self._header[1] & 0x7F, 0) + masked

    def _judge(self, now: float) -> ProtocolError | None:
        """Count the frame whose header is whole."""
        length = self._header[1] & 0x7F
        if (more := _LENGTHS.get(length)) is not None:
            length = int.from_bytes(self._header[2 : 2 + more], "big")
        self._payload = length
        if self._header[0] & 0x08:
            return self._count_control(now)
        self._message += length
        self._fragments += 1
        if self._message > MAX_MESSAGE_BYTES:
            return ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes at most", code="too_large")
        if self._fragments > MAX_FRAGMENTS:
            return ProtocolError(f"a message may have {MAX_FRAGMENTS} fragments at most")
        if self._header[0] & 0x80:  # the last fragment
            self._message = self._fragments = 0
        return None

    def _count_control(self, now: float) -> ProtocolError | None:
        gained = (now - self._counted_at) * CONTROLS_A_SECOND
        self._controls = min(CONTROLS_AT_ONCE, self._controls + gained) - 1
        self._counted_at = now
        if self._controls >= 0:
            return None
        return ProtocolError(
            f"a client may send {CONTROLS_A_SECOND:g} control frames a second", code="too_many_requests"
        )
