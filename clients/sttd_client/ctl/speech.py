"""What `sttctl transcribe` and `sttctl listen` ask alike of a session, and of whom."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypedDict

from sttd.errors import ProtocolError
from sttd_client.addresses import TcpAddress
from sttd_client.options import StartOptions


def speech_options(arguments: argparse.Namespace) -> StartOptions:
    """The options of `start` that stand for the arguments of both; what was not given stays out."""
    return {
        "lang": arguments.language,
        "languages": None if arguments.languages is None else listed(arguments.languages),
        "model": arguments.model,
        "prompt": arguments.prompt,
        "task": "translate" if arguments.translate else None,
    }


def listed(text: str) -> list[str]:
    """`es, en` as a list; with nothing in it, it is the daemon that refuses it."""
    return [code.strip() for code in text.split(",") if code.strip()]


class Place(TypedDict):
    """Where `open_session` finds the daemon."""

    socket_path: str | None
    tcp: TcpAddress | None


def place(arguments: argparse.Namespace) -> Place:
    """Where the arguments say that the daemon is.

    Raises:
        ProtocolError: `bad_option`; they do not go together, or make no sense.
        OSError: the token cannot be read.
    """
    if not arguments.url:
        if arguments.ca or arguments.token_file:
            raise ProtocolError("--ca and --token-file go with --url", code="bad_option")
        return {"socket_path": arguments.socket, "tcp": None}
    if arguments.socket:
        raise ProtocolError("--url and --socket name different daemons: give one of them", code="bad_option")
    token = _token(arguments.token_file) if arguments.token_file else None
    tcp = TcpAddress.of_url(arguments.url, token=token, ca=arguments.ca)
    if arguments.ca and not tcp.tls:
        raise ProtocolError("--ca goes with a URL of TLS: wss://HOST:PORT", code="bad_option")
    return {"socket_path": None, "tcp": tcp}


def _token(file: str) -> str:
    try:
        token = Path(file).read_text(encoding="utf-8-sig").strip()
    except UnicodeDecodeError:
        token = ""
    if not token.isprintable() or not token:
        raise ProtocolError(f"{file} holds no token, which is one line of text", code="bad_option")
    return token
