"""Nothing is invented: no text where nobody speaks, and the words where something else is to be heard too."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.recordings import as_bytes
from benchmarks.words import word_errors
from sttd.core.types import SAMPLE_RATE
from tests.running import check_promises, transcribe

AROUND_S = 5.0  # chosen: of the same noise before the mixed clip, and after it
# Twice the errors of the clean clip and a fifth of the words more; at most a third of that was seen with `base`, two
# thirds with `tiny.en`.
NOISY_TIMES, NOISY_SHARE = 2, 0.2

pytestmark = pytest.mark.real


def finals(events):
    return [event for event in events if event["type"] == "final"]


def test_no_text_where_nobody_speaks(daemon, recordings):
    quiet = [recording for recording in recordings.values() if not recording.is_speech]
    assert quiet
    for recording in quiet:
        events = transcribe(daemon, as_bytes(recording.samples))
        check_promises(events)
        said = [event["text"] for event in events if event["type"] in ("interim", "final")]
        assert "".join(said) == "", recording.name


@pytest.mark.parametrize(
    ("clip", "noise", "snr_db"),
    [
        ("fleurs-en-005", "bike-b", 10),
        ("lj-001-0001", "bike-b", 5),
        ("ls-2412-153948-0000", "dishes-a", 5),
        ("pv-leopard-en", "dishes-a", 10),
    ],
)
def test_words_in_noise_and_none_in_noise_alone(daemon, recordings, clip, noise, snr_db):
    clean, mixed = recordings[clip], recordings[f"mix-{clip}-{noise}-{snr_db}db"]
    around = recordings[f"ns-{noise}"].samples[: round(AROUND_S * SAMPLE_RATE)]
    options = {"lang": "en", "interim": False}  # with interims their time of arrival says where utterances end
    undisturbed = finals(transcribe(daemon, as_bytes(clean.samples), **options))
    events = transcribe(daemon, as_bytes(np.concatenate([around, mixed.samples, around])), **options)
    check_promises(events)
    heard = [final for final in finals(events) if final["text"]]
    assert all(final["start_s"] >= AROUND_S for final in heard)
    assert all(final["end_s"] <= AROUND_S + mixed.duration_s for final in heard)
    errors, words = word_errors(mixed.text, " ".join(final["text"] for final in heard))
    clean_errors, _ = word_errors(clean.text, " ".join(final["text"] for final in undisturbed))
    assert errors <= NOISY_TIMES * clean_errors + NOISY_SHARE * words
