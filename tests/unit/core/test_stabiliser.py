"""The stable beginning of live text: by examples and by what must hold for any hypotheses at all."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sttd.core.stabiliser import Stabiliser, nearest_prefix, resumption
from sttd.core.text import tidy
from sttd.core.types import Word


def push_all(hypotheses, **options):
    """The stable part and the rest after each hypothesis."""
    stabiliser = Stabiliser(**options)
    shown = [stabiliser.push(text, audio_s=1.0) for text in hypotheses]
    return [(each.text[: each.stable_chars], each.text[each.stable_chars :]) for each in shown]


def words_of(text, *, word_s=0.5):
    return [
        Word(word=f" {word}", start_s=index * word_s, end_s=(index + 1) * word_s, probability=1.0)
        for index, word in enumerate(text.split())
    ]


# ---------------------------------------------------------------- examples


def test_words_become_stable_when_two_hypotheses_agree():
    assert push_all(["so we", "so we go", "so we go there"]) == [
        ("", "so we"),
        ("so we", " go"),
        ("so we go", " there"),
    ]


def test_the_last_word_waits_for_the_next():
    assert push_all(["go home", "go home"]) == [("", "go home"), ("go", " home")]


def test_case_and_punctuation_do_not_hinder_and_stay_as_they_were_when_they_became_stable():
    assert push_all(["hello World.", "Hello, world. And", "hello World and then"]) == [
        ("", "hello World."),
        ("Hello, world", ". And"),
        ("Hello, world and", " then"),
    ]


def test_punctuation_behind_the_stable_text_may_change():
    assert push_all(["I see.", "I see. You", "I see, you know", "I see!"])[1:] == [
        ("I see", ". You"),
        ("I see, you", " know"),
        ("I see, you", "!"),
    ]


def test_a_change_of_mind_begins_a_new_agreement():
    assert push_all(["a cat sat", "a dog sat", "a dog sat down"])[-1] == ("a dog sat", " down")


def test_a_contradiction_does_not_take_back_what_is_stable():
    results = push_all(["I scream for it", "I scream for it", "Ice cream for it now", "Ice cream for it now please"])
    assert results[2:] == [("I scream for it", " now"), ("I scream for it now", " please")]


def test_a_hypothesis_that_lost_the_beginning_is_shown_behind_the_stable_text():
    assert push_all(["one two three", "one two three", "two three four"])[-1] == ("one two three", " four")


def test_an_empty_hypothesis_shows_what_is_stable():
    assert push_all(["so it is", "so it is", "", "so it is fine"]) == [
        ("", "so it is"),
        ("so it", " is"),
        ("so it", ""),
        ("so it", " is fine"),
    ]


def test_loops_do_not_become_stable():
    looped = "go on and on and on and on and on"
    stabiliser = Stabiliser()
    for _ in range(2):
        shown = stabiliser.push(looped, audio_s=1.0, temperature=0.4)
    assert (shown.text, shown.stable_chars) == ("go on and on", len("go on and"))


@pytest.mark.parametrize("said", ["no " * 7 + "I said no", "left right " * 4 + "halt"])
def test_what_was_said_again_and_again_does_become_stable(said):
    stabiliser = Stabiliser()
    words = words_of(said, word_s=0.3)
    for _ in range(2):
        shown = stabiliser.push(said, words=words, audio_s=4.0, compression_ratio=2.5)
    assert shown.text == said
    assert len(stabiliser.stable_text) > 0.8 * len(said)


def test_words_at_the_end_of_the_audio_are_held_back():
    stabiliser = Stabiliser(hold_back_s=0.4)
    text = "one two three four"
    for audio_s, stable in ((2.0, ""), (2.0, "one two three"), (2.0, "one two three")):
        assert stabiliser.push(text, words=words_of(text), audio_s=audio_s).text == text
        assert stabiliser.stable_text == stable
    early = Stabiliser(hold_back_s=0.4)
    for _ in range(3):
        early.push(text, words=words_of(text), audio_s=1.3)
    assert early.stable_text == "one"


def test_word_times_of_another_text_are_not_used():
    stabiliser = Stabiliser()
    for _ in range(2):
        stabiliser.push("one two three", words=words_of("something else"), audio_s=0.1)
    assert stabiliser.stable_text == "one two"


def test_chinese_goes_by_characters():
    assert push_all(["今天天气", "今天天氣好", "今天天氣好。"]) == [
        ("", "今天天气"),
        ("今天天", "氣好"),
        ("今天天氣", "好。"),
    ]


def test_marks_stay_with_their_letter():
    hindi = unicodedata.normalize("NFD", "が か")
    stabiliser = Stabiliser()
    for _ in range(2):
        shown = stabiliser.push(hindi, audio_s=1.0)
    assert shown.text[: shown.stable_chars] == unicodedata.normalize("NFD", "が")


def test_a_text_of_punctuation_alone_shows_nothing():
    assert push_all(["...", "- -"]) == [("", ""), ("", "")]


def test_a_lost_beginning_without_spaces_is_still_set_apart():
    stabiliser = Stabiliser()
    for text in ("a b c", "a b c"):
        stabiliser.push(text, audio_s=1.0)
    assert stabiliser.push("x y z w v", audio_s=1.0).text == "a b z w v"
    assert Stabiliser(lock_stable=True).finalise("x") == "x"


def test_the_final_is_free():
    stabiliser = Stabiliser()
    for text in ("I scream", "I scream loud"):
        stabiliser.push(text, audio_s=1.0)
    assert stabiliser.finalise(" Ice cream,  loud. ") == "Ice cream, loud."


@pytest.mark.parametrize(
    ("final", "expected"),
    [
        ("I scream loudly.", "I scream loudly."),
        ("i scream, loudly.", "I scream, loudly."),
        ("Ice cream loudly.", "I scream loudly."),
        ("", "I scream"),
        ("I.", "I scream."),
    ],
)
def test_a_locked_final_keeps_the_stable_text(final, expected):
    stabiliser = Stabiliser(lock_stable=True)
    for text in ("I scream", "I scream loud"):
        stabiliser.push(text, audio_s=1.0)
    assert stabiliser.finalise(final) == expected


@pytest.mark.parametrize(
    ("wanted", "keys", "length"),
    [("abc", "abcd", 3), ("abc", "bcd", 2), ("abc", "abxd", 3), ("abc", "", 0), ("", "abc", 0), ("abc", "aabcd", 4)],
)
def test_the_nearest_prefix(wanted, keys, length):
    assert nearest_prefix(list(wanted), list(keys)) == length


@pytest.mark.parametrize(
    ("stable", "keys", "length"),
    [("abcd", "xbcdef", 4), ("abcd", "bcdbcd", 3), ("abcd", "abcxyzbcd", 9), ("abcd", "abxdef", 4), ("ab", "xbab", 2)],
)
def test_a_contradicting_hypothesis_resumes_where_the_last_stable_words_come(stable, keys, length):
    assert resumption(list(stable), list(keys)) == length


# ---------------------------------------------------------------- whatever comes

any_text = st.text(max_size=30)
speech = st.lists(
    st.sampled_from(
        ["a", "b.", "B", "c,", " ", "x!", "が", "今", "天。", "がっこう", "e\u0301t", "...", "「あ」", "ไทย", "ok"]
    ),
    max_size=12,
).map(" ".join)
glued = speech.map(lambda text: text.replace(" ", ""))
hypotheses = st.lists(st.one_of(any_text, speech, glued), max_size=8)


@given(hypotheses, st.booleans(), st.booleans(), any_text)
@example(["今天", "今天", "\u0301x"], False, False, "")
@example(["a b", "a b", "今天"], False, False, "")
def test_stable_text_only_grows_and_starts_all_that_is_shown(texts, timed, lock, final):
    stabiliser = Stabiliser(lock_stable=lock)
    stable = ""
    for text in texts:
        words = words_of(tidy(text)) if timed else ()
        shown = stabiliser.push(text, words=words, audio_s=2.0)
        assert shown.text.startswith(stable)
        assert stabiliser.stable_text.startswith(stable)
        stable = stabiliser.stable_text
        assert shown.text[: shown.stable_chars] == stable
        assert shown.text == tidy(shown.text), "shown text is tidy"
        following = shown.text[len(stable) : len(stable) + 1]
        assert not (stable and following and unicodedata.category(following).startswith("M"))
    result = stabiliser.finalise(final)
    assert result.startswith(stable) if lock else result == tidy(final)


@given(st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=2, max_size=8, unique=True))
def test_steady_hypotheses_become_stable_but_for_the_last_word(words):
    text = " ".join(words)
    stabiliser = Stabiliser()
    assert stabiliser.push(text, audio_s=1.0).stable_chars == 0
    assert stabiliser.push(text, audio_s=1.0).stable_chars == len(" ".join(words[:-1]))
