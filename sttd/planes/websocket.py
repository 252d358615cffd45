"""The WebSocket library's half of a connection: its handshake, its reader, its end."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.connection import ConnectionState
from wsproto.utilities import LocalProtocolError

from sttd.host import logs
from sttd.host.pace import Pace
from sttd.planes.streams import RECEIVE_BYTES, UpgradedStream
from sttd.wire.frames import LargeMessages
from sttd.wire.http import Upgrade
from sttd.wire.jsontext import MAX_MESSAGE_BYTES

log = logs.get(__name__)

# The library cuts a larger message off with a bare 1009. Up to this size we read it to its end and refuse it by name,
# and the client still gets the finals that it is owed.
_LIBRARY_FACTOR = 4


async def serve_socket(
    stream: trio.SocketStream,
    upgrade: Upgrade,
    serve: Callable[[WebSocketConnection, UpgradedStream], Awaitable[None]],
    *,
    handshake_s: float,
    on_freed: Callable[[int], None],
    message_bytes: int = MAX_MESSAGE_BYTES,
    large: LargeMessages | None = None,
    pace: Pace | None = None,
) -> None:
    """Complete the handshake and run `serve` on the connection, if the client is still there.

    `on_freed` is told at the end how many bytes the client had sent. A message may have `message_bytes`; where those
    are more than others have, `large` is shared by all such connections. `pace` is that of its user. The caller closes
    the socket. Raises what `serve` raises; cancellation cuts the connection.
    """
    upgraded = UpgradedStream(
        stream, head=upgrade.head, rest=upgrade.rest, message_bytes=message_bytes, large=large, pace=pace
    )
    try:
        async with trio.open_nursery() as nursery:
            socket = await nursery.start(_hold_socket, upgraded, upgrade, handshake_s, message_bytes)
            if socket is not None:
                await serve(socket, upgraded)
            nursery.cancel_scope.cancel()
    finally:
        upgraded.forget_messages()
        on_freed(upgraded.received_bytes)


async def _hold_socket(
    stream: UpgradedStream,
    upgrade: Upgrade,
    handshake_s: float,
    message_bytes: int,
    *,
    task_status: trio.TaskStatus[WebSocketConnection | None],
) -> None:
    """Run the library's half of the connection until cancelled; None is started if the client is gone already."""
    socket, told = None, False
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(handshake_s):
                socket = await _accept(nursery, stream, upgrade, message_bytes)
            told = True
            task_status.started(socket)
            await trio.sleep_forever()
    except* LocalProtocolError:
        # The library raises it in its reader where a ping arrives after our close frame went out. That costs the
        # socket, and not the session, which may still owe finals to others.
        log.debug("a ping crossed the close")
        if not told:
            task_status.started(None)


async def _accept(
    nursery: trio.Nursery, stream: UpgradedStream, upgrade: Upgrade, message_bytes: int
) -> WebSocketConnection | None:
    """The library's half of the handshake. None if the client is gone already."""
    request = await wrap_server_stream(
        nursery, stream, max_message_size=_LIBRARY_FACTOR * message_bytes, receive_buffer_size=RECEIVE_BYTES
    )
    try:
        headers = [(name.encode(), value.encode()) for name, value in upgrade.headers]
        socket = await request.accept(subprotocol=upgrade.subprotocol, extra_headers=headers)
    except ConnectionClosed:
        return None
    stream.release()
    return socket


def shook_hands(socket: WebSocketConnection) -> bool:
    """Whether the closing handshake is complete. The library itself says of every end that began here that it is."""
    return bool(socket._wsproto.state is ConnectionState.CLOSED)
