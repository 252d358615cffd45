"""One utterance from its first sound to its final: with real threads, on the real clock, under a watchdog."""

import attrs
import pytest
import trio
import trio.testing

from sttd.core import text
from sttd.core.types import Failure, JobClass
from sttd.errors import ModelError, OverloadedError
from tests.unit.session.rooms import Utterance, open_room


async def test_an_utterance_holds_the_model_from_its_first_sound_to_its_final():
    async with open_room() as room:
        utterance = Utterance(room)
        assert room.kinds() == ["SpeechStart"]
        await room.until(lambda: room.models.held == 2)  # for the final and for interims
        utterance.close(1.2)
        final = await utterance.final()
        assert room.kinds() == ["SpeechStart", "SpeechEnd", "Final"]
        assert room.models.held == 0
        assert (final.text, final.reason, final.end_s, final.model) == ("w1 w2 w3 w4", "endpoint", 1.2, "fake")
        assert (final.timing.endpoint_ms, final.timing.speculative) == (500, False)
        assert room.events[1].silence_ms == 500


async def test_interims_come_as_audio_does_and_are_stable_in_front():
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        interims = [await utterance.show(seconds) for seconds in (1.0, 2.0, 3.0)]
        assert [interim.seq for interim in interims] == [1, 2, 3]
        assert interims[-1].text == "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10"
        assert interims[-1].text[: interims[-1].stable_chars] == "w1 w2 w3 w4 w5 w6"
        assert len(utterance.hints) == 3
        utterance.close(3.0)
        await utterance.final()


@pytest.mark.parametrize(("asked", "known"), [("de", "de"), (None, "en")])
async def test_what_the_text_hints_depends_on_its_language(monkeypatch, asked, known):
    told = []
    monkeypatch.setattr(text, "turn_hint", lambda before, now, *, language: told.append(language))
    async with open_room() as room:
        utterance = Utterance(room, voice=room.voice(lang=asked))
        await utterance.show(1.0)
        utterance.close(1.0)
        await utterance.final()
    assert told == [known]


async def test_nothing_is_shown_of_an_interim_that_ends_after_the_utterance():
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        room.model.gate.clear()
        utterance.hear(1.0)
        await room.until(lambda: room.model.calls)
        utterance.close(1.0)
        room.model.gate.set()
        await utterance.final()
        assert room.kinds() == ["SpeechStart", "SpeechEnd", "Final"]


async def test_a_newer_interim_replaces_the_one_that_waits():
    async with open_room() as room:
        blocker, utterance = Utterance(room), Utterance(room, number=2)
        await room.until(lambda: room.models.held == 4)
        room.model.gate.clear()
        blocker.hear(1.0)
        await room.until(lambda: room.model.calls)
        utterance.hear(1.0)
        utterance.hear(2.0)
        assert room.dispatcher.statistics().queued["interim"] == 1
        assert room.dispatcher.statistics().coalesced == 1
        room.model.gate.set()
        await room.until(lambda: any(getattr(e, "seq", 0) and e.utterance == 2 for e in room.events))
        assert [e.end_s for e in room.events if getattr(e, "seq", 0) and e.utterance == 2] == [2.0]
        for each in (blocker, utterance):
            each.close(2.0)
            await each.final()


# ------------------------------------------------------------------ models that are late or do not come


async def test_a_model_that_does_not_load_is_said_and_the_final_is_empty():
    async with open_room() as room:
        room.models.failures["fake"] = ModelError("cannot be loaded", code="model_load_failed")
        utterance = Utterance(room)
        await room.until(lambda: len(room.events) == 2)
        assert room.events[1] == Failure(
            code="model_load_failed", message="cannot be loaded", retryable=True, fatal=False
        )
        utterance.hear(1.0)
        utterance.pause(1.0)
        utterance.close(1.0)
        final = await utterance.final()
        assert (final.text, final.reason, final.confidence) == ("", "endpoint", 0.0)
        assert room.model.calls == []


async def test_the_final_does_not_wait_for_the_model_of_the_interims():
    async with open_room() as room:
        room.models.loading = {"quick"}
        utterance = Utterance(room, voice=room.voice(interim_model="quick"))
        await room.until(lambda: room.models.held == 1)
        utterance.hear(1.0)  # due, and there is no model for it
        utterance.close(1.0)
        assert (await utterance.final()).text == "w1 w2 w3"
        assert room.models.asked == ["fake", "quick"] or room.models.asked == ["quick", "fake"]


async def test_interims_begin_once_their_model_is_there():
    async with open_room() as room:
        room.models.loading = {"quick", "fake"}
        utterance = Utterance(room, voice=room.voice(interim_model="quick"))
        utterance.hear(1.0)
        room.models.loaded("quick")
        await room.until(lambda: "Interim" in room.kinds())  # nobody had to speak on
        room.models.loaded("fake")
        utterance.close(1.0)
        assert (await utterance.final()).text == "w1 w2 w3"


async def test_without_a_model_for_interims_there_is_still_a_final():
    async with open_room() as room:
        room.models.failures["quick"] = OverloadedError("no slot")
        utterance = Utterance(room, voice=room.voice(interim_model="quick"))
        await room.until(lambda: "Failure" in room.kinds())
        utterance.hear(1.0)
        utterance.close(1.0)
        assert (await utterance.final()).text == "w1 w2 w3"


async def test_a_session_without_interims_asks_for_one_model():
    async with open_room() as room:
        utterance = Utterance(room, voice=room.voice(interim=False, interim_model="quick"))
        await room.until(lambda: room.models.held == 1)
        utterance.hear(1.0)
        utterance.close(1.0)
        await utterance.final()
        assert room.models.asked == ["fake"]
        assert room.model.calls == [[JobClass.FINAL]]


# ------------------------------------------------------------------ decoding in the pause


async def test_a_speculation_that_holds_is_the_final():
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        utterance.pause(1.0)
        await room.until(lambda: room.dispatcher.statistics().batches == 1)
        utterance.close(1.0)
        final = await utterance.final()
        assert (final.text, final.timing.speculative) == ("w1 w2 w3", True)
        assert room.model.calls == [[JobClass.SPECULATIVE]]


async def test_a_speculation_under_way_is_waited_for():
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        room.model.gate.clear()
        utterance.pause(1.0)
        await room.until(lambda: room.model.calls)
        utterance.close(1.0)
        room.model.gate.set()
        final = await utterance.final()
        assert (final.text, final.timing.speculative, len(room.model.calls)) == ("w1 w2 w3", True, 1)


async def test_speech_that_goes_on_voids_the_speculation():
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        utterance.pause(1.0)
        await room.until(lambda: room.dispatcher.statistics().batches == 1)
        utterance.transcriber.resumed()
        utterance.close(2.0)
        final = await utterance.final()
        assert (final.text, final.timing.speculative) == ("w1 w2 w3 w4 w5 w6 w7", False)


async def test_a_speculation_that_lacks_the_end_is_not_used():
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        utterance.pause(1.0)
        utterance.close(2.0)
        assert (await utterance.final()).text == "w1 w2 w3 w4 w5 w6 w7"


async def test_a_speculation_that_fails_is_tried_once_more_as_a_final(caplog):
    async with open_room() as room:
        room.model.failures.append(RuntimeError("CUDA hiccup"))
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        utterance.pause(1.0)
        utterance.close(1.0)
        final = await utterance.final()
        assert (final.text, final.timing.speculative) == ("w1 w2 w3", False)
        assert "Failure" not in room.kinds()
        assert len(room.model.calls) == 2


async def test_a_file_is_not_decoded_in_its_pauses():
    async with open_room() as room:
        utterance = Utterance(room, voice=room.voice(kind="file", interim=False))
        await room.until(lambda: room.models.held)
        utterance.pause(1.0)
        utterance.close(1.0)
        await utterance.final()
        assert room.model.calls == [[JobClass.FILE]]


# ------------------------------------------------------------------ what goes wrong while decoding


async def test_a_decode_that_fails_is_said_and_the_final_is_the_stable_text(caplog):
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        await utterance.show(2.0)
        shown = await utterance.show(3.0)
        room.model.failures.append(RuntimeError("no more"))
        utterance.close(3.0)
        final = await utterance.final()
        (failure,) = [event for event in room.events if isinstance(event, Failure)]
        assert (failure.code, failure.fatal) == ("decode_failed", False)
        assert final.text == shown.text[: shown.stable_chars] != ""
        assert final.confidence == 0.0


async def test_an_interim_that_fails_is_not_missed(caplog):
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        room.model.failures.append(RuntimeError("once"))
        utterance.hear(1.0)
        await room.until(lambda: room.dispatcher.statistics().failed == 1)
        await utterance.show(2.0)
        utterance.close(2.0)
        await utterance.final()
        assert "Failure" not in room.kinds()


@attrs.define(eq=False)
class Busy:
    """A dispatcher that refuses so often."""

    real: object
    refusals: int
    load: float = 0.0

    def submit(self, job):
        if self.refusals:
            self.refusals -= 1
            raise OverloadedError("busy", data={"retry_after_s": 0.01})
        return self.real.submit(job)


async def test_a_window_of_a_file_waits_until_there_is_room():
    async with open_room() as room:
        voice = room.voice(kind="file", interim=False, dispatcher=Busy(room.dispatcher, refusals=2))
        utterance = Utterance(room, voice=voice)
        utterance.close(1.0)
        assert (await utterance.final()).text == "w1 w2 w3"


async def test_guesses_are_shed_without_a_word():
    async with open_room() as room:
        utterance = Utterance(room, voice=room.voice(dispatcher=Busy(room.dispatcher, refusals=2)))
        await room.until(lambda: room.models.held)
        utterance.hear(1.0)
        utterance.pause(1.0)
        utterance.close(1.0)
        assert (await utterance.final()).text == "w1 w2 w3"
        assert room.kinds() == ["SpeechStart", "SpeechEnd", "Final"]


# ------------------------------------------------------------------ order and ends


async def test_finals_leave_in_the_order_of_their_utterances():
    async with open_room() as room:
        room.models.loading = {"slow"}
        first = Utterance(room, voice=room.voice(model="slow", interim=False))
        second = Utterance(room, number=2, previous=first.transcriber.sent)
        for utterance in (first, second):
            utterance.close(1.0)
        await room.until(lambda: room.model.calls)
        assert "Final" not in room.kinds()
        room.models.loaded("slow")
        await second.final()
        assert [event.utterance for event in room.events if type(event).__name__ == "Final"] == [1, 2]


@pytest.mark.parametrize("stage", ["lease", "speech", "decode", "previous"])
async def test_cancelled_at_any_stage_it_gives_back_what_it_holds(stage):
    async with open_room() as room:
        previous = trio.Event()
        if stage != "previous":
            previous.set()
        if stage == "lease":
            room.models.loading = {"fake"}
        utterance = Utterance(room, previous=previous)
        if stage != "lease":
            await room.until(lambda: room.models.held)
        if stage in ("decode", "previous"):
            if stage == "decode":
                room.model.gate.clear()
            utterance.close(1.0)
            await room.until(lambda: room.model.calls)
        if stage == "previous":
            await room.until(lambda: room.dispatcher.statistics().in_flight == 0)
        utterance.scope.cancel()
        await utterance.ended.wait()
        assert utterance.transcriber.sent.is_set()  # or those behind it would wait for ever
        assert "Final" not in room.kinds()
        room.model.gate.set()
        await room.until(lambda: not room.models.held)


async def test_a_final_at_once_ends_the_utterance_where_it_is():
    async with open_room() as room:
        utterance = Utterance(room, voice=room.voice(lang="de", words=True))
        final = utterance.transcriber.final_at_once("drain", position=32_000)
        assert room.kinds() == ["SpeechStart", "SpeechEnd"]
        assert (final.text, final.reason, final.end_s, final.language, final.words) == ("", "drain", 2.0, "de", ())
        utterance.scope.cancel()


async def test_a_final_at_once_after_the_end_does_not_end_it_again():
    async with open_room() as room:
        room.models.loading = {"fake"}
        utterance = Utterance(room)
        utterance.close(1.0)
        final = utterance.transcriber.final_at_once("drain", position=32_000)
        assert room.kinds() == ["SpeechStart", "SpeechEnd"]
        assert (final.end_s, final.reason) == (1.0, "drain")
        utterance.scope.cancel()


# ------------------------------------------------------------------ what a final carries


async def test_words_are_on_the_clock_of_the_session():
    async with open_room() as room:
        utterance = Utterance(room, voice=room.voice(words=True))
        utterance.transcriber.opened = attrs.evolve(utterance.transcriber.opened, start_sample=16_000)
        utterance.close(1.0)
        final = await utterance.final()
        assert [(word.word, word.start_s) for word in final.words] == [
            ("w1", pytest.approx(1.0)),
            ("w2", pytest.approx(1.3)),
            ("w3", pytest.approx(1.6)),
        ]


async def test_a_locked_prefix_stays_in_the_final():
    async with open_room() as room:
        utterance = Utterance(room, voice=room.voice(lock_stable=True))
        await room.until(lambda: room.models.held)
        await utterance.show(2.0)
        shown = await utterance.show(3.0)
        stable = shown.text[: shown.stable_chars]
        assert stable
        utterance.close(1.0)  # less than what was shown as stable
        assert (await utterance.final()).text.startswith(stable)


async def test_a_model_that_is_there_at_the_end_decodes_what_was_said_without_it():
    async with open_room() as room:
        room.models.failures["fake"] = OverloadedError("no slot", data={"retry_after_s": 10.0})
        utterance = Utterance(room)
        await room.until(lambda: room.models.asked)
        await trio.testing.wait_all_tasks_blocked()
        room.models.failures.clear()
        utterance.close(1.2)
        assert (await utterance.final()).text == "w1 w2 w3 w4"
        (failure,) = [event for event in room.events if isinstance(event, Failure)]
        assert (failure.code, failure.data) == ("overloaded", {"retry_after_s": 10.0})


async def test_a_file_waits_for_its_model_and_says_so_once():
    async with open_room() as room:
        room.models.failures["fake"] = OverloadedError("no slot")
        utterance = Utterance(room, voice=room.voice(kind="file", interim=False))
        utterance.close(1.2)
        await room.until(lambda: len(room.models.asked) >= 3)
        room.models.failures.clear()
        assert (await utterance.final()).text == "w1 w2 w3 w4"
        assert room.kinds().count("Failure") == 1


async def test_what_was_stable_stays_when_the_model_of_the_final_does_not_come():
    async with open_room() as room:
        room.models.failures["big"] = ModelError("broken", code="model_load_failed")
        voice = room.voice(model="big", interim_model="fake", lock_stable=True)
        utterance = Utterance(room, voice=voice)
        for seconds in (1.0, 2.0, 3.0):
            shown = await utterance.show(seconds)
        utterance.close(3.0)
        final = await utterance.final()
        assert shown.stable_chars > 0
        assert final.text.startswith(shown.text[: shown.stable_chars])
        assert room.kinds().count("Failure") == 1


async def test_a_guess_that_begins_after_the_decision_is_none_that_ran_before_it():
    async with open_room() as room:
        blocker, utterance = Utterance(room), Utterance(room, number=2)
        await room.until(lambda: room.models.held == 4)
        room.model.gate.clear()
        blocker.close(1.0)
        await room.until(lambda: room.model.calls)
        utterance.pause(1.0)
        await trio.sleep(0.1)
        utterance.close(1.0)
        await trio.sleep(0.02)
        room.model.gate.set()
        assert not (await utterance.final()).timing.speculative
