"""HTTP as far as sttd speaks it: one request head, who may ask, what is answered. Sans-IO.

The audio sockets carry plain requests and WebSockets on one port, so the head is read here and not by the WebSocket
library. Rules, in the order in which they refuse:

1. A head is at most 16 KiB and is HTTP as h11 understands it (400, 431).
2. Over TCP only: the `Host` names a loopback address or an allowed host, against DNS rebinding (403).
3. Over TCP only: an `Origin` is absent, the daemon's own, or allowed, against foreign web pages (403).
4. Over TCP only, where a token is configured: the request shows it as `Authorization: Bearer` or, for a WebSocket, as
   the subprotocol `sttd.token.<token>` (401). Never in the URL, which ends up in histories and logs. The page itself
   is exempt: a browser cannot send a header when it opens a page, and the page holds nothing secret.
5. The path exists (404), the method is GET or HEAD (405).
6. A WebSocket handshake is well-formed (400, 426).

What passes as a handshake is not handed on as the client wrote it: the WebSocket library gets a head written here.
Its own parser raises on a Host that is no IDNA name and on subprotocols or extensions outside ASCII.
"""

from __future__ import annotations

import binascii
import hmac
import ipaddress
import json
import re
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Literal, TypeAlias

import attrs
import h11

from sttd.errors import CODES

HEAD_LIMIT_BYTES = 16 * 1024
TOKEN_SUBPROTOCOL = "sttd.token."

Route = Literal["page", "ready", "status", "models", "metrics"]
ROUTES: Mapping[str, Route] = {
    "/": "page",
    "/ready": "ready",
    "/status": "status",
    "/models": "models",
    "/metrics": "metrics",
}
WEBSOCKET_PATH = "/ws"

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_NO_STORE = (("Cache-Control", "no-store"),)
_OFFER = (("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"))


@attrs.frozen(kw_only=True)
class AccessRules:
    """Who may ask over TCP. Unix sockets have file permissions and peer credentials instead."""

    allowed_hosts: tuple[str, ...] = ()  # names besides loopback that Host may carry, without port
    allowed_origins: tuple[str, ...] = ()  # such as "https://notes.example", besides the daemon's own
    token: str = attrs.field(default="", repr=False)  # "" asks for none


@attrs.frozen(kw_only=True)
class Request:
    """A request head; header names are lower case."""

    method: str
    path: str  # without the query
    headers: tuple[tuple[bytes, bytes], ...]
    rest: bytes = attrs.field(default=b"", repr=False)  # what came after the head

    def values(self, name: bytes) -> list[bytes]:
        """All values of a header, in order."""
        return [value for key, value in self.headers if key == name]

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
        """The answer as it goes out; without its body for a HEAD request."""
        lines = [
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {len(self.body)}",
            "Connection: close",
            "X-Content-Type-Options: nosniff",
            "Cross-Origin-Resource-Policy: same-origin",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        head = "\r\n".join([*lines, "", ""]).encode("ascii")
        return head + self.body if body else head


@attrs.frozen(kw_only=True)
class Get:
    """An allowed plain request."""

    route: Route


@attrs.frozen(kw_only=True)
class Upgrade:
    """An allowed WebSocket handshake."""

    head: bytes  # for the WebSocket library
    rest: bytes  # what the client sent after its own head: frames, although it should have waited
    subprotocol: str | None  # to be accepted


Decision: TypeAlias = Response | Get | Upgrade


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
            return refusal(code, f"not a request: {error}", status=error.error_status_hint)
        if not isinstance(event, h11.Request):
            return None
        return Request(
            method=event.method.decode("ascii"),
            path=event.target.decode("ascii").partition("?")[0],
            headers=tuple((bytes(name), bytes(value)) for name, value in event.headers),
            rest=self._h11.trailing_data[0],
        )


def decide(request: Request, *, access: AccessRules | None, port: int = 0) -> Decision:
    """What becomes of a request.

    Args:
        access: the rules for TCP; None on a Unix socket.
        port: the daemon's own TCP port, part of its origin.
    """
    if access is not None:
        denied = _check_host(request, access) or _check_origin(request, access, port) or _check_token(request, access)
        if denied:
            return denied
    if request.path == WEBSOCKET_PATH:
        return _upgrade(request, access)
    route = ROUTES.get(request.path)
    if route is None:
        known = ", ".join([*ROUTES, WEBSOCKET_PATH])
        return refusal("not_found", f"there is nothing at this path; there is: {known}")
    if request.method not in ("GET", "HEAD"):
        return refusal("bad_request", "only GET and HEAD", status=405, headers=(("Allow", "GET, HEAD"),))
    return Get(route=route)


def json_response(content: Any, *, status: int = 200) -> Response:
    """An answer in JSON."""
    return Response(status=status, body=json.dumps(content, ensure_ascii=False).encode() + b"\n")


def refusal(
    code: str, message: str, *, status: int | None = None, headers: tuple[tuple[str, str], ...] = ()
) -> Response:
    """An answer that says no, with one of the codes of `errors.CODES` and its status unless another one is given."""
    row = CODES[code]
    error = {"code": code, "message": message, "retryable": row.retryable, "data": {}}
    answer = json_response({"error": error}, status=status or row.http_status)
    return attrs.evolve(answer, headers=answer.headers + headers)


# ---------------------------------------------------------------- access


def _check_host(request: Request, access: AccessRules) -> Response | None:
    hosts = request.values(b"host")
    match = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    if match is None:
        return refusal("forbidden", "the Host header is missing or is no host name")
    name = match["name"].lower()
    if _is_loopback(name) or name in {allowed.lower() for allowed in access.allowed_hosts}:
        return None
    return refusal("forbidden", f"the Host {name} is neither loopback nor in server.allowed_hosts")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_origin(request: Request, access: AccessRules, port: int) -> Response | None:
    origins = request.values(b"origin")
    if not origins:
        return None  # not a browser, or a browser that opens the page itself
    own = {f"http://{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}
    if port == 80:  # browsers leave the scheme's own port out
        own |= {"http://127.0.0.1", "http://localhost", "http://[::1]"}
    own |= {allowed.lower().rstrip("/") for allowed in access.allowed_origins}
    if len(origins) == 1 and origins[0].decode("latin-1").lower() in own:
        return None
    return refusal("forbidden", "web pages of this origin may not connect; see server.allowed_origins")


def _check_token(request: Request, access: AccessRules) -> Response | None:
    if not access.token or request.path == "/":
        return None
    if _bearer_matches(request, access.token) or _token_subprotocol(request, access) is not None:
        return None
    challenge = (("WWW-Authenticate", 'Bearer realm="sttd"'),)
    return refusal("unauthorized", "this daemon asks for a token and it is missing or wrong", headers=challenge)


def _bearer_matches(request: Request, token: str) -> bool:
    values = request.values(b"authorization")
    scheme, _, shown = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    return scheme.lower() == b"bearer" and hmac.compare_digest(shown.strip(), token.encode())


def _token_subprotocol(request: Request, access: AccessRules | None) -> str | None:
    """The offered subprotocol to accept. Where no token is asked for, any: a browser drops a connection without it."""
    if request.path != WEBSOCKET_PATH:
        return None
    prefix = TOKEN_SUBPROTOCOL.encode()
    for offered in request.words(b"sec-websocket-protocol"):
        if not offered.startswith(prefix) or not offered.isascii():
            continue
        if access is None or not access.token:
            return offered.decode("ascii")
        if hmac.compare_digest(offered.removeprefix(prefix), access.token.encode()):
            return offered.decode("ascii")
    return None


# ---------------------------------------------------------------- the handshake


def _upgrade(request: Request, access: AccessRules | None) -> Response | Upgrade:
    wanted = {word.lower() for word in request.words(b"upgrade")}
    connection = {word.lower() for word in request.words(b"connection")}
    if request.method != "GET" or b"websocket" not in wanted or b"upgrade" not in connection:
        return refusal("bad_request", "this path speaks WebSocket only", status=426, headers=_OFFER)
    if request.values(b"sec-websocket-version") != [b"13"]:
        return refusal("bad_request", "only version 13 of the WebSocket protocol", status=426, headers=_OFFER)
    keys = request.values(b"sec-websocket-key")
    if len(keys) != 1 or not _is_key(keys[0]):
        return refusal("bad_request", "the Sec-WebSocket-Key is missing or is not 16 bytes in base64")
    subprotocol = _token_subprotocol(request, access)
    lines = [
        f"GET {WEBSOCKET_PATH} HTTP/1.1",
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
