"""A session: audio in, events out, one nursery.

    feed() ──▶ [inbox] ──▶ listen: Ear → Hearing ──actions──▶ Performer ──▶ [outbox] ──▶ receive()
                  └─▶ container stage (a thread) ──▶ [frames] ──┘

`Hearing` (`core/hearing.py`) decides everything that depends on what was said, `Performer` does it, and this shell
carries audio in and events out. docs/explanation/architecture.md has the bounds of the queues, and what happens when
they are full.

A finalize, a change of options and the end of the audio travel in the same channel as the audio, so that each
takes effect exactly between the samples where the client said it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import attrs
import numpy as np
import trio

from sttd.core.hearing import Hearing
from sttd.core.types import (
    SAMPLE_RATE,
    Failure,
    Final,
    FinalReason,
    Interim,
    Progress,
    Samples,
    SessionEvent,
    Stopped,
    Warn,
    seconds,
)
from sttd.engine.silero_batch import SharedSilero
from sttd.errors import InternalError, SttdError, first_of
from sttd.host import logs
from sttd.options import Api, SessionChanges, SessionOptions, Tuning
from sttd.session.arrivals import Arrivals
from sttd.session.container import FRAME_BLOCKS, ContainerInfo, container_stage
from sttd.session.ear import Ear
from sttd.session.inbox import Dropped, Finalize, Held, Inbox
from sttd.session.kept_waiting import KeptWaiting
from sttd.session.outbox import Outbox
from sttd.session.performer import Decoding, Leasing, Performer
from sttd.session.rest import Rest
from sttd.session.row import SessionRow
from sttd.session.turns import Headway, Turns

log = logs.get("session")

OWED_FINALS = 8
OWED_WINDOWS = 16  # of a file: enough for a full batch, with another one on its way
_WARN_EVERY_S = 5.0  # chosen, as the next one
_PROGRESS_EVERY_S = 1.0

Ending = Literal["stop", "disconnect", "drain"]


@attrs.define(eq=False, kw_only=True)
class Session:
    """One client's stream. `run` owns every task of it; all other methods are for its plane and the service.

    Args:
        id: unique in this daemon.
        uid: whose session it is.
        api: the wire by which it came.
        options: that it begins with.
        tuning: of the configuration when it began.
        models, decoding: where leases come from, and where jobs go.
        silero: the shared VAD network, or None for WebRTC VAD alone.
        held: what all sessions hold of what their clients sent.
        turns: whoever is ahead of real time takes one to hear a piece.
        clock: of the deadlines of jobs.
        on_final: told each final, also when no client is left to read it.
        on_written: told each interim and final that the client got, with the seconds since its last sample arrived.
    """

    id: str
    uid: int
    models: Leasing
    decoding: Decoding
    silero: SharedSilero | None
    held: Held
    turns: Turns
    clock: Callable[[], float]
    on_final: Callable[[Session, Final], None]
    on_written: Callable[[Interim | Final, float], None]
    api: Api = "sttd"
    _first_options: SessionOptions = attrs.field(alias="options")
    _tuning: Tuning = attrs.field(alias="tuning")
    close_code: int | None = attrs.field(default=None, init=False)
    outbox: Outbox = attrs.field(factory=Outbox, init=False)
    rest: Rest = attrs.field(factory=Rest, init=False)
    _inbox: Inbox = attrs.field(init=False)
    _ear: Ear = attrs.field(init=False)
    _hearing: Hearing = attrs.field(init=False)
    _performer: Performer = attrs.field(init=False)
    _arrivals: Arrivals = attrs.field(factory=Arrivals, init=False)
    _headway: Headway = attrs.field(init=False)
    _ending: Ending | None = attrs.field(default=None, init=False)
    _abort: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _finished: trio.Event = attrs.field(factory=trio.Event, init=False)
    _final_sent: trio.Event = attrs.field(factory=trio.Event, init=False)
    _unreported: Interim | Final | None = attrs.field(default=None, init=False)
    _warned_at: float = attrs.field(default=-_WARN_EVERY_S, init=False)
    _kept: KeptWaiting = attrs.field(factory=KeptWaiting, init=False)
    _done_s: float = attrs.field(default=0.0, init=False)
    _total_s: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self._headway = Headway(began_at=self.clock())
        self._inbox = Inbox(self._first_options, self.held, uid=self.uid)
        self._ear = Ear(self._first_options, self.silero)
        self._hearing = Hearing(self._first_options, self._tuning, self.id)
        self._performer = Performer(
            hearing=self._hearing,
            session=self.id,
            uid=self.uid,
            models=self.models,
            decoding=self.decoding,
            clock=self.clock,
            emit=self._emit,
            tune=self._ear.tune,
        )

    @property
    def options(self) -> SessionOptions:
        """The options in effect for the next utterance."""
        return self._hearing.options

    @property
    def dropped_s(self) -> float:
        """Audio that was dropped, `overflow: drop`."""
        return self._hearing.dropped_s

    @property
    def ending(self) -> Ending | None:
        """Why there will be no more audio; None while there may be."""
        return self._ending

    @property
    def calm(self) -> bool:
        """Whether nobody has spoken for so long that nobody waits for what comes next."""
        return self._ear.asleep

    # ------------------------------------------------------------------ what the plane calls

    async def wait_for_room(self, *, patient: bool = False) -> None:
        """Wait until more may be fed: with `overflow: wait` a session that is behind holds its client back.

        `patient`: for as long as it takes, since the client says nothing behind its audio. Raises OverloadedError:
        it takes nothing any more, and the client is not patient.
        """
        await (self._inbox.wait_until_free() if patient else self._inbox.wait_for_room())

    def feed(self, data: bytes) -> None:
        """Take audio, after `wait_for_room`. What comes after the end is ignored."""
        self._inbox.put(data)

    def finalize(self) -> None:
        """End the open utterance at this point of the stream."""
        self._inbox.put(Finalize())

    def configure(self, changes: SessionChanges) -> None:
        """Change options from the next utterance on."""
        self._inbox.put(changes)

    def stop(self) -> None:
        """No more audio: finalize everything, then `Stopped`. Idempotent."""
        self.end("stop")

    def end(self, ending: Ending, *, close_code: int = 1000) -> None:
        """End the audio for this reason; the first reason counts. After a disconnect nobody reads any more."""
        if ending == "disconnect":
            self.outbox.abandon()
            self._inbox.shorten()
            self._performer.perform(self._hearing.hush())
        if self._ending is None:
            self._ending = ending
            if ending != "disconnect":
                self.close_code = close_code
            self._inbox.end()

    def abort(self, *, close_code: int = 1008) -> None:
        """End without decoding: shown utterances get their final from the stable text, then `Stopped`."""
        if not self._finished.is_set():
            self.end("drain")
            self.close_code = close_code
            self.rest.dismissed.set()
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

    def row(self) -> SessionRow:
        """The session as `sessions` lists it."""
        heard = self._hearing
        busy = "speaking" if heard.speaking else "decoding" if heard.owing else "idle"
        state = "asleep" if self.rest.asleep else "draining" if self._ending else busy
        return SessionRow(
            session=self.id,
            uid=self.uid,
            label=self.options.label,
            api=self.api,
            kind=self.options.kind,
            state=state,
            model=self.options.model,
            lang=heard.languages.certain,
            audio_s=round(seconds(heard.position), 3),
            utterances=heard.utterances,
            lag_s=round(heard.lag_s(self.clock()), 3),
        )

    # ------------------------------------------------------------------ the tasks

    async def run(self) -> None:
        """Serve the session until its audio has ended and every final is out. Raises nothing but Cancelled."""
        try:
            with self._abort:
                await self._run_stages()
            if self._abort.cancelled_caught:
                self._end_at_once("drain")
            self._put_stopped()
        except* SttdError as group:
            self._fail(first_of(group))
        except* Exception as group:
            log.error("a session failed", exc_info=group, session=self.id, uid=self.uid)
            self._fail(InternalError("a bug in sttd; the journal has the traceback"))
        finally:
            self._performer.give_everything_back()
            self._inbox.end()
            self._inbox.close()
            self.outbox.close()
            self._report_written()
            self._finished.set()

    async def _run_stages(self) -> None:
        async with trio.open_nursery() as outer:
            if self.options.kind == "file":
                outer.start_soon(self._report_progress)
            async with trio.open_nursery() as nursery:
                self._performer.nursery = nursery
                source: Inbox | trio.MemoryReceiveChannel[Any] = self._inbox
                if self.options.encoding == "container":
                    send, source = trio.open_memory_channel[Any](FRAME_BLOCKS)
                    nursery.start_soon(self._open_container, send)
                failure = await self._listen(source)
            outer.cancel_scope.cancel()
        # Every lease and job has been answered, so every final is out: now the error may end the session.
        if failure is not None:
            raise failure

    async def _listen(self, source: Inbox | trio.MemoryReceiveChannel[Any]) -> SttdError | None:
        """Audio to utterances until the input ends. Returns the error that ended it, if one did."""
        failure = None
        try:
            async for item in source:
                if self._headway.is_ahead(seconds(self._hearing.position), now=self.clock()):
                    # However fast clients send, a turn of the event loop has one piece of theirs at most.
                    async with self.turns.of(self.uid):
                        await self._take(item)
                else:
                    await self._take(item)
                self._warn()
                await self._wait_until_bearable()
            await self._flush()
        except SttdError as exc:
            failure = exc
            self._inbox.end()
            source.close()
            self._emit(Failure.of(exc, fatal=True))
        self._total_s = seconds(self._hearing.position)  # known now, whatever the container said
        self._performer.perform(self._hearing.end(self._ending or "stop", now=self.clock()))
        return failure

    async def _take(self, item: object) -> None:
        match item:
            case bytes():
                await self._hear(self._ear.decode(item))
            case np.ndarray():
                await self._hear(item)
            case Finalize():
                await self._hear(self._ear.drain())
                self._performer.perform(self._hearing.finalize(now=self.clock()))
            case SessionChanges():
                self._performer.perform(self._hearing.change(item))
            case Warn():
                self._emit(item)
            case Dropped():
                self._performer.perform(self._hearing.skip(self._ear.skip(item.count), now=self.clock()))
            case SttdError():
                raise item

    async def _hear(self, frames: Samples) -> None:
        """Frames of shape (n, 320)."""
        if not len(frames):
            return
        activity = await self._ear.detect(frames)
        now = self.clock()
        load = self.decoding.load if self._hearing.speaking else 0.0
        waits = self._performer.interim_waits
        actions = self._hearing.hear(frames, activity, now=now, load=load, interim_waits=waits)
        self._arrivals.mark(self._hearing.position, now)
        self._performer.perform(actions)

    async def _flush(self) -> None:
        """The audio has ended.

        Where any audio opens an utterance, the padded rest of a frame behind a `finalize` is not worth one.
        """
        frames = self._ear.flush()
        if len(frames) > 1 or self._hearing.speaking or self.options.endpointing is not None:
            await self._hear(frames)

    async def _wait_until_bearable(self) -> None:
        """Stop listening while too much is owed to the client or by the client."""
        limit = OWED_WINDOWS if self.options.kind == "file" else OWED_FINALS
        while self._hearing.owing > limit:
            self._final_sent = trio.Event()
            await self._final_sent.wait()
        if self.outbox.full:
            await self.outbox.wait_for_room()

    async def _open_container(self, send: trio.MemorySendChannel[Any]) -> None:
        await container_stage(
            self._inbox,
            send,
            channel_select=self.options.channel_select,
            live=self.options.kind == "live",
            on_info=self._note_container,
            uid=self.uid,
        )

    def _note_container(self, info: ContainerInfo) -> None:
        self._total_s = info.duration_s

    async def _report_progress(self) -> None:
        while True:
            await trio.sleep(_PROGRESS_EVERY_S)
            self.outbox.put(Progress(done_s=self._done_s, total_s=self._total_s))
            self._warn()

    # ------------------------------------------------------------------ what goes out

    def _emit(self, event: SessionEvent) -> None:
        """Every event of the session passes here."""
        self.outbox.put(event)
        if isinstance(event, Final):
            self._done_s = max(self._done_s, event.end_s)
            self.on_final(self, event)
            self._final_sent.set()

    def _warn(self) -> None:
        now = self.clock()
        if warning := self._kept.look(self._performer.kept_waiting, now=now):
            self._emit(warning)
        if self.options.kind == "file" or now - self._warned_at < _WARN_EVERY_S:
            return
        lag_s = self._hearing.lag_s(now)
        if lag_s >= self._tuning.lag_warning_s:
            self._warned_at = now
            message = f"this session is {lag_s:.1f} s behind; interims are thinned, finals come late"
            self._emit(Warn(code="lagging", message=message, lag_s=round(lag_s, 3)))

    def _put_stopped(self) -> None:
        audio_s = seconds(self._hearing.position)
        if self.options.kind == "file":
            self.outbox.put(Progress(done_s=audio_s, total_s=audio_s))
        self.outbox.put(Stopped(audio_s=audio_s, utterances=self._hearing.utterances, dropped_s=self.dropped_s))

    def _fail(self, exc: SttdError) -> None:
        """End with an error: what was shown gets its final, then the connection closes."""
        self._end_at_once(self._ending or "stop")
        if exc.code == "internal":
            self._emit(Failure.of(exc, fatal=True))
        self.close_code = exc.row.close_code

    def _end_at_once(self, reason: FinalReason) -> None:
        self._performer.tell_what_was_said()
        self._performer.perform(self._hearing.end_at_once(reason))

    def _report_written(self) -> None:
        """The client has the last text: that is when its latency ends."""
        if self._unreported is not None:
            event, self._unreported = self._unreported, None
            arrived = self._arrivals.of(round(event.end_s * SAMPLE_RATE))
            if arrived is not None and self.rest.heard_live(arrived):
                self.on_written(event, self.clock() - arrived)
