"""One utterance, from its first sound to its final.

The session's ear (`session/pipeline.py`) tells a transcriber synchronously what it hears: audio came, the
speaker paused, went on, was done. The transcriber decides at once which decodes that asks for and submits
them; short tasks in the session's nursery wait for the results. `serve` is the utterance's own task: it holds
the lease on the model from the first sound to the final, and it ends with exactly one `Final`.

What is decoded, and when:

- an **interim** of the audio so far, when the cadence says so and none is running; one that still waits in the
  queue is replaced there by the newer one;
- a **speculative final** once the pause is long enough that the utterance has probably ended. If the speaker
  goes on it is discarded; if the endpoint confirms, it is the final, and its decode was hidden in the pause;
- a **final**, when there is no speculation that covers all the speech. It gets just the samples that a
  speculation would have got (`core/utterance.py`, rule 4), so that both give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import attrs
import trio

from sttd.core import text as text_rules
from sttd.core.cadence import Cadence
from sttd.core.endpointer import TurnHint
from sttd.core.languages import UtteranceLanguage
from sttd.core.options import SessionOptions
from sttd.core.stabiliser import Stabiliser
from sttd.core.types import (
    DecodeItem,
    DecodeOptions,
    Failure,
    Final,
    FinalReason,
    Growing,
    Hypothesis,
    Interim,
    JobClass,
    Samples,
    SpeechEnd,
    SpeechStart,
    Timing,
    seconds,
)
from sttd.core.utterance import Closed, Opened, Paused, Snapshot
from sttd.engine.contract import Lease
from sttd.engine.tickets import Job, JobDropped, Outcome, Ticket
from sttd.errors import DecodeError, OverloadedError, SttdError
from sttd.session.finals import NOT_DECODED, final_of
from sttd.session.voice import Voice

# When a job should have started, after it was submitted; orders jobs within a class.
_DEADLINE_S = {JobClass.FINAL: 0.3, JobClass.SPECULATIVE: 0.3, JobClass.INTERIM: 0.5, JobClass.FILE: 30.0}

_FILE_RETRY_S = 0.2  # at least, between two tries to submit a window


@attrs.define(eq=False)
class _Speculation:
    ticket: Ticket
    covers_until: int  # sample


@attrs.define(eq=False)
class Transcriber:
    """Decodes one utterance. Everything but `serve` is synchronous."""

    voice: Voice
    options: SessionOptions  # of this utterance: `configure` changes the next one
    opened: Opened
    nursery: trio.Nursery
    snapshot: Callable[[], Snapshot | None]
    on_hint: Callable[[TurnHint], None]
    previous: trio.Event  # set when the final before this one was sent
    sent: trio.Event = attrs.field(factory=trio.Event, init=False)
    ended_at: float | None = attrs.field(default=None, init=False)  # when the endpoint was decided
    _closed: Closed | None = attrs.field(default=None, init=False)
    _closing: trio.Event = attrs.field(factory=trio.Event, init=False)
    _lease: Lease | None = attrs.field(default=None, init=False)  # for the final
    _interim_lease: Lease | None = attrs.field(default=None, init=False)
    _trouble: SttdError | None = attrs.field(default=None, init=False)
    _interim: Ticket | None = attrs.field(default=None, init=False)
    _speculation: _Speculation | None = attrs.field(default=None, init=False)
    _language: UtteranceLanguage = attrs.field(init=False)
    _seq: int = attrs.field(default=0, init=False)
    _previous_text: str = attrs.field(default="", init=False)
    _growing: Growing = attrs.field(factory=Growing, init=False)
    _stabiliser: Stabiliser = attrs.field(init=False)
    _cadence: Cadence = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        tuning = self.voice.tuning
        self._language = UtteranceLanguage(utterance=self.opened.utterance, session=self.voice.languages)
        self._stabiliser = Stabiliser(lock_stable=self.options.lock_stable, hold_back_s=tuning.hold_back_s)
        self._cadence = Cadence(interim_min_ms=tuning.interim_min_ms)
        self.voice.emit(SpeechStart(utterance=self.opened.utterance, at_s=seconds(self.opened.at_sample)))

    # ------------------------------------------------------------------ what the ear tells it

    def heard(self, position: int) -> None:
        """More audio of this utterance arrived, up to `position`; submit an interim if one is due."""
        if self._interim_lease is None or self._closed is not None or self.voice.client_left:
            return
        waiting = self._interim is not None and not self._interim.started
        if self._interim is not None and not waiting:
            return  # one is being decoded; its result will ask again
        now = self.voice.clock()
        audio_s = seconds(position - self.opened.start_sample)
        if not self._cadence.due(audio_s=audio_s, now=now, waiting=waiting, load=self.voice.dispatcher.load):
            return
        snapshot = self.snapshot()
        if snapshot is None:
            return
        try:
            ticket = self._submit(snapshot.samples, JobClass.INTERIM, lease=self._interim_lease)
        except OverloadedError:
            return  # shed: the text comes with the final
        self._cadence.submitted(audio_s=audio_s, now=now)
        self._interim = ticket
        self.nursery.start_soon(self._show_interim, ticket, snapshot)

    def paused(self, pause: Paused) -> None:
        """The speaker stopped for long enough that this may be the end: decode while waiting for certainty."""
        if self._lease is None or self._closed is not None or self.options.kind == "file":
            return
        if not self.voice.tuning.speculate_ms:
            return
        try:
            ticket = self._submit(pause.samples, JobClass.SPECULATIVE, lease=self._lease)
        except OverloadedError:
            return
        covers = self.opened.start_sample + len(pause.samples)
        self._speculation = _Speculation(ticket=ticket, covers_until=covers)

    def resumed(self) -> None:
        """The speaker went on: what was decoded meanwhile is not the utterance."""
        if self._speculation is not None:
            self._speculation.ticket.cancel()
            self._speculation = None

    def close(self, closed: Closed) -> None:
        """The utterance has ended. Tells the client where, and lets `serve` finish."""
        self._closed = closed
        self.ended_at = self.voice.clock()
        if self._interim is not None:
            self._interim.cancel()
        self._emit_end(closed)
        self._closing.set()

    def hush(self) -> None:
        """The client has left: an interim that waits is for nobody."""
        if self._interim is not None and not self._interim.started:
            self._interim.cancel()

    def _emit_end(self, closed: Closed) -> None:
        self.voice.emit(
            SpeechEnd(utterance=closed.utterance, at_s=seconds(closed.end_sample), silence_ms=closed.silence_ms)
        )

    # ------------------------------------------------------------------ the utterance's own task

    async def serve(self) -> None:
        """Hold the model, wait for the end, send the final. Cancelled, it still gives back what it holds."""
        try:
            async with trio.open_nursery() as nursery:
                if self._wants_interims and self.options.interim_model != self.options.model:
                    nursery.start_soon(self._take_interim_lease)  # the final does not wait for it to load
                await self._take_lease()
                await self._closing.wait()
                assert self._closed is not None
                if self._trouble is not None and self._trouble.retryable:
                    await self._take_lease()  # what was said is still here, and the model may be by now
                final = await self._decode_final(self._closed)
                nursery.cancel_scope.cancel()
            await self.previous.wait()
            self.voice.emit(final)
        finally:
            for lease in (self._lease, self._interim_lease):
                if lease is not None:
                    lease.release()
            if self._speculation is not None:
                self._speculation.ticket.cancel()
            if self._interim is not None:
                self._interim.cancel()
            self.sent.set()

    def final_at_once(self, reason: FinalReason, *, position: int) -> Final:
        """The final of an utterance that may not be decoded any more: the text that the client holds as stable."""
        if self._closed is None:
            end = max(position, self.opened.at_sample)
            self.voice.emit(SpeechEnd(utterance=self.opened.utterance, at_s=seconds(end), silence_ms=0))
        else:
            end = self._closed.end_sample
        return self._final(self._stabiliser.stable_text, end_sample=end, reason=reason)

    @property
    def _wants_interims(self) -> bool:
        return self.options.interim and not self.voice.client_left

    async def _take_lease(self) -> None:
        """Take the lease for the final; a file waits for it as long as it takes. The first trouble is reported."""
        while self._lease is None:
            try:
                self._lease = await self.voice.models.lease(self.options.model)
            except SttdError as exc:
                if self._trouble is None:
                    self._report(exc)
                self._trouble = exc
                if self.options.kind != "file" or not isinstance(exc, OverloadedError):
                    return
                await trio.sleep(_FILE_RETRY_S)  # the pool has waited for a slot already
        self._trouble = None
        if self._closed is None and self._wants_interims and self.options.interim_model == self.options.model:
            self._interim_lease = self._lease.duplicate()
            self._catch_up()

    async def _take_interim_lease(self) -> None:
        try:
            self._interim_lease = await self.voice.models.lease(self.options.interim_model)
        except SttdError as exc:
            self._report(exc)  # the final comes all the same
        else:
            self._catch_up()

    def _catch_up(self) -> None:
        """The model may have taken a while to load, or the last interim to decode."""
        snapshot = self.snapshot()
        if snapshot is not None and self._closed is None:
            self.heard(snapshot.end_sample)

    def _report(self, exc: SttdError) -> None:
        self.voice.emit(Failure.of(exc, fatal=False))

    # ------------------------------------------------------------------ decoding

    def _speech_s(self, samples: Samples) -> float:
        """Seconds of audio from the onset on."""
        return seconds(len(samples) - (self.opened.at_sample - self.opened.start_sample))

    def _submit(self, samples: Samples, job_class: JobClass, *, lease: Lease, complete: bool = False) -> Ticket:
        options = self.options
        interim = job_class is JobClass.INTERIM
        settled = self._language.code
        decode = DecodeOptions(
            language=settled,
            # A final also says to later utterances what its sound was.
            languages=None if settled and interim else self._language.prior(speech_s=self._speech_s(samples)),
            task=options.task,
            words=options.words and not interim,
            prompt=options.prompt,
            hotwords=options.hotwords,
            prefix=self._stabiliser.stable_text if options.lock_stable and not interim else "",
        )
        growing = None if options.kind == "file" else self._growing  # a window of a file is decoded once
        if job_class is JobClass.FINAL and options.kind == "file":
            job_class = JobClass.FILE
        item = DecodeItem(samples=samples, options=decode, job_class=job_class, growing=growing, complete=complete)
        return self.voice.dispatcher.submit(
            Job(
                item=item,
                session=self.voice.session,
                uid=self.voice.uid,
                deadline=self.voice.clock() + _DEADLINE_S[job_class],
                lease=lease,
            )
        )

    async def _show_interim(self, ticket: Ticket, snapshot: Snapshot) -> None:
        try:
            outcome = await ticket.wait()
        except (JobDropped, DecodeError):
            return  # superseded, or lost with nothing but an interim lost
        finally:
            if self._interim is ticket:
                self._interim = None
                self._cadence.completed(seconds=None, now=self.voice.clock())
        self._cadence.completed(seconds=outcome.decode_s, now=self.voice.clock())
        if self._closed is not None:
            return  # nothing may be shown after speech_end but the final
        hypothesis = outcome.hypothesis
        text = text_rules.tidy(hypothesis.text)
        if not text and self._seq == 0:
            return
        if not self._language.settle(
            hypothesis.language,
            probability=hypothesis.language_probability,
            heard=hypothesis.languages,
            speech_s=self._speech_s(snapshot.samples),
        ):
            self._catch_up()
            return
        stable = self._stabiliser.push(text, words=hypothesis.words, audio_s=seconds(len(snapshot.samples)))
        self._seq += 1
        self.voice.emit(
            Interim(
                utterance=self.opened.utterance,
                seq=self._seq,
                text=stable.text,
                stable_chars=stable.stable_chars,
                start_s=seconds(self.opened.at_sample),
                end_s=seconds(snapshot.end_sample),
            )
        )
        self.on_hint(text_rules.turn_hint(self._previous_text, text, language=hypothesis.language))
        self._previous_text = text
        self._catch_up()

    async def _decode_final(self, closed: Closed) -> Final:
        # What the client was told to be stable holds, whatever becomes of the decode.
        text, outcome, speculative = self._stabiliser.stable_text, None, False
        decided_at = self.voice.clock()
        if self._trouble is None:
            try:
                outcome, speculative = await self._final_outcome(closed, decided_at=decided_at)
            except SttdError as exc:
                self._report(exc)
        if outcome is None:
            return self._final(text, end_sample=closed.end_sample, reason=closed.reason)
        # Where the client says what an utterance is, the VAD's opinion of it counts for nothing.
        asked = self.options.endpointing is None
        speech_s = seconds(len(closed.samples)) if asked else closed.speech_s
        hypothesis = text_rules.guard(
            outcome.hypothesis,
            speech_s=speech_s,
            mean_probability=math.nan if asked else closed.mean_probability,
            prompt=self.options.prompt,
            hotwords=self.options.hotwords,
        )
        if hypothesis.text:
            self._language.hear(hypothesis.languages, speech_s=self._speech_s(closed.samples))
        timing = Timing(
            endpoint_ms=seconds(closed.decided_sample - closed.end_sample) * 1000,
            queue_ms=outcome.queue_s * 1000,
            decode_ms=outcome.decode_s * 1000,
            speculative=speculative,
        )
        return self._final(
            self._stabiliser.finalise(hypothesis.text),
            end_sample=closed.end_sample,
            reason=closed.reason,
            timing=timing,
            hypothesis=hypothesis,
        )

    async def _final_outcome(self, closed: Closed, *, decided_at: float) -> tuple[Outcome, bool]:
        """The outcome of the speculation if it covers the speech, else of a new decode; and whether it ran before."""
        speculation = self._speculation
        if speculation is not None and speculation.covers_until >= closed.end_sample:
            deadline = decided_at + _DEADLINE_S[JobClass.FINAL]
            speculation.ticket.promote(deadline=deadline)
            try:
                outcome = await speculation.ticket.wait()
            except (JobDropped, DecodeError):
                pass  # shed while it waited, or failed: what was a guess until now deserves a real try
            else:
                # It may have begun before an interim settled the language.
                if self._language.takes(outcome.hypothesis.language):
                    return outcome, outcome.started < decided_at
        assert self._lease is not None
        return await (await self._submit_final(closed, lease=self._lease)).wait(), False

    async def _submit_final(self, closed: Closed, *, lease: Lease) -> Ticket:
        """Submit; a window of a file that is not taken now waits its turn. Finals are always taken."""
        while True:
            try:
                # An endpoint has heard the quiet behind the last word. Who ends an utterance himself has spoken it too.
                complete = closed.reason not in ("endpoint", "max_length")
                return self._submit(closed.samples, JobClass.FINAL, lease=lease, complete=complete)
            except OverloadedError as exc:
                if self.options.kind != "file":
                    raise
                await trio.sleep(max(_FILE_RETRY_S, float(exc.data.get("retry_after_s", 0.0))))

    def _final(
        self,
        text: str,
        *,
        end_sample: int,
        reason: FinalReason,
        timing: Timing = NOT_DECODED,
        hypothesis: Hypothesis | None = None,
    ) -> Final:
        return final_of(
            self.opened,
            self.options,
            text=text,
            end_sample=end_sample,
            reason=reason,
            timing=timing,
            hypothesis=hypothesis,
            language=self._language.best if hypothesis is None else None,
            model=self._lease.preset if self._lease is not None else self.options.model,
        )
