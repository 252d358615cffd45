"""Whole sessions, whatever comes in whatever order: one final each, in order, and stable text never back.

Speech, pauses, finalizes, holes, changes of options, leases that come late or never, decodes that come late, fail, are
dropped or refused, a client that leaves, a drain: hypothesis picks the order, and looks for the shortest one that
breaks a promise of docs/reference/audio.md.
"""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sttd.core.types import Final, Interim, JobClass, SpeechEnd, SpeechStart
from sttd.errors import DecodeError, ModelError
from sttd.options import Endpointing, SessionChanges
from tests.unit.core.listened import NO_ROOM, Listened

ERRORS = [
    NO_ROOM,
    ModelError("broken", code="model_load_failed"),
    ModelError("no such preset", code="model_not_found"),
]
SOUNDS = [(("en", 0.98), ("de", 0.01)), (("es", 0.9), ("pt", 0.08)), (("en", 0.4), ("de", 0.35)), ()]
SAID = [None, "", "Turn the lights on.", "turn the light", "w1 w2 w3 and something else", "the the the the the"]

picked = st.integers(min_value=0)


class Sessions(RuleBasedStateMachine):
    @initialize(
        kind=st.sampled_from(["live", "live", "file"]),
        endpointing=st.sampled_from([None, Endpointing(), Endpointing(max_utterance_s=4.0)]),
        quick=st.booleans(),
        lock=st.booleans(),
        lang=st.sampled_from([None, "en"]),
    )
    def begin(self, kind, endpointing, quick, lock, lang):
        self.session = Listened.to(
            kind=kind,
            interim=kind == "live" or quick,
            endpointing=endpointing,
            interim_model="quick" if quick else "fake",
            lock_stable=lock,
            max_utterance_s=5.0,
            lang=lang,
        )
        self.locked = lock
        self.hearing = self.session.hearing
        self.over = self.gone = False

    # ---------------------------------------------------------------- the client

    @precondition(lambda self: not self.over)
    @rule(frames=st.integers(1, 120), speech=st.booleans(), waits=st.booleans(), load=st.floats(0, 1))
    def hear(self, frames, speech, waits, load):
        self.session.hear(frames / 50, speech=speech, interim_waits=waits, load=load)

    @precondition(lambda self: not self.over)
    @rule()
    def finalize(self):
        self.session.finalize()

    @precondition(lambda self: not self.over)
    @rule(
        changes=st.sampled_from(
            [
                SessionChanges(lang="de"),
                SessionChanges(lang=None, languages=("en", "es")),
                SessionChanges(interim=False),
                SessionChanges(endpointing=None),
                SessionChanges(endpointing=Endpointing(aggressiveness=3)),
            ]
        )
    )
    def change(self, changes):
        self.session.change(changes)

    @precondition(lambda self: not self.over)
    @rule(frames=st.integers(0, 100))
    def lose(self, frames):
        self.session.do(self.hearing.skip(frames * 320, now=self.session.now))

    @rule()
    def leave(self):
        self.gone = True
        self.session.do(self.hearing.hush())

    @precondition(lambda self: not self.over)
    @rule(reason=st.sampled_from(["stop", "disconnect", "drain"]))
    def end(self, reason):
        self.over = True
        self.session.do(self.hearing.end(reason, now=self.session.now))

    @rule()
    def end_at_once(self):
        self.over = True
        self.session.do(self.hearing.end_at_once("drain"))
        assert self.hearing.owing == 0
        assert not self.session.leases
        assert not self.session.held

    # ---------------------------------------------------------------- the pool and the scheduler

    @rule(seconds=st.floats(0, 5))
    def wait(self, seconds):
        self.session.now += seconds

    @precondition(lambda self: self.session.leases)
    @rule(which=picked, preset=st.sampled_from(["fake", "smaller"]))
    def grant(self, which, preset):
        self.session.lease(which % len(self.session.leases), preset=preset)

    @precondition(lambda self: self.session.leases)
    @rule(which=picked, error=st.sampled_from(ERRORS))
    def refuse_lease(self, which, error):
        self.session.refuse_lease(error, which % len(self.session.leases))

    @precondition(lambda self: self.session.held and self.hearing.options.kind == "file")
    @rule(which=picked)
    def recall(self, which):
        utterance, role = sorted(self.session.held)[which % len(self.session.held)]
        self.session.recall(utterance, role)
        assert (utterance, role) not in self.session.held
        assert any((each.utterance, each.role) == (utterance, role) for each in self.session.leases)

    @rule(count=st.integers(1, 3))
    def be_full(self, count):
        self.session.refusals = count

    @precondition(lambda self: self.session.jobs)
    @rule(which=picked, text=st.sampled_from(SAID), sound=st.sampled_from(SOUNDS), before=st.floats(0, 2))
    def decode(self, which, text, sound, before):
        job = list(self.session.jobs)[which % len(self.session.jobs)]
        asked = self.session.jobs[job].item.options
        heard = sound if asked.languages is not None else ()
        language = asked.language or (heard[0][0] if heard else "en")
        started = self.session.now - before
        self.session.decode(job, text, heard=heard, language=language, started=started, probability=0.9)

    @precondition(lambda self: self.session.jobs)
    @rule(which=picked, error=st.sampled_from([None, DecodeError("the engine failed")]))
    def fail(self, which, error):
        self.session.fail(error, list(self.session.jobs)[which % len(self.session.jobs)])

    # ---------------------------------------------------------------- what holds at any time

    @invariant()
    def promises(self):
        if not hasattr(self, "session"):
            return
        started, ended, finals = set(), set(), []
        shown: dict[int, Interim] = {}
        for event in self.session.said:
            match event:
                case SpeechStart(utterance=number):
                    assert number > max(started | set(finals), default=0)
                    started.add(number)
                case Interim(utterance=number):
                    assert number in started - ended
                    before = shown.get(number)
                    if before is not None:
                        assert event.seq == before.seq + 1
                        assert event.stable_chars >= before.stable_chars
                        stable = before.text[: before.stable_chars]
                        assert event.text.startswith(stable)
                    assert event.stable_chars <= len(event.text)
                    shown[number] = event
                case SpeechEnd(utterance=number):
                    assert number in started - ended
                    ended.add(number)
                case Final(utterance=number):
                    assert number == len(finals) + 1
                    assert (number in started) == (number in ended)  # neither: a finalize of nothing
                    finals.append(number)
                    if self.locked and number in shown:
                        assert event.text.startswith(shown[number].text[: shown[number].stable_chars])
        assert self.hearing.utterances == len(finals) + self.hearing.owing

    @invariant()
    def nothing_is_held_for_nobody(self):
        if not hasattr(self, "session"):
            return
        done = {event.utterance for event in self.session.said if isinstance(event, Final)}
        assert not {number for number, _ in self.session.held} & done
        assert not {lease.utterance for lease in self.session.leases} & done
        for job_class in (JobClass.FINAL, JobClass.FILE, JobClass.SPECULATIVE):
            wanted = [job[0] for job, each in self.session.jobs.items() if each.job_class is job_class]
            assert len(wanted) == len(set(wanted)), "decoded twice at the same time"

    def teardown(self):
        """However it went on, everybody answers in the end; then nothing is owed or held."""
        if not hasattr(self, "session"):
            return
        session = self.session
        session.refusals = 0
        session.do(self.hearing.end("stop", now=session.now))
        for _ in range(1000):
            if session.leases:
                session.lease()
            elif session.jobs:
                session.decode()
            else:
                break
        self.promises()
        assert self.hearing.owing == 0
        assert not session.held
        assert not session.jobs


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
