"""The live-caption page: the files of `assets/page`, and what a browser may do with them.

`/` is `index.html`, the others lie under `/page/`. They are read once and kept: some 100 KB. A browser keeps them too
and asks each time whether they are still the same, so that no file of one release meets one of another.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Final

import attrs

from sttd.wire.access import PAGE_FILES
from sttd.wire.http import Denial, Request, Response, refusal

_TYPES: Final[Mapping[str, str]] = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
}


@attrs.frozen(kw_only=True)
class PageFile:
    """One file as it is sent; `tag` is its content's own (ETag)."""

    body: bytes = attrs.field(repr=False)
    content_type: str
    tag: str


@cache
def page_files() -> Mapping[str, PageFile]:
    """The files by the path that they are asked for with."""
    found = {}
    for file in files("sttd").joinpath("assets/page").iterdir():
        path = "/" if file.name == "index.html" else PAGE_FILES + file.name
        if content_type := _TYPES.get(file.name[file.name.rfind(".") :]):
            body = file.read_bytes()
            tag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            found[path] = PageFile(body=body, content_type=content_type, tag=tag)
    return found


def answer(request: Request, *, secure: bool) -> Response:
    """One of the files; 304 where the browser has it; 404 where there is none.

    The page may run its own scripts, open its own WebSocket, play what it holds itself and listen, and nothing else.
    """
    file = page_files().get(request.path)
    if file is None:
        return refusal(Denial("not_found", "the page has no such file"))
    headers = (
        ("Cache-Control", "no-cache"),
        ("ETag", file.tag),
        ("Content-Security-Policy", _policy(request, secure=secure)),
        ("Permissions-Policy", "microphone=(self), display-capture=(self)"),
        ("Referrer-Policy", "no-referrer"),
    )
    known = file.tag.encode() in request.words(b"if-none-match")
    return Response(status=304 if known else 200, body=file.body, content_type=file.content_type, headers=headers)


def _policy(request: Request, *, secure: bool) -> str:
    """What the page may load and reach."""
    hosts = request.values(b"host")  # checked by then, where it matters; older browsers' 'self' is not for ws:
    named = bool(hosts) and re.fullmatch(rb"[A-Za-z0-9.:_\[\]-]+", hosts[0])
    origin = f" {'wss' if secure else 'ws'}://{hosts[0].decode('ascii')}" if named else ""
    return (
        f"default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'{origin}; img-src data:; "
        "media-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
