"""What becomes of a request: refused, answered, or upgraded to a WebSocket. Rules, in the order in which they refuse:

1. Host and Origin are what `access.py` allows (403).
2. A browser's question before the question (`OPTIONS` under `/v1/`) is answered 204 to pages of allowed origins.
3. The token is shown where one is configured (401).
4. The path exists (404): the paths of an API that is switched off do not.
5. The method is one that the path has (405).
6. A WebSocket handshake is well-formed (400, 426).

A refusal has the form of the API whose path was asked for, since a client reads no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Literal, TypeAlias

import attrs

from sttd.wire import deepgram_answers, openai_answers
from sttd.wire.access import (
    AccessRules,
    accepted_subprotocol,
    check_place,
    check_token,
    cross_origin,
    is_of_page,
    preflight,
)
from sttd.wire.http import Denial, Request, Response, Upgrade, handshake, refusal

Route = Literal["page", "ready", "status", "models", "metrics"]
ROUTES: Final[Mapping[str, Route]] = {
    "/": "page",
    "/ready": "ready",
    "/status": "status",
    "/models": "models",
    "/metrics": "metrics",
}
Socket = Literal["audio", "realtime", "listen"]
SOCKETS: Final[Mapping[str, Socket]] = {"/ws": "audio", "/v1/realtime": "realtime", "/v1/listen": "listen"}
Endpoint = Literal["transcriptions", "translations", "models", "model"]
_ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    "/v1/audio/transcriptions": "transcriptions",
    "/v1/audio/translations": "translations",
    "/v1/models": "models",
}
_MODEL: Final = "/v1/models/"  # and the name of one
_READS: Final = ("GET", "HEAD")


@attrs.frozen(kw_only=True)
class Offers:
    """Which APIs of others the daemon answers."""

    openai: bool = True
    deepgram: bool = True


@attrs.frozen(kw_only=True)
class Get:
    """An allowed plain request for one of sttd's own paths."""

    route: Route


@attrs.frozen(kw_only=True)
class Call:
    """An allowed request to OpenAI's REST API, whose body has not been read."""

    endpoint: Endpoint
    request: Request
    headers: tuple[tuple[str, str], ...]  # of its answer, besides those that every answer has


@attrs.frozen(kw_only=True)
class Connect:
    """An allowed WebSocket handshake."""

    socket: Socket
    upgrade: Upgrade
    request: Request


Decision: TypeAlias = Response | Get | Call | Connect


def decide(
    request: Request,
    *,
    access: AccessRules | None,
    port: int = 0,
    offers: Offers = Offers(),
) -> Decision:
    """What becomes of a request.

    Args:
        access: the rules for TCP; None on a Unix socket.
        port: the daemon's own TCP port, part of its origin.
    """
    decision = _decide(request, access=access, port=port, offers=offers)
    if isinstance(decision, Denial):
        decision = form_of(request.path, offers)(decision)
    if isinstance(decision, Response) and request.path.startswith("/v1/"):
        granted = cross_origin(request, access)
        return attrs.evolve(decision, headers=(*decision.headers, *granted)) if granted else decision
    return decision


def form_of(path: str, offers: Offers = Offers()) -> Callable[[Denial], Response]:
    """How the API of this path says no."""
    if path.startswith("/v1/listen"):
        return deepgram_answers.refuse if offers.deepgram else refusal
    return openai_answers.refuse if path.startswith("/v1/") and offers.openai else refusal


def _decide(request: Request, *, access: AccessRules | None, port: int, offers: Offers) -> Decision | Denial:
    if access is not None:
        if denied := check_place(request, access, port=port):
            return denied
        granted = preflight(request, access) if request.method == "OPTIONS" and request.path.startswith("/v1/") else ()
        if granted:
            return Response(status=204, body=b"", headers=granted)
        if denied := check_token(request, access):
            return denied
    if (socket := SOCKETS.get(request.path)) and _is_offered(request.path, offers):
        return _connect(request, socket, access)
    if request.path in ROUTES or is_of_page(request.path):
        return _only(request, _READS) or Get(route=ROUTES.get(request.path, "page"))
    if (endpoint := _endpoint(request.path)) and offers.openai:
        methods = _READS if endpoint in ("models", "model") else ("POST",)
        return _only(request, methods) or Call(
            endpoint=endpoint, request=request, headers=cross_origin(request, access)
        )
    known = [path for path in (*ROUTES, *SOCKETS, *_ENDPOINTS) if _is_offered(path, offers)]
    return Denial("not_found", f"there is nothing at this path; there is: {', '.join(known)}")


def _endpoint(path: str) -> Endpoint | None:
    return "model" if path.startswith(_MODEL) and path != _MODEL else _ENDPOINTS.get(path)


def _is_offered(path: str, offers: Offers) -> bool:
    if path == "/v1/listen":
        return offers.deepgram
    return offers.openai or not path.startswith("/v1/")


def _only(request: Request, methods: tuple[str, ...]) -> Denial | None:
    if request.method in methods:
        return None
    allowed = ", ".join(methods)
    return Denial("bad_request", f"only {allowed} here", status=405, headers=(("Allow", allowed),))


def _connect(request: Request, socket: Socket, access: AccessRules | None) -> Connect | Denial:
    if socket == "listen" and request.method != "GET":
        return Denial("bad_request", "there is live transcription alone", status=405, headers=(("Allow", "GET"),))
    upgrade = handshake(request, subprotocol=accepted_subprotocol(request, access))
    if isinstance(upgrade, Denial):
        return upgrade
    return Connect(socket=socket, upgrade=upgrade, request=request)
