"""Fading accounts, learned costs, percentiles."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.accounting import CallCost, CostBook, Frequency, LatencyWindow, Ledger


def test_an_account_fades_and_never_falls_below_zero():
    ledger = Ledger(10.0)
    ledger.charge("a", 2.0, now=0)
    assert ledger.value("a", now=0) == 2.0
    assert ledger.value("a", now=10) == pytest.approx(2 / 2.71828, rel=1e-4)
    ledger.charge("a", -5.0, now=10)
    assert ledger.value("a", now=10) == 0.0
    assert ledger.value("b", now=10) == 0.0


def test_a_steady_use_settles_at_the_use_times_the_fading_time():
    ledger = Ledger(10.0)
    for step in range(2000):
        ledger.charge("a", 0.05, now=step * 0.1)
    assert ledger.value("a", now=200) == pytest.approx(0.5 * 10, rel=0.02)


def test_faded_accounts_are_swept_out():
    ledger = Ledger(1.0)
    for number in range(1024):
        ledger.charge(number, 1.0, now=0)
    ledger.charge("late", 1.0, now=100)
    ledger.charge("later", 1.0, now=100)
    assert len(ledger._accounts) == 2
    assert ledger.value("late", now=100) == 1.0


@given(st.floats(2, 500), st.integers(1, 5))
def test_how_often_a_steady_thing_happens(a_second, times):
    frequency = Frequency()
    for count in range(round(10 * a_second)):
        often = frequency.happened(times=times, now=count / a_second)
    assert often == pytest.approx(times * a_second, rel=0.01, abs=times)
    assert frequency.happened(now=12.0 + 1 / a_second) == 1


def test_the_cost_of_a_batch_is_learned():
    cost = CallCost(1.0)
    assert cost.estimate(1) == pytest.approx(1.0)
    assert cost.estimate(2) == pytest.approx(1.8)
    cost.observe(1, 0.1)
    assert cost.estimate(1) == pytest.approx(0.1)
    assert cost.estimate(8) == pytest.approx(0.1 * (0.2 + 0.8 * 8))
    for _ in range(3):
        cost.observe(1, 0.1)
        cost.observe(4, 0.13)
    assert cost.estimate(8) == pytest.approx(0.17, rel=0.15)


def test_a_cost_follows_a_change():
    cost = CallCost(1.0)
    for _ in range(20):
        cost.observe(1, 0.1)
    for _ in range(20):
        cost.observe(1, 0.5)
    assert cost.estimate(1) == pytest.approx(0.5, rel=0.15)


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0, 100)), max_size=30), st.integers(1, 63))
def test_estimates_are_never_negative_and_grow_with_the_items(calls, items):
    cost = CallCost(1.0)
    for size, seconds in calls:
        cost.observe(size, seconds)
    fewer, more = cost.estimate(items), cost.estimate(items + 1)
    assert -1e-9 <= fewer <= more + 1e-9


def test_a_new_kind_is_judged_by_its_family():
    book = CostBook(1.0)
    book.observe("german", family="final", items=1, seconds=0.2)
    assert book.cost("french", family="final").estimate(1) == pytest.approx(0.2)
    assert book.cost("french", family="file").estimate(1) == pytest.approx(1.0)
    book.observe("french", family="final", items=1, seconds=0.4)
    assert book.cost("french", family="final").estimate(1) == pytest.approx(0.4)


def test_a_cap_holds_for_a_while():
    book = CostBook(1.0)
    assert book.cap("final", now=0) > 1000
    book.note_room("final", 5)
    assert book.cap("final", now=0) == 5
    book.shrink("final", items=2, until=10)
    assert book.cap("final", now=9.9) == 2
    book.note_room("final", 1)
    assert book.cap("final", now=9.9) == 1
    book.note_room("final", 5)
    assert book.cap("final", now=10) == 5


def test_kinds_not_used_for_long_are_forgotten():
    book = CostBook(1.0)
    book.observe("old", family="f", items=1, seconds=0.1)
    book.shrink("old", items=1, until=10)
    book.note_room("old", 1)
    for number in range(512):
        book.cost(number, family="f")
    assert book.cap("old", now=0) > 1000
    assert len(book._costs) == 512


def test_percentiles_are_of_the_last_minutes():
    window = LatencyWindow(300.0)
    assert window.percentiles((0.5, 0.95), now=0) == [None, None]
    for number in range(1, 101):
        window.add(number, now=number)
    assert window.percentiles((0.5, 0.95, 0.0, 1.0), now=100) == [50, 95, 1, 100]
    assert window.percentiles((0.5,), now=390) == [95]
    assert window.percentiles((0.5,), now=1000) == [None]


def test_the_window_is_bounded_and_still_stands_for_all_of_its_span():
    window = LatencyWindow(300.0, limit=64)
    for number in range(10_000):
        window.add(number, now=number / 100)
    assert len(window._samples) <= 64
    low, middle, high = window.percentiles((0.05, 0.5, 0.95), now=100)
    assert [low, middle, high] == pytest.approx([500, 5000, 9500], abs=400)


def test_a_window_that_got_quiet_keeps_every_sample_again():
    window = LatencyWindow(10.0, limit=16)
    for number in range(1000):
        window.add(number, now=0)
    for number in range(1000):
        window.add(number, now=100 + number)
    assert window.percentiles((0.0, 1.0), now=1099) == [pytest.approx(989, abs=2), 999]
