"""The control plane on Trio: many tasks may call over one connection at the same time.

async with open_control() as control:
    print((await control.call("status"))["server"]["version"])
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import trio

from sttd.wire.rpc import MAX_REPLY_BYTES, Notification, Response, RpcDecoder, encode_request
from sttd_client.addresses import control_sockets, lost_error
from sttd_client.control import ProgressCallback, fields_of, result_of, sorted_out
from sttd_client.trio_streams import connect_first_async, owned_nursery

_EVENTS_CAPACITY = 256  # when full the client reads no more, and the daemon counts what it cannot send as lagged


@asynccontextmanager
async def open_control(socket_path: str | os.PathLike[str] | None = None) -> AsyncIterator[Control]:
    """Connect to a daemon's control plane; the connection is closed at the end, and what it asked for is given up.

    Args:
        socket_path: the control socket of the daemon that is meant; None looks for one as every client does.

    Raises:
        NoDaemonError: nobody listens.
        AccessError: a daemon may be there, and its socket is not for this user.
    """
    stream = await connect_first_async(control_sockets(socket_path))
    async with stream, owned_nursery() as nursery:
        control = Control(stream)
        nursery.start_soon(control.read_forever)
        yield control
        nursery.cancel_scope.cancel()


@attrs.define(eq=False, kw_only=True)
class _Call:
    """A request that waits for its answer."""

    on_progress: ProgressCallback | None
    answered: trio.Event = attrs.field(factory=trio.Event)
    response: Response | None = None


class Control:
    """A connection to the control plane; `open_control` makes it."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self._sending = trio.Lock()
        self._decoder = RpcDecoder(max_message_bytes=MAX_REPLY_BYTES)
        self._calls: dict[int, _Call] = {}
        self._last_msgid = 0
        self._lost: Exception | None = None
        self._events_in, self._events = trio.open_memory_channel[dict[str, Any]](_EVENTS_CAPACITY)

    async def call(self, method: str, *, on_progress: ProgressCallback | None = None, **params: Any) -> dict[str, Any]:
        """Call a method and return its result; `sttd.wire.verbs` declares the methods. None means omitted.

        Cancellation: the answer is skipped when it comes; the daemon does what it was asked all the same.

        Raises:
            SttdError: the daemon's error, in the class of its code.
            ConnectionLostError: the daemon went away.
        """
        self._last_msgid += 1
        msgid = self._last_msgid
        given = {name: value for name, value in params.items() if value is not None}
        call = self._calls[msgid] = _Call(on_progress=on_progress)
        try:
            await self._send(encode_request(msgid, method, params=given or None))
            await call.answered.wait()
        finally:
            del self._calls[msgid]
        if call.response is None:
            raise self._lost or lost_error()
        return result_of(call.response)

    @asynccontextmanager
    async def subscribe(
        self, *, topics: Sequence[str] | None = None
    ) -> AsyncIterator[trio.MemoryReceiveChannel[dict[str, Any]]]:
        """Subscribe, and yield the channel of events; unsubscribed at the end.

        The channel holds 256 events. One that is not read stops the connection, answers to calls included: give events
        a connection of their own where that matters. It ends when the daemon goes away.
        """
        await self.call("subscribe", topics=None if topics is None else list(topics))
        try:
            yield self._events
        finally:
            with trio.move_on_after(1) as scope:
                scope.shield = True
                if self._lost is None:
                    await self.call("unsubscribe")

    async def read_forever(self) -> None:
        """Give what arrives to whom it belongs, until the connection ends; run by `open_control`."""
        try:
            while data := await self._stream.receive_some():
                for message in sorted_out(self._decoder.receive_data(bytes(data))):
                    await self._deliver(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the same as an end of the stream, for whoever waits
        except Exception as error:
            self._lost = error
        self._lost = self._lost or lost_error()
        self._events_in.close()
        for call in self._calls.values():
            call.answered.set()

    async def _deliver(self, message: Response | Notification) -> None:
        if isinstance(message, Response):
            if call := self._calls.get(message.msgid):
                call.response = message
                call.answered.set()
            return
        fields = fields_of(message)
        if message.method == "event":
            await self._events_in.send(fields)
        elif (call := self._calls.get(fields.get("msgid", 0))) and call.on_progress:
            call.on_progress(fields)

    async def _send(self, data: bytes) -> None:
        if self._lost is not None:
            raise self._lost
        async with self._sending:
            try:
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                raise lost_error() from error
            except trio.Cancelled:
                await trio.aclose_forcefully(self._stream)  # half a request is out: nothing after it would be read
                raise
