"""The control plane on Trio: many tasks may call over one connection at the same time.

    async with open_control() as control:
        print((await control.call("status"))["server"]["version"])

What it does is in `async_control.py`.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sttd_client.async_control import Control, run_control
from sttd_client.trio_streams import TrioLoop

__all__ = ["Control", "open_control"]


@asynccontextmanager
async def open_control(socket_path: str | os.PathLike[str] | None = None) -> AsyncIterator[Control]:
    """Connect to a daemon's control plane; the connection is closed at the end, and what it asked for is given up.

    Args:
        socket_path: the control socket of the daemon that is meant; None looks for one as every client does.

    Raises:
        NoDaemonError: nobody listens.
        AccessError: a daemon may be there, and its socket is not for this user.
    """
    async with run_control(TrioLoop(), socket_path) as control:
        yield control
