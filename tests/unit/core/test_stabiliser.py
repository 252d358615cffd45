"""The stable beginning of live text: by examples and by what must hold for any hypotheses at all."""

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sttd.core.stabiliser import Stabiliser, nearest_prefix, resumption
from sttd.core.text import tidy
from sttd.core.types import Certainty, Word
from sttd.live_text import QUICK, LiveText

TWICE = LiveText(commit="0:2:0", show_from=0, change_from=0)  # stable is what two say, shown is all


def sure(text, least=1.0):
    """How sure a decoder may be of each word: of all the same, or each as given."""
    words = text.split()
    each = least if isinstance(least, list) else [least] * len(words)
    return [Certainty(word=f" {word}", least=one) for word, one in zip(words, each, strict=True)]


def parts(shown):
    """The stable part and the rest."""
    return shown.text[: shown.stable_chars], shown.text[shown.stable_chars :]


def push_all(hypotheses, *, rules=TWICE, before_s=0.0):
    """The stable part and the rest after each hypothesis: a text, or a text and how sure of each word.

    Each is of 0.4 s more audio than the one before, the first of that and `before_s`.
    """
    stabiliser = Stabiliser(rules=rules)
    shown = []
    for number, hypothesis in enumerate(hypotheses, start=1):
        text, least = hypothesis if isinstance(hypothesis, tuple) else (hypothesis, 1.0)
        certainties = sure(tidy(text), least)
        shown.append(parts(stabiliser.push(text, certainties=certainties, audio_s=before_s + 0.4 * number)))
    return shown


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
        ("", "hello World"),
        ("Hello, world", ". And"),
        ("Hello, world and", " then"),
    ]


def test_what_is_shown_is_written_as_it_was_until_it_is_heard_otherwise_twice():
    """Sure enough to be shown, not to be stable."""
    stabiliser = Stabiliser(rules=LiveText(commit="1:9:9", show_from=0.5))
    shown = []
    for text in ("so we", "So, we go.", "so we go", "So, we go on.", "So, we go on then"):
        certainties = [Certainty(word=" " + word, least=0.6) for word in text.split()]
        shown.append(stabiliser.push(text, certainties=certainties, audio_s=0.0).text)
    assert shown == ["so we", "so we go", "so we go", "so we go on", "So, we go on then"]


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
    assert results[2:] == [("I scream for", " it now"), ("I scream for", " it now please")]


def test_nothing_more_is_stable_while_what_is_stable_is_contradicted():
    wrong, right = "how do you marry", "had he married her then"
    assert push_all([wrong, wrong, right, right, right])[-1] == ("how do you", " her then")
    assert push_all([wrong, wrong, right, "how do you marry her", "how do you marry her"])[-1] == (
        "how do you marry",
        " her",
    )
    assert push_all(["I'll go home", "I'll go home", "I will go home now", "I will go home now"])[-1] == (
        "I'll go home",
        " now",
    )


def test_a_hypothesis_that_lost_the_beginning_is_shown_behind_the_stable_text():
    assert push_all(["one two three", "one two three", "two three four"])[-1] == ("one two", " three four")


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
    for _ in range(3):
        shown = stabiliser.push(looped, audio_s=1.0, temperature=0.4)
    assert (shown.text, shown.stable_chars) == ("go on and on", len("go on and"))


@pytest.mark.parametrize("said", ["no " * 7 + "I said no", "left right " * 4 + "halt"])
def test_what_was_said_again_and_again_does_become_stable(said):
    stabiliser = Stabiliser()
    words = words_of(said, word_s=0.3)
    for _ in range(3):
        shown = stabiliser.push(said, words=words, audio_s=4.0, compression_ratio=2.5)
    assert shown.text == said
    assert len(stabiliser.stable_text) > 0.8 * len(said)


def test_words_at_the_end_of_the_audio_are_held_back():
    stabiliser = Stabiliser(hold_back_s=0.4)
    text = "one two three four"
    for audio_s, stable in ((2.0, ""), (2.0, ""), (2.0, "one two three"), (2.0, "one two three")):
        assert stabiliser.push(text, words=words_of(text), audio_s=audio_s).text == text
        assert stabiliser.stable_text == stable
    early = Stabiliser(hold_back_s=0.4)
    for _ in range(3):
        early.push(text, words=words_of(text), audio_s=1.3)
    assert early.stable_text == "one"


def test_word_times_of_another_text_are_not_used():
    stabiliser = Stabiliser()
    for _ in range(3):
        stabiliser.push("one two three", words=words_of("something else"), audio_s=0.1)
    assert stabiliser.stable_text == "one two"


def test_chinese_goes_by_characters():
    assert push_all(["今天天气", "今天天氣好", "今天天氣好。"]) == [
        ("", "今天天气"),
        ("今天天", "氣好"),
        ("今天天氣", "好"),
    ]


def test_marks_stay_with_their_letter():
    hindi = unicodedata.normalize("NFD", "が か")
    stabiliser = Stabiliser()
    for _ in range(3):
        shown = stabiliser.push(hindi, audio_s=1.0)
    assert shown.text[: shown.stable_chars] == unicodedata.normalize("NFD", "が")


def test_a_text_of_punctuation_alone_shows_nothing():
    assert push_all(["...", "- -"]) == [("", ""), ("", "")]


def test_a_lost_beginning_without_spaces_is_still_set_apart():
    stabiliser = Stabiliser()
    for text in ("a b c", "a b c", "a b c"):
        stabiliser.push(text, audio_s=1.0)
    assert stabiliser.push("x y z w v", audio_s=1.0).text == "a b z w v"
    assert Stabiliser(lock_stable=True).finalise("x") == "x"


def test_the_final_is_free():
    stabiliser = Stabiliser()
    for text in ("I scream", "I scream", "I scream loud"):
        stabiliser.push(text, audio_s=1.0)
    assert stabiliser.stable_text == "I scream"
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
    for text in ("I scream loud", "I scream loud", "I scream loud"):
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


# ---------------------------------------------------------------- how sure the decoder is

RULES = QUICK


def test_sure_words_are_stable_when_two_hypotheses_have_them():
    said = "so we go home"
    assert push_all([(said, 0.9), (said, 0.9)], rules=RULES)[-1] == ("so we go", " home")
    assert push_all([(said, [0.9, 0.7, 0.9, 0.9]), (said, 0.9)], rules=RULES)[-1] == ("so", " we go home")


def test_doubtful_words_are_stable_when_they_were_heard_for_long():
    said = "so we go home"
    shown = push_all([(said, 0.6)] * 4, rules=RULES)
    assert [stable for stable, _ in shown] == ["", "", "", "so we go"]
    shown = push_all([(said, 0.3)] * 6, rules=RULES)
    assert [stable for stable, _ in shown] == ["", "", "", "", "", "so we go"]
    assert push_all([(said, 0.1)] * 20, rules=RULES)[-1][0] == ""


def test_no_word_is_stable_behind_one_that_is_not():
    said = "so Wye goes home"
    assert push_all([(said, [0.9, 0.1, 0.9, 0.9])] * 9, rules=RULES)[-1][0] == "so"


def test_a_word_is_as_sure_as_its_least_sure_piece_without_its_punctuation():
    stabiliser = Stabiliser(rules=RULES)
    pieces = [("don", 0.9), ("'t", 0.7), (" go", 0.9), (",", 0.1), (" Jo", 0.9)]
    certainties = [Certainty(word=word, least=least) for word, least in pieces]
    for _ in range(2):
        shown = stabiliser.push("don't go, Jo", certainties=certainties, audio_s=1.0)
    assert shown.stable_chars == 0
    shown = stabiliser.push("don't go, Jo", certainties=certainties, audio_s=2.2)
    assert [piece.least for piece in shown.words] == [0.7, 0.9, 0.9]
    assert stabiliser.stable_text == "don't go"


def test_a_piece_of_several_characters_of_a_script_without_spaces_holds_for_each():
    stabiliser = Stabiliser()
    certainties = [Certainty(word="今天", least=0.9), Certainty(word="天气", least=0.6)]
    for audio_s in (1.0, 1.6):
        shown = stabiliser.push("今天天气", certainties=certainties, audio_s=audio_s)
    assert parts(shown) == ("今天", "天气")


def test_certainties_of_another_text_are_not_used():
    stabiliser = Stabiliser()
    for _ in range(3):
        stabiliser.push("one two three", certainties=sure("something else", 0.1), audio_s=1.0)
    assert stabiliser.stable_text == "one two"


def test_a_new_word_is_shown_when_it_is_sure_or_was_heard_for_long():
    said = [("so we", [0.9, 0.5])] * 3
    assert push_all(said, rules=RULES, before_s=1.1) == [("", "so"), ("so", ""), ("so", " we")]
    assert push_all([("eh so", [0.5, 0.9])], rules=RULES, before_s=1.1) == [("", "")]


def test_in_the_beginning_less_is_long():
    said = [("so we", [0.5, 0.3])] * 2
    assert push_all(said, rules=RULES, before_s=0.2) == [("", "so"), ("", "so we")]
    assert push_all(said, rules=RULES, before_s=1.1) == [("", ""), ("", "")]


def test_a_shown_word_gives_way_to_one_that_is_sure_or_was_heard_twice():
    shown = [("a cat sat", [0.15, 0.9, 0.9])] * 3
    doubtful = ("a dog sat", [0.15, 0.5, 0.9])
    assert push_all(shown, rules=RULES)[-1] == ("", "a cat sat")
    assert push_all([*shown, doubtful], rules=RULES)[-1] == ("", "a cat sat")
    assert push_all([*shown, doubtful, doubtful, doubtful], rules=RULES)[-1] == ("", "a dog sat")
    assert push_all([*shown, ("a dog sat", [0.15, 0.9, 0.9])], rules=RULES)[-1] == ("", "a dog sat")
    assert push_all([*shown, ("a", [0.15])], rules=RULES)[-1] == ("", "a cat sat")


def test_a_hypothesis_that_does_not_say_how_sure_it_is_counts_and_is_shown():
    stabiliser = Stabiliser()
    stabiliser.push("so we go", certainties=sure("so we go", [0.9, 0.5, 0.5]), audio_s=1.0)
    assert parts(stabiliser.push("so they go", audio_s=1.2)) == ("so", " they go")
    assert parts(stabiliser.push("so they go", certainties=sure("so they go", 0.9), audio_s=1.4)) == ("so they", " go")


def test_a_word_that_one_hypothesis_makes_stable_is_shown_in_place_of_another():
    once = LiveText(commit="0.5:1:0", change_from=1)
    said = [("a cat", [0.9, 0.9]), ("a dog sat on", [0.9, 0.6, 0.6, 0.9])]
    assert push_all(said, rules=once)[-1] == ("a dog sat", " on")


def test_time_does_not_go_back():
    stabiliser = Stabiliser(rules=RULES)
    for audio_s in (1.0, 2.2, 0.5):
        stabiliser.push("so we go", certainties=sure("so we go", 0.6), audio_s=audio_s)
    assert stabiliser.stable_text == "so we"


def test_a_final_of_the_same_words_keeps_their_form():
    stabiliser = Stabiliser()
    for _ in range(3):
        stabiliser.push("So I'll take twenty one of", audio_s=1.0)
    assert stabiliser.stable_text == "So I'll take twenty one"
    for final, expected in (
        ("so, I will take 21, of those.", "So I'll take twenty one, of those."),
        ("so I will take 22 of those.", "so I will take 22 of those."),
        ("", ""),
    ):
        assert stabiliser.finalise(final) == expected
        assert stabiliser.keeps(final) == expected.startswith(stabiliser.stable_text)


# ---------------------------------------------------------------- whatever comes

any_text = st.text(max_size=30)
speech = st.lists(
    st.sampled_from(
        ["a", "b.", "B", "c,", " ", "x!", "が", "今", "天。", "がっこう", "e\u0301t", "...", "「あ」", "ไทย", "ok"]
    ),
    max_size=12,
).map(" ".join)
glued = speech.map(lambda text: text.replace(" ", ""))


hearings = st.lists(
    st.tuples(
        st.one_of(any_text, speech, glued),
        st.one_of(st.none(), st.lists(st.floats(0, 1), min_size=13, max_size=13)),
        st.floats(0, 3),
    ),
    max_size=8,
)
live_texts = st.builds(
    LiveText,
    commit=st.lists(
        st.builds("{:g}:{}:{:g}".format, st.floats(0, 1), st.integers(1, 4), st.floats(0, 2)), min_size=1, max_size=3
    ).map(",".join),
    show_from=st.floats(0, 1),
    change_from=st.floats(0, 1),
    show_after_s=st.floats(0, 2),
)


@given(live_texts, hearings, st.booleans(), st.booleans(), any_text)
@example(TWICE, [("今天", [1.0] * 13, 0.0), ("今天", [1.0] * 13, 0.0), ("\u0301x", None, 0.0)], False, False, "")
@example(TWICE, [("a b", [1.0] * 13, 0.0), ("a b", [1.0] * 13, 0.0), ("今天", None, 0.0)], False, False, "")
def test_stable_text_only_grows_and_starts_all_that_is_shown(rules, heard, timed, lock, final):
    stabiliser = Stabiliser(rules=rules, lock_stable=lock)
    stable, stable_words = "", 0
    for text, least, audio_s in heard:
        tidied = tidy(text)
        words = words_of(tidied) if timed else ()
        fits = least is not None and len(tidied.split()) <= len(least)
        certainties = sure(tidied, least[: len(tidied.split())]) if fits else None
        shown = stabiliser.push(text, words=words, certainties=certainties, audio_s=audio_s)
        assert "".join(word.word for word in shown.words) == shown.text
        assert "".join(word.word for word in shown.words[: shown.stable]).startswith(stabiliser.stable_text)
        assert shown.stable >= stable_words
        stable_words = shown.stable
        assert shown.text.startswith(stable)
        assert stabiliser.stable_text.startswith(stable)
        stable = stabiliser.stable_text
        assert shown.text[: shown.stable_chars] == stable
        assert shown.text == tidy(shown.text), "shown text is tidy"
        following = shown.text[len(stable) : len(stable) + 1]
        assert not (stable and following and unicodedata.category(following).startswith("M"))
    result = stabiliser.finalise(final)
    if lock or stabiliser.keeps(final):
        assert result.startswith(stable)
    else:
        assert result == tidy(final)


@given(st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=2, max_size=8, unique=True))
def test_steady_hypotheses_become_stable_but_for_the_last_word(words):
    text = " ".join(words)
    stabiliser = Stabiliser()
    assert stabiliser.push(text, certainties=sure(text), audio_s=1.0).stable_chars == 0
    assert stabiliser.push(text, certainties=sure(text), audio_s=1.0).stable_chars == len(" ".join(words[:-1]))


@given(st.lists(st.sampled_from(["one", "two", "three", "four", "five"]), min_size=2, max_size=8, unique=True))
def test_without_probabilities_three_agree(words):
    text = " ".join(words)
    stabiliser = Stabiliser()
    assert [stabiliser.push(text, audio_s=1.0).stable_chars for _ in range(3)] == [0, 0, len(" ".join(words[:-1]))]
