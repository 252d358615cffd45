"""A proxy between clients and a daemon that cuts connections, as a network, a proxy or a laptop lid does.

Each connection has its `Cut`: after so many bytes of one direction it ends, in one of these ways.

- `fin`: both sides are closed.
- `reset`: both sides are closed, and what they were still to read is gone.
- `half_open`: the client's side is reset; the daemon's stays open. What was held back arrives there late, when the
  client may be back by another connection.

With `lag_s` the proxy holds bytes back for so long, in both directions, and loses those that it holds when it cuts.
"""

from __future__ import annotations

import math
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Iterable
from contextlib import ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Literal

import attrs
import trio

PATIENCE_S = 5.0  # with a side that does not read when the connection is cut; chosen
GONE = (trio.BrokenResourceError, trio.ClosedResourceError)


@attrs.frozen(kw_only=True)
class Cut:
    """Where and how one connection ends."""

    direction: Literal["up", "down"]  # up: from the client to the daemon
    after_bytes: int
    how: Literal["fin", "reset", "half_open"] = "reset"
    lag_s: float = 0.0


@attrs.define(eq=False, kw_only=True)
class CuttingProxy:
    """What `cutting` yields."""

    daemon: Path
    control: Path  # what a client takes for the control socket of a daemon
    port: int  # the same over TCP, on 127.0.0.1
    cuts: list[
        Cut | None
    ]  # one for each connection to come, None leaves it alone; those after them are left alone, too
    closed: bool = False  # throws out who comes, as a proxy does whose daemon is being restarted
    connections: int = 0
    made: list[tuple[Cut | None, float]] = attrs.field(factory=list)  # each with its time on Trio's clock
    _live: list[trio.CancelScope] = attrs.field(factory=list)

    def cut_all(self) -> None:
        """Cut every connection, now."""
        for scope in self._live:
            scope.cancel()


@asynccontextmanager
async def cutting(daemon: Path, directory: Path, cuts: Iterable[Cut | None] = ()) -> AsyncIterator[CuttingProxy]:
    """A proxy for the audio socket `daemon`, with its own in `directory`, and on a free port."""
    with ExitStack() as stack:
        unix = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        unix.bind(str(directory / "audio.sock"))
        unix.listen(128)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        control, port = directory / "control.sock", tcp.getsockname()[1]
        proxy = CuttingProxy(daemon=daemon, control=control, port=port, cuts=list(cuts))
        async with trio.open_nursery() as nursery:
            for listener in (unix, tcp):
                listener.setblocking(False)
                nursery.start_soon(_accept, trio.socket.from_stdlib_socket(listener), proxy, nursery)
            yield proxy
            nursery.cancel_scope.cancel()


async def _accept(listener: trio.socket.SocketType, proxy: CuttingProxy, nursery: trio.Nursery) -> None:
    while True:
        client, _ = await listener.accept()
        proxy.connections += 1
        if proxy.closed:
            client.close()
            continue
        cut = proxy.cuts.pop(0) if proxy.cuts else None
        nursery.start_soon(_carry, trio.SocketStream(client), cut, proxy)


async def _carry(client: trio.SocketStream, cut: Cut | None, proxy: CuttingProxy) -> None:
    """One connection, until somebody closes it or it is cut."""
    daemon = await trio.open_unix_socket(proxy.daemon)
    lag_s = cut.lag_s if cut else 0.0
    up = _Direction(client, daemon, lag_s, cut.after_bytes if cut and cut.direction == "up" else None)
    down = _Direction(daemon, client, lag_s, cut.after_bytes if cut and cut.direction == "down" else None)
    async with client, daemon:
        with trio.CancelScope() as now:
            proxy._live.append(now)
            async with trio.open_nursery() as nursery:
                for direction in (up, down):
                    nursery.start_soon(direction.read, nursery.cancel_scope)
                    nursery.start_soon(direction.write, nursery.cancel_scope)
        proxy._live.remove(now)
        if not (up.was_cut or down.was_cut or now.cancelled_caught):
            return
        proxy.made.append((cut, trio.current_time()))
        how = cut.how if cut else "reset"
        if how == "fin":
            return
        _reset(client)
        if how == "reset":
            _reset(daemon)
            return
        with suppress(*GONE):  # half open
            await trio.sleep(lag_s)
            await daemon.send_all(up.held_back())
            while await daemon.receive_some():
                pass


class _Direction:
    """Bytes from one side to the other."""

    def __init__(self, source: trio.SocketStream, sink: trio.SocketStream, lag_s: float, cut_after: int | None) -> None:
        self.was_cut = False
        self._source = source
        self._sink = sink
        self._lag_s = lag_s
        self._left = math.inf if cut_after is None else cut_after
        self._held: deque[tuple[float, bytes]] = deque()  # each with the time at which it is due
        self._changed = trio.Event()
        self._ended = False

    async def read(self, connection: trio.CancelScope) -> None:
        """Take what comes, up to the cut."""
        while self._left > 0:
            try:
                data = bytes(await self._source.receive_some())
            except GONE:
                data = b""
            if not data:
                self._ended = True
                self._changed.set()
                return
            data = data[: int(min(self._left, len(data)))]
            self._left -= len(data)
            if self._lag_s:
                self._held.append((trio.current_time() + self._lag_s, data))
                self._changed.set()
            else:
                await self._hand_on(data)
        self.was_cut = True
        connection.cancel()

    async def write(self, connection: trio.CancelScope) -> None:
        """Hand on what was held back, when it is time."""
        while self._held or not self._ended:
            if not self._held:
                await self._changed.wait()
                self._changed = trio.Event()
                continue
            due, data = self._held[0]
            await trio.sleep_until(due)
            await self._hand_on(data)
            self._held.popleft()
        connection.cancel()

    async def _hand_on(self, data: bytes) -> None:
        with suppress(*GONE), trio.CancelScope(shield=True), trio.move_on_after(PATIENCE_S):
            await self._sink.send_all(data)

    def held_back(self) -> bytes:
        """What has come and was not handed on."""
        return b"".join(data for _, data in self._held)


def _reset(stream: trio.SocketStream) -> None:
    """Close with an RST, where there is such a thing; on a Unix socket what is unread is gone in any case."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()
