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


def test_curly_apostrophes_are_those_of_the_truth():
    assert words_of("It\N{RIGHT SINGLE QUOTATION MARK}s LATE!") == words_of("it's late")


def reported(run, **changes):
    told = {"model": "tiny.en", "load_s": 0.25, "status": {}, "total_s": 12.34, "exit_status": 0}
    return report(run, **(told | changes))


def test_the_report_says_it_all(run):
    text = reported(run, status={"models": {"process_rss_bytes": 100 << 20}})
    assert text.splitlines() == [
        "finals       2 for 3 phrases",
        "words right  5 of 6",
        "first words  p50 0.75 s, max 1.00 s after the speech began",
        "final text   p50 0.50 s, max 0.60 s after the speech ended",
        "model        tiny.en, loaded in 0.25 s",
        "daemon       100 MiB resident, stopped with status 0",
        "time in all  12.3 s",
    ]


def test_a_fast_run_has_no_delays_but_a_speed():
    text = reported(Run(truth=TRUTH, started_at=100.0, live=False, audio_s=8.0, ended_at=102.0))
    assert "speed        4.0 times real time" in text
    assert "after the speech" not in text


def test_without_the_truth_the_times_are_those_that_the_daemon_heard():
    run = Run(truth=(), started_at=100.0, live=True)
    run.note(interim(1), at=101.5)
    run.note(final(1, "hello world", 0.9, 3.1), at=103.6)
    text = reported(run)
    assert "finals       1\n" in text
    assert "words right" not in text
    assert "first words  p50 0.60 s, max 0.60 s after the speech began, as heard" in text
    assert "final text   p50 0.50 s, max 0.50 s after the speech ended, as heard" in text


def test_no_text_is_said_as_such():
    assert "first words  none\n" in reported(Run(truth=(), started_at=100.0, live=True))


def test_what_a_microphone_hears_began_when_none_of_it_came_too_early():
    run = Run(truth=(), live=True)
    run.note_captured(0.5, at=100.9)  # the first piece took a while
    assert run.started_at == pytest.approx(100.4)
    run.note_captured(0.5, at=101.2)
    assert run.started_at == pytest.approx(100.2)
    run.note_captured(0.5, at=103.0)  # a hiccup says nothing
    assert run.started_at == pytest.approx(100.2)
    assert run.audio_s == 1.5
