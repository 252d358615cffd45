"""Which answers of a short window are heard again in the full one."""

from __future__ import annotations

import math

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sttd.core.types import Effort
from sttd.engine.whisper.doubt import doubtful, said_once
from sttd.engine.whisper.options import Settings
from sttd.engine.whisper.search import Attempt
from sttd.engine.whisper.tokens import compression_ratio


class Letters:
    """A codec with a token for every character."""

    def decode(self, tokens):
        return "".join(map(chr, tokens))


SURE = Attempt(tokens=(), avg_logprob=-0.2, no_speech_prob=0.1, compression_ratio=1.0, temperature=0.0)
LAMP = "Turn on the living room lamp."


def doubted(text, *, effort=Effort.FULL, audio_s=3.0, settings=None, **changes):
    attempt = attrs.evolve(SURE, compression_ratio=compression_ratio(text) if text else 0.0, **changes)
    return doubtful(attempt, text, effort=effort, audio_s=audio_s, settings=settings or Settings())


@pytest.mark.parametrize("effort", [Effort.QUICK, Effort.FULL])
def test_a_plain_answer_is_believed(effort):
    assert not doubted(LAMP, effort=effort)
    assert not doubted("Yes, yes.", effort=effort)


@pytest.mark.parametrize("effort", [Effort.QUICK, Effort.FULL])
@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (f"{LAMP} {LAMP}", {}),  # what short windows do to commands, with a log probability of -0.1
        ("no no no", {}),
        (" ".join([LAMP] * 12), {"audio_s": 28.0}),
        ("one two three four five six seven eight nine", {"audio_s": 0.4}),
        (LAMP, {"settings": Settings(compression_ratio_threshold=0.5)}),
    ],
)
def test_what_may_be_a_loop_is_not(effort, text, changes):
    assert doubted(text, effort=effort, **changes)


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        (LAMP, {"avg_logprob": -0.6}),
        (LAMP, {"cut": True}),
        (LAMP, {"no_speech_prob": 0.7}),
        (LAMP, {"no_speech_prob": 0.3, "settings": Settings(no_speech_threshold=0.2)}),
        ("", {}),
        ("...", {}),
    ],
)
def test_an_unsure_final_is_not_and_an_interim_is(text, changes):
    assert doubted(text, **changes)
    assert not doubted(text, effort=Effort.QUICK, **changes)


@given(st.lists(st.text("abcdefghij", min_size=3, max_size=6), min_size=2, max_size=16, unique=True), st.integers(2, 4))
def test_words_are_believed_once_and_no_phrase_twice(words, times):
    once = " ".join(words)
    assume(compression_ratio(once) < Settings().compression_ratio_threshold)
    assert not doubted(once, audio_s=10.0)
    assert doubted(" ".join([once] * times), audio_s=10.0 * times)


def spoken(text, *, audio_s, sure=True):
    """What is left of an interim's text."""
    tokens = tuple(map(ord, text))
    probabilities = tuple(0.5 if index <= len(LAMP) else 0.9 for index in range(len(tokens))) if sure else None
    attempt = attrs.evolve(
        SURE, tokens=tokens, probabilities=probabilities, compression_ratio=compression_ratio(text), cut=True
    )
    left = said_once(attempt, audio_s=audio_s, codec=Letters())
    assert left.tokens == tokens[: len(left.tokens)]
    assert left.probabilities == (probabilities[: len(left.tokens)] if sure else None)
    return left


def test_an_interim_is_cut_where_it_begins_again():
    again = f"{LAMP} {LAMP} {LAMP} Turn on the liv"
    left = spoken(again, audio_s=1.5)
    assert Letters().decode(left.tokens).strip() == LAMP
    assert left.avg_logprob == pytest.approx(math.log(0.5))
    assert not doubtful(left, LAMP, effort=Effort.QUICK, audio_s=1.5, settings=Settings())
    assert spoken(again, audio_s=1.5, sure=False).avg_logprob == SURE.avg_logprob
    left = spoken("Lord, wait, s s s s s s s s s s s s", audio_s=0.6)
    assert Letters().decode(left.tokens).strip() == "Lord, wait, s"


@pytest.mark.parametrize(
    ("text", "audio_s"),
    [
        ("no no no", 3.0),  # there is time to say it; whether somebody did is for the full window
        (f"{LAMP} {LAMP}", 8.0),
        ("one two three four five six seven eight nine ten eleven twelve", 0.4),  # nothing of it comes again
        ("one two one two three four five six seven eight nine", 0.4),  # what comes again is not all that follows
        ("", 0.4),
    ],
)
def test_nothing_else_of_an_interim_is_cut(text, audio_s):
    assert Letters().decode(spoken(text, audio_s=audio_s).tokens) == text


class Bytes:
    """A codec with a token for every `size` bytes: of several characters, or of a part of one."""

    def __init__(self, size):
        self.size = size

    def encode(self, text):
        raw = text.encode()
        return tuple(int.from_bytes(b"\1" + raw[at : at + self.size]) for at in range(0, len(raw), self.size))

    def decode(self, tokens):
        return b"".join(token.to_bytes(self.size + 1).lstrip(b"\0")[1:] for token in tokens).decode(errors="replace")


@pytest.mark.parametrize(
    ("text", "size", "left"),
    [("哈" * 40, 3, "哈"), ("哈" * 40, 6, "哈哈"), ("研究" * 14, 2, "研究"), ("饕餮" * 14, 1, "饕餮")],
)
def test_of_tokens_that_are_no_characters_the_whole_ones_are_left(text, size, left):
    codec = Bytes(size)
    attempt = attrs.evolve(SURE, tokens=codec.encode(text), compression_ratio=compression_ratio(text))
    assert codec.decode(said_once(attempt, audio_s=0.6, codec=codec).tokens) == left


@given(st.text("ab c.", max_size=80), st.floats(0.0, 5.0))
def test_what_is_left_of_an_interim_is_its_beginning_and_cutting_it_again_leaves_it(text, audio_s):
    left = spoken(text, audio_s=audio_s)
    assert said_once(left, audio_s=audio_s, codec=Letters()) == left
