"""The figures of the demo, from events whose times are known."""

import pytest
from sttd_client.demo_figures import Run, Utterance, report, words_of
from sttd_client.events import Final, Interim, SpeechStart

TRUTH = (
    Utterance(start_s=1.0, end_s=2.0, text="Hello world."),
    Utterance(start_s=2.4, end_s=3.0, text="It's late."),
    Utterance(start_s=6.0, end_s=7.0, text="Good night."),
)


def interim(utterance, text="hel"):
    return Interim(utterance=utterance, seq=1, text=text, stable_chars=0, start_s=0.0, end_s=1.0)


def final(utterance, text, start_s, end_s):
    return Final(utterance=utterance, text=text, start_s=start_s, end_s=end_s, reason="endpoint")


@pytest.fixture
def run():
    run = Run(truth=TRUTH, started_at=100.0, live=True)
    run.note(SpeechStart(utterance=1, at_s=1.0), at=101.2)
    run.note(interim(1, ""), at=101.3)
    run.note(interim(1), at=101.5)
    run.note(interim(1), at=102.0)
    run.note(final(1, "hello word it's late", 0.9, 3.1), at=103.6)  # two sentences in one utterance
    run.note(final(2, "", 4.0, 4.5), at=105.0)  # a noise
    run.note(interim(3), at=107.0)
    run.note(final(3, "Good night", 6.0, 7.0), at=107.4)
    run.ended_at = 108.0
    return run


def test_delays_count_from_what_was_truly_said(run):
    assert run.first_text_delays_s() == pytest.approx([0.5, 1.0])
    assert run.final_delays_s() == pytest.approx([0.6, 0.4])


def test_words_are_compared_without_case_and_punctuation(run):
    assert words_of("It's late, Ed.") == ["it's", "late", "ed"]
    assert run.words_right() == (5, 6)


def test_the_report_says_it_all(run):
    text = report(run, status={"models": {"process_rss_bytes": 100 << 20}}, speech_s=8.0, exit_status=0)
    assert "finals       2 for 3 utterances" in text
    assert "p50 0.75 s, max 1.00 s after the speech began" in text
    assert "p50 0.50 s, max 0.60 s after the speech ended" in text
    assert "words right  5 of 6" in text
    assert "100 MiB resident, stopped with status 0" in text


def test_a_fast_run_has_no_delays_but_a_speed():
    run = Run(truth=TRUTH, started_at=100.0, live=False, ended_at=102.0)
    text = report(run, status={}, speech_s=8.0, exit_status=0)
    assert "4.0 times real time" in text
    assert "after the speech" not in text
