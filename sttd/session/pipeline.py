"""A session: audio in, events out, one nursery.

    feed() ──bytes──▶ [inlet: 64 pieces] ──▶ listen: decode → VAD → endpointer ──▶ transcribers ──▶ outbox ──▶ receive()
                            └─ container stage (a thread) ─▶ [frames: 4 blocks] ─┘

Capacities and what happens when they are full:

- **inlet**, 64 pieces of at most 30 s together. `overflow: wait`: `feed` waits, so the plane reads more slowly
  and TCP holds the client back; nothing is lost. `overflow: drop`: the oldest audio goes, a `gap` says so.
- **frames**, 4 blocks of half a second: the container thread waits.
- **pending finals**, 8 utterances (16 windows of a file): listening pauses, and with it the input.
- **outbox**, 256 events: listening pauses until the client reads; the plane ends a client that never does.

A finalize, a change of options and the end of the audio travel in the same channel as the audio, so that each
takes effect exactly between the samples where the client said it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs
import numpy as np
import trio

from sttd import logs
from sttd.core.audio import AudioDecoder
from sttd.core.options import UNCHANGED, SessionChanges, SessionOptions
from sttd.core.types import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    Failure,
    Final,
    FinalReason,
    Gap,
    Interim,
    Progress,
    SessionEvent,
    Stopped,
    Timing,
    Warn,
    seconds,
)
from sttd.core.utterance import Closed, Opened, Paused, Resumed, UtteranceAssembler
from sttd.engine.vad import SileroModel, VoiceDetector
from sttd.errors import CODES, SttdError
from sttd.session.arrivals import Arrivals
from sttd.session.container import ContainerInfo, Frames, container_stage
from sttd.session.inlet import Control, Dropped, Finalize, Inlet
from sttd.session.outbox import Outbox
from sttd.session.transcriber import Transcriber, Voice

log = logs.get("session")

FRAME_BLOCKS = 4
PENDING_FINALS = 8
PENDING_WINDOWS = 16  # of a file: enough for a full batch, with another one on its way
_WARN_EVERY_S = 5.0
_PROGRESS_EVERY_S = 1.0


Ending = Literal["stop", "disconnect", "drain"]


@attrs.define(eq=False)
class Session:
    """One client's stream. `run` owns every task of it; all other methods may be called by its plane.

    Args:
        id: unique in this daemon.
        uid: whose session it is.
        voice: what its utterances share, options included.
        silero: the shared VAD network, or None for WebRTC VAD alone.
        on_final: told each final, also when no client is left to read it.
        on_written: told each interim and final that the client got, with the seconds since its last sample arrived.
    """

    id: str
    uid: int
    voice: Voice
    silero: SileroModel | None
    on_final: Callable[[Session, Final], None]
    on_written: Callable[[Interim | Final, float], None]
    close_code: int | None = attrs.field(default=None, init=False)
    dropped_s: float = attrs.field(default=0.0, init=False)
    utterances: int = attrs.field(default=0, init=False)
    outbox: Outbox = attrs.field(factory=Outbox, init=False)
    _ending: Ending | None = attrs.field(default=None, init=False)
    _abort: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _finished: trio.Event = attrs.field(factory=trio.Event, init=False)
    _inlet: Inlet = attrs.field(init=False)
    _assembler: UtteranceAssembler = attrs.field(init=False)
    _detector: VoiceDetector = attrs.field(init=False)
    _decoder: AudioDecoder | None = attrs.field(default=None, init=False)
    _arrivals: Arrivals = attrs.field(factory=Arrivals, init=False)
    _pending: dict[int, Transcriber] = attrs.field(factory=dict, init=False)  # utterances that owe a final
    _room: trio.Event = attrs.field(factory=trio.Event, init=False)
    _last_sent: trio.Event = attrs.field(factory=trio.Event, init=False)
    _unreported: Interim | Final | None = attrs.field(default=None, init=False)
    _lost_rest: float = attrs.field(default=0.0, init=False)  # samples
    _warned_at: float = attrs.field(default=-_WARN_EVERY_S, init=False)
    _done_s: float = attrs.field(default=0.0, init=False)
    _total_s: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        options, tuning = self.options, self.voice.tuning
        self._inlet = Inlet(options)
        self._last_sent.set()
        self._detector = VoiceDetector(
            aggressiveness=options.endpointing.aggressiveness if options.endpointing else 2, silero=self.silero
        )
        self._assembler = UtteranceAssembler(
            options.endpointing,
            max_utterance_s=options.max_utterance_s,
            pre_roll_ms=tuning.pre_roll_ms,
            speculate_ms=tuning.speculate_ms,
        )
        if options.encoding != "container":
            self._decoder = AudioDecoder(
                encoding=options.encoding,
                sample_rate=options.sample_rate,
                channels=options.channels,
                channel_select=options.channel_select,
            )
        self.voice.emit = self._emit

    @property
    def options(self) -> SessionOptions:
        """The options in effect for the next utterance."""
        return self.voice.options

    # ------------------------------------------------------------------ what the plane calls

    async def feed(self, data: bytes) -> None:
        """Take audio. With `overflow: wait` it waits while the session is behind; audio after the end is ignored.

        Cancelling it may lose the rest of `data`.
        """
        await self._inlet.feed(data)

    async def finalize(self) -> None:
        """End the open utterance at this point of the stream."""
        await self._inlet.put(Finalize())

    async def configure(self, changes: SessionChanges) -> None:
        """Change options from the next utterance on."""
        await self._inlet.put(changes)

    def stop(self) -> None:
        """No more audio: finalize everything, then `Stopped`. Idempotent."""
        self.end("stop")

    def end(self, ending: Ending, *, close_code: int | None = None) -> None:
        """End the audio for this reason; the first reason counts."""
        if self._ending is None:
            self._ending = ending
            if ending == "disconnect":
                self.outbox.abandon()
            else:
                self.close_code = close_code or 1000
            self._inlet.end()

    def abort(self) -> None:
        """End without decoding: shown utterances get their final from the stable text, then `Stopped`, 1008."""
        self.end("drain", close_code=1008)
        self.close_code = 1008
        self._abort.cancel()

    async def receive(self) -> SessionEvent:
        """The next event. Raises trio.EndOfChannel after the last. Calling it says that the one before was written."""
        self._report_written()
        event = await self.outbox.receive()
        if isinstance(event, Interim | Final):
            self._unreported = event
        return event

    async def wait_finished(self) -> None:
        """Wait until every final is out and the session's tasks have ended."""
        await self._finished.wait()

    def row(self) -> dict[str, Any]:
        """The session as `sessions` lists it."""
        open_now = self._assembler.open_utterance is not None
        state = "draining" if self._ending else "speaking" if open_now else "decoding" if self._pending else "idle"
        return {
            "session": self.id,
            "uid": self.uid,
            "label": self.options.label,
            "kind": self.options.kind,
            "state": state,
            "model": self.options.model,
            "lang": self.options.lang or self.voice.detected,
            "audio_s": round(self.audio_s, 3),
            "utterances": self.utterances,
            "lag_s": round(self.lag_s(self.voice.clock()), 3),
        }

    @property
    def audio_s(self) -> float:
        """Position of the audio clock."""
        return seconds(self._assembler.position)

    def lag_s(self, now: float) -> float:
        """How far the session is behind: the age of the oldest utterance that has ended without its final."""
        ends = [t.ended_at for t in self._pending.values() if t.ended_at is not None]
        return max(0.0, now - min(ends)) if ends else 0.0

    # ------------------------------------------------------------------ the tasks

    async def run(self) -> None:
        """Serve the session until its audio has ended and every final is out. Raises nothing but Cancelled."""
        try:
            with self._abort:
                await self._run_stages()
            if self._abort.cancelled_caught:
                self._close_utterances("drain")
            self._put_stopped()
        except* SttdError as group:
            self._fail(_first(group))
        except* Exception as group:
            log.error("a session failed", exc_info=group, session=self.id, uid=self.uid)
            self._fail(SttdError("a bug in sttd; the journal has the traceback"))
        finally:
            self._inlet.end()
            self._inlet.receive.close()
            self.outbox.close()
            self._report_written()
            self._finished.set()

    async def _run_stages(self) -> None:
        async with trio.open_nursery() as clock:
            if self.options.kind == "file":
                clock.start_soon(self._report_progress)
            async with trio.open_nursery() as nursery:
                source: trio.MemoryReceiveChannel[Any] = self._inlet.receive
                if self.options.encoding == "container":
                    send, source = trio.open_memory_channel[Any](FRAME_BLOCKS)
                    nursery.start_soon(self._open_container, send)
                failure = await self._listen(source, nursery)
            clock.cancel_scope.cancel()
        # Every transcriber has ended, so every final is out: now the error may end the session.
        if failure is not None:
            raise failure

    async def _report_progress(self) -> None:
        while True:
            await trio.sleep(_PROGRESS_EVERY_S)
            self.outbox.put(Progress(done_s=self._done_s, total_s=self._total_s))

    async def _listen(self, source: trio.MemoryReceiveChannel[Any], nursery: trio.Nursery) -> SttdError | None:
        """Audio to utterances until the input ends. Returns the error that ended it, if one did."""
        failure = None
        try:
            async for item in source:
                self._obey_overtaken(nursery)
                if isinstance(item, bytes):
                    assert self._decoder is not None
                    self._hear(self._decoder.push(item), nursery)
                elif isinstance(item, np.ndarray):
                    self._hear(item, nursery)
                else:
                    self._obey(item, nursery)
                await self._wait_until_bearable()
            self._obey_overtaken(nursery)
            if self._decoder is not None:
                self._hear(self._decoder.flush(), nursery)
        except SttdError as exc:
            failure = exc
            self._inlet.end()
            source.close()
            self._emit(_failure(exc))
        self._total_s = self.audio_s  # known now, whatever the container said
        self._act(self._assembler.finalize(reason=self._ending or "stop"), nursery)
        return failure

    async def _open_container(self, send: trio.MemorySendChannel[Any]) -> None:
        await container_stage(
            self._inlet.receive,
            send,
            channel_select=self.options.channel_select,
            live=self.options.kind == "live",
            on_info=self._note_container,
        )

    def _note_container(self, info: ContainerInfo) -> None:
        self._total_s = info.duration_s

    # ------------------------------------------------------------------ decisions, all synchronous

    def _hear(self, frames: Frames, nursery: trio.Nursery) -> None:
        if not len(frames):
            return
        now = self.voice.clock()
        self._act(self._assembler.push(frames, self._detector.push(frames)), nursery)
        self._arrivals.mark(self._assembler.position, now)
        number = self._assembler.open_utterance
        if number is not None and number in self._pending:
            self._pending[number].heard(self._assembler.position)
        self._warn_if_behind(now)

    def _act(self, events: list[Any], nursery: trio.Nursery) -> None:
        for event in events:
            match event:
                case Opened():
                    self._open(event, nursery)
                case Paused():
                    self._pending[event.utterance].paused(event)
                case Resumed():
                    self._pending[event.utterance].resumed()
                case Closed():
                    self._pending[event.utterance].close(event)

    def _open(self, opened: Opened, nursery: trio.Nursery) -> None:
        transcriber = Transcriber(
            voice=self.voice,
            options=self.options,
            opened=opened,
            nursery=nursery,
            snapshot=self._assembler.snapshot,
            on_hint=self._assembler.hint,
            previous=self._last_sent,
        )
        self._last_sent = transcriber.sent
        self._pending[opened.utterance] = transcriber
        self.utterances += 1
        nursery.start_soon(transcriber.serve)

    def _obey_overtaken(self, nursery: trio.Nursery) -> None:
        for control in self._inlet.overtaken():
            self._obey(control, nursery)

    def _obey(self, control: Control | SttdError, nursery: trio.Nursery) -> None:
        match control:
            case SttdError():
                raise control
            case Finalize():
                self._finalize(nursery)
            case SessionChanges():
                self._change(control)
            case Dropped():
                self._skip(control.count, nursery)

    def _finalize(self, nursery: trio.Nursery) -> None:
        events = self._assembler.finalize(reason="finalize")
        self._act(events, nursery)
        if not events:  # nothing was open: a final alone answers, behind those that are still owed
            number = self._assembler.next_number()
            sent = trio.Event()
            nursery.start_soon(self._answer_empty, number, self._last_sent, sent)
            self._last_sent = sent

    async def _answer_empty(self, number: int, previous: trio.Event, sent: trio.Event) -> None:
        at_s = self.audio_s
        try:
            await previous.wait()
            self.utterances += 1
            self._emit(
                Final(
                    utterance=number,
                    text="",
                    start_s=at_s,
                    end_s=at_s,
                    language=self.options.lang or self.voice.detected or "",
                    confidence=0.0,
                    reason="finalize",
                    model=self.options.model,
                    words=() if self.options.words else None,
                    timing=Timing(endpoint_ms=0.0, queue_ms=0.0, decode_ms=0.0, speculative=False),
                )
            )
        finally:
            sent.set()

    def _change(self, changes: SessionChanges) -> None:
        given = {
            field.name: getattr(changes, field.name)
            for field in attrs.fields(SessionChanges)
            if getattr(changes, field.name) is not UNCHANGED
        }
        if "lang" in given:
            self.voice.detected = None
        if "endpointing" in given:
            self._assembler.configure(given["endpointing"])
            if given["endpointing"] is not None:
                self._detector.configure(aggressiveness=given["endpointing"].aggressiveness)
        self.voice.options = attrs.evolve(self.options, **given)

    def _skip(self, count: int, nursery: trio.Nursery) -> None:
        lost = self._lost_rest + count / self._inlet.bytes_per_sample * SAMPLE_RATE / self.options.sample_rate
        samples = int(lost) // FRAME_SAMPLES * FRAME_SAMPLES
        self._lost_rest = lost - samples  # the clock advances by whole frames; what is over counts the next time
        start_s = self.audio_s
        self._act(self._assembler.skip(samples), nursery)  # an open utterance ends at the hole
        self.dropped_s += seconds(samples)
        self._emit(Gap(from_s=start_s, to_s=self.audio_s, reason="overflow"))

    def _emit(self, event: SessionEvent) -> None:
        """Every event of the session passes here."""
        self.outbox.put(event)
        if isinstance(event, Final):
            self._pending.pop(event.utterance, None)
            self._done_s = max(self._done_s, event.end_s)
            self.on_final(self, event)
            self._room.set()

    def _warn_if_behind(self, now: float) -> None:
        if self.options.kind == "file" or now - self._warned_at < _WARN_EVERY_S:
            return
        lag_s = self.lag_s(now)
        if lag_s >= self.voice.tuning.lag_warning_s:
            self._warned_at = now
            message = f"this session is {lag_s:.1f} s behind; interims are thinned, finals come late"
            self._emit(Warn(code="lagging", message=message, lag_s=round(lag_s, 3)))

    def _put_stopped(self) -> None:
        if self.options.kind == "file":
            self.outbox.put(Progress(done_s=self.audio_s, total_s=self.audio_s))
        self.outbox.put(Stopped(audio_s=self.audio_s, utterances=self.utterances, dropped_s=self.dropped_s))

    def _fail(self, exc: SttdError) -> None:
        """End with an error: what was shown gets its final, then the connection closes."""
        self._close_utterances("disconnect" if self._ending == "disconnect" else "drain")
        if exc.code == "internal":
            self._emit(_failure(exc))
        self.close_code = CODES[exc.code].close_code

    def _close_utterances(self, reason: FinalReason) -> None:
        for number in sorted(self._pending):
            self._emit(self._pending[number].final_at_once(reason, position=self._assembler.position))

    def _report_written(self) -> None:
        """The client has the last text: that is when its latency ends."""
        if self._unreported is not None:
            event, self._unreported = self._unreported, None
            arrived = self._arrivals.of(round(event.end_s * SAMPLE_RATE))
            if arrived is not None:
                self.on_written(event, self.voice.clock() - arrived)

    # ------------------------------------------------------------------ bounds

    async def _wait_until_bearable(self) -> None:
        """Stop listening while too much is owed to the client or by the client."""
        limit = PENDING_WINDOWS if self.options.kind == "file" else PENDING_FINALS
        while len(self._pending) > limit:
            self._room = trio.Event()
            await self._room.wait()
        if self.outbox.full:
            await self.outbox.wait_for_room()


def _failure(exc: SttdError) -> Failure:
    return Failure(code=exc.code, message=exc.message, retryable=exc.retryable, fatal=True)


def _first(group: BaseExceptionGroup[SttdError]) -> SttdError:
    exc: BaseException = group
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    assert isinstance(exc, SttdError)
    return exc
