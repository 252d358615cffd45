"""HTTP as far as sttd speaks it: one request and its body, what an answer looks like, the handshake of a WebSocket.

Sans-IO.

The audio sockets carry plain requests and WebSockets on one port, so the head is read here and not by the WebSocket
library. A head is at most 16 KiB and is HTTP as h11 understands it (400, 431). Who may ask is said in `access.py`,
which paths there are in `routes.py`.

What passes as a handshake is not handed on as the client wrote it: the WebSocket library gets a head written here.
Its own parser raises on a Host that is no IDNA name and on subprotocols or extensions outside ASCII.
"""

from __future__ import annotations

import binascii
import json
import math
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, Final

import attrs
import h11

from sttd.errors import CODES, ProtocolError, SttdError

HEAD_LIMIT_BYTES = 16 * 1024

_NO_STORE = (("Cache-Control", "no-store"),)
_OFFER = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))


@attrs.frozen(kw_only=True)
class Request:
    """A request head; header names are lower case."""

    method: str
    path: str  # without the query
    headers: tuple[tuple[bytes, bytes], ...]
    query: str = ""
    version: str = "1.1"  # of HTTP
    rest: bytes = attrs.field(default=b"", repr=False)  # what came after the head

    @property
    def wants_websocket(self) -> bool:
        """Whether it asks for an upgrade to one."""
        named = {word.lower() for word in self.words(b"upgrade")}
        return b"websocket" in named and b"upgrade" in {word.lower() for word in self.words(b"connection")}

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key == name]

    def says(self, word: str) -> bool:
        """Whether the query has this word, by itself."""
        return word in self.query.split("&")

    def words(self, name: bytes) -> list[bytes]:
        """The comma-separated parts of all values of a header."""
        return [part.strip() for value in self.values(name) for part in value.split(b",") if part.strip()]


@attrs.frozen(kw_only=True)
class Response:
    """A whole answer. The connection closes after it."""

    status: int
    body: bytes
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = _NO_STORE

    def to_bytes(self, *, body: bool = True) -> bytes:
        """The answer as it goes out; without its body for a HEAD request, or where the client has it (304)."""
        head = self._head(f"Content-Length: {len(self.body)}")
        return head + self.body if body and self.status != HTTPStatus.NOT_MODIFIED else head

    def head_of_stream(self, *, chunked: bool) -> bytes:
        """The head of an answer whose body comes piece by piece: in chunks, or up to the end of the connection."""
        return self._head(*(["Transfer-Encoding: chunked"] if chunked else []))

    def _head(self, *length: str) -> bytes:
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            *length,
            "Connection: close",
            "X-Content-Type-Options: nosniff",
            "Cross-Origin-Resource-Policy: same-origin",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        return "\r\n".join([*lines, "", ""]).encode("ascii")


@attrs.frozen
class Denial:
    """Why a request is refused; each API has its own form of saying so.

    Args:
        code: one of `errors.CODES`.
        message: for a person.
        status: where it is another than the code's.
        headers: of the answer.
        retry_after_s: when the same request may do better.
    """

    code: str
    message: str
    status: int | None = attrs.field(default=None, kw_only=True)
    headers: tuple[tuple[str, str], ...] = attrs.field(default=(), kw_only=True)
    retry_after_s: float | None = attrs.field(default=None, kw_only=True)

    @classmethod
    def of(cls, error: SttdError) -> Denial:
        """An error of the service."""
        return cls(error.code, error.message, retry_after_s=error.data.get("retry_after_s"))


@attrs.frozen(kw_only=True)
class Upgrade:
    """An allowed WebSocket handshake."""

    head: bytes  # for the WebSocket library
    rest: bytes  # what the client sent after its own head: frames, although it should have waited
    subprotocol: str | None  # to be accepted
    headers: tuple[tuple[str, str], ...] = ()  # of the answer that accepts it


@attrs.define(eq=False)
class HeadReader:
    """Bytes in, one request head out."""

    _h11: h11.Connection = attrs.field(
        factory=lambda: h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES), init=False
    )

    def push(self, data: bytes) -> Request | Response | None:
        """The request once its head is complete, a refusal if it cannot become one, None if more is needed.

        `data` is what was received, never empty. To be called until the answer is not None.
        """
        try:
            self._h11.receive_data(data)
            event = self._h11.next_event()
        except h11.RemoteProtocolError as error:
            code = "too_large" if error.error_status_hint == 431 else "bad_request"
            return refusal(Denial(code, f"not a request: {error}", status=error.error_status_hint))
        if not isinstance(event, h11.Request):
            return None
        path, _, query = event.target.decode("ascii").partition("?")
        return Request(
            method=event.method.decode("ascii"),
            path=path,
            query=query,
            version=event.http_version.decode("ascii"),
            headers=tuple((bytes(name), bytes(value)) for name, value in event.headers),
            rest=self._h11.trailing_data[0],
        )

    def body(self) -> BodyReader:
        """The reader of what follows the head. To be called once the head is there."""
        return BodyReader(self._h11)


@attrs.define(eq=False)
class BodyReader:
    """Bytes in, pieces of the body out, whether its length was told or it comes in chunks."""

    _h11: h11.Connection
    done: bool = attrs.field(default=False, init=False)

    @property
    def awaited(self) -> bool:
        """Whether the client waits to be told that it may send the body (`Expect: 100-continue`)."""
        return self._h11.they_are_waiting_for_100_continue

    def push(self, data: bytes) -> None:
        """Take what was received; never empty."""
        self._h11.receive_data(data)

    def pieces(self) -> Iterator[bytes]:
        """What there is of the body so far, piece by piece; `done` says whether that was the end.

        Raises:
            ProtocolError: `bad_request`: it is no body.
        """
        while not self.done:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as error:
                raise ProtocolError(f"the body is not what its head says: {error}") from None
            if isinstance(event, h11.Data):
                yield bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                self.done = True
            else:
                return


CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK: Final = b"0\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A piece of a body in chunks; never empty, which would end it."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def json_response(content: Any, *, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(status=status, body=json.dumps(content, ensure_ascii=False).encode() + b"\n")


def refusal(denial: Denial) -> Response:
    """The answer that says no, in sttd's own form."""
    row = CODES[denial.code]
    wait_s = denial.retry_after_s
    data = {} if wait_s is None else {"retry_after_s": wait_s}
    error = {"code": denial.code, "message": denial.message, "retryable": row.retryable, "data": data}
    answer = json_response({"error": error}, status=denial.status or row.http_status)
    wait = () if wait_s is None else (("Retry-After", str(math.ceil(wait_s))),)
    return attrs.evolve(answer, headers=(*answer.headers, *wait, *denial.headers))


# ---------------------------------------------------------------- the handshake


def handshake(request: Request, *, subprotocol: str | None) -> Upgrade | Denial:
    """The handshake that the library gets in place of the client's, which is looked at here."""
    if request.method != "GET" or not request.wants_websocket:
        return Denial("bad_request", "this path speaks WebSocket only", status=426, headers=_OFFER)
    if request.values(b"sec-websocket-version") != [b"13"]:
        return Denial("bad_request", "only version 13 of the WebSocket protocol", status=426, headers=_OFFER)
    keys = request.values(b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return Denial("bad_request", "the Sec-WebSocket-Key is missing or is not 16 bytes in base64")
    lines = [
        "GET /ws HTTP/1.1",
        "Host: localhost",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {keys[0].decode('ascii')}",
        *([f"Sec-WebSocket-Protocol: {subprotocol}"] if subprotocol else []),
    ]
    head = "\r\n".join([*lines, "", ""]).encode("ascii")
    return Upgrade(head=head, rest=request.rest, subprotocol=subprotocol)


def _is_key(value: bytes) -> bool:
    try:
        return len(binascii.a2b_base64(value, strict_mode=True)) == 16
    except ValueError:
        return False
