"""What both Trio twins need: reaching a daemon, and a nursery that hands errors on as they are."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import trio

from sttd_client.addresses import nobody_answers


async def connect_first_async(paths: Sequence[Path]) -> trio.SocketStream:
    """A stream to the first Unix socket that a daemon answers on; raises as `addresses.connect_first` does."""
    denied: Path | None = None
    for path in paths:
        try:
            return await trio.open_unix_socket(path)
        except PermissionError:
            denied = denied or path
        except OSError:
            continue
    raise nobody_answers(paths, denied=denied)


@asynccontextmanager
async def owned_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose one error, of the body or of a task, leaves as it is and not inside an ExceptionGroup."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        if len(group.exceptions) == 1:
            error = group.exceptions[0]
            raise error from error.__cause__
        raise
