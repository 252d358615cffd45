"""The WebSocket library's half of a connection: its handshake, its reader, its end."""

from __future__ import annotations

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import LocalProtocolError

from sttd.host import logs
from sttd.planes.streams import RECEIVE_BYTES, UpgradedStream
from sttd.wire.http import Upgrade
from sttd.wire.jsontext import MAX_MESSAGE_BYTES

log = logs.get(__name__)

# The library cuts a larger message off with a bare 1009. Up to this size we read it to its end and refuse it by name,
# and the client still gets the finals that it is owed.
LIBRARY_MESSAGE_BYTES = 4 * MAX_MESSAGE_BYTES


async def hold_socket(
    stream: UpgradedStream,
    upgrade: Upgrade,
    handshake_s: float,
    *,
    task_status: trio.TaskStatus[WebSocketConnection | None],
) -> None:
    """Run the library's half of the connection until cancelled; None is started if the client is gone already."""
    socket, told = None, False
    try:
        async with trio.open_nursery() as nursery:
            with trio.move_on_after(handshake_s):
                socket = await _accept(nursery, stream, upgrade)
            told = True
            task_status.started(socket)
            await trio.sleep_forever()
    except* LocalProtocolError:
        # The library raises it in its reader where a ping arrives after our close frame went out. That costs the
        # socket, and not the session, which may still owe finals to others.
        log.debug("a ping crossed the close")
        if not told:
            task_status.started(None)


async def _accept(nursery: trio.Nursery, stream: UpgradedStream, upgrade: Upgrade) -> WebSocketConnection | None:
    """The library's half of the handshake. None if the client is gone already."""
    request = await wrap_server_stream(
        nursery, stream, max_message_size=LIBRARY_MESSAGE_BYTES, receive_buffer_size=RECEIVE_BYTES
    )
    try:
        socket = await request.accept(subprotocol=upgrade.subprotocol)
    except ConnectionClosed:
        return None
    stream.release()
    return socket
