"""One utterance, from its first sound to its final: what is decoded when, and what the client is told. No IO, no clock.

A turn is told what happens and answers with what is to be done (`Action`). Whoever does it (`session/session.py`)
reports by another input. Its phases, and what leads from one to the next:

    SPEAKING ── close ──> ENDED ── the model is here ──> DECODING ── a text ──> DONE
                            └───────────── there is no model ────────────────────┘

Rules:

 1. **Model.** A lease on the model is asked for with the first sound, and one on the model of the interims where that
    is another; both are held until the turn is done. (A file gives them back for speech that needs the slot, unless
    they are in use, and asks again.) A lease that fails is told to the client once. Who gets none because all slots
    are taken asks again until there is one: what was said is still here, and a late final is worth more than none.
    (When the client has left, nobody waits: one more try.) If another reason may pass, the end of the utterance asks
    once more.
 2. **Interims.** Of the audio so far, when the cadence wants one and their model is here; but not as the speech fades
    (`core/hearing.py` sees to that): what a pause asks for would wait behind it. None is asked for while one is
    decoded; one that still waits in the queue is replaced there by the newer one. What is shown of them, the
    stabiliser decides. One that says nothing (guard 1), or whose first word is improbable while none is stable, was
    not heard: noise makes such texts, and always the same.
 3. **Language.** What an interim heard is shown once its language is sure (`core/languages.py`), and from then on the
    utterance has that language: a speculation in another is not its final.
 4. **Speculation.** At a pause that may be the end, what was said so far is decoded as if it were the final. If the
    speaker goes on it is not the final; if its text is there already, it counts as one more interim. If the utterance
    ends and the speculation covers all of the speech, it is the final, and its decode was hidden in the pause.
    `core/utterance.py`, rule 4, sees to it that both would be of the same samples. One that fails, or was shed, is
    followed by a real try. Windows of files are not speculated on.
 5. **Final.** Else the whole utterance is decoded. A window of a file that is refused comes again when the refusal
    says; a refused or failed final of a live session is told to the client.
 6. **The final keeps the stable text.** Whoever decodes it is told the stable text, and prefers a text that begins with
    those words while it is no less probable than by the margin; with `lock_stable` however improbable it is, and if
    there is none, the stable text takes the place of its beginning. Where interims have made more stable since a
    speculation began and it contradicts that, the utterance is decoded again; if that fails, the speculation stands.
 7. **Context.** An utterance is decoded with what it goes on from in front of it (`core/context.py`), if that is known
    when its decode is asked for; interims from `_LED_FROM_S` of speech on, before which nothing new is heard with it,
    while both are short, and until `_FRUITLESS` of them said nothing for it: then it is no context, or its text was
    wrong.
 8. **Exactly one final**, whatever becomes of models and decodes. Without a decode its text is what the client was told
    to be stable. Nothing but it follows the end of the speech.
"""

from __future__ import annotations

import enum
import math

import attrs

from sttd.core import text as text_rules
from sttd.core.actions import Action, Cancel, Hint, JobId, Lease, Promote, Release, Role, Say, Submit
from sttd.core.cadence import Cadence
from sttd.core.context import INTERIM_LIMITS_S, LIMITS_S, SessionContext
from sttd.core.languages import SessionLanguages, UtteranceLanguage
from sttd.core.results import NOT_DECODED, final_of, interim_words, is_decoded
from sttd.core.stabiliser import Stabiliser
from sttd.core.types import (
    DecodeItem,
    DecodeOptions,
    Effort,
    Failure,
    Final,
    FinalReason,
    Hypothesis,
    Interim,
    JobClass,
    Lead,
    Outcome,
    Samples,
    SpeechEnd,
    SpeechStart,
    Timing,
    seconds,
)
from sttd.core.utterance import Closed, Opened, Paused, Snapshot
from sttd.errors import OverloadedError, SttdError
from sttd.options import SessionOptions, Tuning

# When a job should have started, in seconds after it was submitted; orders jobs within a class. Chosen: a final is
# waited for, an interim is worth little when it is late, and a file has time.
_DEADLINE_S = {JobClass.FINAL: 0.3, JobClass.SPECULATIVE: 0.3, JobClass.INTERIM: 0.5, JobClass.FILE: 30.0}
_LED_FROM_S = 0.6  # of speech; measured: of 22 interims in which there was nothing new all had 0.3 s at most
_FRUITLESS = 2  # chosen
_FIRST_WORD = 0.1  # measured: below are 8 of 407 interims of speech, most of them wrong, and what noise makes up
_RETRY_S = 0.2  # chosen: the least time between two tries to get a lease, or room in the queue for a file

# ---------------------------------------------------------------- the machine


class Phase(enum.Enum):
    """Where a turn is in its life."""

    SPEAKING = "speaking"
    ENDED = "ended"
    DECODING = "decoding"
    DONE = "done"


class _Leased(enum.Enum):
    """The lease for the final."""

    ASKED = "asked"
    HELD = "held"
    FAILED = "failed"


@attrs.frozen(eq=False)
class _Shown:
    """An interim under way; `led`: with a context in front (rule 7)."""

    job: JobId
    snapshot: Snapshot
    led: bool


@attrs.define(eq=False)
class _Speculation:
    """A guess at the final: up to which sample it reaches, what it was told to keep, and what came of it so far."""

    job: JobId
    covers_until: int
    audio_s: float
    keep: str
    outcome: Outcome | None = None


@attrs.define(eq=False, kw_only=True)
class Turn:
    """The rules above for one utterance. Every input but the questions returns what is to be done, in order.

    Args:
        opened: where it begins.
        options: its own: `configure` changes the next one.
        tuning: of the session.
        session: its name, unique in this daemon.
        languages: what its session knows about the language that is spoken.
        context: what was said before it.
        client_left: nobody reads any more; finals are still decoded.
    """

    opened: Opened
    options: SessionOptions
    tuning: Tuning
    session: str
    languages: SessionLanguages
    context: SessionContext = attrs.field(factory=SessionContext)
    client_left: bool = False
    phase: Phase = attrs.field(default=Phase.SPEAKING, init=False)
    ended_at: float | None = attrs.field(default=None, init=False)  # when its end was decided
    final: Final | None = attrs.field(default=None, init=False)  # once it is done
    _leased: _Leased = attrs.field(default=_Leased.ASKED, init=False)
    _asked_again: bool = attrs.field(default=False, init=False)
    _trouble: SttdError | None = attrs.field(default=None, init=False)  # with the lease for the final
    _preset: str = attrs.field(init=False)
    _live: bool = attrs.field(default=False, init=False)  # the model of the interims is here
    _jobs: int = attrs.field(default=0, init=False)
    _interim: _Shown | None = attrs.field(default=None, init=False)
    _speculation: _Speculation | None = attrs.field(default=None, init=False)
    _closed: Closed | None = attrs.field(default=None, init=False)
    _awaited: JobId | None = attrs.field(default=None, init=False)  # the job that the final waits for
    _fallback: tuple[Outcome, bool] | None = attrs.field(default=None, init=False)  # the final if that fails (rule 6)
    _decided_at: float = attrs.field(default=0.0, init=False)
    _seq: int = attrs.field(default=0, init=False)
    _fruitless: int = attrs.field(default=0, init=False)  # interims that said nothing with a context in front
    _heard_until: int = attrs.field(default=0, init=False)  # the sample that the newest interim reaches to
    _heard_text: str = attrs.field(default="", init=False)  # by the newest interim, whatever was shown of it
    _language: UtteranceLanguage = attrs.field(init=False)
    _stabiliser: Stabiliser = attrs.field(init=False)
    _cadence: Cadence = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._preset = self.options.model
        self._language = UtteranceLanguage(utterance=self.number, session=self.languages)
        self._stabiliser = Stabiliser(
            rules=self.tuning.live_text,
            lock_stable=self.options.lock_stable,
            hold_back_s=self.tuning.hold_back_ms / 1000,
        )
        self._cadence = Cadence(interim_min_ms=self.tuning.interim_min_ms)

    @property
    def number(self) -> int:
        """The utterance's."""
        return self.opened.utterance

    @property
    def stable_text(self) -> str:
        """What the client was told will not change."""
        return self._stabiliser.stable_text

    @property
    def live_job(self) -> JobId | None:
        """The interim under way."""
        return self._interim.job if self._interim is not None else None

    # ---------------------------------------------------------------- what is heard

    def begin(self) -> list[Action]:
        """The first input: the utterance is open."""
        options = self.options
        actions: list[Action] = [Say(SpeechStart(utterance=self.number, at_s=seconds(self.opened.at_sample)))]
        if self.wants_interims and options.interim_model != options.model:
            actions.append(self._lease_for_interims())
        return [*actions, self._lease()]

    @property
    def wants_interims(self) -> bool:
        """Whether there is anybody to show interims to."""
        return self.options.interim and not self.client_left

    def wants_interim(self, position: int, *, now: float, load: float, waits: bool) -> bool:
        """Whether an interim of the audio up to `position` is due (rule 2).

        `load` is how busy live speech keeps the models, 0 to 1; `waits`: the interim under way is still in the queue.
        """
        if not self._live or not self.wants_interims or self.phase is not Phase.SPEAKING:
            return False
        if self._interim is not None and not waits:
            return False
        audio_s = seconds(position - self.opened.start_sample)
        return self._cadence.due(audio_s=audio_s, now=now, waiting=self._interim is not None, load=load)

    def show(self, snapshot: Snapshot, *, now: float) -> list[Action]:
        """Decode an interim of that audio; `wants_interim` said so."""
        self._cadence.submitted(audio_s=seconds(len(snapshot.samples)), now=now)
        submit = self._submit(self._new_job(), snapshot.samples, JobClass.INTERIM, now=now)
        self._interim = _Shown(submit.job, snapshot, led=submit.item.lead is not None)
        return [submit]

    def paused(self, pause: Paused, *, now: float) -> list[Action]:
        """The speaker stopped for long enough that this may be the end (rule 4)."""
        if self._leased is not _Leased.HELD or self.options.kind == "file" or not self.tuning.speculate_ms:
            return []
        covers = self.opened.start_sample + len(pause.samples)
        self._speculation = _Speculation(
            self._new_job(), covers_until=covers, audio_s=seconds(len(pause.samples)), keep=self.stable_text
        )
        return [self._submit(self._speculation.job, pause.samples, JobClass.SPECULATIVE, now=now)]

    def resumed(self) -> list[Action]:
        """The speaker went on: what was decoded meanwhile is not the utterance, but what was said so far."""
        speculation = self._speculation
        actions = self._give_up_speculation()
        if speculation is None or speculation.outcome is None or not self.wants_interims:
            return actions
        hypothesis, audio_s = speculation.outcome.hypothesis, speculation.audio_s
        if not self._is_heard(hypothesis, audio_s=audio_s):
            return actions
        return [*actions, *self._show(hypothesis, audio_s=audio_s, end_sample=speculation.covers_until)]

    def close(self, closed: Closed, *, now: float) -> list[Action]:
        """The utterance has ended."""
        self.phase, self._closed, self.ended_at = Phase.ENDED, closed, now
        at_s, silence_ms = seconds(closed.end_sample), closed.silence_ms
        return [
            *self._give_up_interim(),
            Say(SpeechEnd(utterance=self.number, at_s=at_s, silence_ms=silence_ms, reason=closed.reason)),
            *self._go_on(now),
        ]

    def hush(self) -> list[Action]:
        """The client has left: interims are for nobody."""
        self.client_left = True
        return self._give_up_interim()

    def at_once(self, reason: FinalReason, *, position: int) -> list[Action]:
        """Nothing may be decoded any more: the final is the text that the client holds as stable."""
        if self.phase is Phase.DONE:
            return []
        end, actions = max(position, self.opened.at_sample), list[Action]()
        if self._closed is not None:
            end = self._closed.end_sample
        else:
            actions.append(Say(SpeechEnd(utterance=self.number, at_s=seconds(end), silence_ms=0, reason=reason)))
        return [*actions, *self._done(self._final(self.stable_text, end_sample=end, reason=reason))]

    # ---------------------------------------------------------------- what becomes of what was to be done

    def leased(self, role: Role, *, preset: str, now: float) -> list[Action]:
        """The model is here; `preset` is what was loaded, which may be a smaller one than was asked for."""
        if role == "interim":
            self._live = True
            return []
        self._leased, self._preset, self._trouble = _Leased.HELD, preset, None
        self._live = self._live or self.options.interim_model == self.options.model
        return self._go_on(now)

    def lease_failed(self, role: Role, error: SttdError, *, now: float) -> list[Action]:
        """There is no model (rule 1)."""
        if role == "interim":
            return [_failure(error)]  # the final comes all the same
        told = [_failure(error)] if self._trouble is None else []
        self._trouble = error
        if isinstance(error, OverloadedError) and not self.client_left:
            return [*told, self._lease(after_s=_RETRY_S)]  # the pool has waited for a slot already
        self._leased = _Leased.FAILED
        return [*told, *self._go_on(now)]

    def recalled(self, role: Role, *, now: float) -> list[Action]:
        """Speech needs the slot of a file's lease, under which nothing is decoded: give it back and ask again."""
        if self.phase is Phase.DONE:
            return []
        again, actions = self._lease_for_interims() if role == "interim" else self._lease(), list[Action]()
        if again.model == self.options.interim_model:
            self._live = False
            if self._interim is not None:
                actions += self._give_up_interim()
                self._cadence.completed(seconds=None, now=now)
        if role == "final" and self._awaited is not None:
            actions.append(Cancel(self._awaited))
            self.phase, self._awaited = Phase.ENDED, None
        return [*actions, Release(self.number, role), again]

    def decoded(self, job: JobId, outcome: Outcome, *, now: float) -> list[Action]:
        """A job has its outcome. One that nobody wants any more changes nothing."""
        if self._interim is not None and job == self._interim.job:
            return self._take_interim(outcome, now=now)
        if self._speculation is not None and job == self._speculation.job:
            self._speculation.outcome = outcome
            return self._take_speculation(outcome, now=now) if job == self._awaited else []
        return self._conclude(outcome, speculative=False) if job == self._awaited else []

    def failed(self, job: JobId, error: SttdError | None, *, now: float) -> list[Action]:
        """The engine failed on a job; None: it was dropped, for a newer one or because the daemon stops."""
        if self._interim is not None and job == self._interim.job:
            self._interim = None
            self._cadence.completed(seconds=None, now=now)
            return []
        if self._speculation is not None and job == self._speculation.job:
            self._speculation = None
            return self._decode(now) if job == self._awaited else []
        if job != self._awaited:
            return []
        if self._fallback is not None:
            outcome, speculative = self._fallback
            return self._conclude(outcome, speculative=speculative)
        return [*([] if error is None else [_failure(error)]), *self._undecoded()]

    def refused(self, job: JobId, error: OverloadedError, *, now: float) -> list[Action]:
        """There was no room for a job (rules 4 and 5)."""
        if job == self._awaited and self.options.kind == "file":
            return self._decode(now, after_s=max(_RETRY_S, float(error.data.get("retry_after_s", 0.0))))
        return self.failed(job, error, now=now)

    # ---------------------------------------------------------------- rules

    def _lease(self, *, after_s: float = 0.0) -> Lease:
        self._leased = _Leased.ASKED
        file, model = self.options.kind == "file", self.options.model
        return Lease(utterance=self.number, role="final", model=model, file=file, after_s=after_s)

    def _lease_for_interims(self) -> Lease:
        file, model = self.options.kind == "file", self.options.interim_model
        return Lease(utterance=self.number, role="interim", model=model, file=file)

    def _go_on(self, now: float) -> list[Action]:
        """Once the utterance has ended and it is known whether there is a model: make the final."""
        if self.phase is not Phase.ENDED or self._leased is _Leased.ASKED:
            return []
        assert self._closed is not None
        if self._leased is _Leased.FAILED:
            assert self._trouble is not None
            if not self._trouble.retryable or self._asked_again:
                return self._undecoded()
            self._asked_again = True
            return [self._lease()]
        self.phase, self._decided_at = Phase.DECODING, now
        speculation = self._speculation
        if speculation is None or speculation.covers_until < self._closed.end_sample:
            return [*self._give_up_speculation(), *self._decode(now)]
        self._awaited = speculation.job
        if speculation.outcome is not None:
            return self._take_speculation(speculation.outcome, now=now)
        return [Promote(job=speculation.job, deadline=now + _DEADLINE_S[JobClass.FINAL])]

    def _decode(self, now: float, *, after_s: float = 0.0) -> list[Action]:
        assert self._closed is not None
        closed, self._speculation = self._closed, None
        # An endpoint has heard the quiet behind the last word. Who ends an utterance himself has spoken it too.
        complete = closed.reason not in ("endpoint", "max_length")
        self._awaited = self._new_job()
        submit = self._submit(self._awaited, closed.samples, JobClass.FINAL, now=now + after_s, complete=complete)
        return [attrs.evolve(submit, after_s=after_s)]

    def _take_speculation(self, outcome: Outcome, *, now: float) -> list[Action]:
        """It may have begun before an interim settled the language (rule 3)."""
        assert self._speculation is not None
        if not self._language.takes(outcome.hypothesis.language):
            return self._decode(now)
        speculative = outcome.started < self._decided_at
        more_is_stable = self.stable_text != self._speculation.keep
        heard = self._guarded(outcome.hypothesis)
        if more_is_stable and heard.text and not self._stabiliser.keeps(heard.text, language=heard.language):
            self._fallback = outcome, speculative
            return self._decode(now)
        return self._conclude(outcome, speculative=speculative)

    def _take_interim(self, outcome: Outcome, *, now: float) -> list[Action]:
        assert self._interim is not None
        snapshot, led, self._interim = self._interim.snapshot, self._interim.led, None
        self._cadence.completed(seconds=outcome.decode_s, now=now)
        hypothesis = outcome.hypothesis
        if led and not hypothesis.text.strip():
            self._fruitless += 1
            return []
        audio_s = seconds(len(snapshot.samples))
        if not self._is_heard(hypothesis, audio_s=audio_s):
            return []
        text = text_rules.tidy(hypothesis.text)
        hint = text_rules.turn_hint(self._heard_text, text, language=hypothesis.language, ending=hypothesis.ending)
        self._heard_text = text
        return [*self._show(hypothesis, audio_s=audio_s, end_sample=snapshot.end_sample), Hint(hint)]

    def _is_heard(self, hypothesis: Hypothesis, *, audio_s: float) -> bool:
        """Whether somebody said this in so much audio, and in which language is sure enough (rules 2 and 3)."""
        if text_rules.says_nothing(hypothesis) or (not hypothesis.text.strip() and self._seq == 0):
            return False
        spoken = [piece for piece in hypothesis.certainties or () if any(char.isalnum() for char in piece.word)]
        if spoken and spoken[0].least < _FIRST_WORD and not self.stable_text:
            return False
        return self._language.settle(
            hypothesis.language,
            probability=hypothesis.language_probability,
            heard=hypothesis.languages,
            speech_s=audio_s - seconds(self.opened.at_sample - self.opened.start_sample),
        )

    def _show(self, hypothesis: Hypothesis, *, audio_s: float, end_sample: int) -> list[Action]:
        """What the client is shown now that this was heard of so much audio."""
        stable = self._stabiliser.push(
            hypothesis.text,
            words=hypothesis.words,
            certainties=hypothesis.certainties,
            audio_s=audio_s,
            compression_ratio=hypothesis.compression_ratio,
            temperature=hypothesis.temperature,
            language=hypothesis.language,
        )
        if not stable.text and self._seq == 0:
            return []
        self._seq += 1
        self._heard_until = max(self._heard_until, end_sample)
        interim = Interim(
            utterance=self.number,
            seq=self._seq,
            text=stable.text,
            stable_chars=stable.stable_chars,
            start_s=seconds(self.opened.at_sample),
            end_s=seconds(self._heard_until),
            words=interim_words(stable, hypothesis) if self.options.words else None,
        )
        return [Say(interim)]

    def _conclude(self, outcome: Outcome, *, speculative: bool) -> list[Action]:
        """The final of a decode."""
        assert self._closed is not None
        closed = self._closed
        hypothesis = self._guarded(outcome.hypothesis)
        if hypothesis.text:
            self._language.hear(hypothesis.languages, speech_s=self._speech_s(closed.samples))
        timing = Timing(
            endpoint_ms=seconds(closed.decided_sample - closed.end_sample) * 1000,
            queue_ms=outcome.queue_s * 1000,
            decode_ms=outcome.decode_s * 1000,
            speculative=speculative,
        )
        text = self._stabiliser.finalise(hypothesis.text, language=hypothesis.language)
        end, reason = closed.end_sample, closed.reason
        return self._done(self._final(text, end_sample=end, reason=reason, timing=timing, hypothesis=hypothesis))

    def _guarded(self, hypothesis: Hypothesis) -> Hypothesis:
        """Without what nobody said."""
        assert self._closed is not None
        closed = self._closed
        # Where the client says what an utterance is, the VAD's opinion of it decides nothing.
        asked = self.options.endpointing is None
        return text_rules.guard(
            hypothesis,
            speech_s=seconds(len(closed.samples)) if asked else closed.speech_s,
            mean_probability=math.nan if asked else closed.mean_probability,
            prompt=self.options.prompt,
            hotwords=self.options.hotwords,
            heard_s=closed.speech_s if asked else math.nan,
        )

    def _undecoded(self) -> list[Action]:
        """The final of an utterance of which nothing could be decoded (rule 8)."""
        assert self._closed is not None
        end, reason = self._closed.end_sample, self._closed.reason
        return self._done(self._final(self.stable_text, end_sample=end, reason=reason))

    def _done(self, final: Final) -> list[Action]:
        self.phase, self.final, self._awaited = Phase.DONE, final, None
        if self._closed is not None and self._has_context:
            self.context.said(final, self._closed.samples, decoded=is_decoded(final))
        return [*self._give_up_interim(), *self._give_up_speculation(), Release(self.number)]

    def _give_up_interim(self) -> list[Action]:
        given_up, self._interim = self._interim, None
        return [Cancel(given_up.job)] if given_up is not None else []

    def _give_up_speculation(self) -> list[Action]:
        given_up, self._speculation = self._speculation, None
        return [Cancel(given_up.job)] if given_up is not None and given_up.outcome is None else []

    def _new_job(self) -> JobId:
        self._jobs += 1
        return self.number, self._jobs

    def _speech_s(self, samples: Samples) -> float:
        """Seconds of audio from the onset on."""
        return seconds(len(samples) - (self.opened.at_sample - self.opened.start_sample))

    @property
    def _has_context(self) -> bool:
        options = self.options
        return options.context == "auto" and options.kind == "live" and options.task == "transcribe"

    def _before(self, samples: Samples, *, interim: bool) -> tuple[Samples, Lead] | None:
        """The audio with its lead, and that (rule 7)."""
        if not self._has_context:
            return None
        if interim and (self._fruitless >= _FRUITLESS or self._speech_s(samples) < _LED_FROM_S):
            return None
        begin_s = seconds(self.opened.at_sample)
        language, limits_s = self._language.code, INTERIM_LIMITS_S if interim else LIMITS_S
        return self.context.before(self.number, samples, begin_s=begin_s, language=language, limits_s=limits_s)

    def _submit(
        self, job: JobId, samples: Samples, job_class: JobClass, *, now: float, complete: bool = False
    ) -> Submit:
        options, file = self.options, self.options.kind == "file"
        interim = job_class is JobClass.INTERIM
        settled = self._language.code
        before = self._before(samples, interim=interim)
        decode = DecodeOptions(
            effort=Effort.QUICK if interim else Effort.TIMED if file else Effort.FULL,
            language=settled,
            # A final also says to later utterances what its sound was.
            languages=None
            if before or (settled and interim)
            else self._language.prior(speech_s=self._speech_s(samples)),
            task=options.task,
            words=options.words and not interim,
            prompt=options.prompt,
            hotwords=options.hotwords,
            keep="" if interim or file else self.stable_text,
            keep_margin=math.inf if options.lock_stable else self.tuning.keep_margin,
        )
        recording = f"{self.session}/{self.number}"
        if before is not None:
            recording += f" behind {before[1].samples}"  # it begins elsewhere, and a longer utterance has room for less
        if job_class is JobClass.FINAL and file:
            job_class = JobClass.FILE
        return Submit(
            job=job,
            role="interim" if interim and options.interim_model != options.model else "final",
            job_class=job_class,
            item=DecodeItem(
                samples=samples if before is None else before[0],
                options=decode,
                recording=None if file else recording,  # a window of a file is decoded once
                complete=complete,
                lead=None if before is None else before[1],
            ),
            deadline=now + _DEADLINE_S[job_class],
        )

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
            language_probability=None if hypothesis is None else self._probability(hypothesis),
            model=self._preset,
        )

    def _probability(self, hypothesis: Hypothesis) -> float | None:
        # With a lead the sound is not asked again: what an interim heard of it settled the language.
        detected = hypothesis.languages or hypothesis.language == self._language.code
        return self._language.probability(hypothesis.language_probability) if detected else None


def _failure(error: SttdError) -> Say:
    return Say(Failure.of(error, fatal=False))
