"""A session over several connections, against a daemon that is a few lists: what is said and heard arrives once."""

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sttd_client.addresses import ConnectionLostError, NoDaemonError
from sttd_client.events import Final, Reconnected, Resumed, SpeechStart, Warn
from sttd_client.inbox import CAPACITY
from sttd_client.resuming import KEPT_BYTES, KEPT_OPS, RESUME_S, Phase, Resuming

from sttd.errors import NotFoundError, OverloadedError, ProtocolError
from sttd.wire import messages
from sttd.wire.messages import Ack, Configure, Failure, FailureData, Finalize, Resume, Start, Started, Stop

RATE = 16_000


@attrs.define
class Ended:
    """A connection that ended, as far as the machine looks."""

    failure: Exception | None = None
    broke_off: bool = True
    worth_retrying: bool = True

    def error(self):
        return self.failure or ConnectionLostError("lost")


class Daemon:
    """A daemon's end of one resumable session: what it took, what it said, and which tokens it knows."""

    def __init__(self):
        self.audio = b""
        self.ops = []  # each with the audio before it
        self.events = []
        self.tokens = ["t0"]
        self.acked = 0

    def started(self):
        return Started(session="s1", resume_token=self.tokens[-1])

    def ack(self):
        self.acked = len(self.audio) // 2
        return Ack(position_s=self.acked / RATE, ops=len(self.ops))

    def resume(self, op):
        """The answer and what was missed. The last token is good until the next was shown."""
        assert op.token in self.tokens[-2:]
        self.tokens = [op.token, f"t{len(self.events)}-{len(self.audio)}-{op.token}"]
        self.audio = self.audio[: len(self.audio) // 2 * 2]  # half a sample is of a message that was cut
        position_s = len(self.audio) // 2 / RATE
        answer = messages.Resumed(position_s=position_s, resume_token=self.tokens[-1], ops=len(self.ops))
        return answer, self.events[op.last_seq :]

    def take(self, said):
        if isinstance(said, bytes):
            self.audio += said
            return
        self.ops.append((said, len(self.audio)))
        if isinstance(said, Finalize):
            self.say(reason="finalize", end_s=len(self.audio) / 2 / RATE)

    def say(self, *, reason="endpoint", end_s=0.0):
        number = len(self.events) + 1
        final = Final(utterance=number, text=f"u{number}", start_s=0.0, end_s=end_s, reason=reason, event_seq=number)
        self.events.append(final)


class Cuts(RuleBasedStateMachine):
    """Anything may be under way in either direction when the connection goes; nothing of it may be lost or doubled."""

    @initialize()
    def begin(self):
        self.daemon = Daemon()
        self.machine = Resuming(Start(), reconnect_s=0.0, chance=lambda: 0.5)
        assert self.machine.greeting() == Start(resumable=True)
        self.machine.answered(self.daemon.started(), 0.0)
        self.now = 0.0
        self.said = b""
        self.said_ops = []
        self.to_daemon = []
        self.to_client = []
        self.told = 0  # of the daemon's events
        self.heard = []
        self.cuts = 0

    @rule(count=st.integers(1, 40_000))
    def speak(self, count):
        piece = bytes((len(self.said) + at) % 251 for at in range(count))
        self.said += piece
        self.machine.audio(piece)

    @rule(op=st.sampled_from([Finalize(), Configure(prompt="a"), Configure(prompt="b")]))
    def say(self, op):
        self.said_ops.append((op, len(self.said)))
        self.machine.say(op)

    @precondition(lambda self: self.machine.phase is Phase.OPEN)
    @rule(count=st.integers(1, 5))
    def write(self, count):
        for _ in range(count):
            if (said := self.machine.take()) is not None:
                self.to_daemon.append(said)
        self.machine.written()

    @rule(count=st.integers(1, 5))
    def arrive(self, count):
        for said in self.to_daemon[:count]:
            self.daemon.take(said)
        del self.to_daemon[:count]

    @rule()
    def daemon_says(self):
        self.daemon.say()

    @precondition(lambda self: self.machine.phase is Phase.OPEN)
    @rule(acknowledge=st.booleans())
    def daemon_writes(self, acknowledge):
        self.to_client += self.daemon.events[self.told :]
        self.told = len(self.daemon.events)
        if acknowledge:
            self.to_client.append(self.daemon.ack())

    @rule(count=st.integers(1, 5))
    def hear(self, count):
        for event in self.to_client[:count]:
            self.machine.heard(event)
        del self.to_client[:count]

    @precondition(lambda self: self.machine.phase is Phase.OPEN)
    @rule(late=st.integers(0, 3))
    def cut(self, late):
        """What is under way is gone, but for what arrives at the daemon before it notices."""
        for said in self.to_daemon[:late]:
            self.daemon.take(said)
        self.to_daemon, self.to_client = [], []
        self.machine.lost(Ended(), self.now)
        self.cuts += 1

    @precondition(lambda self: self.machine.phase is Phase.AWAY)
    @rule(arrives=st.booleans(), again=st.booleans())
    def come_back(self, arrives, again):
        self.now += self.machine.due_s(self.now)
        op = self.machine.greeting()
        assert isinstance(op, Resume)
        answer, missed = self.daemon.resume(op)
        if not arrives:  # the token was shown, and the next one never seen
            return
        self.machine.answered(answer, self.now)
        self.now += 10.0  # so that the next loss begins a new count
        self.told = len(self.daemon.events)
        self.to_client = missed[:1] + missed if again else list(missed)

    @invariant()
    def nothing_is_doubled_or_out_of_order(self):
        self.heard += [event for event in self.machine.inbox.take_all() if not isinstance(event, Resumed)]
        assert self.heard == self.daemon.events[: len(self.heard)]
        assert self.said.startswith(self.daemon.audio)
        assert self.daemon.ops == self.said_ops[: len(self.daemon.ops)]

    def teardown(self):
        if self.machine.phase is Phase.AWAY:
            self.come_back(arrives=True, again=False)
        while (said := self.machine.take()) is not None:
            self.to_daemon.append(said)
        self.arrive(count=len(self.to_daemon))
        self.daemon_writes(acknowledge=True)
        self.hear(count=len(self.to_client))
        self.nothing_is_doubled_or_out_of_order()
        assert self.daemon.audio == self.said
        assert self.daemon.ops == self.said_ops
        assert self.heard == self.daemon.events
        assert self.machine.has_room


TestCuts = Cuts.TestCase


# ---------------------------------------------------------------- one rule each


def opened(*, token="t", reconnect_s=0.0, **options):
    machine = Resuming(Start(**options), reconnect_s=reconnect_s, chance=lambda: 0.0)
    machine.greeting()
    machine.answered(Started(session="s1", resume_token=token), 0.0)
    return machine


def resumed(position_s=0.0, ops=0):
    return messages.Resumed(position_s=position_s, resume_token="next", ops=ops)


def test_the_program_is_told_where_it_went_on_and_what_that_cost():
    machine = opened(channels=2, sample_rate=8000)
    machine.audio(bytes(32_000))
    machine.take()
    machine.audio(bytes(32_000))
    machine.lost(Ended(), 5.0)
    machine.answered(resumed(position_s=0.25), 5.75)
    assert machine.inbox.take_all() == [Resumed(position_s=0.25, away_s=0.75, again_bytes=24_000)]
    assert [len(machine.take()), len(machine.take()), machine.take()] == [24_000, 32_000, None]


def test_half_a_frame_that_was_cut_off_is_said_again():
    machine = opened(channels=2)
    machine.audio(b"abcdef")
    machine.take()
    machine.lost(Ended(), 0.0)
    machine.answered(resumed(position_s=1 / RATE), 0.0)
    assert machine.take() == b"ef"


def test_what_is_acknowledged_is_not_kept_and_a_daemon_that_goes_back_behind_it_is_not_believed():
    machine = opened()
    machine.audio(bytes(64_000))
    machine.take()
    machine.heard(Ack(position_s=1.5, ops=0))
    machine.lost(Ended(), 0.0)
    for position_s in (1.0, 2.5):
        with pytest.raises(ProtocolError, match="nothing to say"):
            machine.answered(resumed(position_s), 0.0)
    machine.answered(resumed(1.5), 0.0)
    assert machine.take() == bytes(16_000)


def test_an_op_that_was_not_acknowledged_is_said_again_although_all_audio_was():
    machine = opened()
    for op in (Configure(prompt="a"), Configure(prompt="b")):
        machine.say(op)
        machine.take()
    machine.heard(Ack(position_s=0.0, ops=1))
    machine.lost(Ended(), 0.0)
    machine.answered(resumed(ops=1), 0.0)
    assert [machine.take(), machine.take()] == [Configure(prompt="b"), None]


def test_a_program_waits_while_too_much_is_kept():
    machine = opened()
    assert machine.has_room
    machine.audio(bytes(KEPT_BYTES))
    machine.take()
    machine.written()
    assert not machine.has_room
    machine.heard(Ack(position_s=1.0, ops=0))
    assert machine.has_room


def test_there_is_room_for_some_seconds_of_the_largest_audio():
    """The daemon acknowledges once a second of audio; with less room both would wait for each other."""
    machine = opened(sample_rate=192_000, channels=8, encoding="pcm_s32le")
    machine.audio(bytes(3 * 192_000 * 8 * 4))
    assert machine.has_room


def test_a_session_that_cannot_be_resumed_keeps_nothing_that_is_written():
    machine = opened(token=None)
    machine.audio(bytes(KEPT_BYTES))
    machine.take()
    machine.written()
    assert machine.has_room
    machine.lost(Ended(worth_retrying=True), 0.0)
    assert machine.phase is Phase.OVER
    assert isinstance(machine.error, ConnectionLostError)


def test_ops_without_end_that_nobody_acknowledges_are_not_kept():
    machine = opened()
    for _ in range(KEPT_OPS + 1):
        machine.say(Configure(prompt="x"))
    assert not machine.keeps


def test_ops_without_end_while_there_is_no_connection_begin_no_new_session_that_nobody_asked_for():
    machine = opened()
    machine.lost(Ended(), 0.0)
    for _ in range(KEPT_OPS + 1):
        machine.say(Configure(prompt="x"))
    assert machine.phase is Phase.OVER
    assert isinstance(machine.error, ConnectionLostError)


@pytest.mark.parametrize("ended", [{"broke_off": False}, {"failure": OverloadedError("too much"), "broke_off": False}])
def test_a_session_that_ended_is_not_resumed(ended):
    machine = opened()
    machine.lost(Ended(**ended), 0.0)
    assert machine.phase is Phase.OVER


def test_a_program_that_takes_no_events_is_not_resumed():
    machine = opened()
    for number in range(1, CAPACITY + 1):
        machine.heard(SpeechStart(utterance=number, at_s=0.0, event_seq=number))
    machine.lost(Ended(), 0.0)
    assert machine.phase is Phase.OVER


# ---------------------------------------------------------------- tries


def test_tries_come_later_and_later_until_their_time_is_over():
    machine = opened()
    now = 100.0
    machine.lost(Ended(), now)
    pauses = []
    while machine.phase is Phase.AWAY:
        pauses.append(machine.due_s(now))
        now += pauses[-1]
        machine.failed(NoDaemonError("nobody"), now)
    assert pauses[0] == 0.0
    assert pauses == sorted(pauses)
    assert RESUME_S / 2 < sum(pauses) <= RESUME_S
    assert isinstance(machine.error, ConnectionLostError)
    assert isinstance(machine.error.__cause__, NoDaemonError)


def test_two_clients_do_not_try_at_the_same_moment_and_neither_before_the_daemon_asked_for_it():
    dues = []
    for chance in (0.0, 0.9):
        machine = Resuming(Start(), reconnect_s=0.0, chance=lambda chance=chance: chance)
        machine.answered(Started(session="s1", resume_token="t"), 0.0)
        machine.lost(Ended(), 0.0)
        machine.failed(OverloadedError("busy", data={"retry_after_s": 3.0}), 0.0)
        dues.append(machine.due_s(0.0))
    assert dues[0] >= 3.0
    assert dues[1] > dues[0]


def test_who_takes_a_client_in_and_throws_it_out_at_once_is_not_asked_for_ever():
    machine = opened()
    now, rounds = 0.0, 0
    machine.lost(Ended(), now)
    while machine.phase is Phase.AWAY:
        now += machine.due_s(now)
        machine.answered(resumed(), now)
        machine.lost(Ended(), now)
        rounds += 1
    assert now <= RESUME_S
    assert 3 < rounds < 30


def test_a_connection_that_brings_something_or_lasts_begins_a_new_count():
    for news in (True, False):
        machine = opened()
        now = 0.0
        for number in range(1, 100):
            machine.lost(Ended(), now)
            assert machine.due_s(now) == 0.0
            machine.answered(resumed(), now)
            if news:
                machine.heard(Warn(code="lagging", message="late", event_seq=number))
            else:
                now += 60.0  # as long as a proxy leaves a silent connection alone
        assert machine.phase is Phase.OPEN


def test_a_token_that_is_gone_ends_the_session_with_what_it_lost():
    machine = opened()
    machine.lost(Ended(), 0.0)
    machine.failed(NotFoundError("no such session"), 0.0)
    assert machine.phase is Phase.OVER
    assert isinstance(machine.error, ConnectionLostError)


def test_a_token_that_is_gone_begins_a_new_session_where_that_was_asked_for():
    machine = opened(reconnect_s=60.0)
    machine.audio(bytes(3200))
    machine.say(Configure(prompt="names"))
    machine.say(Finalize())
    for _ in range(3):
        machine.take()
    machine.lost(Ended(), 0.0)
    machine.audio(bytes(640))
    machine.say(Stop())
    machine.failed(NotFoundError("no such session"), 0.0)
    assert (machine.phase, machine.due_s(0.0)) == (Phase.AWAY, 0.0)
    assert machine.greeting() == Start(resumable=True)
    machine.answered(Started(session="s2", resume_token="u"), 1.0)
    assert machine.inbox.take_all() == [Reconnected(session="s2", lost_bytes=0, again_bytes=3840)]
    said = [Configure(prompt="names"), bytes(3200), Finalize(), bytes(640), Stop(), None]
    assert [machine.take() for _ in range(6)] == said
    machine.heard(Final(utterance=1, text="", start_s=0.0, end_s=0.0, reason="finalize", event_seq=1))  # counts anew
    assert len(machine.inbox) == 1


def test_of_what_is_said_to_nobody_the_newest_is_kept_and_the_rest_counted():
    machine = opened(token=None, reconnect_s=60.0)
    machine.lost(Ended(), 0.0)
    for _ in range(3):
        machine.audio(bytes(KEPT_BYTES))
    assert machine.has_room
    machine.answered(Started(session="s2"), 1.0)
    assert machine.inbox.get() == Reconnected(session="s2", lost_bytes=2 * KEPT_BYTES, again_bytes=KEPT_BYTES)
    assert machine.take() == bytes(KEPT_BYTES)


def test_without_another_session_nothing_is_kept_for_one():
    machine = opened(reconnect_s=0.0)
    machine.audio(bytes(640))
    machine.take()
    machine.heard(Ack(position_s=1.0, ops=0))
    assert not machine._owed._kept


def test_what_configure_changed_is_said_to_a_new_session_too():
    machine = opened(reconnect_s=60.0)
    machine.say(Configure(prompt="names", languages=("de", "en")))
    machine.say(Configure(lang="fr", interim=False))
    machine.say(Configure(prompt="places"))
    for _ in range(3):
        machine.take()
    machine.heard(Ack(position_s=0.0, ops=3))  # which is all that a session that is resumed needs
    machine.lost(Ended(), 0.0)
    machine.failed(NotFoundError("no such session"), 0.0)
    machine.answered(Started(session="s2", resume_token="u"), 1.0)
    assert machine.take() == Configure(prompt="places", lang="fr", interim=False)
    assert machine.take() is None


@pytest.mark.parametrize("broke_off", [True, False])
def test_who_has_said_stop_still_gets_what_is_owed_unless_the_daemon_ended_in_good_order(broke_off):
    machine = opened(reconnect_s=60.0)
    machine.audio(b"abcd")
    machine.say(Stop())
    for _ in range(2):
        machine.take()
    machine.lost(Ended(broke_off=broke_off), 0.0)
    if not broke_off:
        assert machine.phase is Phase.OVER
        return
    machine.failed(NotFoundError("no such session"), 0.0)
    machine.answered(Started(session="s2", resume_token="u"), 1.0)
    assert [machine.take() for _ in range(3)] == [b"abcd", Stop(), None]


# ---------------------------------------------------------------- older daemons


def refusal(field):
    return Failure(code="bad_option", message=f"unknown option `{field}`", data=FailureData(field=field))


def test_a_daemon_that_does_not_know_the_option_is_asked_without_it():
    machine = Resuming(Start(lang="en"), reconnect_s=0.0, chance=lambda: 0.0)
    assert machine.greeting() == Start(lang="en", resumable=True)
    assert machine.answered(refusal("resumable"), 0.0) == Start(lang="en")
    assert machine.answered(Started(session="s1"), 0.0) is None
    assert machine.phase is Phase.OPEN
    assert not machine.keeps


def test_a_program_that_insists_is_told_and_so_is_one_with_another_option_that_is_wrong():
    machine = Resuming(Start(resumable=True), reconnect_s=0.0, chance=lambda: 0.0)
    with pytest.raises(ProtocolError, match="resumable"):
        machine.answered(refusal("resumable"), 0.0)
    machine = Resuming(Start(), reconnect_s=0.0, chance=lambda: 0.0)
    with pytest.raises(ProtocolError, match="lang"):
        machine.answered(refusal("lang"), 0.0)


@pytest.mark.parametrize("start", [Start(resumable=False), Start(encoding="container")])
def test_what_is_not_to_be_resumed_or_cannot_be_is_not_asked_for(start):
    assert Resuming(start, reconnect_s=0.0, chance=lambda: 0.0).greeting() == start


def test_another_answer_than_that_to_a_start_is_none():
    machine = opened()
    machine.lost(Ended(), 0.0)
    with pytest.raises(ConnectionLostError, match="started"):
        machine.answered(Started(session="s1"), 0.0)
    assert machine.phase is Phase.AWAY
