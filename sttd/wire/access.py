"""Who may ask over HTTP. Rules, in the order in which they refuse, all of them over TCP only:

1. The `Host` names a loopback address or an allowed host, against DNS rebinding (403).
2. An `Origin` is absent, the daemon's own, or allowed, against foreign web pages (403).
3. Where a token is configured the request shows it (401): as `Authorization: Bearer` or `Token`, as `xi-api-key`, or in
   a WebSocket's handshake as one of the subprotocols `sttd.token.K`, `openai-insecure-api-key.K`, or `token` with `K`
   behind it. Never in the URL, which ends up in histories and logs. The page and its files are exempt: a browser cannot
   send a header when it opens a page, and they hold nothing secret.

A Unix socket has file permissions and peer credentials instead. Pages of an allowed origin are also told that they may
read the answers (`cross_origin`).
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Iterator
from typing import Final

import attrs

from sttd.wire.http import Denial, Request

PAGE_FILES: Final = "/page/"  # and the name of one
TOKEN_SUBPROTOCOL: Final = "sttd.token."
_OPENAI_SUBPROTOCOL: Final = b"openai-insecure-api-key."
_COMPANIONS: Final = ("realtime", "token")  # subprotocols beside a key, that a client expects to be accepted

_HOST = re.compile(r"(?P<name>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{1,5})?")
_LOOPBACK: Final = ("127.0.0.1", "localhost", "[::1]")
_CHALLENGE = (("WWW-Authenticate", 'Bearer realm="sttd"'),)


@attrs.frozen(kw_only=True)
class AccessRules:
    """Who may ask over TCP."""

    allowed_hosts: tuple[str, ...] = ()  # names besides loopback that Host may carry, without port
    allowed_origins: tuple[str, ...] = ()  # such as "https://notes.example", besides the daemon's own
    token: str = attrs.field(default="", repr=False)  # "" asks for none
    secure: bool = False  # the daemon's own origin is https


def check_place(request: Request, access: AccessRules, *, port: int) -> Denial | None:
    """Rules 1 and 2. `port` is the daemon's own, part of its origin."""
    return _check_host(request, access) or _check_origin(request, access, port)


def is_of_page(path: str) -> bool:
    """Whether it is the page, or one of its files."""
    return path == "/" or path.startswith(PAGE_FILES)


def check_token(request: Request, access: AccessRules) -> Denial | None:
    """Rule 3."""
    if not access.token or any(_matches(key, access.token) for key in _keys(request)):
        return None
    if is_of_page(request.path):
        return None
    return Denial("unauthorized", "this daemon asks for a token and it is missing or wrong", headers=_CHALLENGE)


def browsers_can_show(token: str) -> bool:
    """Whether a page can offer it: a subprotocol is a token of RFC 9110, 5.6.2, which has no `/`, `=` or space."""
    return re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", token) is not None


def cross_origin(request: Request, access: AccessRules | None) -> tuple[tuple[str, str], ...]:
    """The headers by which a browser lets a page of an allowed origin read the answer; none for any other."""
    if access is None or (origin := _origin(request)) not in _allowed(access):
        return ()
    return (("Access-Control-Allow-Origin", origin), ("Vary", "Origin"))


def preflight(request: Request, access: AccessRules | None) -> tuple[tuple[str, str], ...]:
    """What a browser wants to hear before it asks: the same, and that it may ask as it means to."""
    granted = cross_origin(request, access)
    asked = (
        ("Access-Control-Allow-Methods", b"access-control-request-method"),
        ("Access-Control-Allow-Headers", b"access-control-request-headers"),
    )
    return granted and (*granted, *((name, value) for name, header in asked if (value := _plain(request, header))))


def accepted_subprotocol(request: Request, access: AccessRules | None) -> str | None:
    """The offered subprotocol to accept, since a browser drops a connection without one.

    A key is echoed only where it has no companion.
    """
    offered = request.words(b"sec-websocket-protocol")
    for name in _COMPANIONS:
        if name.encode() in offered:
            return name
    prefix = TOKEN_SUBPROTOCOL.encode()
    for word in offered:
        if not word.startswith(prefix) or not word.isascii():
            continue
        if access is None or not access.token or _matches(word.removeprefix(prefix), access.token):
            return word.decode("ascii")
    return None


def _check_host(request: Request, access: AccessRules) -> Denial | None:
    hosts = request.values(b"host")
    match = _HOST.fullmatch(hosts[0].decode("latin-1")) if len(hosts) == 1 else None
    if match is None:
        return Denial("forbidden", "the Host header is missing or is no host name")
    name = match["name"].lower()
    if _is_loopback(name) or name in {allowed.lower() for allowed in access.allowed_hosts}:
        return None
    return Denial("forbidden", f"the Host {name} is neither loopback nor in server.allowed_hosts")


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_origin(request: Request, access: AccessRules, port: int) -> Denial | None:
    if not request.values(b"origin"):
        return None  # not a browser, or a browser that opens the page itself
    scheme, usual = ("https", 443) if access.secure else ("http", 80)
    own = {f"{scheme}://{name}:{port}" for name in _LOOPBACK}
    if port == usual:  # browsers leave the scheme's own port out
        own |= {f"{scheme}://{name}" for name in _LOOPBACK}
    if _origin(request) in own | _allowed(access):
        return None
    return Denial("forbidden", "web pages of this origin may not connect; see server.allowed_origins")


def _origin(request: Request) -> str:
    origins = request.values(b"origin")
    return origins[0].decode("latin-1").lower() if len(origins) == 1 else ""


def _allowed(access: AccessRules) -> set[str]:
    return {allowed.lower().rstrip("/") for allowed in access.allowed_origins}


def _plain(request: Request, header: bytes) -> str:
    """A header's only value, where it may be sent back as it is."""
    values = request.values(header)
    return values[0].decode() if len(values) == 1 and re.fullmatch(rb"[A-Za-z0-9 ,_-]+", values[0]) else ""


def _keys(request: Request) -> Iterator[bytes]:
    """Whatever the request shows as a key."""
    values = request.values(b"authorization")
    scheme, _, shown = values[0].partition(b" ") if len(values) == 1 else (b"", b"", b"")
    if scheme.lower() in (b"bearer", b"token"):
        yield shown.strip()
    yield from request.values(b"xi-api-key")
    if not request.wants_websocket:
        return
    offered = request.words(b"sec-websocket-protocol")
    for index, word in enumerate(offered):
        for prefix in (TOKEN_SUBPROTOCOL.encode(), _OPENAI_SUBPROTOCOL):
            if word.startswith(prefix):
                yield word.removeprefix(prefix)
        if index and offered[index - 1] == b"token":
            yield word


def _matches(shown: bytes, token: str) -> bool:
    return hmac.compare_digest(shown, token.encode())
