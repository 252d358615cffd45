"""The audio plane: speech in, text out, on one WebSocket (docs/reference/audio.md).

A connection is one nursery:

    socket ──▶ reader ──▶ intake ──▶ ingest ──▶ session ──▶ forward ──▶ socket
               (always on; planes/intake.py says how fast)

- **reader** reads whatever the client sends, so that the WebSocket library answers its pings and sees its close.
- **ingest** takes messages in order and does what they say; it waits while the session is behind.
- **forward** writes the session's events in order. An interim that the client is too slow for is replaced by a newer
  one in the session's outbox.

How a connection ends, and what the client sees:

    the session ended            `stopped` (or the session's own fatal error), then the close code of the session
    a fatal error of this plane  the error, the finals that are owed, no `stopped`; the close code of the error
    slow consumer                the error and 1008, if it reads again in time; the session is left at once
    the client is gone           the session gets what had arrived, then its finals go to subscribers
    the daemon drains            before `start`: `shutting_down`, 1001; later the session ends by itself, with 1001

A client is a slow consumer when a message could not be written for `stall_s` while nothing was taken from it either.
One that writes a whole recording before it begins to read is none until both directions stand still.
"""

from __future__ import annotations

import math
from contextlib import AsyncExitStack
from typing import Any, Protocol

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, wrap_server_stream
from wsproto.utilities import LocalProtocolError

import sttd
from sttd.core.types import Failure, SessionEvent, Stopped
from sttd.errors import InternalError, OverloadedError, ProtocolError, SessionError, SttdError
from sttd.host import logs
from sttd.options import ENCODINGS, SessionChanges, SessionOptions
from sttd.planes import mapping
from sttd.planes.drain import Drain
from sttd.planes.intake import Held, Intake
from sttd.planes.streams import RECEIVE_BYTES, UpgradedStream
from sttd.service import Peer, Service
from sttd.wire.common import PROTOCOL
from sttd.wire.http import Upgrade
from sttd.wire.jsontext import MAX_MESSAGE_BYTES
from sttd.wire.messages import (
    Audio,
    Configure,
    Finalize,
    Op,
    Start,
    Stop,
    encode_event,
    parse_client,
)

log = logs.get(__name__)

# The library cuts a larger message off with a bare 1009. Up to this size we read it to its end and refuse it by name,
# and the client still gets the finals that it is owed.
_LIBRARY_MESSAGE_BYTES = 4 * MAX_MESSAGE_BYTES


@attrs.frozen(kw_only=True)
class AudioLimits:
    """How long a connection may take for what, in seconds."""

    handshake_s: float = 5.0
    start_s: float = 30.0  # to send a `start` that opens a session
    idle_s: float = 300.0  # without any message from the client
    stall_s: float = 10.0  # with both directions standing still
    farewell_s: float = 30.0  # after a fatal error, for the finals that are owed
    gone_s: float = 10.0  # after the client is gone, for what had arrived
    close_s: float = 5.0  # for the client's half of the closing handshake


class Session(Protocol):
    """What `Service.open_session` yields, as far as this plane uses it."""

    id: str
    close_code: int | None

    @property
    def options(self) -> SessionOptions: ...
    async def feed(self, data: bytes) -> None: ...
    async def finalize(self) -> None: ...
    async def configure(self, changes: SessionChanges) -> None: ...
    def stop(self) -> None: ...
    async def receive(self) -> SessionEvent: ...


async def serve_audio(
    stream: trio.SocketStream,
    upgrade: Upgrade,
    *,
    service: Service,
    peer: Peer,
    held: Held,
    drain: Drain,
    limits: AudioLimits,
) -> None:
    """Serve a WebSocket whose handshake was read and allowed, until it is closed. The caller closes the socket.

    Raises whatever goes wrong, after telling the client where that is still possible. Cancellation cuts the connection
    and ends its session at once.
    """
    async with trio.open_nursery() as nursery:
        socket = await nursery.start(_hold_socket, stream, upgrade, limits.handshake_s)
        if socket is not None:
            intake = Intake(held)
            try:
                await _Connection(
                    socket=socket, service=service, peer=peer, intake=intake, drain=drain, limits=limits
                ).run()
            finally:
                intake.discard()
        nursery.cancel_scope.cancel()


async def _hold_socket(
    stream: trio.SocketStream,
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


async def _accept(nursery: trio.Nursery, stream: trio.SocketStream, upgrade: Upgrade) -> WebSocketConnection | None:
    """The library's half of the handshake. None if the client is gone already."""
    upgraded = UpgradedStream(stream, head=upgrade.head, rest=upgrade.rest)
    request = await wrap_server_stream(
        nursery, upgraded, max_message_size=_LIBRARY_MESSAGE_BYTES, receive_buffer_size=RECEIVE_BYTES
    )
    try:
        socket = await request.accept(subprotocol=upgrade.subprotocol)
    except ConnectionClosed:
        return None
    upgraded.release()
    return socket


@attrs.define(eq=False, kw_only=True)
class _Connection:
    """One client, from its first message to the close."""

    socket: WebSocketConnection
    service: Service
    peer: Peer
    intake: Intake
    drain: Drain
    limits: AudioLimits
    _session: Session | None = attrs.field(default=None, init=False)
    _error: SttdError | None = attrs.field(default=None, init=False)  # the fatal one
    _close_code: int = attrs.field(default=1000, init=False)
    # What is going on now (waiting for `start`, then the session), so that others can put an end to it.
    _phase: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _taking: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _idle_since: float = attrs.field(default=math.inf, init=False)
    _writing: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _stall: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)  # of the message that is written now
    _refused: bool = attrs.field(default=False, init=False)  # a message of the client
    _untold: bool = attrs.field(default=False, init=False)  # `_error` could not be written

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Serve until the connection is closed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._heed_drain)
                async with AsyncExitStack() as stack:
                    self._session = await self._open(stack)
                    if self._session is not None:
                        await self._converse(self._session)
                    # Before the session is left: one that is left early takes its time to decode what it owes.
                    await self._close()
                nursery.cancel_scope.cancel()
        except Exception:
            self._error = InternalError("a bug in sttd; the journal has the traceback")
            self._untold = True
            await self._close()
            raise

    async def _open(self, stack: AsyncExitStack) -> Session | None:
        """Wait for a `start` that opens a session, which `stack` leaves. None if there will be none."""
        deadline = trio.current_time() + self.limits.start_s
        await self._say_hello()
        while True:
            start = None
            with trio.CancelScope(deadline=deadline) as self._phase:
                if self.drain.started.is_set():
                    self._phase.cancel()
                start = await self._wait_for_start()
            if self._phase.cancelled_caught and self._error is None:
                await self._fail(self._why_no_start())
            if start is None:
                return None
            try:
                defaults = self.service.defaults(kind="file" if start.kind == "file" else "live")
                options = mapping.session_options(start, defaults=defaults)
                return await stack.enter_async_context(self.service.open_session(options, peer=self.peer))
            except ProtocolError as error:
                await self._complain(error)
            except SttdError as error:
                await self._fail(error)
                return None

    async def _wait_for_start(self) -> Start | None:
        """The next `start`; None if the client is gone or must be sent away."""
        try:
            while True:
                op = await self._next_op()
                if isinstance(op, Start):
                    return op
                error = ProtocolError(f"`{op.op}` before `start`", code="not_started")
                if isinstance(op, Stop) and self._refused:
                    raise error  # it did not look whether its `start` was taken, and will wait for the close
                await self._complain(error)
        except trio.EndOfChannel:
            return None
        except ProtocolError as error:
            await self._fail(error)
            return None

    def _why_no_start(self) -> SessionError:
        if self.drain.started.is_set():
            return SessionError("the daemon is stopping", code="shutting_down")
        return SessionError(f"no `start` opened a session within {self.limits.start_s:g} s")

    async def _converse(self, session: Session) -> None:
        """Audio in, events out, until the session has ended or is to be left."""
        self.intake.bytes_per_second = mapping.bytes_per_second(session.options)
        with trio.CancelScope() as self._phase:
            await self._send("started", mapping.started_fields(session.id, session.options))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._ingest, session)
                nursery.start_soon(self._heed_idleness)
                await self._forward(session)
                nursery.cancel_scope.cancel()
        self._close_code = session.close_code or 1000

    async def _heed_drain(self) -> None:
        """A client that has no session would otherwise be waited for until the end of the drain."""
        await self.drain.started.wait()
        if self._session is None:
            self._phase.cancel()

    # ------------------------------------------------------------------ in

    async def _read(self) -> None:
        """Everything that the client sends goes to the intake, at the speed that it allows."""
        try:
            while True:
                if not self.intake.may_read:
                    await self.intake.wait_for_room()
                self.intake.put(await self.socket.get_message())
                if self.intake.overrun:
                    self._taking.cancel()
        except ConnectionClosed:
            self.intake.close()
            self._phase.deadline = min(self._phase.deadline, trio.current_time() + self.limits.gone_s)

    async def _next_op(self) -> Op:
        """The next op in order. Refuses what is none; raises EndOfChannel when the client is gone, or `too_large`."""
        while True:
            message = await self.intake.take()
            if self._writing.locked() and not self._drops:
                self._stall.deadline = trio.current_time() + self.limits.stall_s
            if _size_bytes(message) > MAX_MESSAGE_BYTES:
                raise ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes at most", code="too_large")
            if isinstance(message, bytes):
                return Audio(payload=message)
            try:
                return parse_client(message)
            except ProtocolError as error:
                if error.code == "too_large":
                    raise
                await self._complain(error)
                self._idle_since = trio.current_time()  # it is wrong, not idle

    @property
    def _drops(self) -> bool:
        """Whether the session takes everything at once, because it drops what is too much: that shows no progress."""
        return self._session is not None and self._session.options.overflow == "drop"

    async def _ingest(self, session: Session) -> None:
        """Do what the client says until it says `stop`, is gone, or must be sent away."""
        try:
            with trio.CancelScope() as self._taking:
                await self._obey(session)
            if self._taking.cancelled_caught:
                raise self._why_no_more()
        except trio.EndOfChannel:
            self._phase.cancel()
        except SttdError as error:
            self._phase.deadline = trio.current_time() + self.limits.farewell_s
            await self._fail(error)
            session.stop()

    def _why_no_more(self) -> SttdError:
        if self.intake.overrun:
            return OverloadedError("the session has taken no audio for minutes, and no more can be held for it")
        return SessionError(f"nothing came from the client for {self.limits.idle_s:g} s")

    async def _heed_idleness(self) -> None:
        """A task that seldom wakes costs less than a timeout around every message."""
        while True:
            idle_since = min(self._idle_since, trio.current_time())
            if trio.current_time() - idle_since >= self.limits.idle_s:
                self._taking.cancel()
                return
            await trio.sleep_until(idle_since + self.limits.idle_s)

    async def _obey(self, session: Session) -> None:
        endpointing = session.options.endpointing
        configured = self.service.defaults(kind=session.options.kind).endpointing
        while True:
            self._idle_since = trio.current_time()
            op = await self._next_op()
            self._idle_since = math.inf  # what takes time now is not the client
            match op:
                case Audio(payload=data):
                    await session.feed(data)
                case Finalize():
                    await session.finalize()
                case Configure():
                    changes = mapping.session_changes(op, current=endpointing or configured)
                    try:
                        changes = self.service.fit_changes(changes, options=session.options)
                    except ProtocolError as error:
                        await self._complain(error)
                        continue
                    endpointing = mapping.endpointing_after(changes, current=endpointing)
                    await session.configure(changes)
                case Start():
                    await self._complain(ProtocolError("the session has started already", code="already_started"))
                case Stop():
                    self.intake.discard()
                    session.stop()
                    return

    # ------------------------------------------------------------------ out

    async def _forward(self, session: Session) -> None:
        """Write the session's events until its last one."""
        while True:
            try:
                event = await session.receive()
            except trio.EndOfChannel:
                return
            if isinstance(event, Stopped) and self._error is not None:
                continue  # promised to sessions that ended well
            await self._write(mapping.event_message(event))

    async def _say_hello(self) -> None:
        server = f"sttd/{sttd.__version__}"
        presets = self.service.presets()
        await self._send(
            "hello", {"server": server, "protocol": PROTOCOL, "encodings": list(ENCODINGS), "presets": presets}
        )

    async def _complain(self, error: ProtocolError) -> None:
        """Refuse one message; the connection goes on."""
        self._refused = True
        await self._write(_told(error, fatal=False))

    async def _fail(self, error: SttdError) -> None:
        """End the connection for this reason; what the session owes is still written."""
        self._error = error
        self.intake.discard()
        await self._write(_told(error, fatal=True))

    async def _send(self, name: str, fields: dict[str, Any]) -> None:
        await self._write(encode_event(name, fields))

    async def _write(self, text: str) -> None:
        """Write one message. Nothing happens where the client is gone: the reader sees that and ends what there is."""
        async with self._writing:
            with trio.move_on_after(self.limits.stall_s) as self._stall:
                try:
                    await self.socket.send_message(text)
                except ConnectionClosed:
                    return
            if self._stall.cancelled_caught:
                self._error = SessionError("the client does not read what it is sent", code="slow_consumer")
                self._untold = True
                self._phase.cancel()

    async def _close(self) -> None:
        """Say goodbye. Idempotent; bounded by the limits; the stream never closes in the middle of a message."""
        error = self._error
        with trio.move_on_after(self.limits.stall_s if self._untold else self.limits.close_s):
            try:
                if error is not None and self._untold:
                    self._untold = False
                    await self.socket.send_message(_told(error, fatal=True))
            except ConnectionClosed:
                return
            code, reason = (error.row.close_code, error.code) if error else (self._close_code, None)
            await self.socket.aclose(code, reason)


def _told(error: SttdError, *, fatal: bool) -> str:
    return mapping.event_message(Failure.of(error, fatal=fatal))


def _size_bytes(message: str | bytes) -> int:
    return len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
