"""Deepgram's live API on a WebSocket: a session for each channel that is told apart.

`wire/deepgram.py` says what a message asks for, `wire/deepgram_channel.py` what the client is told of each channel.

    socket ──▶ listen ──▶ a session's inbox … the session … its outbox ──▶ forward, one for each ──▶ socket

The sessions are opened before the handshake is answered, so that whoever cannot be served is refused by an answer that
says why and when to come again. Interleaved channels are taken apart here, so that each session gets its own bytes
alone; of a container each gets all, and picks its channel where it is decoded.

How a connection ends, and what the client sees:

    `CloseStream`                what is pending, `Metadata`, 1000
    the daemon drains, `close`   the same with the close code of the session, on all channels
    no message for long          what is pending, 1011 with `NET-0001`
    the audio cannot be decoded  what is pending, 1008 with `DATA-0000`
    another fatal error          `Error`, what is pending, the close code of the error
    slow consumer                `Error` and 1008, if it reads again in time; the sessions are left at once
    the client is gone           the sessions get what had arrived, then their finals go to subscribers
"""

from __future__ import annotations

import datetime
import uuid
from collections.abc import Callable
from contextlib import AsyncExitStack
from typing import Any, Final, Protocol

import attrs
import trio
from trio_websocket import ConnectionClosed, WebSocketConnection

import sttd
from sttd.admission import Peer
from sttd.core import types as core
from sttd.errors import InternalError, SessionError, SttdError, from_map
from sttd.fields import rules_of
from sttd.options import CONTAINER, SAMPLE_BYTES, Endpointing, SessionChanges, SessionOptions
from sttd.planes import asking, live
from sttd.planes.line import Line, LineLimits
from sttd.planes.reader import Reader
from sttd.planes.streams import UpgradedStream
from sttd.planes.websocket import serve_socket
from sttd.service import Service
from sttd.wire import deepgram as dg
from sttd.wire import deepgram_answers
from sttd.wire.deepgram_channel import Channel
from sttd.wire.deepgram_query import Asked, parse_query
from sttd.wire.http import Denial, Response
from sttd.wire.routes import Connect

_PREFIXES: Final = ("nova", "enhanced", "base", "flux", "whisper")  # of names that mean the configured pair of models
_MOST_SILENCE_MS: Final[int] = rules_of(Endpointing)["silence_ms_min"].bounds["maximum"]
_GLANCE_S: Final = 0.1  # how often silence is looked at while it grows; chosen
# The close says it; an `Error` beside it would say it twice.
_SAID_BY_CLOSE: Final = frozenset({"idle_timeout", "bad_audio", "bad_option"})


class Row(Protocol):
    """A session as it is listed."""

    @property
    def audio_s(self) -> float: ...


class Session(live.Session, Protocol):
    """As this plane uses it."""

    @property
    def calm(self) -> bool: ...
    def row(self) -> Row: ...


async def serve_deepgram(
    stream: trio.SocketStream,
    connect: Connect,
    *,
    service: Service,
    peer: Peer,
    limits: LineLimits,
    on_freed: Callable[[int], None],
) -> Response | None:
    """Serve a WebSocket whose handshake was read and allowed, until it is closed. The caller closes the socket.

    Returns the answer where it is refused, for the caller to send. `on_freed` is told at the end how many bytes the
    client had sent.

    Raises whatever goes wrong, after telling the client where that is still possible. Cancellation cuts the connection
    and ends its sessions at once.
    """
    request_id = str(uuid.uuid4())
    async with AsyncExitStack() as stack:
        try:
            asked = parse_query(connect.request.query)
            options = _session_options(asked, service=service, agent=asking.agent_of(connect.request))
            sessions: list[Session] = [
                await stack.enter_async_context(service.open_session(each, peer=peer, api="deepgram"))
                for each in options
            ]
        except SttdError as error:
            return deepgram_answers.refuse(Denial.of(error))
        talk = dg.Conversation(channels=len(sessions))
        voices = [
            _Voice(session=session, channel=_channel(index, asked, each, len(options), request_id))
            for index, (session, each) in enumerate(zip(sessions, options, strict=True))
        ]

        async def serve(socket: WebSocketConnection, upgraded: UpgradedStream) -> None:
            connection = _Connection(
                reader=Reader(socket, upgraded),
                line=Line(socket=socket, stall_s=limits.stall_s, close_s=limits.close_s),
                talk=talk,
                voices=voices,
                splitter=_splitter(asked),
                request_id=request_id,
                declared=asked.channels,
                limits=limits,
            )
            await connection.run(upgraded)

        upgrade = attrs.evolve(connect.upgrade, headers=(("dg-request-id", request_id),))
        await serve_socket(
            stream, upgrade, serve, handshake_s=limits.handshake_s, on_freed=on_freed, pace=service.pace(peer.uid)
        )
    return None


@attrs.define(eq=False, kw_only=True)
class _Voice:
    """One channel: who hears it, and what is told of it."""

    session: Session
    channel: Channel
    nap: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)  # until something is said
    audio_s: float | None = attrs.field(default=None, init=False)  # in all, of a session that ended well


@attrs.define(eq=False, kw_only=True)
class _Connection:
    """One client, from the answer to its handshake to the close."""

    reader: Reader
    line: Line
    talk: dg.Conversation
    voices: list[_Voice]
    splitter: dg.Splitter | None
    request_id: str
    declared: int  # channels that the client named
    limits: LineLimits
    _phase: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)  # until the sessions are left
    _created: str = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._created = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

    # ------------------------------------------------------------------ its life

    async def run(self, stream: UpgradedStream) -> None:
        """Serve until the connection is closed."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._heed_violations, stream)
                nursery.start_soon(self._heed_stall)
                await self._converse()
                # Before the sessions are left: one that is left early takes its time to decode what it owes.
                await self._close()
                nursery.cancel_scope.cancel()
        except Exception:
            self.talk.overrule(InternalError("a bug in sttd; the journal has the traceback"))
            await self._close()
            raise

    async def _converse(self) -> None:
        """Audio in, text out, until the sessions have ended or are to be left."""
        with self._phase:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._listen)
                nursery.start_soon(self._heed_idleness)
                async with trio.open_nursery() as forwarding:
                    for voice in self.voices:
                        forwarding.start_soon(self._forward, voice)
                if self.talk.error is None:
                    await self.line.send(self._metadata())
                nursery.cancel_scope.cancel()

    async def _heed_stall(self) -> None:
        """The sessions of a client that does not read are left at once."""
        await self.line.stalled.wait()
        self.talk.overrule(SessionError("the client does not read what it is sent", code="slow_consumer"))
        self._phase.cancel()

    async def _heed_violations(self, stream: UpgradedStream) -> None:
        """End the connection of a client whose frames are against the rules of `wire/frames.py`."""
        error = await stream.violation()
        await self.reader.catch_up()
        await self._end_with(error)

    async def _heed_idleness(self) -> None:
        await self.reader.silence(self.limits.keepalive_s)
        if not self.talk.ending:  # else it has said all
            await self._end_with(SessionError(f"no audio and no message came for {self.limits.keepalive_s:g} s"))

    async def _end_with(self, error: SttdError) -> None:
        """End the connection for this reason; what the sessions owe is still written."""
        first = self.talk.error is None
        error = self.talk.fail(error).error
        self._phase.deadline = min(self._phase.deadline, trio.current_time() + self.limits.farewell_s)
        self._stop()
        if first and error.code not in _SAID_BY_CLOSE:
            await self.line.send(dg.error_event(error.code, error.message))

    def _stop(self) -> None:
        for voice in self.voices:
            voice.session.stop()

    # ------------------------------------------------------------------ in

    async def _listen(self) -> None:
        """Take what the client sends, until it is gone. After `CloseStream` it may still send pings, and a close."""
        try:
            with self.reader.attention():
                while True:
                    if not self.talk.ending:
                        for voice in self.voices:
                            await voice.session.wait_for_room()
                    calm = all(voice.session.calm for voice in self.voices)
                    message = await self.reader.next_message(calm=calm)
                    self.line.progress()
                    await self._obey(self.talk.receive(message))
                    self._wake()
        except ConnectionClosed:
            self._phase.cancel()
        except SttdError as error:
            await self._end_with(error)

    async def _obey(self, asked: dg.Asked | None) -> None:
        match asked:
            case dg.Audio(data):
                self._feed(data)
            case dg.Finalize(channel):
                for voice in self.voices if channel is None else [self.voices[channel]]:
                    voice.channel.finalize()
                    voice.session.finalize()
            case dg.Configure(keyterms):
                await self._configure(keyterms)
            case dg.CloseStream():
                self._stop()
            case dg.Refuse(text):
                await self.line.send(text)
            case dg.Fail(error):
                await self._end_with(error)

    def _feed(self, data: bytes) -> None:
        parts = [data] * len(self.voices) if self.splitter is None else self.splitter.split(data)
        for voice, part in zip(self.voices, parts, strict=True):
            if part:
                voice.channel.fed(len(part))
                voice.session.feed(part)

    async def _configure(self, keyterms: tuple[str, ...] | None) -> None:
        words = None if keyterms is None else asking.fit_hotwords(keyterms)
        if words is not None:
            for voice in self.voices:
                voice.session.configure(SessionChanges(hotwords=words))
        await self.line.send(dg.configured(self.request_id, words))

    def _wake(self) -> None:
        """Audio may have come, so silence may have grown."""
        for voice in self.voices:
            if voice.channel.awaits_quiet:
                voice.nap.deadline = min(voice.nap.deadline, trio.current_time() + _GLANCE_S)

    # ------------------------------------------------------------------ out

    async def _forward(self, voice: _Voice) -> None:
        """Write what a session says, until it has ended; then nobody is heard any more."""
        looked_s = 0.0
        try:
            while True:
                # Read before the wait: what was said up to there is in the outbox, and comes out of it first.
                heard_s = voice.session.row().audio_s if voice.channel.awaits_quiet else looked_s
                with trio.CancelScope() as voice.nap:
                    if heard_s > looked_s:
                        voice.nap.deadline = trio.current_time() + _GLANCE_S
                    event = await voice.session.receive()
                if voice.nap.cancelled_caught:
                    looked_s = heard_s
                    await self._tell(voice.channel.quiet(heard_s))
                elif isinstance(event, core.Failure) and event.fatal:
                    await self._end_with(from_map(attrs.asdict(event)))
                else:
                    await self._tell(_messages(voice, event))
        except trio.EndOfChannel:
            await self._tell(voice.channel.stopped(voice.audio_s))
        if not self.talk.ending:
            self.talk.ending = True
            self._stop()

    async def _tell(self, messages: list[str]) -> None:
        for text in messages:
            await self.line.send(text)

    def _metadata(self) -> str:
        return dg.metadata(
            request_id=self.request_id,
            sha256=self.talk.sha256,
            created=self._created,
            duration_ms=max(voice.channel.end_ms for voice in self.voices),
            channels=self.declared,
        )

    async def _close(self) -> None:
        error, codes = self.talk.error, [voice.session.close_code or 1000 for voice in self.voices]
        last = None
        if error is not None and error.code in ("slow_consumer", "internal"):
            last = dg.error_event(error.code, error.message)
        # Of several sessions that ended, the first did for a reason of its own and the others because it had.
        code = next((code for code in codes if code != 1000), 1000)
        await self.line.close(*self.talk.close_with(code), last=last)


def _messages(voice: _Voice, event: core.SessionEvent) -> list[str]:
    """What the client is told of an event of the session."""
    match event:
        case core.SpeechStart():
            return voice.channel.speech_started(event.utterance, event.at_s)
        case core.Interim():
            return voice.channel.interim(event)
        case core.Final():
            return voice.channel.final(event)
        case core.Failure():
            return [dg.error_event(event.code, event.message)]
        case core.Stopped():
            voice.audio_s = event.audio_s
    return []


# ---------------------------------------------------------------- what was asked for


def _session_options(asked: Asked, *, service: Service, agent: str) -> list[SessionOptions]:
    """The options of each session. Raises ModelError, ProtocolError."""
    more: dict[str, Any] = {"encoding": asked.encoding, "interim": asked.interim_results, "words": True}
    if asked.sample_rate is not None:
        more |= {"sample_rate": asked.sample_rate, "channels": 1 if asked.multichannel else asked.channels}
    options = asking.session_options(
        asking.Asked(model=asked.model, language=asked.language, hotwords=asked.hotwords),
        service=service,
        api="deepgram",
        agent=agent,
        prefixes=_PREFIXES,
        endpointing=_endpointing(asked, service.defaults().endpointing),
        **more,
    )
    if not asked.multichannel:
        return [options]
    if asked.encoding != CONTAINER:
        return [options] * asked.channels
    return [attrs.evolve(options, channel_select=channel) for channel in range(asked.channels)]


def _endpointing(asked: Asked, configured: Endpointing | None) -> Endpointing | None:
    """Just the silence that was asked for, as far as no words are lost."""
    if asked.endpointing is False:
        return None
    if asked.endpointing is None or configured is None:
        return configured
    silence_ms = min(max(asked.endpointing, configured.silence_ms_min), _MOST_SILENCE_MS)
    return attrs.evolve(configured, silence_ms_min=silence_ms, silence_ms_max=silence_ms)


def _splitter(asked: Asked) -> dg.Splitter | None:
    if not asked.multichannel or asked.encoding == CONTAINER:
        return None
    return dg.Splitter(SAMPLE_BYTES[asked.encoding], asked.channels)


def _channel(index: int, asked: Asked, options: SessionOptions, count: int, request_id: str) -> Channel:
    bytes_per_s = None
    if asked.encoding != CONTAINER:
        bytes_per_s = options.sample_rate * options.channels * SAMPLE_BYTES[asked.encoding]
    return Channel(
        index=index,
        count=count,
        request_id=request_id,
        model=options.model,
        interim_model=options.interim_model or options.model,
        version=sttd.__version__,
        bytes_per_s=bytes_per_s,
        vad_events=asked.vad_events,
        tell_language=options.lang is None,
        utterance_end_ms=asked.utterance_end_ms,
        silence_ms=options.endpointing.silence_ms_max if options.endpointing is not None else None,
    )
