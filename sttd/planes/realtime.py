"""OpenAI's Realtime API for transcription, on one WebSocket (`wire/realtime.py` has the rules, docs/how-to/realtime.md
what a user sees of it).

A connection opens an sttd session with its first audio, and another one where the client changes what a session
cannot change. Sessions follow each other like this:

    socket ──▶ listen ──▶ the newest session's inbox … its outbox ──▶ forward, behind those before it ──▶ socket

How a connection ends, and what the client sees:

    the session ended            outcomes of all that is committed, then the close code of the session
    no session can be opened     the error, 1013; 1001 where the daemon stops
    a fatal error of this plane  the error, the outcomes that are owed, the close code of the error
    slow consumer                the error and 1008, if it reads again in time; the sessions are left at once
    the client is gone           the sessions get what had arrived, then their finals go to subscribers
    the daemon drains            without a session 1001; with one it ends by itself, with 1001
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, Protocol

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

from sttd.admission import Peer, Place
from sttd.core import types as core
from sttd.errors import InternalError, SessionError, SttdError
from sttd.options import SessionOptions
from sttd.planes import live
from sttd.planes.asking import agent_of
from sttd.planes.drain import Drain
from sttd.planes.line import Line, LineLimits
from sttd.planes.reader import Reader
from sttd.planes.realtime_asking import changes_between, dialect_of, first_settings, options_of, refusal_of
from sttd.planes.realtime_events import hear, read
from sttd.planes.streams import UpgradedStream
from sttd.planes.websocket import serve_socket
from sttd.service import Service
from sttd.wire.frames import LargeMessages
from sttd.wire.http import Request, Upgrade
from sttd.wire.realtime import Act, Finalize, RealtimeTalk, Renew, Say
from sttd.wire.realtime_messages import (
    MAX_BYTES,
    Append,
    Clear,
    Commit,
    Update,
)
from sttd.wire.realtime_settings import RefusedError

_EXPIRES: Final = timedelta(days=1)  # what is shown; nothing ends then


class Session(live.Session, Protocol):
    """As this plane uses it."""

    @property
    def options(self) -> SessionOptions: ...


async def serve_realtime(
    stream: trio.SocketStream,
    upgrade: Upgrade,
    request: Request,
    *,
    service: Service,
    peer: Peer,
    drain: Drain,
    limits: LineLimits,
    large: LargeMessages,
    on_freed: Callable[[int], None],
) -> None:
    """Serve a WebSocket whose handshake was read and allowed, until it is closed. The caller closes the socket.

    `large` is shared by all connections; `on_freed` is told at the end how many bytes the client had sent.

    Raises whatever goes wrong, after telling the client where that is still possible. Cancellation cuts the connection
    and ends its sessions at once.
    """

    async def serve(socket: WebSocketConnection, upgraded: UpgradedStream) -> None:
        connection = _Connection(
            stream=upgraded,
            reader=Reader(socket, upgraded),
            line=Line(socket=socket, stall_s=limits.stall_s, close_s=limits.close_s),
            talk=RealtimeTalk(
                token=secrets.token_hex(8),
                dialect=dialect_of(request),
                settings=first_settings(request),
                expires_at=int((datetime.now(UTC) + _EXPIRES).timestamp()),
            ),
            agent=agent_of(request),
            service=service,
            peer=peer,
            drain=drain,
            limits=limits,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.heed_violations)
            await connection.run()
            nursery.cancel_scope.cancel()

    await serve_socket(
        stream,
        upgrade,
        serve,
        handshake_s=limits.handshake_s,
        on_freed=on_freed,
        message_bytes=MAX_BYTES,
        large=large,
        pace=service.pace(peer.uid),
    )


@attrs.define(eq=False)
class _Stage:
    """A session on its way through the connection."""

    session: Session
    options: SessionOptions  # as they were asked for, with all changes since
    reading: trio.CancelScope  # of its events; cancelled when nobody is there to get them
    replaced: bool = False


@attrs.define(eq=False, kw_only=True)
class _Connection:
    """One client, from its first message to the close."""

    stream: UpgradedStream
    reader: Reader
    line: Line
    talk: RealtimeTalk
    agent: str
    service: Service
    peer: Peer
    drain: Drain
    limits: LineLimits
    _stages: list[_Stage] = attrs.field(factory=list, init=False)  # that have not ended, in order
    _newest: _Stage | None = attrs.field(default=None, init=False)  # the one that gets the audio
    _last_heard: trio.Event = attrs.field(factory=trio.Event, init=False)  # the newest session has said its last
    _order: trio.Lock = attrs.field(factory=trio.Lock, init=False)  # messages leave as they were made
    _life: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _failure: SttdError | None = attrs.field(default=None, init=False)  # of a session
    _ending: SttdError | None = attrs.field(default=None, init=False)  # the fatal error of this plane
    _untold: SttdError | None = attrs.field(default=None, init=False)  # it may still be said before the close
    _close_code: int | None = attrs.field(default=None, init=False)  # once the last session has said its last

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Serve until the connection is closed, and every session of it has said what it owed."""
        self._last_heard.set()
        try:
            async with trio.open_nursery() as sessions:
                async with trio.open_nursery() as nursery:
                    for heed in (self._heed_drain, self._heed_stall, self._heed_idleness):
                        nursery.start_soon(heed)
                    with self._life:
                        await self._perform(self.talk.greet())
                        await self._listen(sessions)
                    # Before the sessions are left: one that is left early takes its time to decode what it owes.
                    await self._close()
                    nursery.cancel_scope.cancel()
                self._leave_sessions()
        except Exception:
            self._ending = self._untold = InternalError("a bug in sttd; the journal has the traceback")
            await self._close()
            raise

    async def _close(self) -> None:
        code, reason = self._close_code or 1000, None
        if self._ending is not None:
            code, reason = self._ending.close_code, self._ending.code
        untold, self._untold = self._untold, None
        last = None if untold is None else self.talk.fail(untold)[0].text
        await self.line.close(code, reason, last=last)

    def _leave_sessions(self) -> None:
        for stage in self._stages:
            stage.reading.cancel()

    async def _heed_drain(self) -> None:
        """A client that has no session would otherwise be waited for until the end of the drain."""
        await self.drain.started.wait()
        if not self._stages:
            self._close_code = 1001
            self._life.cancel()

    async def _heed_stall(self) -> None:
        """The sessions of a client that does not read are left at once."""
        await self.line.stalled.wait()
        self._ending = self._untold = SessionError("the client does not read what it is sent", code="slow_consumer")
        self._leave_sessions()
        self._life.cancel()

    async def _heed_idleness(self) -> None:
        await self.reader.silence(self.limits.idle_s)
        await self._end_with(SessionError(f"nothing came from the client for {self.limits.idle_s:g} s"))

    async def heed_violations(self) -> None:
        """End the connection of a client whose frames are against the rules of `wire/frames.py`."""
        error = await self.stream.violation()
        await self.reader.catch_up()
        await self._end_with(error)

    async def _end_with(self, error: SttdError) -> None:
        """End the connection for this reason; what its sessions owe is still written."""
        if self._ending is not None:
            return
        self._ending = error
        self._life.deadline = min(self._life.deadline, trio.current_time() + self.limits.farewell_s)
        await self._perform(self.talk.fail(error))
        if self._newest is not None:
            self._newest.session.stop()
        if not self._stages:
            self._life.cancel()

    @property
    def _over(self) -> bool:
        """What the client says now is of no more use."""
        return self._ending is not None or self._close_code is not None

    # ------------------------------------------------------------------ in

    async def _listen(self, sessions: trio.Nursery) -> None:
        """Take what the client sends, until it is gone."""
        try:
            while True:
                if self._newest is not None and not self._over:
                    await self._newest.session.wait_for_room()
                message = await self.reader.next_message()
                self.line.progress()
                if not self._over:
                    await self._take(message, sessions)
                self.stream.message_taken()
        except ConnectionClosed:
            return
        except SttdError as error:
            await self._end_with(error)
            await trio.sleep_forever()  # what is owed is written by others, who end this

    async def _take(self, message: str | bytes, sessions: trio.Nursery) -> None:
        try:
            event = await read(message)
        except RefusedError as error:
            await self._perform(self.talk.refuse(error))
            return
        match event:
            case Append(audio=audio):
                await self._feed([piece for piece in audio if piece], sessions)
            case Commit():
                await self._perform(self.talk.commit(event))
            case Clear():
                await self._perform(self.talk.clear(event))
            case Update():
                await self._update(event)

    async def _feed(self, audio: Iterable[bytes], sessions: trio.Nursery) -> None:
        for piece in audio:
            if self._newest is None:
                self._newest = await self._open(sessions)
            if self._newest is None:
                return
            self.talk.appended(len(piece))
            self._newest.session.feed(piece)
            await trio.lowlevel.checkpoint()  # a large one takes a few turns, in which others get theirs

    async def _update(self, event: Update) -> None:
        stage = self._newest
        try:
            settings = self.talk.propose(event)
            options = options_of(settings, service=self.service, agent=self.agent)
            for name in (options.model, options.interim_model):
                self.service.admission.check_model(name)
            changes, renew = changes_between(stage.options if stage is not None else options, options)
            fitted = self.service.fit_changes(changes, options=options)
        except RefusedError as error:
            await self._perform(self.talk.refuse(error, event_id=event.event_id))
            return
        except SttdError as error:
            refused = refusal_of(error, event)
            if refused is None:
                await self._perform(self.talk.fail(error, event_id=event.event_id))
            else:
                await self._perform(self.talk.refuse(refused))
            return
        await self._perform(self.talk.adopt(settings, event, renew=renew))
        if stage is not None and stage is self._newest and changes.given() and not renew:
            stage.options = options
            stage.session.configure(fitted)

    # ------------------------------------------------------------------ sessions

    async def _open(self, sessions: trio.Nursery) -> _Stage | None:
        """A session for what is appended from here on. None where there is none; the client was told."""
        before, said = self._last_heard, trio.Event()
        try:
            options = options_of(self.talk.settings, service=self.service, agent=self.agent)
            stage: _Stage = await sessions.start(partial(self._hold, options=options, before=before, said=said))
        except SttdError as error:
            error.close_code = 1001 if error.code == "shutting_down" else 1013
            await self._end_with(error)
            return None
        self._last_heard = said
        return stage

    async def _hold(
        self,
        *,
        options: SessionOptions,
        before: trio.Event,
        said: trio.Event,
        task_status: trio.TaskStatus[_Stage],
    ) -> None:
        """Open a session, and write its events once those of the session before it are written."""
        place = Place(self.service.registry.promised, self.peer.uid) if self._stages else None  # it goes on
        try:
            opening = self.service.open_session(options, peer=self.peer, api="realtime", place=place)
            async with opening as session:
                stage = _Stage(session, options, trio.CancelScope())
                self._stages.append(stage)
                task_status.started(stage)
                with stage.reading:
                    await before.wait()
                    await self._forward(session)
                    await self._ended(stage)
        finally:
            said.set()
            if place is not None:
                place.leave()

    async def _ended(self, stage: _Stage) -> None:
        """A session has said its last."""
        self._stages.remove(stage)
        goes_on = stage.replaced and (self._stages or not (self._ending or self.drain.started.is_set()))
        if not goes_on:
            self._close_code = 1001 if stage.replaced else stage.session.close_code or 1000
        error = self._failure or self._ending or SessionError("the session was ended", code="shutting_down")
        await self._perform(self.talk.session_ended(error))
        if not goes_on:
            self._life.cancel()

    # ------------------------------------------------------------------ out

    async def _forward(self, session: Session) -> None:
        """Write what follows from a session's events, until its last one."""
        while True:
            try:
                event = await session.receive()
            except trio.EndOfChannel:
                return
            if isinstance(event, core.Failure) and event.fatal:
                self._failure = SttdError(event.message, code=event.code)
            await self._perform(hear(self.talk, event))

    async def _perform(self, acts: Sequence[Act]) -> None:
        """Do what the machine has just said: what concerns the session at once, and say the rest in its order."""
        for act in acts:
            self._steer(act)
        async with self._order:
            for act in acts:
                if isinstance(act, Say):
                    await self.line.send(act.text)

    def _steer(self, act: Act) -> None:
        stage = self._newest
        if stage is None:
            return
        if isinstance(act, Finalize):
            stage.session.finalize()
        elif isinstance(act, Renew):
            stage.replaced, self._newest = True, None
            stage.session.stop()
