"""Texts that say the same words in another form, and texts that do not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.forms import keeps, same_words
from sttd.core.text import tidy, tokenise


def length(wanted, text, *, language="en"):
    """How many words of the text are those that are wanted."""
    return same_words(tokenise(wanted), tokenise(text), language=language)


@pytest.mark.parametrize(
    ("wanted", "text", "words"),
    [
        ("so we", "So, we go.", 2),
        ("", "anything", 0),
        ("I'll go", "I will go home", 3),
        ("I will go", "I\u2019ll go home", 2),
        ("I'm sure they've", "I am sure they have it", 5),
        ("we won't", "We will not do it", 3),
        ("you can't", "you cannot do it", 2),
        ("you cannot", "you can not do it", 3),
        ("don't you're", "do not you are", 4),
        ("Mr. Smith", "mister Smith said", 2),
        ("Dr. No", "Doctor No", 2),
        ("take twenty one", "take 21 of them", 2),
        ("take twenty-one", "take 21 of them", 2),
        ("take 21", "take twenty one of them", 3),
        ("forty", "40 of them", 1),
        ("a light house", "a lighthouse stood", 2),
        ("well-known", "well known", 2),
    ],
)
def test_the_same_words(wanted, text, words):
    assert length(wanted, text) == words


@pytest.mark.parametrize(
    ("wanted", "text"),
    [
        ("we go", "we went"),
        ("so we go", "so we"),
        ("twenty", "21"),
        ("he's gone", "he has gone"),
        ("I'd go", "I would go"),
        ("one", ""),
        ("mentioning it", "mention it"),
    ],
)
def test_other_words(wanted, text):
    assert length(wanted, text) is None


def test_what_is_english_holds_for_english():
    assert length("die zwanzig", "die 20", language="de") is None
    assert length("I'll", "I will", language="de") is None
    assert length("well-bekannt, ja", "Well bekannt ja gut", language="de") == 3
    assert length("今天天气", "今天、天气好", language="zh") == 4


texts = st.lists(
    st.sampled_from(["I'll", "twenty", "one", "21", "Mr.", "go", "go-go", "can't", "...", "今天", "a"]), max_size=9
).map(" ".join)


@given(texts, texts)
def test_what_is_kept_is_kept_whatever_follows(wanted, rest):
    assert keeps(wanted, wanted, language="en")
    found = length(tidy(wanted), tidy(f"{wanted} {rest}"))
    assert found is not None
    assert found <= len(tokenise(tidy(f"{wanted} {rest}")))
