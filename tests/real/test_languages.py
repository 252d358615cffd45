"""A session finds out which language is spoken, and stays with it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.recordings import as_bytes, room_noise
from tests.running import check_promises, transcribe

PAUSE_S = 1.2  # ends an utterance, whatever the session has learnt about pauses
OF_EACH_LANGUAGE = ["fleurs-de-004", "mfa-mls-es", "fleurs-fr-008", "pv-leopard-pt", "aishell-zh", "pv-leopard-ko"]

pytestmark = pytest.mark.real


def finals(daemon, samples, **options):
    # Without interims: where utterances end would depend on when they come.
    events = transcribe(daemon, as_bytes(samples), interim=False, **options)
    check_promises(events)
    return [event for event in events if event["type"] == "final"]


@pytest.mark.parametrize("clip", OF_EACH_LANGUAGE)
def test_the_language_is_detected_and_kept(daemon_with, recordings, clip):
    once = recordings[clip]
    twice = np.concatenate([once.samples, room_noise(PAUSE_S), once.samples])
    heard = finals(daemon_with("base"), twice)
    assert len(heard) >= 2
    assert all(final["text"] for final in heard)
    assert {final["language"] for final in heard} == {once.language}


def test_a_pause_in_a_sentence_changes_no_language(daemon_with, recordings):
    """By itself the second half of this Spanish sentence passes for Portuguese."""
    whole = recordings["mfa-mls-es"].samples
    middle = len(whole) // 2
    heard = finals(daemon_with("base"), np.concatenate([whole[:middle], room_noise(PAUSE_S), whole[middle:]]))
    assert len(heard) >= 2
    assert {final["language"] for final in heard} == {"es"}


def test_among_the_languages_that_may_be_spoken(daemon_with, recordings):
    """By itself the last part of this Spanish recording passes for Portuguese."""
    heard = finals(daemon_with("base"), recordings["pv-leopard-es"].samples, languages=["es", "en"])
    assert heard
    assert {final["language"] for final in heard} == {"es"}


def test_a_model_of_one_language_says_so(daemon_with, recordings):
    heard = finals(daemon_with("tiny.en"), recordings["jfk"].samples)
    assert {final["language"] for final in heard} == {"en"}
