"""When interims are due."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.cadence import Cadence


def simulate(*, decode_s, load=0.0, until_s=30.0, step_s=0.02, **options):
    """The times at which interims of a real-time speaker are submitted, each decoded in `decode_s`."""
    cadence = Cadence(**options)
    times = []
    done_at = None
    for step in range(int(until_s / step_s)):
        now = step * step_s
        if done_at is not None and now >= done_at:
            cadence.completed(seconds=decode_s, now=now)
            done_at = None
        if cadence.due(audio_s=now, now=now, load=load):
            cadence.submitted(audio_s=now, now=now)
            times.append(now)
            done_at = now + decode_s
    return times


def longest_gap(times):
    return max(later - earlier for earlier, later in itertools.pairwise(times))


def test_one_every_350_ms_of_audio():
    times = simulate(decode_s=0.05)
    assert times[0] == 0.36
    assert longest_gap(times) <= 0.381


def test_no_new_audio_no_interim():
    cadence = Cadence()
    cadence.submitted(audio_s=1.0, now=0)
    cadence.completed(seconds=0.01, now=0.01)
    assert not cadence.due(audio_s=1.34, now=100)
    assert cadence.due(audio_s=1.35, now=100)


def test_the_rest_is_due_once_when_no_more_has_come_for_as_long():
    cadence = Cadence()
    assert cadence.due(audio_s=1.0, now=1.0)
    cadence.submitted(audio_s=1.0, now=1.0)
    cadence.completed(seconds=0.01, now=1.01)
    assert not cadence.due(audio_s=1.0, now=9.0), "all of it was submitted"
    assert not cadence.due(audio_s=1.02, now=10.0)
    assert not cadence.due(audio_s=1.02, now=10.34)
    assert not cadence.due(audio_s=1.04, now=10.36), "more has come"
    assert cadence.due(audio_s=1.04, now=10.72)
    cadence.submitted(audio_s=1.03, now=10.72)  # the last frame is not in it yet
    cadence.completed(seconds=0.01, now=10.73)
    assert not cadence.due(audio_s=1.04, now=100.0)


def test_not_while_one_is_decoded_but_in_place_of_one_that_waits():
    cadence = Cadence()
    cadence.submitted(audio_s=0.4, now=0.4)
    assert not cadence.due(audio_s=2.0, now=2.0)
    assert cadence.due(audio_s=2.0, now=2.0, waiting=True)
    cadence.completed(seconds=None, now=2.0)
    assert cadence.due(audio_s=2.0, now=2.0)


def test_slow_decodes_take_half_of_the_time():
    times = simulate(decode_s=0.8)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert 1.59 <= sum(gaps) / len(gaps) <= 1.63


@pytest.mark.parametrize(("decode_s", "gap_s"), [(0.1, 0.36), (0.2, 0.67), (0.3, 0.8), (0.4, 0.8), (0.5, 1.0)])
def test_quick_decodes_take_three_tenths_of_it_while_text_comes_often(decode_s, gap_s):
    times = simulate(decode_s=decode_s)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gap_s <= sum(gaps) / len(gaps) + 0.001 <= gap_s + 0.03


def test_interims_yield_to_load():
    by_load = [len(simulate(decode_s=0.05, load=load)) for load in (0.0, 0.5, 0.75, 1.0)]
    assert by_load[0] == by_load[1] > by_load[2] > by_load[3]
    assert longest_gap(simulate(decode_s=0.05, load=1.0)) >= 0.35 * 7


def test_decode_times_are_averaged():
    cadence = Cadence()
    for seconds in (1.0, 0.0):
        cadence.submitted(audio_s=0.0, now=0.0)
        cadence.completed(seconds=seconds, now=0.0)
    cadence.submitted(audio_s=0.0, now=0.0)
    cadence.completed(seconds=None, now=0.0)
    assert not cadence.due(audio_s=9, now=1.39)
    assert cadence.due(audio_s=9, now=1.41)


@given(st.floats(0, 2.5), st.floats(0, 5), st.integers(100, 1000))
def test_live_text_never_stands_still_for_longer_than_the_bound(decode_s, load, interim_min_ms):
    times = simulate(decode_s=decode_s, load=load, interim_min_ms=interim_min_ms, max_ms=3000.0, step_s=0.1)
    assert longest_gap(times) <= 3.0 + 0.11


@given(st.floats(0, 60), st.floats(0, 60), st.floats(0, 1))
def test_more_audio_never_makes_one_less_due(audio_s, more_s, load):
    cadence = Cadence()
    if cadence.due(audio_s=audio_s, now=0.0, load=load):
        assert cadence.due(audio_s=audio_s + more_s, now=0.0, load=load)
