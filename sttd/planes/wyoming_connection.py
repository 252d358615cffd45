"""One connection of the Wyoming plane (`planes/wyoming.py`, which also says how it ends)."""

from __future__ import annotations

from functools import partial
from typing import Any, Final, Protocol

import attrs
import trio

import sttd
from sttd.admission import Peer
from sttd.core import types as core
from sttd.core.results import is_decoded
from sttd.errors import DecodeError, InternalError, ProtocolError, SessionError, SttdError, from_map
from sttd.fields import clip
from sttd.host import logs
from sttd.options import SessionOptions
from sttd.planes.asking import Asked, selectable, session_options
from sttd.planes.drain import Drain
from sttd.planes.line import Outflow
from sttd.planes.reader import Attention
from sttd.planes.streams import RECEIVE_BYTES, send_eof
from sttd.service import Service
from sttd.wire import wyoming
from sttd.wire.names import find_language
from sttd.wire.wyoming import AudioChunk, Describe, Event, EventReader, Ping, Samples, Transcribe
from sttd.wire.wyoming_talk import Begin, End, Feed, Nothing, Talk, Transcript

log = logs.get(__name__)

_HEAVY_BYTES: Final = 4096  # chosen: a JSON text above is read in turns; satellites send 200 bytes an event
_AHEAD_BYTES: Final = 64 * 1024  # chosen: two seconds of 16 kHz, of an utterance that cannot begin yet


@attrs.frozen(kw_only=True)
class WyomingLimits:
    """Bounds of the plane. Times in seconds."""

    connections: int = 512  # as many again may be told that there are too many, or be closing
    connections_per_uid: int = 128  # those of one user who has no say over the daemon; as many again likewise
    stall_s: float = 10.0  # with both directions standing still
    idle_s: float = 3600.0  # without anything said on a connection
    linger_s: float = 2.0  # to read on after an error, or a reset would overtake it


class Session(Protocol):
    """What `Service.open_session` yields, as far as this plane uses it."""

    async def wait_for_room(self) -> None: ...
    def feed(self, data: bytes) -> None: ...
    def finalize(self) -> None: ...
    def stop(self) -> None: ...
    def abort(self) -> None: ...
    async def receive(self) -> core.SessionEvent: ...


@attrs.define(eq=False, kw_only=True)
class Common:
    """What all connections share."""

    service: Service
    streaming: bool  # text is told while it is spoken
    drain: Drain
    limits: WyomingLimits
    # Who has it reads a large text, or looks through the models: one such step in a turn of the loop, of all clients.
    turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    def info(self) -> bytes:
        """What there is, as it is now."""
        desk = self.service.desk
        models = [
            wyoming.Model(
                name=row.preset,
                description=row.summary,
                repository=row.repository,
                installed=row.local,
                languages=desk.languages(row.preset),
            )
            for row in selectable(self.service)
        ]
        return wyoming.info(models, version=sttd.__version__, streaming=self.streaming)


@attrs.define(eq=False, kw_only=True)
class Line(Outflow):
    """Writes to one client. Nothing happens where it is gone: whoever reads sees that, and ends what there is."""

    stream: trio.SocketStream
    _torn: bool = attrs.field(default=False, init=False)  # an event was begun and not written whole

    async def send(self, data: bytes) -> None:
        """Write whole events, behind those that are being written."""
        try:
            await self.write(partial(self._send_all, data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _send_all(self, data: bytes) -> None:
        if self._torn:
            return
        self._torn = True
        await self.stream.send_all(data)
        self._torn = False


@attrs.define(eq=False, kw_only=True)
class _Utterance:
    """What a client says between two silences: a session, and what is told of it."""

    transcript: Transcript
    session: Session | None = attrs.field(default=None, init=False)  # once it is open
    stopped: bool = attrs.field(default=False, init=False)  # the client has said all
    telling: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    over: trio.Event = attrs.field(factory=trio.Event, init=False)  # nothing more is told, and its session is left

    def drop(self, *, unseen: bool = False) -> None:
        """Nobody is told any more. What somebody has text of is decoded all the same, unless it is to end `unseen`."""
        if self.session is not None and (unseen or not self.transcript.told):
            self.session.abort()
        self.telling.cancel()


@attrs.define(eq=False, kw_only=True)
class Connection:
    """One client, from its first event to the end."""

    common: Common
    line: Line
    peer: Peer
    received_bytes: int = attrs.field(default=0, init=False)
    _events: EventReader = attrs.field(factory=EventReader, init=False)
    _talk: Talk = attrs.field(factory=Talk, init=False)
    _attention: Attention = attrs.field(factory=Attention, init=False)
    _asked: Asked = attrs.field(factory=Asked, init=False)  # for utterances that begin from here on
    _utterance: _Utterance | None = attrs.field(default=None, init=False)  # the last one
    _error: SttdError | None = attrs.field(default=None, init=False)  # why it ends
    _listening: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Serve until the connection is to be closed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed_drain)
                nursery.start_soon(self._heed_stall)
                nursery.start_soon(self._heed_idleness)
                with self._listening:
                    await self._listen(nursery)
                await self._leave()
                nursery.cancel_scope.cancel()
        except Exception:
            await self.refuse(InternalError("a bug in sttd; the journal has the traceback"))
            raise

    async def refuse(self, error: SttdError) -> None:
        """Say why nothing more comes, and that nothing more comes."""
        await self.line.send(wyoming.error(error.message, error.code))
        await send_eof(self.line.stream)

    async def _leave(self) -> None:
        """The session is left after the error is said: what is owed to others takes its time."""
        if self._utterance is not None:
            self._utterance.drop()
        if self._error is not None:
            await self.refuse(self._error)
        if self._utterance is not None:
            await self._utterance.over.wait()

    def _end_with(self, error: SttdError) -> None:
        """End the connection for this reason; the first one counts."""
        if self._error is None:
            self._error = error
        self._listening.cancel()

    async def _heed_drain(self) -> None:
        await self.common.drain.started.wait()
        if self._utterance is not None:
            await self._utterance.over.wait()
        self._listening.cancel()

    async def _heed_stall(self) -> None:
        await self.line.stalled.wait()
        self._listening.cancel()

    async def _heed_idleness(self) -> None:
        idle_s = self.common.limits.idle_s
        while True:
            await self._attention.silence(idle_s)
            if self._utterance is None or not self._utterance.stopped or self._utterance.over.is_set():
                break
            await self._utterance.over.wait()  # a client that waits for its transcript is not idle
        if self._talk.open:
            self._end_with(SessionError(f"nothing came from the client for {idle_s:g} s"))
        self._listening.cancel()

    # ------------------------------------------------------------------ in

    async def _listen(self, nursery: trio.Nursery) -> None:
        """Do what the client asks for, until it is gone."""
        try:
            while (event := await self._next_event()) is not None:
                await self._obey(event, nursery)
                if not isinstance(event, Samples | AudioChunk):  # others may come by the hundred in what was read
                    await trio.lowlevel.checkpoint()
        except SttdError as error:
            self._end_with(error)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def _next_event(self) -> Event | None:
        """The next event; None: the client is gone. Raises ProtocolError."""
        while True:
            if self._events.work_bytes > _HEAVY_BYTES:
                async with self.common.turn:
                    event = self._events.next_event()
            else:
                event = self._events.next_event()
            if event is not None:
                return event
            if not await self._read():
                return None

    async def _read(self) -> bool:
        """Take what the client sends next. False: it is gone. Raises BrokenResourceError too, where it is."""
        data = bytes(await self._attention.wait_for(partial(self.line.stream.receive_some, RECEIVE_BYTES)))
        self.received_bytes += len(data)
        self.line.progress()
        await self.common.service.pace(self.peer.uid)(len(data))
        self._events.receive_data(data)
        return bool(data)

    async def _obey(self, event: Event, nursery: trio.Nursery) -> None:
        match self._talk.receive(event):
            case Feed(data=data):
                await self._feed(data)
            case Begin() as begin:
                await self._begin(begin, nursery)
            case End():
                self._end_utterance()
            case Nothing():
                await self._wait_until_over()
                await self._tell(self._new_transcript(self._asked.language).end())
            case Transcribe() as asked:
                async with self.common.turn:
                    self._ask(asked)
            case Describe():
                await self.common.service.desk.read_languages()
                async with self.common.turn:
                    info = self.common.info()
                await self._tell(info)
            case Ping(text=text):
                await self._tell(wyoming.pong(text))

    def _ask(self, wanted: Transcribe) -> None:
        """Remember what the next utterances are to be. Raises ModelError: there is no such model."""
        language = wanted.language
        try:
            find_language(language)
        except ProtocolError:
            log.info(
                "a client asks for a language that sttd does not know; it is detected", language=clip(language or "")
            )
            language = None
        asked = Asked(model=wanted.name, language=language, hotwords=wanted.words)
        self._options(asked)
        self._asked = asked

    async def _begin(self, begin: Begin, nursery: trio.Nursery) -> None:
        """Open a session for an utterance."""
        if begin.again and self._utterance is not None:
            self._utterance.drop(unseen=True)
        await self._wait_until_over()
        declared = begin.format
        async with self.common.turn:
            options = self._options(
                self._asked, encoding=declared.encoding, sample_rate=declared.rate, channels=declared.channels
            )
        self._utterance = _Utterance(transcript=self._new_transcript(options.lang))
        await nursery.start(self._transcribe, self._utterance, options)

    async def _wait_until_over(self) -> None:
        """Wait until the last utterance has its transcript, or its client is gone."""
        if self._utterance is None or self._utterance.over.is_set():
            return
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read_ahead)
            await self._utterance.over.wait()
            nursery.cancel_scope.cancel()

    async def _read_ahead(self) -> None:
        """See that the client goes, though it has said more before: as far as that is little enough to be kept."""
        try:
            while self._events.held_bytes < _AHEAD_BYTES:
                if not await self._read():
                    self._listening.cancel()
                    return
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self._listening.cancel()

    async def _feed(self, data: bytes) -> None:
        assert self._utterance is not None
        session = self._utterance.session
        if session is None:
            await trio.lowlevel.checkpoint()  # it did not open, which ends the connection here
            return
        await session.wait_for_room()
        session.feed(data)

    def _end_utterance(self) -> None:
        assert self._utterance is not None
        self._utterance.stopped = True
        if self._utterance.session is not None:
            self._utterance.session.finalize()
            self._utterance.session.stop()

    # ------------------------------------------------------------------ out

    async def _transcribe(
        self, utterance: _Utterance, options: SessionOptions, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Hold the session of an utterance, and tell its text."""
        try:
            async with self.common.service.open_session(options, peer=self.peer, api="wyoming") as session:
                utterance.session = session
                task_status.started()
                with utterance.telling:
                    await self._tell_text(utterance, session)
        except SttdError as error:
            self._end_with(error)
            if utterance.session is None:
                task_status.started()  # all the same: whoever waits for it is at its end
        finally:
            utterance.over.set()

    async def _tell_text(self, utterance: _Utterance, session: Session) -> None:
        transcript, trouble, ended = utterance.transcript, None, False
        while True:
            try:
                event = await session.receive()
            except trio.EndOfChannel:
                break
            match event:
                case core.Interim():
                    await self._tell(transcript.stable(event.utterance, event.text[: event.stable_chars]))
                case core.Final() if _is_undecoded(event):
                    self._end_with(trouble or _why_undecoded(event))
                    return
                case core.Final():
                    await self._tell(transcript.final(event.utterance, event.text, language=event.language))
                case core.Failure():
                    # What can be mended is not told: if it is not, the final that is owed will show it.
                    trouble = from_map(attrs.asdict(event))
                    if event.fatal:
                        self._end_with(trouble)
                        return
                case core.Stopped():
                    ended = True
        if not ended:
            self._end_with(trouble or InternalError("a bug in sttd; the journal has the traceback"))
            return
        await self._tell(transcript.end())
        if not utterance.stopped:
            self._listening.cancel()  # somebody else has ended it

    async def _tell(self, data: bytes) -> None:
        if data:
            await self.line.send(data)
            self._attention.start_over()

    def _new_transcript(self, language: str | None) -> Transcript:
        return Transcript(streaming=self.common.streaming, language=language)

    def _options(self, asked: Asked, **more: Any) -> SessionOptions:
        """Options for an utterance that the client ends itself. Raises ModelError."""
        return session_options(
            asked,
            service=self.common.service,
            api="wyoming",
            agent="",
            endpointing=None,
            interim=self.common.streaming,
            lock_stable=True,
            **more,
        )


def _is_undecoded(final: core.Final) -> bool:
    """Whether there was audio, and nobody knows what was said in it."""
    return not is_decoded(final) and final.end_s > final.start_s


def _why_undecoded(final: core.Final) -> SttdError:
    if final.reason == "drain":
        return SessionError("the utterance was ended before it could be decoded", code="shutting_down")
    return DecodeError("the utterance could not be decoded", code="decode_failed")
