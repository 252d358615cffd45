"""JSON text of the audio plane, both ways, without what JSON libraries allow beyond JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from sttd.errors import ProtocolError
from sttd.fields import clip

MAX_MESSAGE_BYTES = 1 << 20  # a WebSocket message; larger ones close the connection with 1009


def size_bytes(message: str | bytes) -> int:
    """What a message has on the wire."""
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())


def read_object(message: str | bytes) -> dict[str, Any]:
    """The object that `message` is.

    Raises:
        ProtocolError: `bad_request`: no JSON (NaN, a name twice in one object and bad UTF-8 included), or no object;
            `too_large`.
    """
    if len(message) > MAX_MESSAGE_BYTES:
        raise ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes at most", code="too_large")
    try:
        if isinstance(message, bytes):
            message = message.decode()
        value = json.loads(message, object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise ProtocolError("the message nests too deeply") from None
    except ValueError as error:  # JSONDecodeError, UnicodeDecodeError, an integer of thousands of digits
        raise ProtocolError(f"the message is not JSON: {clip(str(error))}") from None
    if not isinstance(value, dict):
        raise ProtocolError("the message is not a JSON object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):  # which of two values is meant, nobody can know
        raise ValueError("an object has the same name twice")
    return fields


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def write_object(fields: Mapping[str, Any]) -> str:
    """`fields` as compact JSON. Raises ValueError where a number is not finite."""
    return json.dumps(fields, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
