"""A speech session on asyncio: PCM in, events out; one task may send while another listens.

    async with open_session(lang="en") as session:
        await session.send(pcm)
        await session.stop()
        async for event in session:
            print(event)

What it does is in `async_session.py`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Unpack

from sttd_client.addresses import TcpAddress
from sttd_client.async_loop import dial
from sttd_client.async_session import Session, run_session
from sttd_client.asyncio_streams import AsyncioLoop
from sttd_client.options import StartOptions

__all__ = ["Session", "open_session"]


@asynccontextmanager
async def open_session(
    *,
    socket_path: str | os.PathLike[str] | None = None,
    tcp: TcpAddress | None = None,
    reconnect_s: float = 0.0,
    timeout_s: float = 10.0,
    **options: Unpack[StartOptions],
) -> AsyncIterator[Session]:
    """Connect, start a session and yield it; the connection is closed at the end.

    Arguments and errors are those of `open_session` on Trio. The session belongs to the loop that it was opened in.

    Cancellation: of a task that waits for a method of the session as that method says, with nothing lost; so
    `asyncio.timeout` may stand around `receive`. Of the task in the block: the block is left, and the daemon is told
    within a second; one that is cancelled again meanwhile does not wait for that. An error in one of the session's own
    tasks, which would be a bug, cancels the block and leaves as it is.
    """
    loop = AsyncioLoop()
    reach = partial(dial, loop, socket_path, tcp)
    async with run_session(loop, reach, options=options, reconnect_s=reconnect_s, timeout_s=timeout_s) as session:
        yield session
