"""Tokens, loops, guards against invented text, and hints about turns."""

import itertools
import math

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core import phrases
from sttd.core.endpointer import TurnHint
from sttd.core.text import Evidence, cut_loops, guard, joined, tidy, tokenise, turn_hint, without_loops, word_places
from sttd.core.types import Hypothesis, Segment, Word

ENDED, CONTINUES, NEUTRAL = TurnHint.ENDED, TurnHint.CONTINUES, TurnHint.NEUTRAL
CLEAR = {"speech_s": 2.0, "mean_probability": 0.9}
WEAK = {"speech_s": 0.1, "mean_probability": 0.9}
FAINT = {"speech_s": 2.0, "mean_probability": 0.3}
UNHEARD = {"speech_s": 0.0, "mean_probability": math.nan}


def hypothesis_of(text, **fields):
    words = tuple(
        Word(word=f" {word}", start_s=index / 2, end_s=(index + 1) / 2, probability=0.9)
        for index, word in enumerate(text.split())
    )
    segment = Segment(text=text, start_s=0.0, end_s=len(words) / 2, words=words)
    return Hypothesis(**{"text": text, "segments": (segment,), "language": "en", "avg_logprob": -0.2, **fields})


def pieces(text):
    return [token.piece for token in tokenise(text)]


# ---------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two   words ", "two words"),
        ("a\tb\n\x1cc", "a b c"),
        ("a\x00b\ufffd\ufeff \ud800", "ab"),
        ("", ""),
    ],
)
def test_tidy(text, expected):
    assert tidy(text) == expected


def test_punctuation_belongs_to_the_word_before_it():
    assert pieces("Yes, I do — well...") == ["Yes,", " I", " do —", " well..."]
    token = tokenise("«Don't!» he")[0]
    assert (token.core, token.tail, token.key) == ("«Don't", "!»", "dont")


def test_punctuation_at_the_start_belongs_to_the_first_word():
    assert pieces("... - so it") == ["... - so", " it"]
    assert pieces("?! ...") == []


def test_signs_that_are_spoken_stay_with_their_word():
    assert [(token.core, token.tail) for token in tokenise("5% of 3.5!")] == [("5%", ""), ("of", ""), ("3.5", "!")]


def test_scripts_without_spaces_go_by_characters():
    assert pieces("「今日は、AIと3人」。") == ["「今", "日", "は、", "AI", "と", "3", "人」。"]
    assert pieces("ที่นี่ ok") == ["ที่", "นี่", " ok"]
    assert len(tokenise("감사합니다 여러분")) == 2


@given(st.text(max_size=40))
def test_the_pieces_of_a_text_are_the_text(text):
    clean = tidy(text)
    tokens = tokenise(clean)
    assert "".join(token.piece for token in tokens) == (clean if tokens else "")
    assert all(token.key for token in tokens)
    assert tidy(clean) == clean
    if tokens:
        assert tokens[-1].until == len(clean.replace(" ", ""))


def test_words_are_found_by_their_characters():
    words = hypothesis_of("Well, I never!").words
    assert word_places(tokenise("Well, I never!"), words) == [0, 1, 2]
    halves = [attrs.evolve(words[0], word=part) for part in (" ne", "ver", " mind")]
    assert word_places(tokenise("never mind"), halves) == [1, 2]
    assert word_places(tokenise("never mind it"), halves) == []
    assert word_places([], halves) == word_places(tokenise("a"), []) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no no no no no yes", "no no no no no yes"),
        ("no no no no no no yes", "no yes"),
        ("I think I think so", "I think I think so"),
        ("I think, I think, I think. so", "I think, so"),
        ("ありがとうありがとうありがとう", "ありがとう"),
        ("a b a b a b c d e c d e c d e", "a b c d e"),
        ("the cat and the dog and the cow", "the cat and the dog and the cow"),
        ("", ""),
    ],
)
def test_loops_are_cut(text, expected):
    assert joined(cut_loops(tokenise(text))) == expected


@pytest.mark.parametrize(
    ("text", "speech_s"),
    [
        ("No, no, no, no, no, no, I said no.", 2.0),
        ("Check one two. Check one two. Check one two. Ready.", 2.2),
        ("My number is 0 0 0 0 0 0 7.", 2.5),
        ("I know, I know, I know.", 1.0),
        ("go go go go go go go", 1.5),
        ("我的电话是八八八八八八八八", 2.0),
        ("哈哈哈哈哈哈哈", 0.8),
    ],
)
def test_what_was_said_again_and_again_stays(text, speech_s):
    """With all that the decoder may hold against it but a lack of room, which rhythm does not have."""
    tokens = tokenise(text)
    assert without_loops(tokens, Evidence(speech_s=speech_s)) == tokens
    assert without_loops(tokens, Evidence(speech_s=speech_s, temperature=0.4)) == tokens


def test_a_sentence_said_three_times_stays_although_it_compresses_well():
    sentence = "the quick brown fox jumps over the lazy dog and then goes back home to sleep until noon"
    tokens = tokenise(" ".join([sentence] * 3))
    assert without_loops(tokens, Evidence(speech_s=15.0, compression_ratio=2.6, temperature=0.8)) == tokens
    assert joined(without_loops(tokens, Evidence(speech_s=5.0, compression_ratio=2.6))) == sentence


@pytest.mark.parametrize(
    ("evidence", "loop"),
    [
        (Evidence(speech_s=3.0), True),  # 40 words in 3 s: nobody speaks like that
        (Evidence(speech_s=6.0), False),
        (Evidence(speech_s=6.0, compression_ratio=2.5), True),
        (Evidence(speech_s=6.0, temperature=0.4), True),
        (Evidence(speech_s=20.0, compression_ratio=2.5), True),  # twenty times
    ],
)
def test_a_loop_is_what_the_speech_has_no_room_for(evidence, loop):
    tokens = tokenise("and on " * 20)
    assert joined(without_loops(tokens, evidence)) == ("and on" if loop else joined(tokens))


def test_repetitions_that_take_no_time_go_and_those_before_them_stay():
    said, squeezed = hypothesis_of("come on come on").words, hypothesis_of("come on " * 5).words
    words = [*said, *(attrs.evolve(word, start_s=2.0, end_s=2.0) for word in squeezed)]
    tokens = tokenise("come on " * 7)
    assert joined(without_loops(tokens, Evidence(speech_s=6.0, words=words))) == "come on come on"


@given(
    st.lists(st.sampled_from(["no", "yes", "one", "八"]), max_size=60),
    st.floats(1, 10),
    st.floats(0, 1),
)
def test_nothing_goes_that_was_said_at_a_speed_that_people_have(words, ratio, temperature):
    tokens = tokenise(" ".join(words))
    said_s = len(tokens) / 3.5
    kept = without_loops(tokens, Evidence(speech_s=said_s, compression_ratio=ratio, temperature=temperature))
    longest_run = max((len(list(run)) for _, run in itertools.groupby(words)), default=0)
    believed = ratio <= 2.4 and temperature == 0
    if believed or (longest_run < 12 and len(tokens) < 24):  # twelve of two would be more
        assert kept == tokens


@given(st.lists(st.sampled_from(["no", "yes", "one"]), min_size=1, max_size=4), st.integers(8, 60), st.floats(0, 2))
def test_a_loop_goes_whatever_it_repeats(gram, times, speech_s):
    tokens = tokenise(" ".join(gram * times))
    evidence = Evidence(speech_s=speech_s, compression_ratio=3.0)
    if len(tokens) / 5 > speech_s + 0.6:
        assert len(without_loops(tokens, evidence)) <= 2 * len(gram)  # the first may be cut in itself


def test_an_eager_cut_takes_less_for_a_loop():
    assert joined(cut_loops(tokenise("no no no, I think I think so"), eager=True)) == "no I think so"


@given(st.lists(st.sampled_from("abc"), max_size=40), st.booleans())
def test_cutting_loops_keeps_order_and_is_done_once(words, eager):
    tokens = tokenise(" ".join(words))
    kept = cut_loops(tokens, eager=eager)
    rest = iter(tokens)
    assert all(token in rest for token in kept)
    assert bool(kept) == bool(tokens)
    assert {token.key for token in kept} == {token.key for token in tokens}


# ---------------------------------------------------------------- guards


def test_what_was_said_stays():
    heard = hypothesis_of(" Hello  there. ")
    assert guard(heard, **CLEAR).text == "Hello there."
    assert guard(heard, **CLEAR).segments == heard.segments
    assert guard(heard, **UNHEARD).text == "Hello there."


@pytest.mark.parametrize(
    ("no_speech_prob", "avg_logprob", "text"),
    [(0.7, -1.1, ""), (0.7, -0.2, "Hello there."), (0.1, -1.1, "Hello there.")],
)
def test_no_speech_needs_both_signs_of_the_decoder(no_speech_prob, avg_logprob, text):
    heard = hypothesis_of("Hello there.", no_speech_prob=no_speech_prob, avg_logprob=avg_logprob)
    judged = guard(heard, **CLEAR)
    assert judged.text == text
    assert bool(judged.segments) == bool(text)


@pytest.mark.parametrize(
    ("evidence", "fields", "text"),
    [
        (CLEAR, {}, "Thank you."),
        (UNHEARD, {}, "Thank you."),
        (WEAK, {}, ""),
        (FAINT, {}, ""),
        (CLEAR, {"no_speech_prob": 0.7}, ""),
        (UNHEARD, {"avg_logprob": -1.5}, ""),
    ],
)
def test_phrases_that_models_invent_need_doubt(evidence, fields, text):
    assert guard(hypothesis_of("Thank you.", **fields), **evidence).text == text


def test_phrases_count_as_whole_utterances_and_in_their_language():
    assert guard(hypothesis_of("Thank you, Anna."), **FAINT).text == "Thank you, Anna."
    assert guard(hypothesis_of("ご視聴ありがとうございました。", language="ja"), **FAINT).text == ""
    assert guard(hypothesis_of("Merci.", language="fr"), **FAINT).text == ""
    assert guard(hypothesis_of("Merci.", language="xx"), **FAINT).text == "Merci."
    assert guard(hypothesis_of("Thank you.", language="xx"), **FAINT).text == ""


@pytest.mark.parametrize(
    ("language", "phrase"), [(key, each) for key, all_ in phrases.INVENTED.items() for each in all_]
)
def test_every_listed_phrase_is_recognised(language, phrase):
    assert guard(hypothesis_of(phrase.capitalize() + ".", language=language), **FAINT).text == ""


def test_more_words_than_anybody_says_need_doubt_too():
    many = hypothesis_of("one two three four five six seven eight nine ten")
    assert guard(many, speech_s=0.2, mean_probability=0.9).text == ""
    assert guard(many, speech_s=0.5, mean_probability=0.9).text != ""
    assert guard(many, speech_s=0.5, mean_probability=0.3).text == ""
    assert guard(attrs.evolve(many, avg_logprob=-2.0), **UNHEARD).text != ""


@pytest.mark.parametrize(
    ("text", "evidence", "kept"),
    [
        ("Hello doctor.", FAINT, False),
        ("Hello doctor.", CLEAR, True),  # a wake word, a command: somebody has said just that
        ("Hello doctor Who.", CLEAR, True),
        ("Kubernetes systemd", FAINT, False),
        ("Kubernetes systemd", CLEAR, True),
        ("Kubernetes, systemd and Trio", CLEAR, True),
        ("Kubernetes", CLEAR, True),
    ],
)
def test_a_final_that_is_the_prompt_or_the_hotwords_leaked(text, evidence, kept):
    judged = guard(hypothesis_of(text), **evidence, prompt="hello, doctor", hotwords=("Kubernetes", "systemd"))
    assert bool(judged.text) == kept


def test_a_single_hotword_may_be_meant():
    heard = hypothesis_of("Kubernetes.")
    assert guard(heard, **CLEAR, hotwords=("kubernetes",)).text == "Kubernetes."
    assert guard(heard, **FAINT, hotwords=("kubernetes",)).text == ""


PRESSED = {"speech_s": 3.0, "mean_probability": math.nan}  # push-to-talk


@pytest.mark.parametrize(
    ("text", "heard_s", "confidence", "kept"),
    [
        ("Kubernetes", 0.0, 0.42, False),
        ("Kubernetes", 0.0, 0.9, False),
        ("Kubernetes", 0.5, 0.9, True),
        ("I don't know.", 0.0, 0.17, False),
        ("I don't know.", 0.0, 0.8, True),  # the VAD is deaf to some voices
        ("I don't know.", 0.9, 0.5, True),
        ("I don't know.", math.nan, 0.5, True),
    ],
)
def test_keys_that_click_type_nothing(text, heard_s, confidence, kept):
    hypothesis = hypothesis_of(text, avg_logprob=math.log(confidence))
    judged = guard(hypothesis, **PRESSED, heard_s=heard_s, hotwords=("Kubernetes", "PostgreSQL", "Frankfurt"))
    assert bool(judged.text) == kept


@pytest.mark.parametrize("text", ["", " ", "...", "-- ?"])
def test_a_text_without_words_is_none(text):
    assert guard(hypothesis_of(text), **CLEAR).text == ""


def test_a_loop_is_cut_with_its_words():
    looped = hypothesis_of("so we went and we went and we went and home", temperature=0.4)
    judged = guard(looped, speech_s=1.0, mean_probability=0.9)
    assert judged.text == "so we went and home"
    assert [word.word for word in judged.words] == [" so", " we", " went", " and", " home"]
    assert (judged.segments[0].start_s, judged.segments[0].end_s) == (0.0, 5.5)


def test_a_loop_is_cut_without_words_too():
    heard = hypothesis_of("go on go on go on", temperature=0.4)
    plain = attrs.evolve(heard, segments=tuple(attrs.evolve(segment, words=()) for segment in heard.segments))
    judged = guard(plain, speech_s=0.5, mean_probability=0.9)
    assert (judged.text, judged.segments[0].text, judged.segments[0].end_s) == ("go on", "go on", 3.0)
    assert guard(attrs.evolve(heard, segments=()), **CLEAR).segments == ()


def test_a_text_that_compresses_well_is_taken_for_a_loop_sooner():
    heard = hypothesis_of("go on go on now")
    short = {"speech_s": 0.3, "mean_probability": 0.9}
    assert guard(heard, **CLEAR).text == "go on go on now"
    assert guard(attrs.evolve(heard, compression_ratio=2.5), **CLEAR).text == "go on go on now"
    assert guard(attrs.evolve(heard, temperature=0.4), **short).text == "go on go on now"
    assert guard(attrs.evolve(heard, compression_ratio=2.5), **short).text == "go on now"


@given(
    st.text(max_size=60),
    st.floats(0, 1),
    st.floats(-3, 0),
    st.floats(0.5, 5),
    st.floats(0, 30),
    st.one_of(st.floats(0, 1), st.just(math.nan)),
)
def test_a_guard_only_takes_away(text, no_speech, logprob, ratio, speech_s, probability):
    heard = hypothesis_of(text, no_speech_prob=no_speech, avg_logprob=logprob, compression_ratio=ratio, language="de")
    judged = guard(heard, speech_s=speech_s, mean_probability=probability, prompt="a b", hotwords=("c",))
    assert len(judged.text) <= len(tidy(text))
    assert judged.text or not judged.segments
    again = guard(judged, speech_s=speech_s, mean_probability=probability, prompt="a b", hotwords=("c",))
    assert judged.text or not again.text


# ---------------------------------------------------------------- turns


@pytest.mark.parametrize(
    ("previous", "text", "hint"),
    [
        ("I am here.", "I am here.", ENDED),
        ("I am here", "I am here.", NEUTRAL),
        ("I am there.", "I am here.", NEUTRAL),
        ("Are you here?", "are you here?", ENDED),
        ("He said: “go!”", "He said: “go!”", ENDED),
        ("", "I am here.", NEUTRAL),
        ("", "", NEUTRAL),
        ("I am,", "I am,", CONTINUES),
        ("", "I mean...", CONTINUES),
        ("", "I mean…", CONTINUES),
        ("", "It is um.", CONTINUES),
        ("", "you and.", CONTINUES),
        ("", "And?", NEUTRAL),
        ("", "I have twenty", CONTINUES),
        ("I have twenty.", "I have twenty.", ENDED),
        ("", "it costs 30", CONTINUES),
        ("it costs 30.", "it costs 30.", NEUTRAL),
        ("it costs 30!", "it costs 30!", ENDED),
        ("Ask Dr.", "Ask Dr.", NEUTRAL),
        ("John F.", "John F.", NEUTRAL),
        ("", "I am here", NEUTRAL),
    ],
)
def test_english_turns(previous, text, hint):
    assert turn_hint(previous, text) is hint


@pytest.mark.parametrize(
    ("text", "ending", "hint"),
    [
        ("I am here.", 0.9, ENDED),
        ("I am here.", 0.6, NEUTRAL),
        ("I am here.", 0.3, CONTINUES),
        ("I am here", None, NEUTRAL),
        ("I am here,", 0.9, CONTINUES),
        ("you and.", 0.9, CONTINUES),
        ("it costs 30.", 0.3, NEUTRAL),
    ],
)
def test_a_full_stop_that_the_decoder_does_not_believe_in_ends_no_sentence(text, ending, hint):
    assert turn_hint(text, text, ending=ending) is hint


@pytest.mark.parametrize(
    ("language", "text", "hint"),
    [
        ("de", "Ich gehe und", CONTINUES),
        ("de", "Ich gehe ähm", CONTINUES),
        ("de", "Das ist gut.", ENDED),
        ("fr", "Je vais euh", CONTINUES),
        ("ja", "今日は、", CONTINUES),
        ("ja", "今日です。", ENDED),
        ("hi", "मैं यहाँ हूँ।", ENDED),
        ("xx", "and", NEUTRAL),
    ],
)
def test_turns_in_other_languages(language, text, hint):
    assert turn_hint(text, text, language=language) is hint


@given(
    st.text(max_size=40),
    st.text(max_size=40),
    st.sampled_from(["en", "de", "", "ja"]),
    st.none() | st.floats(0, 1),
)
def test_any_text_has_a_hint(previous, text, language, ending):
    assert turn_hint(previous, text, language=language, ending=ending) in TurnHint
