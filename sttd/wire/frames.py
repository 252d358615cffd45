"""From the bytes of a client to its WebSocket messages, and what is wrong with its frames (RFC 6455, section 5).

    bytes ──▶ admit ──▶ messages, whole, unmasked, in order
                └─────▶ controls: pings, pongs and the close, as they came, for a library to answer

A library handles all frames of one read in one turn of the event loop. Empty fragments and pongs cost it 20 µs and
6 bytes each: 64 KiB of them hold the loop for a fifth of a second, which is the client's choice and everybody's loss.
And where a frame breaks the RFC, ours ends the stream without a close frame. What most frames are, whole messages of
audio, cost it 12 µs and two turns; here 3 µs (measured, 640 bytes). So messages do not pass through it, and:

1. At most `FRAMES_A_TURN` frames are looked at in one go.
2. A message that would exceed `message_bytes` is refused by what its headers declare, before it is there.
3. A message may have `MAX_FRAGMENTS` fragments, a larger one in proportion. (Browsers send one; libraries cut at 16 KiB
   or more.)
4. Of control frames (pings, pongs) there may be `CONTROLS_A_SECOND` in the long run and `CONTROLS_AT_ONCE` in a burst.
5. Text, and the reason of a close, must be UTF-8: otherwise the close code is 1007.
6. A frame must be masked, be of a kind that exists, have no reserved bits, declare its length in the shortest way and
   stand where it may: a control frame is whole and small, a fragment belongs to a message, messages do not overlap,
   and a close has a code that may be sent. Otherwise the close code is 1002.
7. What comes after a close is nobody's business.
8. Where messages may be larger than `jsontext.MAX_MESSAGE_BYTES`, what they have beyond it is counted for all such
   connections together (`LargeMessages`), from when it came until the message was dealt with. Whose message is too much
   for all is sent away with `overloaded`.

After a violation nothing is handed on. What lies before it is.
"""

from __future__ import annotations

from codecs import IncrementalDecoder, getincrementaldecoder
from collections import deque
from typing import Final

import attrs

from sttd.errors import ProtocolError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES

FRAMES_A_TURN: Final = 32  # chosen: pings as many are about a millisecond of the library's time
MAX_FRAGMENTS: Final = 1024  # chosen: the largest message in pieces of 1 KiB
_FRAGMENT_BYTES: Final = 8 * 1024  # of a larger message, on average; chosen: half of what libraries cut at
CONTROLS_A_SECOND: Final = 20.0  # chosen: a hundred times what keep-alives need
CONTROLS_AT_ONCE: Final = 100.0

_TEXT, _BINARY, _CLOSE = 0x1, 0x2, 0x8
_OPCODES: Final = frozenset({0x0, _TEXT, _BINARY, _CLOSE, 0x9, 0xA})
_WHOLE_BINARY: Final = 0x80 | _BINARY  # the first byte of a message of one frame
_CONTROL: Final = 0x08  # the bit that control frames have in their opcode
_CONTROL_BYTES: Final = 125
_LENGTHS: Final = {126: 2, 127: 8}  # bytes of the extended length
_LEAST: Final = {126: 126, 127: 1 << 16}  # what is declared with them
_MASK_BYTES: Final = 4
_NO_MASK: Final = bytes(_MASK_BYTES)
_CLOSE_CODES: Final = frozenset({*range(1000, 1004), *range(1007, 1014), *range(3000, 5000)})
_BROKEN, _NO_TEXT = 1002, 1007  # close codes


@attrs.define(eq=False)
class _Frame:
    """One frame, as its header declares it."""

    opcode: int
    final: bool
    length: int
    mask: bytes
    left: int = attrs.field(init=False)  # bytes of the payload that are still to come

    def __attrs_post_init__(self) -> None:
        self.left = self.length

    @property
    def is_control(self) -> bool:
        return bool(self.opcode & _CONTROL)

    def unmask(self, data: bytes | bytearray) -> bytes:
        """The next bytes of the payload, as they were before the client masked them; to be counted afterwards."""
        begun = (self.length - self.left) % _MASK_BYTES
        return _unmasked(data, self.mask[begun:] + self.mask[:begun])


@attrs.define(eq=False)
class LargeMessages:
    """What all connections together hold of messages that are larger than others (rule 8)."""

    limit_bytes: int
    held_bytes: int = attrs.field(default=0, init=False)


@attrs.define(eq=False)
class FrameGuard:
    """The rules above for one connection, whose messages may have so many bytes. Time is an argument, in seconds.

    Whoever takes messages and controls removes them. With `large` it says when a message was dealt with (`taken`),
    and in the end that no more are (`close`).
    """

    message_bytes: int = MAX_MESSAGE_BYTES
    large: LargeMessages | None = None
    messages: deque[str | bytes] = attrs.field(factory=deque, init=False)
    controls: bytearray = attrs.field(factory=bytearray, init=False)  # whole frames
    violation: ProtocolError | None = attrs.field(default=None, init=False)
    closed: bool = attrs.field(default=False, init=False)  # the client has said that it will say no more
    _header: bytearray = attrs.field(factory=bytearray, init=False)  # of a frame that has only begun
    _frame: _Frame | None = attrs.field(default=None, init=False)  # the one whose payload comes
    _message: int = attrs.field(default=0, init=False)  # bytes of the message under way, declared so far
    _fragments: int = attrs.field(default=0, init=False)  # of the message under way; 0: none is
    _came: int = attrs.field(default=0, init=False)  # bytes of the message under way
    _whole: deque[int] = attrs.field(factory=deque, init=False)  # what messages that were not taken have beyond others
    _text: IncrementalDecoder | None = attrs.field(default=None, init=False)  # of the message under way
    _body: bytearray = attrs.field(factory=bytearray, init=False)  # of the message under way
    _control: bytearray = attrs.field(factory=bytearray, init=False)  # the control frame under way
    _farewell: bytes | None = attrs.field(default=None, init=False)  # of the close under way
    _controls: float = attrs.field(default=CONTROLS_AT_ONCE, init=False)  # that may come now
    _counted_at: float = attrs.field(default=0.0, init=False)

    def admit(self, data: bytes, *, now: float) -> int:
        """How many bytes from the beginning of `data` were dealt with; the rest is to be given again.

        After a violation it is none, and `violation` says why.
        """
        if self.violation is not None:
            return 0
        at, frames, frame_at = 0, 0, 0
        while at < len(data) and frames < FRAMES_A_TURN and not self.closed:
            if self._frame is not None:
                step = min(self._frame.left, len(data) - at)
                self.violation = self._look_into(self._frame, data[at : at + step])
                if self.violation is not None:
                    return at
                at += step
                continue
            if not self._header:
                frame_at = at
                if end := self._take_whole(data, at):
                    at, frames = end, frames + 1
                    continue
            self._header.append(data[at])
            at += 1
            if self._header_is_whole():
                frames += 1
                self.violation = self._begin(now)
                if self.violation is not None:
                    return frame_at
        return len(data) if self.closed else at

    def _take_whole(self, data: bytes, at: int) -> int:
        """Take the message that begins here and where it ends, if it is as most are: binary, whole, in order. Else 0.

        What is not, or not for certain, goes the long way, which says what is wrong with it.
        """
        if data[at] != _WHOLE_BINARY or self._fragments or self.large is not None or len(data) - at < 8:
            return 0
        length, body = data[at + 1] - 0x80, at + 2 + _MASK_BYTES
        if length == 126:
            length, body = data[at + 2] << 8 | data[at + 3], body + 2
            if length < _LEAST[126]:
                return 0
        elif not 0 <= length < 126:
            return 0
        end = body + length
        if length > self.message_bytes or end > len(data):
            return 0
        self.messages.append(_unmasked(data[body:end], data[body - _MASK_BYTES : body]))
        return end

    def taken(self) -> None:
        """The oldest message was dealt with."""
        if self.large is not None:
            self.large.held_bytes -= self._whole.popleft()

    def close(self) -> None:
        """No more messages are taken."""
        if self.large is not None:
            self.large.held_bytes -= sum(self._whole) + self._excess
            self._whole.clear()
            self._came = 0

    @property
    def _excess(self) -> int:
        return max(0, self._came - MAX_MESSAGE_BYTES)

    # ------------------------------------------------------------------ headers

    def _header_is_whole(self) -> bool:
        if len(self._header) < 2:
            return False
        masked = _MASK_BYTES if self._header[1] & 0x80 else 0
        return len(self._header) == 2 + _LENGTHS.get(self._header[1] & 0x7F, 0) + masked

    def _begin(self, now: float) -> ProtocolError | None:
        """Judge and count the frame whose header is whole."""
        first, second = self._header[0], self._header[1]
        declared = second & 0x7F
        more = _LENGTHS.get(declared, 0)
        length = int.from_bytes(self._header[2 : 2 + more], "big") if more else declared
        frame = _Frame(
            opcode=first & 0x0F, final=bool(first & 0x80), length=length, mask=bytes(self._header[2 + more :])
        )
        if frame.is_control:
            self._control[:] = self._header
        self._header.clear()
        if first & 0x70:
            return _broken("reserved bits of a frame must be zero")
        if not frame.mask:
            return _broken("a client masks its frames")
        if length < _LEAST.get(declared, 0) or length >> 63:
            return _broken("the length of a frame is declared in the shortest way")
        wrong = self._misplaced(frame) or (self._count_control(now) if frame.is_control else self._count(frame))
        if wrong is not None:
            return wrong
        if frame.opcode == _TEXT:
            self._text = getincrementaldecoder("utf-8")()
        elif frame.opcode == _CLOSE:
            self._farewell = b""
        self._frame = frame
        return None if frame.left else self._look_into(frame, b"")

    def _misplaced(self, frame: _Frame) -> ProtocolError | None:
        if frame.opcode not in _OPCODES:
            return _broken(f"there are no frames of kind {frame.opcode}")
        if frame.is_control:
            if frame.length > _CONTROL_BYTES or not frame.final:
                return _broken(f"a control frame is whole, and has {_CONTROL_BYTES} bytes at most")
        elif bool(frame.opcode) == bool(self._fragments):
            return _broken("a message begins where another has not ended" if frame.opcode else "a fragment of nothing")
        return None

    def _count(self, frame: _Frame) -> ProtocolError | None:
        self._message += frame.length
        self._fragments += 1
        if self._message > self.message_bytes:
            return ProtocolError(f"a message may have {self.message_bytes} bytes at most", code="too_large")
        most = max(MAX_FRAGMENTS, self.message_bytes // _FRAGMENT_BYTES)
        if self._fragments > most:
            return ProtocolError(f"a message may have {most} fragments at most")
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

    # ------------------------------------------------------------------ payloads

    def _look_into(self, frame: _Frame, data: bytes | bytearray) -> ProtocolError | None:
        """Judge the next bytes of the payload, and the frame if they are its last."""
        wrong = None
        if frame.is_control:
            self._control += data
            if self._farewell is not None:
                self._farewell += frame.unmask(data)
                if len(self._farewell) == frame.length:
                    wrong = self._judge_close(self._farewell)
        else:
            plain = frame.unmask(data)
            self._body += plain
            if self._text is not None:
                wrong = _undecodable(self._text, plain, ends=frame.final and frame.left == len(data))
        frame.left -= len(data)
        if self.large is not None and not frame.is_control:
            wrong = self._hold(self.large, len(data), ends=frame.final and not frame.left) or wrong
        if not frame.left and wrong is None:
            self._end(frame)
        return wrong

    def _end(self, frame: _Frame) -> None:
        """The frame is whole, and in order."""
        self._frame = None
        if frame.is_control:
            self.controls += self._control
        elif frame.final:
            self.messages.append(bytes(self._body) if self._text is None else self._body.decode())
            self._body.clear()
            self._message = self._fragments = 0
            self._text = None

    def _hold(self, large: LargeMessages, size_bytes: int, *, ends: bool) -> ProtocolError | None:
        """Count what came of the message under way."""
        before = self._excess
        self._came += size_bytes
        large.held_bytes += self._excess - before
        if self._excess and large.held_bytes > large.limit_bytes:
            return ProtocolError("too many large messages at once; come again later", code="overloaded")
        if ends:
            self._whole.append(self._excess)
            self._came = 0
        return None

    def _judge_close(self, payload: bytes) -> ProtocolError | None:
        self.closed = True
        if payload and int.from_bytes(payload[:2], "big") not in _CLOSE_CODES:
            return _broken("a close has no code, or one that may be sent")
        return _undecodable(getincrementaldecoder("utf-8")(), payload[2:], ends=True)


def _broken(message: str) -> ProtocolError:
    return ProtocolError(message, close_code=_BROKEN)


def _undecodable(decoder: IncrementalDecoder, data: bytes, *, ends: bool) -> ProtocolError | None:
    try:
        decoder.decode(data, ends)
    except UnicodeDecodeError:
        return ProtocolError("text must be UTF-8", close_code=_NO_TEXT)
    return None


def _unmasked(data: bytes | bytearray, mask: bytes) -> bytes:
    """A payload as it was before the client masked it."""
    if mask == _NO_MASK:
        return bytes(data)
    key = (mask * (len(data) // _MASK_BYTES + 1))[: len(data)]
    plain = int.from_bytes(data, "little") ^ int.from_bytes(key, "little")
    return plain.to_bytes(len(data), "little")
