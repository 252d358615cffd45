"""The arithmetic of the benchmarks: what they count must be right before what they say can be."""

from __future__ import annotations

import pytest

from benchmarks import load, peers, stability
from benchmarks.recordings import english
from benchmarks.words import Errors, align, errors, word_errors, words


@pytest.mark.parametrize("size", [0, 5, 125, 126, 65_535, 65_536])
def test_a_frame_can_be_measured_from_its_head(size):
    data = load.frame(bytes(size))
    unmasked = bytes([data[0], data[1] & 127]) + data[2:]
    length, start = load._frame_size(unmasked)
    assert (length, len(data)) == (size, start + 4 + size)  # four bytes of mask


def test_percentiles():
    assert load.percentile([], 0.5) is None
    assert load.percentile([3.0, 1.0, 2.0], 0.5) == 2.0
    assert load.percentile([float(number) for number in range(100)], 0.95) == 95.0


def test_latency_counts_from_the_last_utterance_in_a_final():
    truth = [{"start_s": 1.0, "end_s": 2.0, "text": "a"}, {"start_s": 2.3, "end_s": 3.0, "text": "b"}]
    talk = load.Talk()
    talk.heard.append(load.Heard(1.4, {"type": "interim", "utterance": 1}))
    talk.heard.append(load.Heard(3.5, {"type": "final", "utterance": 1, "start_s": 0.9, "end_s": 3.0}))
    latencies, cuts, first = load.final_latencies_s(talk, truth)
    assert latencies == [0.5]
    assert cuts == 0
    assert first == [pytest.approx(0.4)]


def test_alignment_tells_replaced_from_lost():
    assert align(["a", "b", "c"], ["a", "x", "c"]) == [0, 1, 2]
    assert align(["a", "b", "c"], ["a", "c"]) == [0, None, 1]
    assert align(["a"], []) == [None]


def test_word_errors():
    found = errors("Turn on the light.", "turn of the big")
    assert found == Errors(said=4, lost=0, replaced=2, added=0)
    assert found.rate_pct == 50.0
    assert found + errors("a b", "") == Errors(said=6, lost=2, replaced=2, added=0)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("It's Mr. Hale's, um, cold-hearted shop.", "it\u2019s mister hale's cold hearted shop"),
        ("in eighteen thirteen", "In 1813."),
        ("Two hundred and five thousand and six", "205,006"),
        ("one, two, three", "1 2 3"),
        ("1 2 3", "123"),
        ("twenty twenty-one", "2021"),
        ("two thousand twenty one", "2021"),
        ("five million", "5 million"),
        ("two point five percent", "2.5%"),
        ("three to two", "3:2"),
        ("nine thirty", "9:30"),
        ("on the first", "On the 1st"),
        ("OK, alright", "okay all right"),
    ],
)
def test_two_ways_to_write_the_same_are_no_error(one, other):
    assert words(one) == words(other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("it is", "it's"),
        ("sixty", "sixteen"),
        ("five and six", "eleven"),
        ("twenty and one", "twenty one"),
        ("there", "their"),
    ],
)
def test_what_sounds_different_stays_different(one, other):
    assert words(one) != words(other)


def test_rules_of_english_are_for_english():
    assert words("Um carro", language="pt") == ["um", "carro"]
    assert words("Für zwölf!", language="de") == ["für", "zwölf"]
    assert words("广州市", language="zh") == ["广", "州", "市"]


def test_word_errors_as_a_pair():
    assert word_errors("Turn on the living room lamp", "turn of living room lamb") == (3, 6)
    assert word_errors("", "a b") == (2, 0)


def test_the_english_set_is_what_was_recorded():
    clips = english()
    assert len(clips) > 30
    assert {clip.language for clip in clips} == {"en"}
    assert not any(clip.is_derived or clip.segments or "noisy" in clip.tags for clip in clips)
    assert max(clip.duration_s for clip in clips) <= 30


def test_flicker_of_one_utterance():
    counts = stability.of_utterance([("Turn", 0), ("Turn on a", 4), ("Turn on the", 7)], "Turn on the light.")
    assert counts.updates == 3
    assert counts.interim_retractions == counts.final_retractions == 0
    assert counts.erased == counts.unstable == 1, "the `a`"
    assert counts.final_words == 4


def test_an_erased_word_takes_those_behind_it_along():
    counts = stability.of_utterance([("a b c", 0)], "x b c")
    assert (counts.erased, counts.unstable) == (3, 1)


def test_retractions():
    counts = stability.of_utterance([("Turn on", 4), ("Burn on", 4)], "Turn off")
    assert counts.interim_retractions == 1
    assert counts.final_retractions == 1, "the stable text is now `Burn`"
    assert counts.with_stable == 1


def spoken(text):
    return peers.Spoken(b"", 0.0, 0.0, text)


def test_a_word_is_final_when_the_final_text_reaches_it():
    heard = peers.Heard(ends_s=[1.0, 2.0])
    heard.note(1.2, "", "hello word")
    heard.note(1.5, "hello world", "hello world")
    heard.note(2.5, "hello world", "hello world good buy")
    heard.note(2.75, "hello world", "hello world good bye")
    found = peers.score([spoken("Hello world."), spoken("Good bye.")], heard)
    assert found.final_s == [0.5], "the second utterance never became final"
    assert found.shown_s == [0.5, 0.75]
    assert (found.said, found.lost, found.lost_shown, found.wrong) == (4, 2, 0, 0)


def test_who_hears_nothing_loses_every_word():
    assert peers.score([spoken("Hello world.")], peers.Heard()).lost == 2
