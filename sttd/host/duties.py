"""The daemon's own duties: each may fail, none may end the daemon."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from sttd.host import logs

log = logs.get(__name__)

PAUSE_S = 5.0  # chosen: a duty that fails each time fills no log, and one that failed once is missed by nobody


async def supervised(duty: Callable[[], Awaitable[object]], *, pause_s: float = PAUSE_S) -> None:
    """Run a duty to its end. One that raises is logged, and begun again after a pause."""
    while True:
        try:
            await duty()
        except Exception:
            log.exception("a duty failed and is begun again", duty=getattr(duty, "__qualname__", repr(duty)))
        else:
            return
        await trio.sleep(pause_s)
