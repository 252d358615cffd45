"""Trio, as the asynchronous session and control plane need it, and a nursery that hands errors on as they are."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from sttd_client.addresses import TCP_OPTIONS, TcpAddress
from sttd_client.async_loop import StartSoon, sole_error

_GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.frozen(eq=False)
class TrioStream:
    """An `async_loop.Stream`."""

    stream: trio.abc.Stream

    async def receive(self) -> bytes:
        """See `async_loop.Stream`."""
        try:
            return bytes(await self.stream.receive_some())
        except _GONE:
            return b""

    async def send(self, data: bytes) -> bool:
        """See `async_loop.Stream`. Cancelled, it closes: half of it may be out, and nothing after it would be read."""
        await trio.lowlevel.checkpoint_if_cancelled()  # nothing of it is out
        try:
            await self.stream.send_all(data)
        except _GONE:
            return False
        except trio.Cancelled:
            await self.close()
            raise
        return True

    async def close(self) -> None:
        """See `async_loop.Stream`."""
        with trio.CancelScope(shield=True):
            await trio.aclose_forcefully(self.stream)


class TrioLoop:
    """An `async_loop.Loop`."""

    def event(self) -> trio.Event:
        """See `async_loop.Loop`, also for what follows."""
        return trio.Event()

    def lock(self) -> trio.Lock:
        return trio.Lock()

    def now(self) -> float:
        return trio.current_time()

    async def checkpoint(self) -> None:
        await trio.lowlevel.checkpoint()

    async def sleep(self, seconds: float) -> None:
        await trio.sleep(seconds)

    @asynccontextmanager
    async def fail_after(self, seconds: float) -> AsyncIterator[None]:
        try:
            with trio.fail_after(seconds):
                yield
        except trio.TooSlowError:
            raise TimeoutError from None

    @asynccontextmanager
    async def farewell(self, seconds: float) -> AsyncIterator[None]:
        with trio.move_on_after(seconds) as scope:
            scope.shield = True
            yield

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[StartSoon]:
        async with owned_nursery() as nursery:
            yield nursery.start_soon
            nursery.cancel_scope.cancel()

    async def open_unix(self, path: Path) -> TrioStream:
        return TrioStream(await trio.open_unix_socket(path))

    async def open_tcp(self, address: TcpAddress, context: ssl.SSLContext | None) -> TrioStream:
        plain = await trio.open_tcp_stream(address.host, address.port)
        try:
            for option in TCP_OPTIONS:
                plain.setsockopt(*option)
            return TrioStream(plain if context is None else await _secured(plain, context, address.host))
        except BaseException:
            await TrioStream(plain).close()
            raise


async def _secured(plain: trio.SocketStream, context: ssl.SSLContext, host: str) -> trio.abc.Stream:
    secure = trio.SSLStream(plain, context, server_hostname=host)
    try:
        await secure.do_handshake()
    except trio.BrokenResourceError as error:
        raise error.__cause__ if isinstance(error.__cause__, OSError) else OSError(str(error)) from error
    return secure


@asynccontextmanager
async def owned_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery whose one error, of the body or of a task, leaves as it is and not inside an ExceptionGroup."""
    try:
        async with trio.open_nursery() as nursery:
            yield nursery
    except BaseExceptionGroup as group:
        error = sole_error(group)
        raise error from error.__cause__
