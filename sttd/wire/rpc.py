"""MessagePack-RPC as a codec: bytes in, messages out; messages in, bytes out. For the daemon and for its clients.

Messages lie end to end on the stream, without a length before them, and MessagePack libraries find the end of one only
by building it. A peer that means harm decides how large that is. So a scanner goes over the headers first, in the
order in which they arrive:

1. It finds where a message ends, and refuses one that exceeds the size, nests too deeply, holds an extension type or
   has a map key that is no string; a length that is declared counts as if the bytes were there already.
2. Only a message that passed is decoded, as a whole.
3. After the first violation the stream has no meaning any more: where the next message starts, nobody knows. The
   decoder then says `Malformed`, with the request's id where one could be read, and takes nothing more.

All decisions depend on positions in the stream alone: however the bytes are cut, the same messages come out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, TypeAlias

import attrs
import msgpack

from sttd.errors import ProtocolError

MAX_REQUEST_BYTES = 64 * 1024
MAX_REPLY_BYTES = 16 << 20  # what a client takes from its daemon; the daemon's own pages stay below 1 MiB
MAX_DEPTH = 16  # containers within containers, the message itself included
MAX_MSGID = 2**32 - 1

_REQUEST, _RESPONSE, _NOTIFICATION = range(3)


@attrs.frozen(kw_only=True)
class Request:
    """Wants an answer under the same `msgid`. `params` is as it came: `parse_params` looks at it."""

    msgid: int
    method: str
    params: Any


@attrs.frozen(kw_only=True)
class Response:
    """The answer to a request: `error` is nil or a map, `result` counts where it is nil."""

    msgid: int
    error: Any
    result: Any


@attrs.frozen(kw_only=True)
class Notification:
    """Wants no answer."""

    method: str
    params: Any


@attrs.frozen(kw_only=True)
class Malformed:
    """The stream broke the protocol and is of no use any more. `msgid`: the request to blame, if it could be read."""

    error: ProtocolError
    msgid: int | None


Message: TypeAlias = Request | Response | Notification


# ---------------------------------------------------------------- writing


def encode_request(msgid: int, method: str, *, params: Mapping[str, Any] | None = None) -> bytes:
    """A request with named parameters."""
    return _pack([_REQUEST, msgid, method, [] if params is None else [params]])


def encode_response(msgid: int, *, error: Mapping[str, Any] | None = None, result: Any = None) -> bytes:
    """The answer to the request `msgid`."""
    return _pack([_RESPONSE, msgid, error, result])


def encode_notification(method: str, *, params: Mapping[str, Any]) -> bytes:
    """A notification with named parameters."""
    return _pack([_NOTIFICATION, method, [params]])


def _pack(message: list[Any]) -> bytes:
    # A path that is no UTF-8 reaches Python with surrogates in it; a question mark beats a failed `status`.
    packed: bytes = msgpack.packb(message, unicode_errors="replace")
    return packed


# ---------------------------------------------------------------- reading


@attrs.define(eq=False, kw_only=True)
class RpcDecoder:
    """Reads one direction of a connection."""

    max_message_bytes: int = MAX_REQUEST_BYTES
    max_depth: int = MAX_DEPTH
    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _scanner: _Scanner = attrs.field(init=False)
    _broken: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._scanner = _Scanner(max_bytes=self.max_message_bytes, max_depth=self.max_depth)

    @property
    def pending(self) -> bool:
        """A message has begun and is not complete."""
        return bool(self._buffer)

    def receive_data(self, data: bytes) -> list[Message | Malformed]:
        """The messages that `data` completes, in order. `Malformed` is the last one ever."""
        if self._broken:
            return []
        self._buffer += data
        messages: list[Message | Malformed] = []
        start = 0  # of the message that is being looked at
        try:
            while (end := self._scanner.end_of_message(self._buffer, start)) is not None:
                messages.append(_message(_unpack(self._buffer[start:end])))
                start = end
        except ProtocolError as error:
            messages.append(Malformed(error=error, msgid=_msgid_of(self._buffer, start)))
            self._broken = True
            start = len(self._buffer)
        del self._buffer[:start]
        return messages

    def give_up(self, error: ProtocolError) -> Malformed:
        """End the stream for a reason that the bytes do not show, such as a message that takes too long."""
        self._broken = True
        malformed = Malformed(error=error, msgid=_msgid_of(self._buffer, 0))
        self._buffer.clear()
        return malformed


def _message(value: Any) -> Message:
    match value:
        case [kind, msgid, str(method), params] if _is(kind, _REQUEST) and _is_msgid(msgid):
            return Request(msgid=msgid, method=method, params=params)
        case [kind, msgid, error, result] if _is(kind, _RESPONSE) and _is_msgid(msgid):
            return Response(msgid=msgid, error=error, result=result)
        case [kind, str(method), params] if _is(kind, _NOTIFICATION):
            return Notification(method=method, params=params)
    _malformed("a message is [0, msgid, method, params], [1, msgid, error, result] or [2, method, params]")


def _is(value: Any, kind: int) -> bool:
    return type(value) is int and value == kind  # True == 1 and 1.0 == 1, and neither is a message type


def _is_msgid(value: Any) -> bool:
    return type(value) is int and 0 <= value <= MAX_MSGID


def _unpack(data: bytearray) -> Any:
    try:
        return msgpack.unpackb(data, object_pairs_hook=_unique)
    except UnicodeDecodeError:
        _malformed("a string is not UTF-8")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):  # which of two values is meant, nobody can know
        _malformed("a map has the same key twice")
    return fields


def _msgid_of(buffer: bytearray, start: int) -> int | None:
    """The id of the request that begins at `start`, if that much of it is there and is sound."""
    unpacker = msgpack.Unpacker()
    unpacker.feed(buffer[start : start + 32])  # array, type and id take 19 bytes at most
    try:
        if unpacker.read_array_header() != 4 or not _is(unpacker.unpack(), _REQUEST):
            return None
        msgid = unpacker.unpack()
    except Exception:  # msgpack has eight ways to say no, without a common base
        return None
    return msgid if _is_msgid(msgid) else None


def _malformed(message: str) -> NoReturn:
    raise ProtocolError(message, code="bad_request")


# ---------------------------------------------------------------- the scanner
#
# The tables are the format, https://github.com/msgpack/msgpack/blob/master/spec.md: what the first byte of an item
# says of it. The walk is one flat loop because a hostile 64 KiB are 65,000 items, and the event loop waits for them.

_ATOM, _STR, _ARRAY, _MAP = range(4)

# First byte -> kind, size without children, number of children; where the first byte is enough for that.
_SHORT: dict[int, tuple[int, int, int]] = {
    **dict.fromkeys((*range(0x80), *range(0xE0, 0x100)), (_ATOM, 1, 0)),  # small integers
    **{0x80 + pairs: (_MAP, 1, 2 * pairs) for pairs in range(16)},
    **{0x90 + items: (_ARRAY, 1, items) for items in range(16)},
    **{0xA0 + length: (_STR, 1 + length, 0) for length in range(32)},
    **dict.fromkeys((0xC0, 0xC2, 0xC3), (_ATOM, 1, 0)),  # nil, false, true
    **dict.fromkeys((0xCC, 0xD0), (_ATOM, 2, 0)),  # integers of 8 bits
    **dict.fromkeys((0xCD, 0xD1), (_ATOM, 3, 0)),
    **dict.fromkeys((0xCE, 0xD2, 0xCA), (_ATOM, 5, 0)),  # 32 bits, the short float included
    **dict.fromkeys((0xCF, 0xD3, 0xCB), (_ATOM, 9, 0)),
}
# First byte -> kind, and how many bytes after it hold the length.
_LONG: dict[int, tuple[int, int]] = {
    0xC4: (_ATOM, 1),  # bytes
    0xC5: (_ATOM, 2),
    0xC6: (_ATOM, 4),
    0xD9: (_STR, 1),
    0xDA: (_STR, 2),
    0xDB: (_STR, 4),
    0xDC: (_ARRAY, 2),
    0xDD: (_ARRAY, 4),
    0xDE: (_MAP, 2),
    0xDF: (_MAP, 4),
}


@attrs.define(eq=False, kw_only=True)
class _Scanner:
    """Walks over the items of one message after the other, as far as the bytes reach."""

    max_bytes: int
    max_depth: int
    _size: int = attrs.field(default=0, init=False)  # of what was walked over, from the start of the message
    # The containers that are not complete, outermost first: kind, and items to come (a map has two for each pair).
    _open: list[tuple[int, int]] = attrs.field(factory=list, init=False)

    def end_of_message(self, buffer: bytearray, start: int) -> int | None:
        """Where the message that begins at `start` ends; None while it is incomplete. Raises ProtocolError."""
        size, stack = self._size, self._open
        while stack or size == 0:
            item = _item(buffer, start + size)
            if item is None:
                break
            kind, item_size, children = item
            if not stack:
                if kind != _ARRAY:
                    _malformed("a message is an array")
            else:
                outer, remaining = stack[-1]
                if outer == _MAP and remaining % 2 == 0 and kind != _STR:
                    _malformed("the keys of a map are strings")
                stack[-1] = outer, remaining - 1
            size += item_size
            if size + children > self.max_bytes:  # a child takes at least one byte
                raise ProtocolError(f"a message may have {self.max_bytes} bytes at most", code="too_large")
            if kind >= _ARRAY:
                if len(stack) == self.max_depth:
                    _malformed(f"a message may nest {self.max_depth} deep at most")
                stack.append((kind, children))
            while stack and stack[-1][1] == 0:
                stack.pop()
        if stack or size == 0 or start + size > len(buffer):
            self._size = size
            return None
        self._size = 0
        return start + size


def _item(buffer: bytearray, at: int) -> tuple[int, int, int] | None:
    """The item at `at`: kind, size without children, number of children. None while its header is incomplete."""
    if at >= len(buffer):
        return None
    short = _SHORT.get(buffer[at])
    if short is not None:
        return short
    if buffer[at] not in _LONG:
        _malformed("extension types are not part of this protocol")
    kind, width = _LONG[buffer[at]]
    body = at + 1 + width
    if body > len(buffer):
        return None
    length = int.from_bytes(buffer[at + 1 : body], "big")
    if kind >= _ARRAY:
        return kind, 1 + width, length if kind == _ARRAY else 2 * length
    return kind, 1 + width + length, 0
