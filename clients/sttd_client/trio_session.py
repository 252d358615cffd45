"""A speech session on Trio: PCM in, events out; one task may send while another listens.

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
from sttd_client.options import StartOptions
from sttd_client.trio_streams import TrioLoop

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

    Args:
        socket_path: the control socket of the daemon that is meant (`audio.sock` lies beside it); None looks for one.
        tcp: go over TCP instead.
        reconnect_s: how long to try for a new session after one was lost; 0 does not try. A daemon that is restarted
            still sends finals and `Stopped`; then comes `Reconnected`, and what no final covers is said again.
        timeout_s: for the daemon's answer to the start.
        options: those of `start`. `resumable` left out means: where the daemon can. Then a connection that is lost is
            made anew within 30 s, nothing is missing, and `Resumed` says so; no more than about 4 MiB of audio are kept
            for that. False switches it off; True insists, and an older daemon refuses the start.

    Raises:
        NoDaemonError: nobody listens.
        TimeoutError: the daemon does not answer.
        SttdError: an option is wrong, or the daemon refuses (`overloaded`, `model_not_local`, `forbidden`, ...).
    """
    loop = TrioLoop()
    reach = partial(dial, loop, socket_path, tcp)
    async with run_session(loop, reach, options=options, reconnect_s=reconnect_s, timeout_s=timeout_s) as session:
        yield session
