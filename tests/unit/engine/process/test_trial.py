"""What of a call is decoded again after its process has died."""

from hypothesis import given
from hypothesis import strategies as st

from sttd.engine.process.trial import FIRST_SHARE, Fate, Trial


def run(trial, *, deadly=(), always_with_others=False, strangers=()):
    """Try until there is nothing to do: items in `deadly` kill the process; so do strangers, at those tries.

    Returns how often it died.
    """
    tries = deaths = 0
    while (tried := trial.next_try()) is not None:
        assert tries < 100, "it does not end"
        if deadly & set(tried.items) or tries in strangers:
            deaths += 1
            one = len(tried.items) == 1 and (tried.alone or not always_with_others)
            trial.died(tried, Fate.ALONE if one else Fate.TOGETHER)
        else:
            trial.answered(tried.items)
        tries += 1
    return deaths


@given(st.integers(1, 8), st.sets(st.integers(0, 7)), st.booleans())
def test_what_kills_the_process_fails_and_what_was_beside_it_does_not(count, deadly, others):
    deadly = {index for index in deadly if index < count}
    trial = Trial(count)
    deaths = run(trial, deadly=deadly, always_with_others=others)
    assert trial.failed == deadly
    assert deaths <= 2 * len(deadly) + bool(deadly), "it costs no more processes than that"


@given(st.integers(1, 8), st.integers(0, 7))
def test_a_stranger_s_kill_costs_nobody_his_words(count, at):
    trial = Trial(count)
    assert run(trial, deadly=set(), always_with_others=True, strangers={at}) <= 1
    assert not trial.failed


def test_what_was_told_before_the_death_is_not_decoded_again():
    trial = Trial(3)
    tried = trial.next_try()
    trial.answered([1])
    trial.died(tried, Fate.TOGETHER)
    assert trial.next_try().items == (0,)
    trial.answered([0])
    assert trial.next_try().items == (2,)


def test_who_stood_beside_a_hang_is_decoded_as_before():
    trial = Trial(2)
    trial.died(trial.next_try(), Fate.BYSTANDER)
    tried = trial.next_try()
    assert (tried.items, tried.alone) == ((0, 1), False)


def test_a_hang_is_tried_once_more_alone_and_then_no_more():
    trial = Trial(1)
    first = trial.next_try()
    trial.died(first, Fate.HUNG)
    second = trial.next_try()
    assert (first.share, second.share, second.alone) == (FIRST_SHARE, 1.0, True)
    trial.died(second, Fate.HUNG)
    assert trial.next_try() is None
    assert trial.failed == {0}


@given(st.integers(1, 8), st.sets(st.integers(0, 7)))
def test_of_those_that_hang_each_leaves_time_to_the_others(count, hanging):
    trial, left = Trial(count), 1.0
    while (tried := trial.next_try()) is not None:
        if hanging & set(tried.items):
            left -= left * tried.share
            trial.died(tried, Fate.HUNG)
        else:
            assert left * tried.share >= (1 - FIRST_SHARE) / (count + 1)
            trial.answered(tried.items)
    assert trial.failed == {index for index in hanging if index < count}
