"""What a session hears, and what it decides on that: all of it synchronous.

Bytes become frames, frames become utterances, and each utterance gets a transcriber, whose tasks run in the
nursery that the ear was given. The ear keeps the order: finals leave in the order of their utterances, each
transcriber waiting for the one before.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs
import trio

from sttd.core.audio import AudioDecoder
from sttd.core.options import Endpointing, SessionChanges, SessionOptions
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE, Final, FinalReason, Gap, seconds
from sttd.core.utterance import Closed, Opened, Paused, Resumed, UtteranceAssembler, UtteranceEvent
from sttd.engine.vad import SileroModel, VoiceDetector
from sttd.session.arrivals import Arrivals
from sttd.session.container import Frames
from sttd.session.finals import empty_final
from sttd.session.transcriber import Transcriber
from sttd.session.voice import Voice

_PAUSE_MS = (
    180  # what counts as a pause where none is used for speculation; the speaker's own pauses are learned from it
)


@attrs.define(eq=False)
class Ear:
    """Listens for one session.

    Args:
        voice: what the session's utterances share; its options are those of the next utterance.
        silero: the shared VAD network, or None for WebRTC VAD alone.
        nursery: where the transcribers run.
    """

    voice: Voice
    silero: SileroModel | None
    utterances: int = attrs.field(default=0, init=False)
    dropped_s: float = attrs.field(default=0.0, init=False)
    owed: dict[int, Transcriber] = attrs.field(factory=dict, init=False)  # utterances without their final, in order
    nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    arrivals: Arrivals = attrs.field(factory=Arrivals, init=False)
    _assembler: UtteranceAssembler = attrs.field(init=False)
    _detector: VoiceDetector = attrs.field(init=False)
    _decoder: AudioDecoder | None = attrs.field(default=None, init=False)  # None: frames come from a container
    _unanswered: dict[int, Final] = attrs.field(factory=dict, init=False)  # of finalizes with nothing to end
    _last_sent: trio.Event = attrs.field(factory=trio.Event, init=False)
    _lost_rest: float = attrs.field(default=0.0, init=False)  # samples

    def __attrs_post_init__(self) -> None:
        options, tuning = self.options, self.voice.tuning
        self._last_sent.set()
        self._detector = VoiceDetector(
            aggressiveness=options.endpointing.aggressiveness if options.endpointing else 2, silero=self.silero
        )
        self._assembler = UtteranceAssembler(
            options.endpointing,
            max_utterance_s=options.max_utterance_s,
            pre_roll_ms=tuning.pre_roll_ms,
            speculate_ms=tuning.speculate_ms or _PAUSE_MS,
        )
        if options.encoding != "container":
            self._decoder = AudioDecoder(
                encoding=options.encoding,
                sample_rate=options.sample_rate,
                channels=options.channels,
                channel_select=options.channel_select,
            )

    @property
    def options(self) -> SessionOptions:
        """The options in effect for the next utterance."""
        return self.voice.options

    @property
    def position(self) -> int:
        """Where the audio clock is, in samples."""
        return self._assembler.position

    @property
    def speaking(self) -> bool:
        """Whether an utterance is open."""
        return self._assembler.open_utterance is not None

    @property
    def owing(self) -> int:
        """How many finals are still to come of what was heard so far."""
        return len(self.owed) + len(self._unanswered)

    @property
    def lag_s(self) -> float:
        """How far the session is behind: the age of the oldest utterance that has ended without its final."""
        ends = [transcriber.ended_at for transcriber in self.owed.values() if transcriber.ended_at is not None]
        return max(0.0, self.voice.clock() - min(ends)) if ends else 0.0

    # ------------------------------------------------------------------ what comes in

    def hear_bytes(self, data: bytes) -> None:
        """Raw audio in the declared encoding. Raises ProtocolError with `bad_audio`."""
        assert self._decoder is not None
        self.hear(self._decoder.push(data))

    def hear(self, frames: Frames) -> None:
        """Frames of shape (n, 320)."""
        if not len(frames):
            return
        self._act(self._assembler.push(frames, self._detector.push(frames)))
        self.arrivals.mark(self.position, self.voice.clock())
        transcriber = self.owed.get(self._assembler.open_utterance or 0)
        if transcriber is not None:
            transcriber.heard(self.position)

    def finalize(self) -> None:
        """The client ends the utterance. With none open a final alone answers, behind those that are still owed."""
        if self._decoder is not None:
            self.hear(self._decoder.drain())
        events = self._assembler.finalize(reason="finalize")
        self._act(events)
        if not events:
            assert self.nursery is not None
            number, sent = self._assembler.next_number(), trio.Event()
            self.utterances += 1
            self._unanswered[number] = empty_final(
                number,
                self.options,
                at_sample=self.position,
                language=self.voice.languages.certain,
            )
            self.nursery.start_soon(self._answer_empty, number, self._last_sent, sent)
            self._last_sent = sent

    def change(self, changes: SessionChanges) -> None:
        """Other options, from the next utterance on."""
        given = changes.given()
        if (endpointing := given.get("endpointing")) is not None:
            # No client may ask for more than what the model takes in one call.
            longest_s = min(endpointing.max_utterance_s, self.voice.tuning.max_window_s)
            given["endpointing"] = attrs.evolve(endpointing, max_utterance_s=longest_s)
        if "endpointing" in given:
            self._assembler.configure(given["endpointing"])
            if not self.speaking:
                self._tune_detector(given["endpointing"])
        self.voice.change(attrs.evolve(self.options, **given), anew="lang" in given or "languages" in given)

    def _tune_detector(self, endpointing: Endpointing | None) -> None:
        if endpointing is not None:
            self._detector.configure(aggressiveness=endpointing.aggressiveness)

    def skip(self, count: int) -> None:
        """So many bytes of raw audio were dropped: the clock goes on, an open utterance ends at the hole."""
        assert self._decoder is not None
        self._decoder.skip(count)
        lost = self._lost_rest + count / self._decoder.sample_bytes * SAMPLE_RATE / self.options.sample_rate
        samples = int(lost) // FRAME_SAMPLES * FRAME_SAMPLES
        self._lost_rest = lost - samples  # the clock advances by whole frames; what is over counts the next time
        from_s = seconds(self.position)
        self._act(self._assembler.skip(samples))
        self.dropped_s += seconds(samples)
        self.voice.emit(Gap(from_s=from_s, to_s=seconds(self.position), reason="overflow"))

    def flush(self) -> None:
        """The audio has ended: what the resampler still holds comes out.

        Where any audio opens an utterance, the padded rest of a frame behind a `finalize` is not worth one.
        """
        if self._decoder is None:
            return
        frames = self._decoder.flush()
        if len(frames) > 1 or self.speaking or self.options.endpointing is not None:
            self.hear(frames)

    def end(self, reason: FinalReason) -> None:
        """Close the open utterance."""
        self._act(self._assembler.finalize(reason=reason))

    def hush(self) -> None:
        """The client is gone, and interims are for nobody else."""
        for transcriber in self.owed.values():
            transcriber.hush()

    def end_at_once(self, reason: FinalReason) -> None:
        """Nothing more may be decoded: every final that is owed is what it can be now."""
        for number in sorted({*self.owed, *self._unanswered}):
            if number in self.owed:
                self.voice.emit(self.owed[number].final_at_once(reason, position=self.position))
            else:
                self.voice.emit(self._unanswered.pop(number))

    # ------------------------------------------------------------------ what follows from it

    def _act(self, events: Iterable[UtteranceEvent]) -> None:
        for event in events:
            match event:
                case Opened():
                    self._open(event)
                case Paused():
                    self.owed[event.utterance].paused(event)
                case Resumed():
                    self.owed[event.utterance].resumed()
                case Closed():
                    self.owed[event.utterance].close(event)
                    self._tune_detector(self.options.endpointing)  # which may have changed in the utterance

    def _open(self, opened: Opened) -> None:
        assert self.nursery is not None
        transcriber = Transcriber(
            voice=self.voice,
            options=self.options,
            opened=opened,
            nursery=self.nursery,
            snapshot=self._assembler.snapshot,
            on_hint=self._assembler.hint,
            previous=self._last_sent,
        )
        self._last_sent = transcriber.sent
        self.owed[opened.utterance] = transcriber
        self.utterances += 1
        self.nursery.start_soon(transcriber.serve)

    async def _answer_empty(self, number: int, previous: trio.Event, sent: trio.Event) -> None:
        try:
            await previous.wait()
            self.voice.emit(self._unanswered.pop(number))
        finally:
            sent.set()
