"""The options of presets with `backend = "remote"`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult, urlsplit

import attrs

from sttd.fields import flag, integer, number, string

MAX_IN_FLIGHT: Final = (
    24  # chosen: of the 32 threads of the dispatcher (`PolicyOptions.max_calls`); the rest is for others
)
ANSWERS: Final = ("verbose_json", "json")
_TOKEN_BYTES: Final = 8192  # chosen: what servers take of a header


def read_url(text: str) -> SplitResult:
    """The parts of the address of a server. Raises ValueError with what it should be, never with what it is.

    A password in it would stand in the configuration, in `status` and in messages.
    """
    try:
        parts = urlsplit(text)
        whole = bool(parts.hostname) and parts.port != 0 and text.isascii() and text.isprintable() and " " not in text
    except ValueError:
        whole = False
    if not whole or parts.scheme not in ("http", "https") or parts.query or parts.fragment:
        raise ValueError("an address such as https://host:8000/v1")
    if "@" in parts.netloc:
        raise ValueError("an address without a name or password in it; see `token_file`")
    return parts


@attrs.frozen(kw_only=True)
class RemoteOptions:
    """The options of a remote preset."""

    url: str = string(
        "address of the API, up to and with its version: https://host:8000/v1", required=True, read=read_url
    )
    token_file: str = string("file with the token that the server wants; read for each request", default="")
    ca_file: str = string("certificates to trust (PEM), in place of those of the system", default="")
    max_in_flight: int = integer(
        "requests at the same time; stands in place of `num_workers`", minimum=1, maximum=MAX_IN_FLIGHT, default=8
    )
    timeout_s: float = number(
        "how long a request may take, and with a `fallback` all tries of one final",
        minimum=0.5,
        maximum=600,
        default=10.0,
        unit="s",
    )
    answer: str = string(
        "`response_format` that is asked for; `json`: for servers that know no other, without times of words",
        choices=ANSWERS,
        default="verbose_json",
    )
    send_priority: bool = flag(
        "send a form field `priority` (finals 0, interims 1, files 2), as vLLM's priority scheduling has it",
        default=False,
    )
    fallback: str = string("preset of this machine that decodes while the server is away; empty: none", default="")
    fallback_keep_s: float = number(
        "how long that stays in memory once the server is back", minimum=0, maximum=86_400, default=60.0, unit="s"
    )

    @property
    def plain(self) -> bool:
        """Whether what is sent can be read on its way to another machine."""
        parts = read_url(self.url)
        host = parts.hostname or ""
        return parts.scheme == "http" and not (host in ("localhost", "::1") or host.startswith("127."))

    def token(self) -> str:
        """The token, or "". Raises ValueError that says what is wrong with its file, never what is in it."""
        if not self.token_file:
            return ""
        path = Path(os.path.expanduser(self.token_file))
        try:
            with path.open("rb") as file:
                token = file.read(_TOKEN_BYTES + 1).removeprefix(b"\xef\xbb\xbf").strip()
        except OSError as error:
            raise ValueError(f"`token_file`: {path}: {error.strerror}") from None
        if not token or len(token) > _TOKEN_BYTES or not all(0x21 <= byte <= 0x7E for byte in token):
            raise ValueError(f"`token_file`: {path} is not one line with a token")
        return token.decode("ascii")
