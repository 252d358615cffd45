"""What an utterance goes on from: near, known, of one language, and never more than is allowed."""

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.context import INTERIM_LIMITS_S, LEAD_S, LIMITS_S, NEAR_S, SessionContext
from sttd.core.results import NOT_DECODED
from sttd.core.types import SAMPLE_RATE, Final


def audio(seconds, level=0.1):
    return np.full(round(seconds * SAMPLE_RATE), level, np.float32)


def final(number, text="some words", *, start_s, end_s, language="en", reason="endpoint"):
    return Final(
        utterance=number,
        text=text,
        start_s=start_s,
        end_s=end_s,
        language=language,
        confidence=0.9,
        reason=reason,
        model="m",
        words=None,
        timing=NOT_DECODED,
    )


def said(*finals, decoded=True):
    """A session in which these were said, each as long as its times say."""
    session = SessionContext()
    for each in finals:
        session.said(each, audio(each.end_s - each.start_s), decoded=decoded)
    return session


FIRST = final(1, "Ask not", start_s=0.0, end_s=2.0)


def before(session, number=2, *, begin_s=3.0, language="en", own_s=2.0, limits_s=LIMITS_S):
    return session.before(number, audio(own_s, 0.5), begin_s=begin_s, language=language, limits_s=limits_s)


def test_what_was_said_just_before_stands_in_front():
    found = before(said(FIRST))
    assert found is not None
    samples, lead = found
    assert (lead.samples, lead.text) == (2 * SAMPLE_RATE, "Ask not")
    assert len(samples) == 4 * SAMPLE_RATE
    assert samples[0] == np.float32(0.1)
    assert samples[lead.samples] == np.float32(0.5)


@pytest.mark.parametrize(
    "where",
    [
        {"begin_s": 2.0 + NEAR_S + 0.01},  # too late
        {"number": 3},  # another utterance lies between
        {"number": 1},
        {"language": "de"},
        {"language": None},  # not settled
        {"own_s": LIMITS_S[-1] - 1.0},  # both are too long
    ],
)
def test_nothing_stands_in_front_of_what_does_not_go_on(where):
    assert before(said(FIRST), **where) is None


@pytest.mark.parametrize("reason", ["finalize", "stop", "disconnect", "drain"])
def test_who_ends_an_utterance_himself_does_not_go_on(reason):
    assert before(said(attrs.evolve(FIRST, reason=reason))) is None


def test_after_a_cut_the_next_goes_on():
    assert before(said(attrs.evolve(FIRST, reason="max_length"))) is not None


def test_nothing_follows_from_an_empty_final_or_one_without_a_decode():
    assert before(said(attrs.evolve(FIRST, text=""))) is None
    assert before(said(FIRST, decoded=False)) is None
    emptied = said(FIRST, final(2, "", start_s=2.5, end_s=3.0))
    assert before(emptied, number=3, begin_s=3.5) is None


def test_a_final_that_comes_late_is_not_the_newest():
    session = said(final(2, "what", start_s=3.0, end_s=4.0), FIRST)
    found = before(session, number=3, begin_s=4.5)
    assert found is not None
    assert found[1].text == "what"


def test_short_utterances_stand_in_front_together():
    session = said(FIRST, final(2, "what your", start_s=3.0, end_s=4.0))
    found = before(session, number=3, begin_s=5.0)
    assert found is not None
    assert (found[1].text, found[1].samples) == ("Ask not what your", 3 * SAMPLE_RATE)
    far = said(FIRST, final(2, "what your", start_s=3.0 + NEAR_S, end_s=5.0 + NEAR_S))
    found = before(far, number=3, begin_s=6.0 + NEAR_S)
    assert found is not None
    assert found[1].text == "what your"


def test_a_long_utterance_stands_in_front_of_none():
    assert before(said(final(1, start_s=0.0, end_s=LEAD_S + 0.1)), begin_s=LEAD_S + 1) is None
    assert before(said(final(1, start_s=0.0, end_s=LEAD_S)), begin_s=LEAD_S + 1) is not None


@pytest.mark.parametrize("limit_s", LIMITS_S)
def test_both_are_no_longer_than_what_they_cost_with_the_one_before(limit_s):
    session = said(*(final(number, start_s=2.0 * number, end_s=2.0 * number + 2.0) for number in (1, 2, 3)))
    found = before(session, number=4, begin_s=8.0, own_s=limit_s - 4.5)
    assert found is not None
    assert found[1].samples == 4 * SAMPLE_RATE


def test_what_ended_long_ago_is_forgotten():
    session = said(FIRST)
    session.passed(round((2.0 + NEAR_S) * SAMPLE_RATE))
    assert session.kept_s == 2.0
    session.passed(round(60 * SAMPLE_RATE))
    assert session.kept_s == 0.0


utterances = st.lists(
    st.tuples(st.floats(0.1, 30.0), st.floats(0.0, 4.0), st.sampled_from(["", "a", "b c"]), st.sampled_from("ed")),
    max_size=8,
)


@given(utterances, st.floats(0.1, 29.0), st.sampled_from([LIMITS_S, INTERIM_LIMITS_S]))
def test_no_more_is_kept_or_decoded_than_is_allowed(spoken, own_s, limits_s):
    session, at_s = SessionContext(), 0.0
    for number, (length_s, gap_s, text, language) in enumerate(spoken, start=1):
        begin_s = at_s + gap_s
        at_s = begin_s + length_s
        each = final(number, text, start_s=begin_s, end_s=at_s, language=language)
        session.said(each, audio(length_s), decoded=True)
        assert session.kept_s <= LEAD_S
    found = before(session, number=len(spoken) + 1, begin_s=at_s, language="e", own_s=own_s, limits_s=limits_s)
    if found is not None:
        samples, lead = found
        assert 0 < lead.samples <= LEAD_S * SAMPLE_RATE
        assert len(samples) == lead.samples + round(own_s * SAMPLE_RATE)
        assert len(samples) <= limits_s[-1] * SAMPLE_RATE
        assert lead.text
        assert spoken[-1][2:] == (spoken[-1][2], "e")


def test_what_is_kept_is_no_view_of_the_whole_session():
    session = SessionContext()
    samples = audio(28)[: 2 * SAMPLE_RATE]
    session.said(final(1, start_s=0.0, end_s=2.0), samples, decoded=True)
    assert session.kept_s == 2.0
    assert not any(np.shares_memory(part.samples, samples) for part in session._parts)
