"""The simulated fleet: queues whose answer is known by formula, and what holds for all of them."""

import math
from xml.etree import ElementTree

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import fleet, fleet_picture, fleet_times
from benchmarks.fleet_model import AGAIN_S, LOOK_S, Scenario, simulate
from benchmarks.fleet_times import Measured, Spoken, Straight
from sttd.core.types import Effort

TALKS = (
    Spoken(speech_s=2.0, wait_s=0.6, guesses=((2.2, None),), covered=True),
    Spoken(speech_s=4.0, lead_s=0.4, wait_s=0.5, guesses=((1.5, 1.7), (4.2, None)), covered=True),
    Spoken(speech_s=7.0, wait_s=0.7, guesses=((3.0, 3.4),)),
)


def as_long_as_the_audio(effort, audio_s):
    return sum(audio_s)


def exponential(mean_s):
    """Utterances that are over at once, and whose decodes are as long as those of an exponential distribution."""
    return [Spoken(speech_s=0.0, lead_s=-mean_s * math.log(1 - (number + 0.5) / 2000)) for number in range(2000)]


def queue(utterances, *, servers, per_s):
    """Requests come at random, so many a second; one at a time is served by each server, and there is one queue."""
    return Scenario(
        utterances=utterances,
        times=as_long_as_the_audio,
        speakers=50,
        gap_s=50 / per_s,
        live=0.0,
        replicas=servers,
        in_flight=servers,
        choices=servers,
        max_batch=1,
        rtt_s=0.0,
        link_bytes_per_s=math.inf,
        duration_s=6000 / per_s,
        warmup_s=200 / per_s,
    )


def erlang_c(servers, offered):
    """The share of requests that wait, of a queue with that many servers."""
    last = offered**servers / math.factorial(servers) * servers / (servers - offered)
    return last / (sum(offered**each / math.factorial(each) for each in range(servers)) + last)


@pytest.mark.parametrize(("servers", "busy"), [(1, 0.5), (2, 0.6), (4, 0.6)])
def test_waits_of_exponential_decodes_are_those_of_erlang(servers, busy):
    seeds = range(3)
    asked = queue(exponential(1.0), servers=servers, per_s=busy * servers)
    outcomes = [simulate(attrs.evolve(asked, seed=seed)) for seed in seeds]
    expected_s = erlang_c(servers, busy * servers) / (servers * (1 - busy))
    assert np.mean([np.mean(each.waits_s) for each in outcomes]) == pytest.approx(expected_s, rel=0.15)
    assert np.mean([each.utilisation for each in outcomes]) == pytest.approx(busy, rel=0.05)


def test_waits_of_equal_decodes_are_half_of_those_of_exponential_ones():
    asked = queue([Spoken(speech_s=0.0, lead_s=1.0)], servers=1, per_s=0.6)
    waits = [np.mean(simulate(attrs.evolve(asked, seed=seed)).waits_s) for seed in range(3)]
    assert np.mean(waits) == pytest.approx(0.6 / (2 * (1 - 0.6)), rel=0.15)


def usual(**changes):
    """A few speakers on a fleet that has time for them."""
    asked = Scenario(
        utterances=TALKS, times=Straight(call_s=0.1, item_s=0.05), speakers=8, replicas=4, duration_s=40.0, warmup_s=0.0
    )
    return attrs.evolve(asked, **changes)


def test_the_same_seed_has_the_same_outcome_and_another_seed_another_one():
    assert simulate(usual()) == simulate(usual())
    assert simulate(usual()) != simulate(usual(seed=1))


@settings(max_examples=40, deadline=None)
@given(
    speakers=st.integers(1, 12), edges=st.integers(1, 3), in_flight=st.integers(1, 8), replicas=st.integers(0, 3),
    window_s=st.sampled_from([0.0, 0.05, 0.5]), max_batch=st.integers(1, 8), priority=st.booleans(),
    live=st.sampled_from([0.0, 0.5, 1.0]), call_s=st.floats(0.0, 2.0), seed=st.integers(0, 9),
    killed=st.one_of(st.none(), st.tuples(st.integers(1, 3), st.floats(0, 15), st.floats(0.1, 10))),
    in_turn=st.booleans(),
)  # fmt: skip
def test_every_utterance_is_finished_once_and_not_before_its_endpoint(call_s, **changes):
    outcome = simulate(usual(times=Straight(call_s=call_s, item_s=0.01), duration_s=15.0, **changes))
    assert outcome.begun == outcome.finished == len(outcome.finals_s), "no more than one each is asserted where it ends"
    assert all(late_s >= 0.5 - 1e-9 for late_s in outcome.finals_s), "the shortest wait for an endpoint"
    assert 0 <= outcome.utilisation <= 1 + 1e-9
    assert outcome.ended_s < 15 + 600, "it ends"


def test_a_decode_that_fits_into_the_pause_costs_nobody_any_time():
    quick = usual(utterances=TALKS[:1], times=Straight(call_s=0.1, item_s=0.0), replicas=0, speakers=1, live=0.0)
    assert {round(each, 6) for each in simulate(quick).finals_s} == {0.6}
    slow = attrs.evolve(quick, times=Straight(call_s=1.0, item_s=0.0))
    assert {round(each, 6) for each in simulate(slow).finals_s} == {1.2}, "from the guess on, 0.2 s behind the speech"


def test_a_batch_waits_for_company_for_as_long_as_its_window_and_no_longer_than_until_it_is_full():
    alone = usual(utterances=TALKS[2:], speakers=1, live=0.0, rtt_s=0.0, link_bytes_per_s=math.inf)
    late_s = {round(each, 6) for each in simulate(attrs.evolve(alone, window_s=0.3)).finals_s}
    assert late_s == {0.7 + 0.3 + 0.15}
    full = attrs.evolve(alone, window_s=5.0, max_batch=1)
    assert {round(each, 6) for each in simulate(full).finals_s} == {0.7 + 0.15}


def test_live_text_takes_what_finals_leave():
    none, all_ = (simulate(usual(speakers=60, live=live, replicas=2, edges=2)) for live in (0.0, 1.0))
    assert none.interims == 0
    assert all_.interims > 0
    assert all_.utilisation > none.utilisation
    call_s = 0.1 + 8 * 0.05
    assert all_.final_s(0.5) < none.final_s(0.5) + call_s, "a call that has begun, and no queue"


def test_interims_come_no_more_often_than_somebody_reads():
    outcome = simulate(usual(speakers=1, times=Straight(call_s=0.01, item_s=0.0)))
    assert 1 / 0.5 < outcome.interims / outcome.speech_s <= 1 / 0.35, f"looked for every {LOOK_S} s"


def test_whoever_waited_for_a_replica_that_is_killed_has_his_final_from_another():
    slow = usual(utterances=TALKS[2:], times=Straight(call_s=0.5, item_s=0.0), live=0.0, max_batch=1, speakers=50)
    killed = simulate(attrs.evolve(slow, killed=(2, 15.0, 10.0)))
    assert killed.again > 0
    assert killed.begun == killed.finished
    gone = simulate(attrs.evolve(slow, killed=(4, 15.0, 3.0)))
    assert gone.final_s(1.0) > 1.0 + AGAIN_S, "all were away, and nobody was lost"
    assert gone.begun == gone.finished


def test_times_between_what_was_measured_lie_on_a_straight_line():
    times = Measured(calls={"full": {2.0: {1: 0.2, 8: 0.9}, 10.0: {1: 1.0, 8: 4.5}}, "quick": {2.0: {1: 0.1}}})
    assert times(Effort.FULL, [2.0]) == pytest.approx(0.2)
    assert times(Effort.FULL, [6.0]) == pytest.approx(0.6)
    assert times(Effort.FULL, [2.0] * 8) == pytest.approx(0.9)
    assert times(Effort.FULL, [2.0, 10.0]) == pytest.approx((0.3 + 1.5) / 2)
    assert times(Effort.QUICK, [30.0]) == pytest.approx(0.1)
    assert attrs.evolve(times, factor=2.0)(Effort.FULL, [2.0]) == pytest.approx(0.1)


def test_what_was_measured_can_be_read_and_is_of_use():
    facts = fleet_times.read()
    assert len(facts.utterances) > 30
    for times in facts.models.values():
        assert times(Effort.FULL, [2.0]) > 0
        assert times(Effort.FULL, [5.0] * 8) > times(Effort.FULL, [5.0]) > times(Effort.QUICK, [5.0])


def test_the_most_speakers_are_those_of_whom_nearly_all_finals_are_in_time():
    asked = usual(utterances=TALKS[2:], times=Straight(call_s=0.0, item_s=0.5), live=0.0, replicas=1)
    asked = attrs.evolve(asked, promise_s=3.0, duration_s=200.0, warmup_s=20.0)
    most = fleet.most_speakers(asked)
    per_s = 1 / (7.0 + asked.mean_gap_s) * 2  # a guess and a final each
    assert 0.3 < most * per_s * 0.5 < 1.0, "as many as one replica has time for, less what queues"


def test_an_edge_carries_what_the_first_of_its_means_allows():
    facts = fleet_times.read()
    one = fleet.edge(facts, {"kbit_per_speaker": 200.0, "under_way": 0.01})
    assert fleet.ranked(one)[0] == ("cpu", one.speakers)
    slow = fleet.edge(facts, {"kbit_per_speaker": 200.0, "under_way": 1.0})
    assert fleet.ranked(slow)[0] == ("in_flight", 12)
    loud = fleet.edge(facts, {"kbit_per_speaker": 100_000.0, "under_way": 0.01})
    assert fleet.ranked(loud)[0][0] == "link"
    assert fleet.live_edge(facts, usual()) < one.cpu


def test_tables_of_a_page_are_renewed_in_their_places(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("before\n\n<!-- one -->\nold\n<!-- end of one -->\n\nafter\n")
    for _ in range(2):
        fleet.document(page, {"one": [{"a": 1, "b": "x"}]})
        assert page.read_text() == (
            "before\n\n<!-- one -->\n\n| a | b |\n| --- | --- |\n| 1 | x |\n\n<!-- end of one -->\n\nafter\n"
        )
    with pytest.raises(ValueError, match="two"):
        fleet.document(page, {"two": [{"a": 1}]})


def test_the_picture_is_one():
    rows = [
        {"hardware": kind, "sweep": sweep, "setting": setting, "final_p99_ms": 900.0}
        for kind in ("a <b>", "c")
        for sweep in ("load", "window_ms", "live", "live, no priority")
        for setting in ("0.5", "1.0")
    ]
    root = ElementTree.fromstring(fleet_picture.picture(rows, promise_ms=1500.0))
    assert len(root.findall(".//{http://www.w3.org/2000/svg}polyline")) == 8
