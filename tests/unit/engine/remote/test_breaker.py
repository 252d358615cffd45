"""When a server is asked, and when it is left alone."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sttd.engine.remote.breaker import FAILURES, FIRST_WAIT_S, MOST_WAIT_S, Breaker


def opened(*, chance=0.0, now=0.0):
    breaker = Breaker(now)
    breaker.failed(breaker.ask(now), now=now, reason="it is gone", decisive=True, chance=chance)
    return breaker


def test_it_opens_after_failures_in_a_row_and_not_before():
    breaker = Breaker(0.0)
    for _ in range(FAILURES - 1):
        assert not breaker.failed(breaker.ask(0.0), now=0.0, reason="no", decisive=False, chance=0.0)
    assert breaker.state(0.0) == "closed"
    assert breaker.failed(breaker.ask(0.0), now=0.0, reason="no", decisive=False, chance=0.0)
    assert breaker.ask(0.0) is None
    assert breaker.reason == "no"


def test_an_answer_between_failures_begins_the_count_again():
    breaker = Breaker(0.0)
    for _ in range(3 * FAILURES):
        assert not breaker.failed(breaker.ask(0.0), now=0.0, reason="no", decisive=False, chance=0.0)
        breaker.answered(0.0)
        assert breaker.state(0.0) == "closed"


def test_a_timeout_opens_it_at_once_and_one_probe_goes_when_the_wait_is_over():
    breaker = opened()
    assert breaker.wait_s(0.0) == FIRST_WAIT_S
    probe = breaker.ask(FIRST_WAIT_S)
    assert probe.probe
    assert breaker.ask(FIRST_WAIT_S) is None, "one at a time"
    assert breaker.answered(FIRST_WAIT_S + 1)
    assert not breaker.ask(FIRST_WAIT_S + 1).probe
    assert (breaker.reason, breaker.since) == (None, FIRST_WAIT_S + 1)


def test_a_probe_that_was_given_up_leaves_its_place_to_the_next():
    breaker = opened()
    breaker.given_up(breaker.ask(FIRST_WAIT_S))
    assert breaker.ask(FIRST_WAIT_S).probe


def test_each_probe_that_fails_doubles_the_wait_and_it_has_been_away_since_the_first():
    breaker, now, waits = opened(), 0.0, []
    for _ in range(10):
        waits.append(breaker.wait_s(now))
        now += waits[-1]
        assert not breaker.failed(breaker.ask(now), now=now, reason="still", decisive=False, chance=0.0)
    assert waits[:3] == [FIRST_WAIT_S, 2 * FIRST_WAIT_S, 4 * FIRST_WAIT_S]
    assert waits[-1] == MOST_WAIT_S
    assert breaker.since == 0.0


def test_a_server_that_is_busy_stays_until_finals_in_a_row_were_told_nothing_else():
    breaker = Breaker(0.0)
    for _ in range(FAILURES):
        for _ in range(5):
            leave = breaker.ask(0.0)
            breaker.busy(leave, now=0.0, reason="429", chance=0.0, least_s=1.0)
            assert breaker.state(0.0) == "closed", "it said when to come again"
        breaker.failed(leave, now=0.0, reason="429", decisive=False, chance=1.0, least_s=5.0)
    assert breaker.state(0.0) == "open"
    assert breaker.wait_s(0.0) == 5.0, "as long as it said, whatever chance says"


def test_a_probe_that_finds_it_busy_has_failed_and_a_text_closes_it():
    breaker = opened()
    probe = breaker.ask(FIRST_WAIT_S)
    breaker.busy(probe, now=FIRST_WAIT_S, reason="429", chance=0.0, least_s=1000.0)
    assert breaker.wait_s(FIRST_WAIT_S) == MOST_WAIT_S
    assert not breaker.failed(probe, now=FIRST_WAIT_S, reason="429", decisive=False, chance=0.0), "it is told once"
    assert breaker.ask(FIRST_WAIT_S + MOST_WAIT_S).probe
    assert breaker.answered(FIRST_WAIT_S + MOST_WAIT_S)


def test_it_is_hopeless_from_the_first_who_waited_in_vain_until_it_answers():
    breaker = Breaker(0.0)
    breaker.waited_in_vain()
    assert not breaker.hopeless, "it is there"
    breaker = opened()
    assert not breaker.hopeless
    breaker.waited_in_vain()
    assert breaker.hopeless
    breaker.failed(breaker.ask(FIRST_WAIT_S), now=FIRST_WAIT_S, reason="still", decisive=False, chance=0.0)
    assert breaker.hopeless
    breaker.answered(100.0)
    assert not breaker.hopeless


@given(st.floats(0, 1))
def test_chance_takes_half_of_the_wait_at_most(chance):
    assert FIRST_WAIT_S / 2 <= opened(chance=chance).wait_s(0.0) <= FIRST_WAIT_S


class Machine(RuleBasedStateMachine):
    """Calls come, answer, fail and are given up in any order."""

    @initialize()
    def begin(self):
        self.now = 0.0
        self.breaker = Breaker(self.now)
        self.out = []
        self.failed_last = 0

    @rule(seconds=st.floats(0, 20))
    def time_passes(self, seconds):
        self.now += seconds

    @rule()
    def somebody_asks(self):
        state = self.breaker.state(self.now)
        leave = self.breaker.ask(self.now)
        if state == "open":
            assert leave is None
        if state == "closed":
            assert leave is not None
            assert not leave.probe
        if leave is not None:
            self.out.append(leave)

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def one_is_answered(self, data):
        self.out.remove(data.draw(st.sampled_from(self.out)))
        self.breaker.answered(self.now)
        assert self.breaker.state(self.now) == "closed"

    @precondition(lambda self: self.out)
    @rule(data=st.data(), decisive=st.booleans(), chance=st.floats(0, 1))
    def one_fails(self, data, decisive, chance):
        leave = data.draw(st.sampled_from(self.out))
        self.out.remove(leave)
        closed = self.breaker.state(self.now) == "closed"
        if self.breaker.failed(leave, now=self.now, reason="no", decisive=decisive, chance=chance):
            assert closed, "it opens once"
            assert self.breaker.since == self.now

    @precondition(lambda self: self.out)
    @rule(data=st.data(), least_s=st.floats(0, 100), over=st.booleans())
    def one_finds_it_busy(self, data, least_s, over):
        leave = data.draw(st.sampled_from(self.out))
        self.out.remove(leave)
        before = self.breaker.state(self.now)
        self.breaker.busy(leave, now=self.now, reason="429", chance=0.0, least_s=least_s)
        assert before != "closed" or self.breaker.state(self.now) == "closed"
        if over:
            self.breaker.failed(leave, now=self.now, reason="429", decisive=False, chance=0.0, least_s=least_s)
            self.breaker.waited_in_vain()

    @precondition(lambda self: self.out)
    @rule(data=st.data())
    def one_is_given_up(self, data):
        leave = data.draw(st.sampled_from(self.out))
        self.out.remove(leave)
        before = self.breaker.wait_s(self.now)
        self.breaker.given_up(leave)
        assert self.breaker.wait_s(self.now) == before

    @invariant()
    def one_probe_at_a_time_and_a_wait_with_an_end(self):
        probing = self.breaker._probing
        assert probing is None or probing in self.out, "whoever has the probe will report"
        assert 0 <= self.breaker.wait_s(self.now) <= MOST_WAIT_S + 1e-9  # what floats of two times lose
        assert (self.breaker.reason is None) == (self.breaker.state(self.now) == "closed")
        assert not self.breaker.hopeless or self.breaker.state(self.now) != "closed"


TestMachine = Machine.TestCase
