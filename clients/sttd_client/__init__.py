"""Client library of sttd: speech in, text out, on Trio, on asyncio or without an event loop.

    async with sttd_client.open_session(lang="en") as session: ...      # Trio
    async with sttd_client.aio.open_session(lang="en") as session: ...  # asyncio
    with sttd_client.blocking.open_session(lang="en") as session: ...   # no event loop
    async with sttd_client.open_control() as control: ...               # status, models, events; `aio`, `blocking`, too

Names are imported when they are first used: `sttctl`, which needs no Trio, starts without waiting for it.
"""

from __future__ import annotations

import importlib

TYPE_CHECKING = False  # to type checkers it is true; importing typing would be a third of a key press (10 ms)
if TYPE_CHECKING:
    from typing import Any

    from sttd_client import aio, blocking
    from sttd_client.addresses import ConnectionLostError, NoDaemonError, TcpAddress
    from sttd_client.async_control import Control
    from sttd_client.async_session import Session
    from sttd_client.errors import SttdError
    from sttd_client.events import (
        Event,
        Failure,
        Final,
        Gap,
        Hello,
        Interim,
        Progress,
        Reconnected,
        Resumed,
        SpeechEnd,
        SpeechStart,
        Started,
        Stopped,
        Warn,
        stable_and_tail,
    )
    from sttd_client.trio_control import open_control
    from sttd_client.trio_session import open_session

__all__ = [
    "open_session",
    "open_control",
    "aio",
    "blocking",
    "Session",
    "Control",
    "TcpAddress",
    "Event",
    "Hello",
    "Started",
    "SpeechStart",
    "Interim",
    "SpeechEnd",
    "Final",
    "Progress",
    "Gap",
    "Warn",
    "Failure",
    "Stopped",
    "Reconnected",
    "Resumed",
    "stable_and_tail",
    "SttdError",
    "NoDaemonError",
    "ConnectionLostError",
]

_MODULES = {
    "open_session": "sttd_client.trio_session",
    "Session": "sttd_client.async_session",
    "open_control": "sttd_client.trio_control",
    "Control": "sttd_client.async_control",
    "TcpAddress": "sttd_client.addresses",
    "NoDaemonError": "sttd_client.addresses",
    "ConnectionLostError": "sttd_client.addresses",
    "SttdError": "sttd_client.errors",
}


def __getattr__(name: str) -> Any:
    if name in ("aio", "blocking"):
        return importlib.import_module(f"sttd_client.{name}")
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULES.get(name, "sttd_client.events")), name)
