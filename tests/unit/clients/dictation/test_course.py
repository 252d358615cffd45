"""The course of dictations: what keys, sessions and the desktop lead to."""

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sttd_client.dictation.course import (
    FINISH_S,
    GOES_ON_S,
    SILENT_S,
    Course,
    Deafen,
    Discard,
    Drop,
    Flush,
    Listen,
    Show,
)
from sttd_client.dictation.phrases import tables
from sttd_client.dictation.typist import Typist, Write
from sttd_client.events import Final, Interim, Reconnected

TABLES = tables({})


def typist(utterance, page):
    return Typist(tables=TABLES, language="en", next_utterance=utterance, before=page)


def final(text, utterance=1, reason="endpoint"):
    return Final(utterance=utterance, text=text, start_s=0.0, end_s=1.0, reason=reason, language="en")


def interim(text, utterance=1):
    return Interim(utterance=utterance, seq=1, text=text, stable_chars=len(text), start_s=0.0, end_s=1.0)


def listening(*, once=False, now_s=0.0):
    course = Course()
    assert course.start(typist, once=once, now_s=now_s) == [Listen(), Show("listening")]
    return course


def test_what_is_said_up_to_the_release_is_typed():
    course = listening()
    assert course.event(interim("hello there"), now_s=1.0) == [Write("hello there")]
    assert course.stop(now_s=2.0) == [Deafen(), Flush(), Show("finishing")]
    assert course.event(final("hello there world.", reason="finalize"), now_s=3.0) == [
        Write(" world"),
        Write("."),
        Show("idle"),
    ]


def test_a_final_that_was_due_anyway_does_not_end_it():
    course = listening()
    course.stop(now_s=1.0)
    assert course.event(final("one"), now_s=2.0) == [Write("one")]
    assert course.event(final("", 2, "finalize"), now_s=3.0) == [Show("idle")]


def test_keys_that_repeat_change_nothing():
    course = listening()
    assert course.start(typist, once=False, now_s=1.0) == []
    course.stop(now_s=2.0)
    assert course.stop(now_s=2.0) == []
    course.event(final("", 1, "finalize"), now_s=3.0)
    assert course.stop(now_s=4.0) == course.cancel(now_s=4.0) == []


def test_cancel_types_nothing_more_and_the_next_dictation_is_not_confused():
    course = listening()
    assert course.cancel(now_s=1.0) == [Deafen(), Flush(), Discard(), Show("idle")]
    course.start(typist, once=False, now_s=1.5)
    assert course.event(final("cancelled", 1, "finalize"), now_s=2.0) == []
    assert course.event(interim("meant", 2), now_s=3.0) == [Write("meant")]


def test_once_stops_at_the_first_text_and_not_at_a_cough():
    course = listening(once=True)
    assert course.event(final(""), now_s=1.0) == []
    assert Flush() in course.event(final("yes.", 2), now_s=2.0)


def test_start_while_it_finishes_goes_on():
    course = listening()
    course.event(interim("one"), now_s=1.0)
    course.stop(now_s=1.0)
    assert course.start(typist, once=False, now_s=1.1) == [Listen(), Show("listening")]
    assert course.event(final("one", 1, "finalize"), now_s=2.0) == []
    assert course.event(interim("two", 2), now_s=3.0) == [Write(" two")]


def test_a_forgotten_microphone_is_closed():
    course = listening(now_s=0.0)
    course.event(interim("one"), now_s=10.0)
    assert course.tick(now_s=SILENT_S) == []
    assert course.due_at_s == 10.0 + SILENT_S
    assert course.tick(now_s=10.0 + SILENT_S)[:2] == [Deafen(), Flush()]


def test_a_daemon_that_does_not_answer_is_given_up():
    course = listening()
    course.event(interim("one"), now_s=1.0)
    course.stop(now_s=1.0)
    assert course.due_at_s == 1.0 + FINISH_S
    (drop, show) = course.tick(now_s=1.0 + FINISH_S)
    assert drop == Drop()
    assert show.state == "idle"
    course.start(typist, once=False, now_s=30.0)
    assert course.event(interim("two"), now_s=31.0) == [Write(" two")]  # of a new session, from its first utterance


@pytest.mark.parametrize(("pause_s", "typed"), [(GOES_ON_S - 1, " two"), (GOES_ON_S + 1, "two")])
def test_a_dictation_soon_after_another_goes_on_in_its_text(pause_s, typed):
    course = listening()
    course.stop(now_s=1.0)
    course.event(final("one", 1, "finalize"), now_s=2.0)
    course.start(typist, once=False, now_s=2.0 + pause_s)
    assert course.event(interim("two", 2), now_s=3.0 + pause_s) == [Write(typed)]


def test_a_lost_session_ends_the_dictation_with_the_reason():
    course = listening()
    course.event(interim("one"), now_s=1.0)
    assert course.lost("the daemon went away", now_s=2.0) == [Deafen(), Show("idle", "the daemon went away")]
    assert course.lost("again", now_s=3.0) == []


def test_after_a_reconnect_it_goes_on():
    course = listening()
    course.event(final("one", 7), now_s=1.0)
    course.event(Reconnected(session="s", lost_bytes=0), now_s=2.0)
    assert course.event(interim("two", 1), now_s=3.0) == [Write(" two")]


@attrs.define
class Daemon:
    """Answers every finalize with one final of that reason, in order."""

    utterance: int = 0
    finalizes: int = 0


class Courses(RuleBasedStateMachine):
    """Whatever comes: one microphone at most, a finalize for each, and every dictation ends."""

    def __init__(self):
        super().__init__()
        self.course, self.daemon, self.now_s, self.open = Course(), Daemon(), 0.0, False

    def obey(self, what):
        self.now_s += 0.1
        for do in what:
            if isinstance(do, Listen):
                assert not self.open
                self.open = True
            elif isinstance(do, Deafen):
                assert self.open
                self.open = False
            elif isinstance(do, Flush):
                assert not self.open
                self.daemon.finalizes += 1
            elif isinstance(do, Drop):
                self.daemon = Daemon()

    @rule(once=st.booleans())
    def start(self, once):
        self.obey(self.course.start(typist, once=once, now_s=self.now_s))

    @rule()
    def stop(self):
        self.obey(self.course.stop(now_s=self.now_s))

    @rule()
    def cancel(self):
        self.obey(self.course.cancel(now_s=self.now_s))

    @rule(text=st.sampled_from(["", "hello", "stop dictation", "scratch that"]))
    def utterance(self, text):
        self.daemon.utterance += 1
        self.obey(self.course.event(final(text, self.daemon.utterance), now_s=self.now_s))

    @precondition(lambda self: self.daemon.finalizes)
    @rule(text=st.sampled_from(["", "world"]))
    def answer(self, text):
        self.daemon.finalizes -= 1
        self.daemon.utterance += 1
        self.obey(self.course.event(final(text, self.daemon.utterance, "finalize"), now_s=self.now_s))

    @rule()
    def lost(self):
        self.daemon = Daemon()
        self.obey(self.course.lost("lost", now_s=self.now_s))

    @rule(seconds=st.floats(0, 300))
    def time_goes_on(self, seconds):
        self.now_s += seconds
        self.obey(self.course.tick(now_s=self.now_s))

    @invariant()
    def the_microphone_is_open_while_it_listens_and_then_only(self):
        assert self.open == (self.course.state == "listening")

    def teardown(self):
        self.obey(self.course.stop(now_s=self.now_s))
        self.now_s += FINISH_S + SILENT_S
        self.obey(self.course.tick(now_s=self.now_s))
        assert self.course.state == "idle"


TestCourses = Courses.TestCase
TestCourses.settings = settings(stateful_step_count=30)
