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

from sttd.core.options import SessionChanges, SessionOptions
from sttd.core.types import SAMPLE_RATE, Failure, Final, Interim, Progress, SessionEvent, Stopped, Warn, seconds
from sttd.engine.vad import SileroModel
from sttd.errors import InternalError, SttdError
from sttd.host import logs
from sttd.session.container import ContainerInfo, container_stage
from sttd.session.ear import Ear
from sttd.session.inlet import Dropped, Finalize, Inlet
from sttd.session.outbox import Outbox
from sttd.session.voice import Voice

log = logs.get("session")

FRAME_BLOCKS = 4
OWED_FINALS = 8
OWED_WINDOWS = 16  # of a file: enough for a full batch, with another one on its way
_WARN_EVERY_S = 5.0
_PROGRESS_EVERY_S = 1.0

Ending = Literal["stop", "disconnect", "drain"]


@attrs.define(eq=False)
class Session:
    """One client's stream. `run` owns every task of it; all other methods are for its plane and the service.

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
    outbox: Outbox = attrs.field(factory=Outbox, init=False)
    _inlet: Inlet = attrs.field(init=False)
    _ear: Ear = attrs.field(init=False)
    _ending: Ending | None = attrs.field(default=None, init=False)
    _abort: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _finished: trio.Event = attrs.field(factory=trio.Event, init=False)
    _final_sent: trio.Event = attrs.field(factory=trio.Event, init=False)
    _unreported: Interim | Final | None = attrs.field(default=None, init=False)
    _warned_at: float = attrs.field(default=-_WARN_EVERY_S, init=False)
    _done_s: float = attrs.field(default=0.0, init=False)
    _total_s: float | None = attrs.field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.voice.emit = self._emit
        self._inlet = Inlet(self.options)
        self._ear = Ear(self.voice, self.silero)

    @property
    def options(self) -> SessionOptions:
        """The options in effect for the next utterance."""
        return self.voice.options

    @property
    def dropped_s(self) -> float:
        """Audio that was dropped, `overflow: drop`."""
        return self._ear.dropped_s

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

    def end(self, ending: Ending, *, close_code: int = 1000) -> None:
        """End the audio for this reason; the first reason counts. After a disconnect nobody reads any more."""
        if ending == "disconnect":
            self.outbox.abandon()
            self.voice.client_left = True
            self._ear.hush()
        if self._ending is None:
            self._ending = ending
            if ending != "disconnect":
                self.close_code = close_code
            self._inlet.end()

    def abort(self, *, close_code: int = 1008) -> None:
        """End without decoding: shown utterances get their final from the stable text, then `Stopped`."""
        if not self._finished.is_set():
            self.end("drain")
            self.close_code = close_code
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
        ear = self._ear
        state = "draining" if self._ending else "speaking" if ear.speaking else "decoding" if ear.owed else "idle"
        return {
            "session": self.id,
            "uid": self.uid,
            "label": self.options.label,
            "kind": self.options.kind,
            "state": state,
            "model": self.options.model,
            "lang": self.voice.languages.certain,
            "audio_s": round(seconds(ear.position), 3),
            "utterances": ear.utterances,
            "lag_s": round(ear.lag_s, 3),
        }

    # ------------------------------------------------------------------ the tasks

    async def run(self) -> None:
        """Serve the session until its audio has ended and every final is out. Raises nothing but Cancelled."""
        try:
            with self._abort:
                await self._run_stages()
            if self._abort.cancelled_caught:
                self._ear.end_at_once("drain")
            self._put_stopped()
        except* SttdError as group:
            self._fail(_first(group))
        except* Exception as group:
            log.error("a session failed", exc_info=group, session=self.id, uid=self.uid)
            self._fail(InternalError("a bug in sttd; the journal has the traceback"))
        finally:
            self._inlet.end()
            self._inlet.close()
            self.outbox.close()
            self._report_written()
            self._finished.set()

    async def _run_stages(self) -> None:
        async with trio.open_nursery() as outer:
            if self.options.kind == "file":
                outer.start_soon(self._report_progress)
            async with trio.open_nursery() as nursery:
                self._ear.nursery = nursery
                source: Inlet | trio.MemoryReceiveChannel[Any] = self._inlet
                if self.options.encoding == "container":
                    send, source = trio.open_memory_channel[Any](FRAME_BLOCKS)
                    nursery.start_soon(self._open_container, send)
                failure = await self._listen(source)
            outer.cancel_scope.cancel()
        # Every transcriber has ended, so every final is out: now the error may end the session.
        if failure is not None:
            raise failure

    async def _listen(self, source: Inlet | trio.MemoryReceiveChannel[Any]) -> SttdError | None:
        """Audio to utterances until the input ends. Returns the error that ended it, if one did."""
        failure = None
        try:
            async for item in source:
                self._take(item)
                self._warn_if_behind()
                await self._wait_until_bearable()
            self._ear.flush()
        except SttdError as exc:
            failure = exc
            self._inlet.end()
            source.close()
            self._emit(Failure.of(exc, fatal=True))
        self._total_s = seconds(self._ear.position)  # known now, whatever the container said
        self._ear.end(self._ending or "stop")
        return failure

    def _take(self, item: object) -> None:
        match item:
            case bytes():
                self._ear.hear_bytes(item)
            case np.ndarray():
                self._ear.hear(item)
            case Finalize():
                self._ear.finalize()
            case SessionChanges():
                self._ear.change(item)
            case Warn():
                self._emit(item)
            case Dropped():
                self._ear.skip(item.count)
            case SttdError():
                raise item

    async def _wait_until_bearable(self) -> None:
        """Stop listening while too much is owed to the client or by the client."""
        limit = OWED_WINDOWS if self.options.kind == "file" else OWED_FINALS
        while self._ear.owing > limit:
            self._final_sent = trio.Event()
            await self._final_sent.wait()
        if self.outbox.full:
            await self.outbox.wait_for_room()

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

    async def _report_progress(self) -> None:
        while True:
            await trio.sleep(_PROGRESS_EVERY_S)
            self.outbox.put(Progress(done_s=self._done_s, total_s=self._total_s))

    # ------------------------------------------------------------------ what goes out

    def _emit(self, event: SessionEvent) -> None:
        """Every event of the session passes here."""
        self.outbox.put(event)
        if isinstance(event, Final):
            self._ear.owed.pop(event.utterance, None)
            self._done_s = max(self._done_s, event.end_s)
            self.on_final(self, event)
            self._final_sent.set()

    def _warn_if_behind(self) -> None:
        now = self.voice.clock()
        if self.options.kind == "file" or now - self._warned_at < _WARN_EVERY_S:
            return
        lag_s = self._ear.lag_s
        if lag_s >= self.voice.tuning.lag_warning_s:
            self._warned_at = now
            message = f"this session is {lag_s:.1f} s behind; interims are thinned, finals come late"
            self._emit(Warn(code="lagging", message=message, lag_s=round(lag_s, 3)))

    def _put_stopped(self) -> None:
        audio_s = seconds(self._ear.position)
        if self.options.kind == "file":
            self.outbox.put(Progress(done_s=audio_s, total_s=audio_s))
        self.outbox.put(Stopped(audio_s=audio_s, utterances=self._ear.utterances, dropped_s=self.dropped_s))

    def _fail(self, exc: SttdError) -> None:
        """End with an error: what was shown gets its final, then the connection closes."""
        self._ear.end_at_once(self._ending or "stop")
        if exc.code == "internal":
            self._emit(Failure.of(exc, fatal=True))
        self.close_code = exc.row.close_code

    def _report_written(self) -> None:
        """The client has the last text: that is when its latency ends."""
        if self._unreported is not None:
            event, self._unreported = self._unreported, None
            arrived = self._ear.arrivals.of(round(event.end_s * SAMPLE_RATE))
            if arrived is not None:
                self.on_written(event, self.voice.clock() - arrived)


def _first(group: BaseExceptionGroup[SttdError]) -> SttdError:
    exc: BaseException = group
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    assert isinstance(exc, SttdError)
    return exc
