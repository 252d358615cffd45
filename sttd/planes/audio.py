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
    another one resumes          1008; the session is no longer its own

A resumable session is not the connection's: it is kept by `planes/lasting.py`, and asleep once the connection has ended
without its last event being told, or not provably.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

import sttd
from sttd.admission import Peer, Place
from sttd.core.types import Stopped
from sttd.errors import InternalError, SessionError, SttdError
from sttd.options import ENCODINGS, Endpointing
from sttd.planes import mapping
from sttd.planes.drain import Drain
from sttd.planes.lasting import Lasting, Seat, Session
from sttd.planes.line import Line
from sttd.planes.reader import Reader
from sttd.planes.speaker import Speaker
from sttd.planes.streams import UpgradedStream
from sttd.planes.websocket import serve_socket
from sttd.service import Service
from sttd.wire.common import PROTOCOL
from sttd.wire.http import Upgrade
from sttd.wire.messages import Audio, Configure, Finalize, Resume, Start, Stop
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


async def serve_audio(
    stream: trio.SocketStream,
    upgrade: Upgrade,
    *,
    service: Service,
    lasting: Lasting,
    peer: Peer,
    place: Place | None,
    drain: Drain,
    limits: AudioLimits,
    on_freed: Callable[[int], None],
) -> None:
    """Serve a WebSocket whose handshake was read and allowed, until it is closed. The caller closes the socket.

    `place` is kept for its session. `on_freed` is told at the end how many bytes the client had sent.

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
            lasting=lasting,
            peer=peer,
            place=place,
            drain=drain,
            limits=limits,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.heed_violations, upgraded)
            await connection.run()
            nursery.cancel_scope.cancel()

    await serve_socket(
        stream, upgrade, serve, handshake_s=limits.handshake_s, on_freed=on_freed, pace=service.pace(peer.uid)
    )


@attrs.define(eq=False, kw_only=True)
class _Connection:
    """One client, from its first message to the close."""

    reader: Reader
    talk: Talk
    speaker: Speaker
    service: Service
    lasting: Lasting
    peer: Peer
    place: Place | None  # for the first session that it asks for
    drain: Drain
    limits: AudioLimits
    _seat: Seat | None = attrs.field(default=None, init=False)  # where the session is resumable
    _session: Session | None = attrs.field(default=None, init=False)
    _missed_from: int | None = attrs.field(default=None, init=False)  # where it was resumed: the last event seen
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
                    if self._seat is not None:
                        await self._get_up(self._seat)
                    # Before the session is left: one that is left early takes its time to decode what it owes.
                    await self._close()
                nursery.cancel_scope.cancel()
        except Exception:
            bug = InternalError("a bug in sttd; the journal has the traceback")
            self.speaker.tell_last(self.talk.overrule(bug))
            await self._close()
            raise

    async def _open(self, stack: AsyncExitStack) -> Session | None:
        """Wait for a `start` or `resume` that gets a session, which `stack` leaves. None if there will be none."""
        deadline = trio.current_time() + self.limits.start_s
        await self._say_hello()
        while self.talk.error is None:
            start = None
            with trio.CancelScope(deadline=deadline) as self._phase:
                if self.drain.closed.is_set():
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

    async def _wait_for_start(self) -> Start | Resume | None:
        """The next `start` or `resume`; None if the client is gone or must be sent away."""
        try:
            while self.talk.error is None:
                answer = self.talk.receive(await self.reader.next_message())
                if isinstance(answer, Start | Resume):
                    return answer
                await self.speaker.tell(answer)
        except ConnectionClosed:
            return None
        return None

    async def _begin(self, asked: Start | Resume, stack: AsyncExitStack) -> Session | None:
        """Open the session that a `start` asks for, or take the one that a `resume` names.

        None where it cannot be; the client was told.
        """
        try:
            session = await (self._start(asked, stack) if isinstance(asked, Start) else self._resume(asked, stack))
        except SttdError as error:
            await self.speaker.tell(self.talk.not_opened(error))
            return None
        if self.talk.error is not None:
            if self._seat is not None and self._missed_from is None:
                self._seat.finish()  # nobody has heard of it
            return None
        if self._seat is None:
            self.talk.opened()
        else:
            self.speaker.numbering = self._seat.machine
            self.talk.opened(stopped=self._seat.kept.stopped, error=self._seat.kept.error)
        return session

    async def _start(self, asked: Start, stack: AsyncExitStack) -> Session:
        defaults = self.service.defaults(kind="file" if asked.kind == "file" else "live")
        options = mapping.session_options(asked, defaults=defaults)
        place, self.place = self.place, None
        if options.resumable:
            seat = await self.lasting.open(options, peer=self.peer, place=place, leave=self._leave)
            return self._take(seat, stack)
        opening = self.service.open_session(options, peer=self.peer, place=place)
        session: Session = await stack.enter_async_context(opening)
        self._endpointing = session.options.endpointing
        return session

    async def _resume(self, asked: Resume, stack: AsyncExitStack) -> Session:
        if self.place is not None:
            self.place.leave()  # this session has its own
        seat = await self.lasting.resume(asked.token, asked.last_seq, peer=self.peer, leave=self._leave)
        self._missed_from = asked.last_seq
        return self._take(seat, stack)

    def _take(self, seat: Seat, stack: AsyncExitStack) -> Session:
        self._seat, self._endpointing = seat, seat.kept.endpointing
        stack.callback(seat.vacate)
        return seat.kept.session

    async def _get_up(self, seat: Seat) -> None:
        """The session is not this connection's any more: over where the client has everything, else asleep."""
        with trio.CancelScope() as self._phase:
            if seat.all_written and not self.talk.superseded and await self._close():
                seat.finish()
        seat.vacate()

    def _leave(self) -> None:
        """Another connection takes the session over."""
        self.talk.supersede()
        self._phase.cancel()

    def _why_no_start(self) -> SessionError:
        if self.drain.started.is_set():
            return SessionError("the daemon is stopping", code="shutting_down")
        return SessionError(f"no `start` opened a session within {self.limits.start_s:g} s")

    async def _converse(self, session: Session) -> None:
        """Audio in, events out, until the session has ended or is to be left."""
        with trio.CancelScope() as self._phase:
            if self.talk.error is not None:  # of a former connection
                self._phase.deadline = trio.current_time() + self.limits.farewell_s
            await self._say_where(session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen, session)
                nursery.start_soon(self._heed_idleness)
                if self._seat is not None:
                    nursery.start_soon(self._acknowledge, self._seat)
                    nursery.start_soon(self._prove, self._seat)
                await self._forward(session)
                nursery.cancel_scope.cancel()

    async def _say_where(self, session: Session) -> None:
        """`started`; or `resumed`, and what was missed."""
        seat, missed_from = self._seat, self._missed_from
        if seat is None or missed_from is None:
            token = None if seat is None else seat.token
            await self.speaker.say("started", mapping.started_fields(session.id, session.options, token=token))
        else:
            await self.speaker.say("resumed", {"resume_token": seat.token, **seat.machine.ack()})
            await self.speaker.catch_up(missed_from)

    async def _heed_drain(self) -> None:
        """A client that has no session would otherwise be waited for until the end of the drain."""
        await self.drain.closed.wait()
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
        answer = self.talk.fail(error)
        if self._seat is not None and answer.error is error:
            self._seat.kept.error = error
        await self.speaker.tell(answer)
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
                    message = await self.reader.next_message(calm=session.calm, joined=True)
                    # A session that drops takes everything at once, which is no progress.
                    if session.options.overflow != "drop":
                        self.speaker.progress()
                    answer = self.talk.receive(message)
                    await self._obey(session, answer if self._seat is None else self._seat.hear(message, answer))
                    if self._seat is not None:
                        await self._seat.acknowledged()
        except ConnectionClosed as closed:
            if self._seat is not None:
                self._seat.closed(closed.reason)
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
        if self._seat is not None:
            self._seat.kept.endpointing = self._endpointing
        session.configure(changes)

    # ------------------------------------------------------------------ out

    async def _forward(self, session: Session) -> None:
        """Write the session's events until its last one."""
        while True:
            try:
                event = await session.receive()
            except trio.EndOfChannel:
                if self._seat is not None:
                    self._seat.all_written = True
                return
            failed = self.talk.error if self._seat is None else self._seat.kept.error
            if isinstance(event, Stopped) and failed is not None:
                continue
            await self.speaker.event(event)

    async def _acknowledge(self, seat: Seat) -> None:
        """Say how far audio was taken; a client that does not read is told less often."""
        while True:
            await self.speaker.say("ack", await seat.next_ack())

    async def _prove(self, seat: Seat) -> None:
        """Somebody shows the token that this client has used: find out whether the client got the next one."""
        await seat.doubted.wait()
        if await self.speaker.line.reach():
            seat.prove()

    async def _say_hello(self) -> None:
        server, presets = f"sttd/{sttd.__version__}", self.service.presets()
        hello = {"server": server, "protocol": PROTOCOL, "encodings": list(ENCODINGS), "presets": presets}
        await self.speaker.say("hello", hello)

    async def _close(self) -> bool:
        return await self.speaker.close(self._session.close_code if self._session is not None else None)
