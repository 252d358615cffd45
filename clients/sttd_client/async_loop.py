"""What the asynchronous session and control plane need of an event loop, and how they reach a daemon over it.

There are two: `trio_streams.py` and `asyncio_streams.py`. All else about a session is the same under both, so it is
written once, in `async_session.py` and `async_control.py`, which import neither.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any, Protocol, TypeAlias

from sttd_client.addresses import TcpAddress, audio_sockets, nobody_answers
from sttd_client.connection import AudioConnection

StartSoon: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], object]


class Event(Protocol):
    """Something that happens once, and that many may wait for."""

    def set(self) -> object:
        """It has happened."""

    async def wait(self) -> object:
        """Wait until it has."""


class Stream(Protocol):
    """A connection to a daemon."""

    async def receive(self) -> bytes:
        """Wait for bytes; b"" once the connection is gone, however that came.

        Cancellation: bytes may be lost; the stream is to be closed then.
        """
        ...

    async def send(self, data: bytes) -> bool:
        """Give all of it to the kernel; False: the connection is gone.

        Cancellation: no half message stays behind, the stream is closed then.
        """
        ...

    async def close(self) -> None:
        """Close it at once, whoever uses it. May be called twice, and whatever is cancelled."""


class Loop(Protocol):
    """An event loop. What a method returns belongs to the loop that runs now."""

    def event(self) -> Event:
        """Something that has not happened."""
        ...

    def lock(self) -> AbstractAsyncContextManager[object]:
        """A lock; who waits longest is next."""
        ...

    def now(self) -> float:
        """The time in seconds, of a clock that does not go back."""
        ...

    async def checkpoint(self) -> None:
        """Let others have their turn, and be cancelled where that was asked for."""

    async def sleep(self, seconds: float) -> None:
        """Wait so long."""

    def fail_after(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Raises TimeoutError where the block takes longer."""
        ...

    def farewell(self, seconds: float) -> AbstractAsyncContextManager[object]:
        """Leaves the block after so long; one that was cancelled already gets the time all the same."""
        ...

    def tasks(self) -> AbstractAsyncContextManager[StartSoon]:
        """Tasks of a block, which are cancelled and waited for at its end. The one error of any leaves as it is."""
        ...

    async def open_unix(self, path: Path) -> Stream:
        """Connect to a Unix socket; raises OSError."""
        ...

    async def open_tcp(self, address: TcpAddress, context: ssl.SSLContext | None) -> Stream:
        """Connect over TCP, over TLS with a context; raises OSError, of a certificate ssl.SSLCertVerificationError."""
        ...


Dial: TypeAlias = Callable[[], Awaitable[tuple[Stream, AudioConnection]]]


async def connect_first_async(loop: Loop, paths: Sequence[Path]) -> Stream:
    """A stream to the first Unix socket that a daemon answers on; raises as `addresses.connect_first` does."""
    denied: Path | None = None
    for path in paths:
        try:
            return await loop.open_unix(path)
        except PermissionError:
            denied = denied or path
        except OSError:
            continue
    raise nobody_answers(paths, denied=denied)


async def dial(
    loop: Loop, socket_path: str | os.PathLike[str] | None, tcp: TcpAddress | None
) -> tuple[Stream, AudioConnection]:
    """A connection to the audio plane that nothing was said on."""
    if tcp is None:
        return await connect_first_async(loop, audio_sockets(socket_path)), AudioConnection()
    context = tcp.context() if tcp.tls else None
    try:
        stream = await loop.open_tcp(tcp, context)
    except OSError as error:
        raise tcp.refused(error) from error
    return stream, AudioConnection(host=tcp.authority, token=tcp.token)


def sole_error(group: BaseExceptionGroup[Any]) -> BaseException:
    """The error in a group of one, with its cause; of several the group."""
    if len(group.exceptions) > 1:
        return group
    (error,) = group.exceptions
    return error
