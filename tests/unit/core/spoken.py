"""Utterances without a thread or a clock: what a turn is told, and what it wants done, by hand."""

from __future__ import annotations

import attrs
import numpy as np

from sttd.core.actions import Cancel, Hint, Lease, Promote, Release, Say, Submit
from sttd.core.context import SessionContext
from sttd.core.languages import SessionLanguages
from sttd.core.turn import Turn
from sttd.core.types import SAMPLE_RATE, Certainty, Final, Hypothesis, Interim, JobClass, Outcome, Segment, Word
from sttd.core.utterance import Closed, Opened, Paused, Snapshot
from sttd.options import SessionOptions, Tuning

WORD_S = 0.3


def samples(seconds):
    return np.zeros(int(seconds * SAMPLE_RATE), np.float32)


def options(**changes):
    """Of a session; finals are free unless the test says `lock_stable`."""
    given = {"model": "fake", "interim_model": "fake", "endpointing": None, "lock_stable": False, **changes}
    return SessionOptions(**given)


def words_of(seconds):
    """A speaker who says w1, w2, …, one every 0.3 s."""
    count = round(seconds / WORD_S)
    return tuple(
        Word(word=f"w{n}", start_s=(n - 1) * WORD_S, end_s=n * WORD_S, probability=0.9) for n in range(1, count + 1)
    )


def outcome(
    text=None,
    *,
    seconds=1.2,
    started=0.0,
    decode_s=0.1,
    heard=(),
    language=None,
    probability=1.0,
    least=None,
    logprob=-0.2,
    no_speech=0.0,
):
    """What a decode of so many seconds brings: by default the words that were said, timed.

    `least`: how sure the decoder is of each word; None: it does not say.
    """
    words = words_of(seconds) if text is None else ()
    text = " ".join(word.word for word in words) if text is None else text
    language = language or (heard[0][0] if heard else "en")
    each = least if isinstance(least, list) else [least] * len(text.split())
    pieces = zip(text.split(), each, strict=True)
    certainties = None if least is None else tuple(Certainty(word=f" {word}", least=one) for word, one in pieces)
    hypothesis = Hypothesis(
        text=text,
        segments=(Segment(text=text, start_s=0.0, end_s=seconds, words=words),) if text else (),
        language=language,
        language_probability=probability,
        languages=heard,
        avg_logprob=logprob,
        no_speech_prob=no_speech,
        certainties=certainties,
    )
    return Outcome(hypothesis=hypothesis, queue_s=0.01, started=started, decode_s=decode_s, batch_size=1)


@attrs.define
class Spoken:
    """One utterance that a test speaks; time passes when the test says so."""

    options: SessionOptions = attrs.field(factory=options)
    tuning: Tuning = attrs.field(factory=lambda: Tuning(interim_min_ms=100))
    languages: SessionLanguages | None = None
    context: SessionContext = attrs.field(factory=SessionContext)
    number: int = 1
    start_s: float = 0.0
    now: float = 0.0
    actions: list = attrs.field(factory=list)
    turn: Turn = attrs.field(init=False)

    def __attrs_post_init__(self):
        if self.languages is None:
            self.languages = SessionLanguages(given=self.options.lang, allowed=self.options.languages)
        start = int(self.start_s * SAMPLE_RATE)
        self.turn = Turn(
            opened=Opened(utterance=self.number, at_sample=start, start_sample=start),
            options=self.options,
            tuning=self.tuning,
            session="s000001",
            languages=self.languages,
            context=self.context,
        )
        self.do(self.turn.begin())

    def do(self, actions):
        self.actions += actions
        return actions

    # ---------------------------------------------------------------- what came of it

    def all(self, kind):
        return [action for action in self.actions if isinstance(action, kind)]

    @property
    def said(self):
        return [action.event for action in self.all(Say)]

    @property
    def kinds(self):
        return [type(event).__name__ for event in self.said]

    @property
    def interims(self):
        return [event for event in self.said if isinstance(event, Interim)]

    @property
    def jobs(self):
        return [submit.job_class for submit in self.all(Submit)]

    @property
    def leases(self):
        return [(lease.role, lease.model) for lease in self.all(Lease)]

    @property
    def cancelled(self):
        return [cancel.job for cancel in self.all(Cancel)]

    @property
    def promoted(self):
        return [promote.job for promote in self.all(Promote)]

    @property
    def released(self):
        return bool(self.all(Release))

    @property
    def hints(self):
        return [hint.hint for hint in self.all(Hint)]

    @property
    def final(self) -> Final:
        assert self.turn.final is not None
        return self.turn.final

    def job(self, job_class):
        """The newest of that class."""
        return next(each for each in reversed(self.all(Submit)) if each.job_class is job_class)

    # ---------------------------------------------------------------- what happens

    def lease(self, role="final", *, preset="fake"):
        return self.do(self.turn.leased(role, preset=preset, now=self.now))

    def lease_fails(self, error, role="final"):
        return self.do(self.turn.lease_failed(role, error, now=self.now))

    def recall(self, role="final"):
        return self.do(self.turn.recalled(role, now=self.now))

    def due(self, seconds, *, waits=False, load=0.0):
        position = int((self.start_s + seconds) * SAMPLE_RATE)
        return self.turn.wants_interim(position, now=self.now, load=load, waits=waits)

    def hear(self, seconds, *, waits=False):
        """So much of it was said: an interim is submitted if one is due."""
        if not self.due(seconds, waits=waits):
            return []
        start, end = (int(at * SAMPLE_RATE) for at in (self.start_s, self.start_s + seconds))
        snapshot = Snapshot(utterance=self.number, start_sample=start, end_sample=end, samples=samples(seconds))
        return self.do(self.turn.show(snapshot, now=self.now))

    def show(self, seconds, **heard):
        """Hear and show; the interim that comes of it."""
        self.now += 10
        assert self.hear(seconds)
        shown = len(self.interims)
        self.decoded(JobClass.INTERIM, seconds=seconds, **heard)
        return self.interims[-1] if len(self.interims) > shown else None

    def pause(self, end_s):
        start, end = (int(at * SAMPLE_RATE) for at in (self.start_s, self.start_s + end_s))
        paused = Paused(utterance=self.number, start_sample=start, end_sample=end, samples=samples(end_s + 0.12))
        return self.do(self.turn.paused(paused, now=self.now))

    def resume(self):
        return self.do(self.turn.resumed())

    def close(self, end_s, *, reason="endpoint", speech_s=None):
        start, end = (int(at * SAMPLE_RATE) for at in (self.start_s, self.start_s + end_s))
        closed = Closed(
            utterance=self.number,
            start_sample=start,
            end_sample=end,
            decided_sample=end + SAMPLE_RATE // 2,
            silence_ms=500,
            reason=reason,
            samples=samples(end_s + 0.12),
            speech_s=end_s if speech_s is None else speech_s,
            mean_probability=0.9,
        )
        return self.do(self.turn.close(closed, now=self.now))

    def decoded(self, job_class, text=None, *, job=None, **heard):
        job = job or self.job(job_class).job
        return self.do(self.turn.decoded(job, outcome(text, **heard), now=self.now))

    def fails(self, job_class, error=None):
        """The newest job of that class fails, or, without an error, is dropped."""
        return self.do(self.turn.failed(self.job(job_class).job, error, now=self.now))

    def refused(self, job_class, error):
        return self.do(self.turn.refused(self.job(job_class).job, error, now=self.now))
