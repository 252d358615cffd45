"""What a session hears: numbers, the clock over dropped audio, options of the next utterance, finals in order."""

import numpy as np
import pytest
import trio

from sttd.core.options import Endpointing, SessionChanges
from sttd.core.types import Final, Gap
from sttd.engine.vad import VoiceDetector
from sttd.session.ear import Ear
from sttd.session.voice import Tuning
from tests.unit.session.rooms import NOISE, open_room


def listening(room, **options):
    ear = Ear(room.voice(interim=False, **options), None)
    ear.nursery = room.nursery
    return ear


def finals(room):
    return [event for event in room.events if isinstance(event, Final)]


def settle(ear, room):
    """A session forgets what has its final."""
    for final in finals(room):
        ear.owed.pop(final.utterance, None)


async def test_audio_opens_an_utterance_and_the_clock_counts_it():
    async with open_room() as room:
        ear = listening(room)
        assert (ear.position, ear.speaking, ear.lag_s) == (0, False, 0.0)
        ear.hear(np.zeros((0, 320), np.float32))
        assert not ear.speaking
        ear.hear_bytes(NOISE)
        assert (ear.position, ear.speaking, ear.utterances) == (16_000, True, 1)
        ear.end("stop")
        await room.until(lambda: finals(room))
        assert finals(room)[0].text == "w1 w2 w3"


async def test_an_empty_finalize_is_answered_behind_what_is_owed():
    async with open_room() as room:
        room.model.gate.clear()
        ear = listening(room, words=True)
        ear.hear_bytes(NOISE)
        ear.finalize()
        ear.finalize()
        await trio.testing.wait_all_tasks_blocked()
        assert finals(room) == []
        assert ear.lag_s > 0
        room.model.gate.set()
        await room.until(lambda: len(finals(room)) == 2)
        assert [(f.utterance, f.text, f.reason) for f in finals(room)] == [
            (1, "w1 w2 w3", "finalize"),
            (2, "", "finalize"),
        ]
        assert finals(room)[1].words == ()


@pytest.mark.parametrize("rate", [16_000, 44_100])
async def test_dropped_samples_advance_the_clock_by_whole_frames_and_none_is_forgotten(rate):
    async with open_room() as room:
        ear = listening(room, sample_rate=rate)
        for _ in range(100):
            ear.skip(2 * rate // 100)  # bytes of half a frame each
        assert ear.position == 16_000
        assert ear.dropped_s == pytest.approx(1.0)
        gaps = [event for event in room.events if isinstance(event, Gap)]
        assert sum(gap.to_s - gap.from_s for gap in gaps) == pytest.approx(1.0)


async def test_a_hole_ends_the_open_utterance():
    async with open_room() as room:
        ear = listening(room)
        ear.hear_bytes(NOISE)
        ear.skip(32_000)
        assert not ear.speaking
        await room.until(lambda: finals(room))
        assert finals(room)[0].reason == "endpoint"


async def test_changes_are_for_the_next_utterance():
    async with open_room() as room:
        ear = listening(room, lang="en")
        ear.hear_bytes(NOISE)
        ear.change(SessionChanges(lang="de", prompt="Grüße"))
        ear.finalize()
        ear.hear_bytes(NOISE)
        ear.end("stop")
        await room.until(lambda: len(finals(room)) == 2)
        assert [final.language for final in finals(room)] == ["en", "de"]
        assert ear.options.prompt == "Grüße"


async def test_a_language_named_anew_is_detected_anew():
    async with open_room() as room:
        ear = listening(room)
        ear.voice.languages.hear(1, (("fr", 0.99),), speech_s=5.0)
        ear.change(SessionChanges(prompt="x"))
        assert ear.voice.languages.certain == "fr"
        ear.change(SessionChanges(lang=None))
        assert ear.voice.languages.certain is None


async def test_at_once_every_shown_utterance_has_its_final_in_order():
    async with open_room() as room:
        room.models.loading = {"fake"}
        ear = listening(room)
        async with trio.open_nursery() as nursery:
            ear.nursery = nursery
            for _ in range(2):
                ear.hear_bytes(NOISE)
                ear.finalize()
            ear.hear_bytes(NOISE)
            nursery.cancel_scope.cancel()
        ear.end_at_once("drain")
        assert [(final.utterance, final.text) for final in finals(room)] == [(1, ""), (2, ""), (3, "")]


@pytest.mark.parametrize("rate", [8000, 44_100])
async def test_a_finalize_takes_what_the_resampler_holds_and_leaves_no_utterance_behind(rate):
    async with open_room() as room:
        ear = listening(room, sample_rate=rate)
        ear.hear_bytes((NOISE * 3)[: 2 * rate])
        ear.finalize()
        ear.flush()
        ear.end("stop")
        await room.until(lambda: finals(room))
        assert [(final.utterance, final.reason) for final in finals(room)] == [(1, "finalize")]
        assert ear.position / 16_000 == pytest.approx(1.0, abs=0.021)


async def test_no_client_asks_for_more_than_its_model_takes():
    async with open_room() as room:
        ear = listening(room, tuning=Tuning(max_window_s=10.0))
        ear.change(SessionChanges(endpointing=Endpointing(max_utterance_s=28.0)))
        assert ear.options.endpointing.max_utterance_s == 10.0
        ear.change(SessionChanges(endpointing=Endpointing(max_utterance_s=5.0)))
        assert ear.options.endpointing.max_utterance_s == 5.0


async def test_the_detector_changes_with_the_next_utterance(monkeypatch):
    told = []
    monkeypatch.setattr(VoiceDetector, "configure", lambda self, *, aggressiveness: told.append(aggressiveness))
    async with open_room() as room:
        ear = listening(room)
        ear.hear_bytes(NOISE)
        ear.change(SessionChanges(endpointing=Endpointing(aggressiveness=3)))
        assert told == []
        ear.end("stop")
        assert told == [3]
        await room.until(lambda: finals(room))
