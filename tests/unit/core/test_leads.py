"""What of a text that was heard of an item and what stands in front of it is the item's own."""

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core import leads
from sttd.core.types import SAMPLE_RATE, Certainty, DecodeItem, DecodeOptions, Effort, Hypothesis, Lead, Segment, Word
from sttd.engine.fake import FakeModel, FakeOptions


def item(text, *, lead_s=2.0, own_s=2.0, keep=""):
    return DecodeItem(
        samples=np.zeros(round((lead_s + own_s) * SAMPLE_RATE), np.float32),
        options=DecodeOptions(keep=keep),
        recording="r",
        lead=Lead(samples=round(lead_s * SAMPLE_RATE), text=text),
    )


def own_text(text, heard):
    divided = leads.divide(Lead(samples=0, text=text), heard)
    return None if divided is None else divided.own_text


@pytest.mark.parametrize(
    ("said", "heard", "own"),
    [
        ("Ask not!", "Ask not what your country can do", "what your country can do"),
        ("And so am I fellow Americans.", "And so, my fellow Americans, ask not", "ask not"),
        ("asked not", "Ask not what your country", "what your country"),  # the word that is out stays out
        ("dividing by twelve to up.", "dividing by twelve to obtain the ratio", "obtain the ratio"),
        ("with which we are concern.", "with which we are concerned, differs from most", "differs from most"),
        ("Mr. John had leisure", "And Mr. John had leisure to consider", "to consider"),
        ("the acoustic purpose", "the acoustic corpus the reporting", "the reporting"),
        ("1, 2, 3.", "One, two, three. Turn on the light", "Turn on the light"),
        ("it costs 21", "it costs twenty one and no more", "and no more"),
        ("今日は", "今日は、いい天気ですね", "いい天気ですね"),
    ],
)
def test_the_rest_begins_behind_the_text_that_is_out_however_it_was_heard(said, heard, own):
    assert own_text(said, heard) == own


@pytest.mark.parametrize("heard", ["", "...", "Something else entirely was heard of both."])
def test_what_does_not_agree_is_not_divided(heard):
    assert own_text("Printing in the only sense", heard) is None


words = st.lists(st.text("abcdefg", min_size=1, max_size=6), min_size=1, max_size=12)


@given(words, words)
def test_a_lead_that_is_heard_again_as_it_was_is_left_out(said, new):
    divided = leads.divide(Lead(samples=0, text=" ".join(said)), " ".join([*said, *new]))
    assert divided is not None
    assert (divided.lead_text, divided.own_text) == (" ".join(said), " ".join(new))


@given(st.text(max_size=60), st.text(max_size=60))
def test_any_two_texts_are_divided_or_not(said, heard):
    divided = leads.divide(Lead(samples=0, text=said), heard)
    assert divided is None or divided.lead


def heard_of(*spoken):
    """A hypothesis of words and when each begins; every word lasts 0.4 s."""
    timed = tuple(Word(word=f" {word}", start_s=at, end_s=at + 0.4, probability=0.9) for word, at in spoken)
    text = " ".join(word for word, _ in spoken)
    return Hypothesis(
        text=text,
        segments=(Segment(text=text, start_s=0.0, end_s=timed[-1].end_s, words=timed),),
        language="en",
        avg_logprob=-0.3,
        certainties=tuple(Certainty(word=word.word, least=0.5) for word in timed),
    )


@pytest.mark.parametrize(
    "spoken",
    [[("Ask", 0.0), ("not", 0.6)], [("something", 0.0), ("else", 0.6)], [("Ask", 0.0), ("not", 0.6), ("what", 2.0)]],
)
def test_where_nothing_is_to_be_had_a_final_is_decoded_alone_and_an_interim_says_nothing(spoken):
    final = item("Ask not", own_s=6.0)
    assert leads.own(final, heard_of(*spoken)) is None
    interim = attrs.evolve(final, options=attrs.evolve(final.options, effort=Effort.QUICK))
    left = leads.own(interim, attrs.evolve(heard_of(*spoken), ending=0.9))
    assert left is not None
    assert (left.text, left.words, left.certainties, left.ending) == ("", (), None, None)


def test_times_count_from_the_beginning_of_the_item():
    heard = heard_of(("ask", 0.3), ("not,", 1.0), ("what", 2.5), ("your", 3.0), ("country", 3.5))
    own = leads.own(item("Ask not"), heard)
    assert own is not None
    assert (own.text, own.language, own.avg_logprob) == ("what your country", "en", -0.3)
    assert [(word.word, word.start_s) for word in own.words] == [(" what", 0.5), (" your", 1.0), (" country", 1.5)]
    assert [segment.text for segment in own.segments] == ["what your country"]
    assert own.segments[0].end_s == pytest.approx(1.9)
    assert [piece.word for piece in own.certainties or ()] == [" what", " your", " country"]


def test_a_word_that_is_heard_to_begin_in_the_lead_begins_with_the_item():
    own = leads.own(item("Ask not"), heard_of(("ask", 0.3), ("not", 1.0), ("what", 1.8), ("now", 2.5)))
    assert own is not None
    assert own.words[0].start_s == 0.0


@pytest.mark.parametrize(
    ("said", "pieces", "own"),
    [
        ("One two.", [" One", " two", " - three", " four."], [" three", " four."]),
        ("One two.", [" One two", " three four."], [" three four."]),
        ("你", ["你好", "世界"], ["好", "世界"]),
        ("Er sagte.", [" Er", " sagte,", ' "komm', ' her".'], [' "komm', ' her".']),
    ],
)
def test_what_stands_on_both_sides_is_cut_there(said, pieces, own):
    words = tuple(Word(word=piece, start_s=at, end_s=at + 0.5, probability=0.9) for at, piece in enumerate(pieces))
    text = "".join(pieces).strip()
    heard = Hypothesis(
        text=text,
        segments=(Segment(text=text, start_s=0.0, end_s=4.0, words=words),),
        certainties=tuple(Certainty(word=piece, least=0.5) for piece in pieces),
    )
    found = leads.own(item(said), heard)
    assert found is not None
    assert [word.word for word in found.words] == [piece.word for piece in found.certainties or ()] == own


@pytest.mark.parametrize(
    ("said", "heard", "keep", "own"),
    [
        ("ask not", "ask not not what", "not what", "not what"),
        ("he went to", "he went to the shop", "to the", "to the shop"),  # heard once, of which both have one
        ("he went to", "he went to the shop", "went to", "the shop"),  # that far back both do not agree
        ("one two", "1, 2, 3, 4", "three", "3, 4"),
        ("ask not", "ask not what your", "something else", "what your"),
    ],
)
def test_what_is_stable_of_the_item_is_its_own_if_it_can_be(said, heard, keep, own):
    divided = leads.divide(Lead(samples=0, text=said), heard, keep=keep)
    assert divided is not None
    assert divided.own_text == own
    assert own == getattr(leads.own(item(said, keep=keep), Hypothesis(text=heard, language="en")), "text", None)


@pytest.mark.parametrize(
    ("own_s", "spoken"),
    [
        (2.0, (("ask", 0.3), ("not", 1.0))),  # it ends with the lead
        (6.0, (("ask", 0.3), ("not", 1.0), ("what", 2.5), ("your", 3.0))),  # two words in six seconds
        (2.0, (("nobody", 0.3), ("understands", 2.2))),
    ],
)
def test_what_may_lack_something_is_to_be_decoded_alone(own_s, spoken):
    assert leads.own(item("Ask not", own_s=own_s), heard_of(*spoken)) is None


@pytest.mark.parametrize(("more", "enough"), [((), False), ((("you", 4.0), ("can", 4.5)), True)])
def test_what_is_much_slower_than_the_lead_may_lack_something_too(more, enough):
    lead = "if you ask them not to"
    begins = [(word, 0.3 * index) for index, word in enumerate(lead.split())]
    heard = heard_of(*begins, ("what", 2.5), ("your", 3.0), ("country", 3.5), *more)
    assert (leads.own(item(lead, own_s=4.0), heard) is not None) == enough


def test_alone_an_item_is_what_it_was_without_its_lead():
    whole = item("Ask not", lead_s=2.0, own_s=1.0)
    alone = whole.alone()
    assert (len(alone.samples), alone.lead, alone.recording) == (SAMPLE_RATE, None, None)
    assert alone.alone() is alone


def test_the_fake_hears_the_item_alone():
    [heard] = FakeModel(options=FakeOptions()).decode([item("w1 w2", lead_s=3.0, own_s=0.9)])
    assert getattr(heard, "text", None) == "w1 w2 w3"
