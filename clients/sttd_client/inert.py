"""What a daemon says, without characters that would command a terminal.

Text is shown in terminals and typed into programs. The daemon lets none of these characters through; but who is at the
other end of a connection may be another one, on another machine, or a label that a stranger chose.
"""

from __future__ import annotations

import json
import re
from typing import Any

_KEPT = "\n\t"
_INERT = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in _KEPT}
_SPELLED = re.compile(
    r"\\[bfr]|\\u00(?:[0189]|7f)|[\x7f-\x9f]", re.IGNORECASE
)  # how JSON may have one; few messages do


def inert(value: Any) -> Any:
    """The same value, with a replacement character for each of them in any of its strings, keys of maps included."""
    if isinstance(value, str):
        return value if value.isprintable() else value.translate(_INERT)
    if isinstance(value, dict):
        return {inert(key): inert(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [inert(item) for item in value]
    return value


def inert_json(text: str) -> str:
    """The same for JSON that was not read yet; what is none comes back as it is."""
    if not _SPELLED.search(text):
        return text
    try:
        return json.dumps(inert(json.loads(text)))
    except (ValueError, RecursionError):
        return text
