"""A user's bytes are paid for by time, whatever he sends."""

from hypothesis import given
from hypothesis import strategies as st

from sttd.host.pace import BURST_S, Paces

RATE = 1000.0


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


def test_a_second_is_free_and_more_is_paid_for():
    paces = Paces(RATE, clock=Clock())
    assert paces.owed_s(1000, uid=1) == 0
    assert paces.owed_s(500, uid=1) == 0.5
    assert paces.owed_s(500, uid=1) == 1.0
    assert paces.owed_s(1000, uid=2) == 0  # another one owes nothing of that


def test_no_bound_is_none_and_a_reload_changes_it():
    paces = Paces(0, clock=Clock())
    assert paces.owed_s(10**9, uid=1) == 0
    paces.bytes_per_s = RATE
    assert paces.owed_s(2000, uid=1) == 1.0


def test_what_was_sent_in_the_last_second_is_known_by_user():
    clock = Clock()
    paces = Paces(RATE, clock=clock)
    paces.owed_s(10, uid=1)
    paces.owed_s(20, uid=2)
    assert paces.lately() == {}
    clock.now += 1
    assert paces.lately() == {1: 10, 2: 20}
    clock.now += 1
    assert paces.lately() == {}


def test_users_who_owe_nothing_are_forgotten():
    clock = Clock()
    paces = Paces(RATE, clock=clock)
    for uid in range(5000):
        clock.now += 1
        paces.owed_s(1, uid=uid)
    assert len(paces._paid_at) < 1100


@given(st.lists(st.tuples(st.integers(0, 3000), st.floats(0, 3)), max_size=30))
def test_who_waits_as_long_as_he_is_told_never_sends_faster(reads):
    clock = Clock()
    paces, begun, sent = Paces(RATE, clock=clock), clock.now, 0
    for count, pause_s in reads:
        clock.now += pause_s
        owed_s = paces.owed_s(count, uid=1)
        sent += count
        assert 0 <= owed_s <= max(0.0, count / RATE - BURST_S) + BURST_S + count / RATE
        clock.now += owed_s
        assert sent <= RATE * (clock.now - begun + BURST_S) + 1
