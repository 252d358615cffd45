"""What comes in on the agent's socket: lines, and the requests that they are. Everything is bounded and checked."""

from __future__ import annotations

import json
import os
import socket
import struct
from collections.abc import Mapping
from typing import Any

import trio

from sttd.errors import EXIT_USAGE, ProtocolError
from sttd.fields import FieldError
from sttd_client.ctl.outcome import exit_status_of, words_of
from sttd_client.dictation import call

_LINE_BYTES = 1 << 14  # of a request
_UCRED = struct.Struct("3i")


class Lines:
    """The lines of a client, each of bounded length."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._data = bytearray()

    async def next(self) -> bytes | None:
        """The next line; None at the end, and for a line that is too long."""
        while b"\n" not in self._data:
            if len(self._data) > _LINE_BYTES:
                return None
            more = await self._stream.receive_some(4096)
            if not more:
                return None
            self._data += more
        line, _, rest = bytes(self._data).partition(b"\n")
        self._data = bytearray(rest)
        return line


def read_request(line: bytes) -> dict[str, Any]:
    """A request: an object, or one word of those in `call.WORDS`. Raises ProtocolError."""
    try:
        request = json.loads(line) if line.lstrip().startswith(b"{") else {"do": line.decode().strip()}
    except (ValueError, RecursionError) as error:
        raise ProtocolError("this is neither a word nor JSON") from error
    do, wait = request.get("do"), request.get("wait", False)
    display, wish = request.get("display", {}), request.get("wish", {})
    if do not in call.WORDS or not isinstance(wait, bool) or not isinstance(wish, dict):
        raise ProtocolError(f"`do` is one of {', '.join(call.WORDS)}, `wait` a bool, `wish` an object")
    if not isinstance(display, dict) or not all(isinstance(text, str) for text in display.values()):
        raise ProtocolError("`display` is an object of texts")
    shown = {name: text for name, text in display.items() if name in call.DISPLAY and "\0" not in text}
    return {"do": do, "wait": wait, "display": shown, "wish": wish}


def is_mine(stream: trio.SocketStream) -> bool:
    """Whether who is there is the user whose agent this is."""
    peer = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    return bool(_UCRED.unpack(peer)[1] == os.geteuid())


def refusal(error: Exception) -> dict[str, object]:
    """An error, as it is told."""
    if isinstance(error, FieldError):
        return {"message": error.message, "status": EXIT_USAGE}
    return {"message": words_of(error), "status": exit_status_of(error)}


async def tell(stream: trio.SocketStream, answer: Mapping[str, Any]) -> None:
    """Send an answer; who does not read it is let go of by the end of the connection."""
    await stream.send_all(json.dumps(answer).encode() + b"\n")
