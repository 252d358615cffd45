"""Which answers of a short window are heard again in the full one."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sttd.core.types import Effort
from sttd.engine.whisper.doubt import doubtful
from sttd.engine.whisper.options import Settings
from sttd.engine.whisper.search import Attempt
from sttd.engine.whisper.tokens import compression_ratio

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
