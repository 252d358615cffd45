"""Several sources of sound on one clock."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sttd_client.channel_clock import GAP_S, SILENCE_S, ChannelClock, Epoch

RATE = 32_000  # bytes a second


def clock(epoch=None, *, is_filled=True):
    return ChannelClock(epoch=epoch or Epoch(), bytes_per_s=RATE, is_filled=is_filled)


def test_zero_is_the_first_sound_of_any_channel_and_older_than_its_reading():
    epoch = Epoch()
    mine, machine = clock(epoch), clock(epoch)
    assert not mine.has_begun
    mine.said(3200, 100.1)  # a tenth of a second
    machine.said(3200, 101.6)
    assert (mine.on_epoch(0.0), machine.on_epoch(0.0)) == (0.0, 1.5)
    assert machine.on_epoch(2.25) == 3.75


def test_a_channel_that_was_read_later_but_began_earlier_begins_at_zero():
    epoch = Epoch()
    first, second = clock(epoch), clock(epoch)
    first.said(320, 10.0)
    second.said(32_000, 10.1)
    assert second.on_epoch(0.0) == 0.0
    assert second.on_epoch(1.0) == pytest.approx(0.11, abs=0.001)


def test_what_never_came_is_said_as_silence():
    one = clock()
    one.said(RATE, 1.0)
    assert one.silence(1.0 + GAP_S / 2) == 0
    assert one.silence(1.0 + GAP_S) == GAP_S * RATE
    assert one.silence(1.0 + GAP_S) == 0


def test_sound_that_is_late_after_all_is_owed_less_silence_next_time():
    one = clock()
    one.said(RATE, 1.0)
    assert one.silence(3.0) == 2 * RATE
    one.said(2 * RATE, 3.1)  # it had been stuck
    assert one.silence(5.0) == 0
    assert one.silence(6.5) == 1.5 * RATE


def test_nothing_is_added_before_the_first_sound_and_to_a_recording():
    assert clock().silence(1000.0) == 0
    played = clock(is_filled=False)
    played.said(RATE, 1.0)
    assert played.silence(1000.0) == 0


def test_a_long_gap_moves_what_comes_after_it():
    one = clock()
    one.said(RATE, 1.0)
    assert one.silence(3601.0) == SILENCE_S * RATE
    assert one.on_epoch(0.5) == 0.5
    assert one.on_epoch(1.0 + SILENCE_S + 2.0) == 3603.0


@given(st.lists(st.tuples(st.floats(0.01, 20), st.floats(0, 1)), min_size=1, max_size=40))
def test_whatever_comes_when_the_clock_is_never_far_behind_and_never_goes_back(steps):
    """Time passes, and of it some part arrives as sound, late or not; looked at as often as `listen` does."""
    one, now, places = clock(), 0.0, [0.0]
    one.said(2, now)
    for passed_s, share in steps:
        now += passed_s
        count = round(passed_s * share * RATE) // 2 * 2
        if count:
            one.said(count, now)
        one.silence(now)
        places.append(one.on_epoch(one.position_s))
        assert places[-1] >= places[-2]
        assert places[-1] >= now - GAP_S - 0.01


def test_what_a_new_session_is_told_again_lies_where_it_was_said():
    one = clock()
    one.said(RATE, 1.0)
    one.said(RATE, 2.0)
    one.begin_anew(RATE // 2)
    assert one.on_epoch(0.25) == 1.75
    one.said(RATE, 3.0)
    assert one.on_epoch(0.5 + 0.25) == 2.25


def test_what_a_new_session_says_lies_behind_all_that_was_said_to_the_one_before():
    one = clock()
    one.said(RATE, 1.0)
    one.said(RATE, 2.0)
    assert one.on_epoch(0.5) == 0.5
    one.begin_anew(0)
    assert one.on_epoch(0.5) == 2.5
    assert one.silence(60.0) == SILENCE_S * RATE  # a gap behind it moves what is behind the gap
    assert one.on_epoch(1.0) == 3.0
    assert one.on_epoch(SILENCE_S + 1.0) == 61.0
