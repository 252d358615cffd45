"""What is owed to a program when its session goes."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from sttd_client.events import Final, Stopped
from sttd_client.owed import Owed

from sttd.wire.messages import Start


def final(end_s, reason="endpoint"):
    return Final(utterance=1, text="x", start_s=0.0, end_s=end_s, reason=reason)


def test_a_finalize_covers_what_was_sent_before_it_however_much_of_that_was_quiet():
    owed = Owed(Start())
    owed.audio(32_000)
    owed.finalize()
    owed.audio(100)
    owed.heard(final(0.2, "finalize"))
    assert owed.begin_anew() == (100, 0)


def test_a_daemon_that_stops_has_taken_what_it_says():
    owed = Owed(Start(sample_rate=8000, encoding="mulaw"))
    owed.audio(8000)
    owed.heard(Stopped(audio_s=1.0, utterances=0, dropped_s=0.0))
    assert owed.begin_anew() == (0, 0)


def test_of_a_container_a_final_covers_what_was_sent_before_it():
    owed = Owed(Start(encoding="container"))
    owed.audio(1000)
    owed.heard(final(0.1))
    owed.audio(10)
    assert owed.begin_anew() == (10, 0)


def test_a_finalize_is_said_again_until_it_is_answered():
    owed = Owed(Start())
    owed.finalize()
    assert owed.begin_anew() == (0, 1)
    assert owed.begin_anew() == (0, 1)  # that session went, too
    owed.heard(final(0.0, "finalize"))
    assert owed.begin_anew() == (0, 0)


@given(st.lists(st.tuples(st.integers(0, 64_000), st.floats(0, 1))))
def test_what_is_lost_is_never_more_than_was_sent_nor_less_than_nothing(steps):
    owed = Owed(Start())
    sent = covered = 0
    for count, part in steps:
        owed.audio(count)
        sent += count
        covered = max(covered, part * sent)
        owed.heard(final(part * sent / 32_000))
    lost, _ = owed.begin_anew()
    assert 0 <= lost <= sent
    assert lost == pytest.approx(sent - covered, abs=34)
