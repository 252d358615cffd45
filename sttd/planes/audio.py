"""The audio plane: speech in, text out, on one WebSocket (docs/reference/audio.md).

A connection is one nursery:

    socket ──▶ listen ──▶ the session's inbox … the session … its outbox ──▶ forward ──▶ socket

- **listen** reads whatever the client sends (`planes/reader.py`), at the speed that the inbox allows
  (`session/inbox.py`), so that the WebSocket library answers its pings and sees its close. `wire/talk.py` says what a
  message asks for.
- **forward** writes the session's events in order (`planes/speaker.py`). An interim that the client is too slow for is
  replaced by a newer one in the session's outbox.

How a connection ends, and what the client sees:

    the session ended            `stopped` (or the session's own fatal error), then the close code of the session
    a fatal error of this plane  the error, the finals that are owed, no `stopped`; the close code of the error
    slow consumer                the error and 1008, if it reads again in time; the session is left at once
    the client is gone           the session gets what had arrived, then its finals go to subscribers
    the daemon drains            before `start`: `shutting_down`, 1001; later the session ends by itself, with 1001
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Protocol

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

import sttd
from sttd.admission import Peer
from sttd.core.types import SessionEvent, Stopped
from sttd.errors import InternalError, SessionError, SttdError
from sttd.options import ENCODINGS, Endpointing, SessionChanges, SessionOptions
from sttd.planes import mapping
from sttd.planes.drain import Drain
from sttd.planes.line import Line
from sttd.planes.reader import Reader
from sttd.planes.speaker import Speaker
from sttd.planes.streams import UpgradedStream
from sttd.planes.websocket import serve_socket
from sttd.service import Service
from sttd.wire.common import PROTOCOL
from sttd.wire.http import Upgrade
from sttd.wire.messages import Audio, Configure, Finalize, Start, Stop
from sttd.wire.talk import Answer, Fail, Phase, Refuse, Talk


@attrs.frozen(kw_only=True)
class AudioLimits:
    """How long a connection may take for what, in seconds."""

    handshake_s: float = 5.0
    start_s: float = 30.0  # to send a `start` that opens a session
    idle_s: float = 300.0  # without any message from the client
    stall_s: float = 10.0  # with both directions standing still
    farewell_s: float = 30.0  # after a fatal error, for the finals that are owed
    close_s: float = 5.0  # for the client's half of the closing handshake


class Session(Protocol):
    """What `Service.open_session` yields, as far as this plane uses it."""

    id: str
    close_code: int | None

    @property
    def options(self) -> SessionOptions: ...
    @property
    def calm(self) -> bool: ...
    async def wait_for_room(self) -> None: ...
    def feed(self, data: bytes) -> None: ...
    def finalize(self) -> None: ...
    def configure(self, changes: SessionChanges) -> None: ...
    def stop(self) -> None: ...
    async def receive(self) -> SessionEvent: ...


async def serve_audio(
    stream: trio.SocketStream,
    upgrade: Upgrade,
    *,
    service: Service,
    peer: Peer,
    drain: Drain,
    limits: AudioLimits,
    on_freed: Callable[[int], None],
) -> None:
    """Serve a WebSocket whose handshake was read and allowed, until it is closed. The caller closes the socket.

    `on_freed` is told at the end how many bytes the client had sent.

    Raises whatever goes wrong, after telling the client where that is still possible. Cancellation cuts the connection
    and ends its session at once.
    """

    async def serve(socket: WebSocketConnection, upgraded: UpgradedStream) -> None:
        talk = Talk()
        line = Line(socket=socket, stall_s=limits.stall_s, close_s=limits.close_s)
        connection = _Connection(
            reader=Reader(socket, upgraded),
            talk=talk,
            speaker=Speaker(line=line, talk=talk),
            service=service,
            peer=peer,
            drain=drain,
            limits=limits,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.heed_violations, upgraded)
            await connection.run()
            nursery.cancel_scope.cancel()

    await serve_socket(stream, upgrade, serve, handshake_s=limits.handshake_s, on_freed=on_freed)


@attrs.define(eq=False, kw_only=True)
class _Connection:
    """One client, from its first message to the close."""

    reader: Reader
    talk: Talk
    speaker: Speaker
    service: Service
    peer: Peer
    drain: Drain
    limits: AudioLimits
    _session: Session | None = attrs.field(default=None, init=False)
    _endpointing: Endpointing | None = attrs.field(default=None, init=False)  # as of the last `configure`
    # What is going on now (waiting for `start`, then the session), so that others can put an end to it.
    _phase: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Serve until the connection is closed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed_drain)
                nursery.start_soon(self._heed_stall)
                async with AsyncExitStack() as stack:
                    self._session = await self._open(stack)
                    if self._session is not None:
                        await self._converse(self._session)
                    # Before the session is left: one that is left early takes its time to decode what it owes.
                    await self._close()
                nursery.cancel_scope.cancel()
        except Exception:
            bug = InternalError("a bug in sttd; the journal has the traceback")
            self.speaker.tell_last(self.talk.overrule(bug))
            await self._close()
            raise

    async def _open(self, stack: AsyncExitStack) -> Session | None:
        """Wait for a `start` that opens a session, which `stack` leaves. None if there will be none."""
        deadline = trio.current_time() + self.limits.start_s
        await self._say_hello()
        while self.talk.error is None:
            start = None
            with trio.CancelScope(deadline=deadline) as self._phase:
                if self.drain.started.is_set():
                    self._phase.cancel()
                start = await self._wait_for_start()
            if self._phase.cancelled_caught and self.talk.error is None:
                await self.speaker.tell(self.talk.fail(self._why_no_start()))
            if start is None:
                return None
            session = await self._begin(start, stack)
            if session is not None:
                return session
        return None

    async def _wait_for_start(self) -> Start | None:
        """The next `start`; None if the client is gone or must be sent away."""
        try:
            while self.talk.error is None:
                answer = self.talk.receive(await self.reader.next_message())
                if isinstance(answer, Start):
                    return answer
                await self.speaker.tell(answer)
        except ConnectionClosed:
            return None
        return None

    async def _begin(self, start: Start, stack: AsyncExitStack) -> Session | None:
        """Open the session that a `start` asks for. None where it cannot be; the client was told."""
        try:
            defaults = self.service.defaults(kind="file" if start.kind == "file" else "live")
            options = mapping.session_options(start, defaults=defaults)
            session: Session = await stack.enter_async_context(self.service.open_session(options, peer=self.peer))
        except SttdError as error:
            await self.speaker.tell(self.talk.not_opened(error))
            return None
        self.talk.opened()
        return session if self.talk.error is None else None

    def _why_no_start(self) -> SessionError:
        if self.drain.started.is_set():
            return SessionError("the daemon is stopping", code="shutting_down")
        return SessionError(f"no `start` opened a session within {self.limits.start_s:g} s")

    async def _converse(self, session: Session) -> None:
        """Audio in, events out, until the session has ended or is to be left."""
        self._endpointing = session.options.endpointing
        with trio.CancelScope() as self._phase:
            await self.speaker.say("started", mapping.started_fields(session.id, session.options))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, session)
                nursery.start_soon(self._heed_idleness)
                await self._forward(session)
                nursery.cancel_scope.cancel()

    async def _heed_drain(self) -> None:
        """A client that has no session would otherwise be waited for until the end of the drain."""
        await self.drain.started.wait()
        if self._session is None:
            self._phase.cancel()

    async def _heed_stall(self) -> None:
        """The session of a client that does not read is left at once."""
        await self.speaker.stalled.wait()
        self._phase.cancel()

    async def heed_violations(self, stream: UpgradedStream) -> None:
        """End the connection of a client whose frames are against the rules of `wire/frames.py`."""
        error = await stream.violation()
        await self.reader.catch_up()
        await self._end_with(error)

    async def _heed_idleness(self) -> None:
        await self.reader.silence(self.limits.idle_s)
        if self.talk.phase is Phase.ENDING:
            return  # it has said all; a long recording takes its time from here on
        await self._end_with(SessionError(f"nothing came from the client for {self.limits.idle_s:g} s"))

    async def _end_with(self, error: SttdError) -> None:
        """End the connection for this reason; what the session owes is still written."""
        self._phase.deadline = min(self._phase.deadline, trio.current_time() + self.limits.farewell_s)
        await self.speaker.tell(self.talk.fail(error))
        if self._session is None:
            self._phase.cancel()
        else:
            self._session.stop()

    # ------------------------------------------------------------------ in

    async def _listen(self, session: Session) -> None:
        """Take what the client sends, until it is gone. After its `stop` it may still send pings, and a close."""
        try:
            with self.reader.attention():
                while True:
                    if self.talk.phase is Phase.OPEN:
                        await session.wait_for_room()
                    message = await self.reader.next_message(calm=session.calm)
                    # A session that drops takes everything at once, which is no progress.
                    if session.options.overflow != "drop":
                        self.speaker.progress()
                    await self._obey(session, self.talk.receive(message))
        except ConnectionClosed:
            self._phase.cancel()
        except SttdError as error:
            await self._end_with(error)

    async def _obey(self, session: Session, answer: Answer | None) -> None:
        match answer:
            case Audio(payload=data):
                session.feed(data)
            case Finalize():
                session.finalize()
            case Configure():
                await self._configure(session, answer)
            case Stop():
                session.stop()
            case Fail(error):
                await self._end_with(error)
            case _:
                await self.speaker.tell(answer)

    async def _configure(self, session: Session, asked: Configure) -> None:
        configured = self.service.defaults(kind=session.options.kind).endpointing
        changes = mapping.session_changes(asked, current=self._endpointing or configured)
        try:
            changes = self.service.fit_changes(changes, options=session.options)
        except SttdError as error:
            await self.speaker.tell(Refuse(error))
            return
        self._endpointing = mapping.endpointing_after(changes, current=self._endpointing)
        session.configure(changes)

    # ------------------------------------------------------------------ out

    async def _forward(self, session: Session) -> None:
        """Write the session's events until its last one."""
        while True:
            try:
                event = await session.receive()
            except trio.EndOfChannel:
                return
            if isinstance(event, Stopped) and self.talk.error is not None:
                continue
            await self.speaker.event(event)

    async def _say_hello(self) -> None:
        server, presets = f"sttd/{sttd.__version__}", self.service.presets()
        hello = {"server": server, "protocol": PROTOCOL, "encodings": list(ENCODINGS), "presets": presets}
        await self.speaker.say("hello", hello)

    async def _close(self) -> None:
        await self.speaker.close(self._session.close_code if self._session is not None else None)
