"""What lets a session outlive its connection: no event lost or told twice, no sample missing, no token for ever."""

import json

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sttd.errors import NotFoundError, ProtocolError
from sttd.wire import resuming
from sttd.wire.messages import Progress, parse_event
from sttd.wire.resuming import Resuming, State

RATE, WIDTH = 100, 6  # of 16-bit samples of three channels
RESUME_S = 30.0


def attached(**changes):
    machine = Resuming(**{"sample_rate": RATE, "sample_bytes": WIDTH, "expires_at": 5.0, **changes})
    machine.attach(shown=None, successor="t0")
    return machine


def say(machine, done_s=1.0):
    return machine.number("progress", {"done_s": done_s, "total_s": None})


def test_events_are_numbered_from_1_and_kept_as_they_were_written():
    machine = attached()
    texts = [say(machine, float(number)) for number in range(3)]
    assert [json.loads(text)["event_seq"] for text in texts] == [1, 2, 3]
    assert parse_event(texts[2]) == Progress(done_s=2.0, event_seq=3)
    assert machine.missed(0) == tuple(texts)
    assert machine.missed(2) == (texts[2],)
    assert machine.missed(3) == ()


@pytest.mark.parametrize("bound", ["KEPT_EVENTS", "KEPT_BYTES"])
def test_what_is_kept_is_bounded_and_who_lacks_more_is_refused(monkeypatch, bound):
    size = len(say(attached()))
    monkeypatch.setattr(resuming, bound, 3 if bound == "KEPT_EVENTS" else 3 * size)
    machine = attached()
    texts = [say(machine) for _ in range(5)]
    assert machine.kept_bytes == 3 * size
    machine.check(2)
    assert machine.missed(2) == tuple(texts[2:])
    with pytest.raises(NotFoundError, match="start anew: events before number 3"):
        machine.check(1)
    with pytest.raises(ProtocolError) as caught:
        machine.check(6)
    assert (caught.value.code, caught.value.data) == ("bad_option", {"field": "last_seq"})


def test_an_event_larger_than_what_is_kept_is_kept_alone(monkeypatch):
    monkeypatch.setattr(resuming, "KEPT_BYTES", 200)
    machine = attached()
    say(machine)
    large = machine.number("warning", {"code": "lagging", "message": "ü" * 200})
    assert machine.missed(1) == (large,)
    assert machine.kept_bytes > 400  # bytes, not characters


def test_audio_counts_by_whole_samples_and_a_torn_one_is_forgotten_with_its_connection():
    machine = attached()
    assert machine.take(bytes(WIDTH + 2)) == bytes(WIDTH)
    assert machine.position_s == 1 / RATE
    assert machine.take(b"\1\1\1\1\2") == bytes(2) + b"\1\1\1\1"
    assert machine.position_s == 2 / RATE
    machine.detach(now=0.0, for_s=RESUME_S)
    machine.attach(shown="t0", successor="t1")
    assert machine.take(b"\3" * WIDTH) == b"\3" * WIDTH
    assert machine.take(b"") == b""


def test_an_acknowledgement_is_due_twice_a_second_of_audio():
    machine = attached()
    machine.take(bytes(WIDTH * (RATE // 2 - 1)))
    assert not machine.ack_due
    machine.take(bytes(WIDTH))
    machine.take_op()
    assert machine.ack_due
    assert machine.ack() == {"position_s": 0.5, "ops": 1}
    assert not machine.ack_due


def test_a_token_is_good_until_its_successor_has_arrived():
    machine = attached()
    assert (machine.opens("t0"), machine.opens("t1"), machine.doubts("t0")) == (True, False, False)
    machine.attach(shown="t0", successor="t1")
    assert machine.unproved
    assert (machine.opens("t0"), machine.opens("t1"), machine.doubts("t0"), machine.doubts("t1")) == (
        True, True, True, False,
    )  # fmt: skip
    machine.attach(shown="t0", successor="t2")  # t1 was lost on its way
    assert [machine.opens(f"t{number}") for number in range(3)] == [True, False, True]
    machine.prove()
    assert [machine.opens(f"t{number}") for number in range(3)] == [False, False, True]


def test_it_is_over_when_its_time_asleep_is():
    machine = attached()
    assert not machine.expire(now=1e9)
    machine.detach(now=10.0, for_s=RESUME_S)
    assert (machine.state, machine.expires_at) == (State.ASLEEP, 40.0)
    assert not machine.expire(now=39.9)
    assert machine.expire(now=40.0)
    assert (machine.opens("t0"), machine.digests, machine.kept_bytes) == (False, (), 0)
    machine.detach(now=41.0, for_s=RESUME_S)
    assert machine.state is State.OVER


class CutSession(RuleBasedStateMachine):
    """A session, a client that resumes, and a network that loses the end of what either of them sent."""

    def __init__(self):
        super().__init__()
        self.machine = attached()
        self.now = 0.0
        self.told = 0
        self.heard = b""
        # The client: its token, the events it has, how much it has said, whether it knows where to go on.
        self.token, self.seen, self.sent, self.ops_sent, self.ready = "t0", 0, 0, 0, True
        self.tokens = 1
        self.up, self.down = [], []  # on their way

    @rule(count=st.integers(1, 3))
    def the_session_speaks(self, count):
        """While it is asleep, what it says waits elsewhere, without a number."""
        for _ in range(count if self.machine.state is State.ATTACHED else 0):
            self.told += 1
            self.down.append(say(self.machine, float(self.told)))

    @rule(size=st.integers(0, 40), op=st.booleans())
    def the_client_speaks(self, size, op):
        if not self.ready:
            return
        self.up.append(bytes((self.sent + at) % 251 for at in range(size)))
        self.sent += size
        if op:
            self.ops_sent += 1
            self.up.append(self.ops_sent)

    @rule(up=st.integers(0, 6), down=st.integers(0, 6))
    def things_arrive(self, up, down):
        for message in self.up[:up]:
            self._take(message)
        for message in self.down[:down]:
            self._hear(message)
        del self.up[:up], self.down[:down]

    @rule(up=st.integers(0, 3), down=st.integers(0, 3), noticed=st.booleans(), away_s=st.floats(0, 29.9))
    def the_connection_is_lost_and_the_client_comes_back(self, up, down, noticed, away_s):
        """Where the daemon has not noticed, the old connection seems to live when the client comes back."""
        self.things_arrive(up, down)
        self.up, self.down, self.ready = [], [], False
        if noticed:
            self.machine.detach(now=self.now, for_s=RESUME_S)
        self.now += away_s
        assert not self.machine.expire(now=self.now)
        assert self.machine.opens(self.token)
        self.machine.check(self.seen)
        successor, self.tokens = f"t{self.tokens}", self.tokens + 1
        self.machine.attach(shown=self.token, successor=successor)
        self.down = [(successor, self.machine.ack()), *self.machine.missed(self.seen)]

    def _take(self, message):
        if isinstance(message, bytes):
            self.heard += self.machine.take(message)
        else:
            self.machine.take_op()
            assert self.machine.ops == message, "an op was lost or taken twice"

    def _hear(self, message):
        if isinstance(message, tuple):  # `resumed`: it goes on with the sample there, and the op behind the count
            self.token, where = message
            self.machine.prove()
            self.sent, self.ops_sent, self.ready = round(where["position_s"] * RATE) * WIDTH, where["ops"], True
        else:
            self.seen += 1
            event = parse_event(message)
            assert (event.event_seq, event.done_s) == (self.seen, self.seen), "an event was lost or told twice"

    @invariant()
    def what_was_heard_is_what_was_said(self):
        assert self.heard == bytes(at % 251 for at in range(len(self.heard)))
        assert round(self.machine.position_s * RATE) * WIDTH == len(self.heard)

    @invariant()
    def the_clients_token_opens_it_and_one_more_at_most(self):
        opening = [number for number in range(self.tokens) if self.machine.opens(f"t{number}")]
        assert self.token in {f"t{number}" for number in opening}
        assert len(opening) <= 2


TestCutSession = CutSession.TestCase
TestCutSession.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
