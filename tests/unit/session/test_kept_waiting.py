"""When a client is told what its text waits for."""

from sttd.core.types import Warn
from sttd.session.kept_waiting import EVERY_S, PATIENT_S, KeptWaiting

ONE, OTHER = ((1, 1), "waiting for one"), ((2, 1), "waiting for another")


def test_what_waits_for_long_is_said_and_said_again_after_a_while():
    kept = KeptWaiting()
    said = [(now, warning) for now in range(70) if (warning := kept.look(ONE, now=now)) is not None]
    first = round(PATIENT_S)
    times = [first, first + round(EVERY_S), first + 2 * round(EVERY_S)]
    assert said == [(now, Warn(code="kept_waiting", message="waiting for one")) for now in times]


def test_what_gets_on_in_time_is_not_spoken_of():
    kept = KeptWaiting()
    for now in range(60):
        assert kept.look(ONE if now % 3 else None, now=now) is None


def test_one_behind_another_is_no_news_at_once():
    kept = KeptWaiting()
    kept.look(ONE, now=0.0)
    assert kept.look(ONE, now=PATIENT_S) is not None
    kept.look(OTHER, now=PATIENT_S)
    assert kept.look(OTHER, now=2 * PATIENT_S) is None
    assert kept.look(OTHER, now=PATIENT_S + EVERY_S) == Warn(code="kept_waiting", message="waiting for another")
