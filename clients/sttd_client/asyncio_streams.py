"""asyncio, as the asynchronous session and control plane need it.

Sockets are used directly, not by asyncio's transports. A transport whose write fails is gone with all that it has not
given out yet, and a daemon that ends a session says why just before: it must be heard out. And `send` has to wait until
the kernel has everything, where a transport would take more than that. TLS is OpenSSL's own sans-IO form of it.

Tasks have a block that owns them and hands their one error on as it is, as nurseries do.
"""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from sttd_client.addresses import TCP_OPTIONS, TcpAddress
from sttd_client.async_loop import StartSoon, Stream, sole_error

_READ_BYTES = 1 << 16
_RACE_S = 0.25  # RFC 8305: the "connection attempt delay"


class AsyncioStream:
    """An `async_loop.Stream` over a connected socket."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._users = 0  # tasks that wait for the socket; the last one closes it
        self._closed = False

    async def receive(self) -> bytes:
        """See `async_loop.Stream`."""
        await asyncio.sleep(0)  # a socket that has something makes nobody wait: others must have their turn
        try:
            with self._use():
                return await asyncio.get_running_loop().sock_recv(self._socket, _READ_BYTES)
        except OSError:
            return b""

    async def send(self, data: bytes) -> bool:
        """See `async_loop.Stream`. Cancelled, it closes: half of it may be out, and nothing after it would be read."""
        await asyncio.sleep(0)
        try:
            with self._use():
                await asyncio.get_running_loop().sock_sendall(self._socket, data)
        except OSError:
            return False
        except asyncio.CancelledError:
            await self.close()
            raise
        return True

    async def close(self) -> None:
        """See `async_loop.Stream`."""
        if not self._closed:
            self._closed = True
            with suppress(OSError):  # the peer has gone first
                self._socket.shutdown(socket.SHUT_RDWR)  # whoever waits for it wakes up
            self._close_if_unused()

    @contextmanager
    def _use(self) -> Iterator[None]:
        if self._closed:
            raise ConnectionAbortedError
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            self._close_if_unused()

    def _close_if_unused(self) -> None:
        """The loop must not watch a descriptor that is closed, and perhaps another one by now."""
        if self._closed and not self._users:
            self._socket.close()


class AsyncioTls:
    """An `async_loop.Stream` that is encrypted."""

    def __init__(self, plain: AsyncioStream, context: ssl.SSLContext, host: str) -> None:
        self._plain = plain
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_hostname=host)
        self._sending = asyncio.Lock()  # reading may have something to send, too

    async def do_handshake(self) -> None:
        """Agree on keys; raises OSError, of a certificate ssl.SSLCertVerificationError."""
        try:
            while not self._agreed():
                if not await self._more():
                    raise ConnectionResetError("the connection ended while TLS was agreed on")
        finally:
            await self._flush()  # the last message, or the alert that says why there is none

    def _agreed(self) -> bool:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        return True

    async def receive(self) -> bytes:
        """See `async_loop.Stream`."""
        while True:
            try:
                return self._tls.read(_READ_BYTES)
            except ssl.SSLWantReadError:
                if not await self._more():
                    return b""
            except OSError:  # SSLError is one, and so is an end that was not announced
                return b""

    async def send(self, data: bytes) -> bool:
        """See `async_loop.Stream`."""
        try:
            if data:  # which OpenSSL takes for the end
                self._tls.write(data)
        except OSError:
            return False
        return await self._flush()

    async def close(self) -> None:
        """See `async_loop.Stream`."""
        await self._plain.close()

    async def _more(self) -> bool:
        """Give OpenSSL what comes next; False: nothing comes any more."""
        if self._out.pending:  # else there is nothing to wait for, such as a writer whom the kernel holds back
            await self._flush()
        data = await self._plain.receive()
        self._in.write(data)
        return bool(data)

    async def _flush(self) -> bool:
        async with self._sending:
            return not self._out.pending or await self._plain.send(self._out.read())


class AsyncioLoop:
    """An `async_loop.Loop`."""

    def event(self) -> asyncio.Event:
        """See `async_loop.Loop`, also for what follows."""
        return asyncio.Event()

    def lock(self) -> asyncio.Lock:
        return asyncio.Lock()

    def now(self) -> float:
        return asyncio.get_running_loop().time()

    async def checkpoint(self) -> None:
        await asyncio.sleep(0)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    def fail_after(self, seconds: float) -> asyncio.Timeout:
        return asyncio.timeout(seconds)

    @asynccontextmanager
    async def farewell(self, seconds: float) -> AsyncIterator[None]:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                yield

    @asynccontextmanager
    async def tasks(self) -> AsyncIterator[StartSoon]:
        try:
            async with asyncio.TaskGroup() as group:
                running: list[asyncio.Task[None]] = []

                def start_soon(function: Callable[[], Coroutine[Any, Any, None]]) -> None:
                    running.append(group.create_task(function()))

                yield start_soon
                for task in running:
                    task.cancel()
        except BaseExceptionGroup as errors:
            error = sole_error(errors)
            raise error from error.__cause__

    async def open_unix(self, path: Path) -> Stream:
        return await _connected(socket.AF_UNIX, os.fspath(path))

    async def open_tcp(self, address: TcpAddress, context: ssl.SSLContext | None) -> Stream:
        plain = await _first_of(address.host, address.port)
        if context is None:
            return plain
        context.options |= ssl.OP_NO_RENEGOTIATION  # in the middle of which nothing could be sent
        secure = AsyncioTls(plain, context, address.host)
        try:
            await secure.do_handshake()
        except BaseException:
            await secure.close()
            raise
        return secure


async def _first_of(host: str, port: int) -> AsyncioStream:
    """A connection to the first address of the host that somebody answers on; raises the last one's error.

    Beside an address that says nothing for a moment the next one is tried: many a network swallows what goes to IPv6.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    places = [(family, address) for family, _, _, _, address in found]
    tries: list[asyncio.Task[AsyncioStream]] = []
    won: asyncio.Task[AsyncioStream] | None = None
    try:
        while won is None and (places or not all(task.done() for task in tries)):
            if places:
                tries.append(asyncio.create_task(_connected(*places.pop(0), TCP_OPTIONS)))
            running = [task for task in tries if not task.done()]
            await asyncio.wait(running, timeout=_RACE_S if places else None, return_when=asyncio.FIRST_COMPLETED)
            won = next((task for task in tries if task.done() and task.exception() is None), None)
        return (won or tries[-1]).result()
    finally:
        others = [task for task in tries if task is not won]
        for task in others:
            task.cancel()
        for lost in await asyncio.gather(*others, return_exceptions=True):
            if isinstance(lost, AsyncioStream):
                await lost.close()


async def _connected(family: int, address: Any, options: tuple[tuple[int, int, int], ...] = ()) -> AsyncioStream:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        for option in options:
            connection.setsockopt(*option)
        await asyncio.get_running_loop().sock_connect(connection, address)
    except BaseException:
        connection.close()
        raise
    return AsyncioStream(connection)
