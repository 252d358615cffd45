"""Captions at a terminal and in a pipe."""

import io

import pytest
from rich.console import Console
from sttd_client.captions import captions
from sttd_client.events import (
    Failure,
    Final,
    Gap,
    Interim,
    Reconnected,
    SpeechStart,
    TimingFields,
    Warn,
    stable_and_tail,
)

INTERIM = Interim(utterance=1, seq=1, text="hello wor", stable_chars=6, start_s=0.5, end_s=1.0)
FINAL = Final(
    utterance=1,
    text="hello world",
    start_s=0.5,
    end_s=1.25,
    reason="endpoint",
    timing=TimingFields(endpoint_ms=400.0, decode_ms=120.0, speculative=True),
)


@pytest.fixture
def shown():
    def run(*events, terminal, times=False):
        colours = "standard" if terminal else None
        console = Console(file=io.StringIO(), force_terminal=terminal, width=80, highlight=False, color_system=colours)
        with captions(console, times=times) as show:
            for event in events:
                show(event)
        return console.file.getvalue()

    return run


def test_an_interim_has_a_stable_part_and_a_tail():
    assert stable_and_tail(INTERIM) == ("hello ", "wor")


def test_a_pipe_gets_lines(shown):
    events = (SpeechStart(utterance=1, at_s=0.5), INTERIM, FINAL)
    assert shown(*events, terminal=False) == "  ... hello |wor\nhello world\n"
    assert shown(FINAL, terminal=False, times=True) == (
        "  0.50- 1.25 s  hello world  (endpoint, decoded in 120 ms, begun early)\n"
    )


def test_a_terminal_gets_text_that_grows_in_place(shown):
    printed = shown(INTERIM, FINAL, terminal=True)
    assert "\x1b[1mhello \x1b[0m\x1b[2mwor" in printed
    assert printed.index("wor") < printed.index("hello world\n")
    assert "\x1b[2K" in printed  # the interim was wiped away


def test_what_goes_wrong_is_shown_and_silence_is_not(shown):
    printed = shown(
        Final(utterance=1, text="", start_s=0.0, end_s=1.0, reason="endpoint"),
        Gap(from_s=1.0, to_s=2.5, reason="overload"),
        Warn(code="lag", message="2 s behind"),
        Failure(code="internal", message="a bug"),
        Reconnected(session="s2", lost_bytes=0),
        terminal=False,
    )
    assert printed.splitlines() == [
        "[1.5 s of audio lost: overload]",
        "[2 s behind]",
        "[a bug]",
        "[the session was lost and begun anew; nothing is missing]",
    ]


def test_every_line_says_whose_it_is_where_there_are_several():
    console = Console(file=io.StringIO(), width=80, highlight=False)
    with captions(console) as show:
        show(INTERIM, "you")
        show(FINAL, "system")
        show(Gap(from_s=1.0, to_s=2.5, reason="overload"), "you")
    assert console.file.getvalue().splitlines() == [
        "  ... you: hello |wor",
        "system: hello world",
        "you: [1.5 s of audio lost: overload]",
    ]


def test_two_who_speak_at_once_have_a_line_each():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False, color_system="standard")
    with captions(console) as show:
        show(INTERIM, "you")
        show(INTERIM, "system")
        both = console.file.getvalue()
        show(FINAL, "system")
        left = console.file.getvalue()[len(both) :]
    assert "\x1b[36myou: " in both
    assert "\x1b[35msystem: " in both
    assert left.rindex("you: ") > left.index("hello world")  # the other goes on beneath what is final


def test_an_interim_goes_with_a_final_that_says_nothing():
    console = Console(file=io.StringIO(), force_terminal=True, width=80, highlight=False, color_system="standard")
    with captions(console) as show:
        show(INTERIM)
        before = len(console.file.getvalue())
        show(Final(utterance=1, text="", start_s=0.0, end_s=1.0, reason="endpoint"))
        assert "wor" not in console.file.getvalue()[before:]
        assert "\x1b[2K" in console.file.getvalue()[before:]
