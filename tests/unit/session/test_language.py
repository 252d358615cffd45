"""One utterance has one language, and a session knows which: with real threads, under a watchdog."""

import attrs
import pytest
import trio.testing

from sttd.core.languages import PATIENCE_S
from sttd.core.types import Final, Interim, JobClass
from tests.unit.session.rooms import Utterance, open_room

SPANISH = (("es", 0.97), ("pt", 0.02), ("en", 0.005))
ENGLISH = (("en", 0.99), ("es", 0.004))
NEARLY_PORTUGUESE = (("pt", 0.8), ("es", 0.1), ("en", 0.005))
ANYTHING = (("es", 0.2), ("pt", 0.18), ("fr", 0.15), ("de", 0.1), ("en", 0.02))


def shown(room, number=1):
    return [event for event in room.events if isinstance(event, Interim) and event.utterance == number]


async def spoken(room, voice, *sounds, number, seconds=4.0):
    """Speak an utterance of which every decode hears one of `sounds`, in turn; its final."""
    room.model.sounds[:] = sounds
    utterance = Utterance(room, number=number, voice=voice)
    utterance.close(seconds)
    return await utterance.final()


async def test_what_was_spoken_before_decides_where_a_sound_says_little():
    async with open_room() as room:
        voice = room.voice()
        assert (await spoken(room, voice, SPANISH, number=1)).language == "es"
        assert (await spoken(room, voice, NEARLY_PORTUGUESE, number=2, seconds=1.0)).language == "es"
        assert voice.languages.certain == "es"


async def test_a_change_of_language_is_followed_in_the_utterance_where_it_happens():
    async with open_room() as room:
        voice = room.voice()
        finals = [await spoken(room, voice, SPANISH, number=number) for number in (1, 2)]
        finals.append(await spoken(room, voice, ENGLISH, number=3))
        assert [final.language for final in finals] == ["es", "es", "en"]
        assert voice.languages.certain == "en"


async def test_an_interim_that_is_not_sure_of_its_language_is_not_shown():
    async with open_room() as room:
        room.model.sounds[:] = [ANYTHING, SPANISH]
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        utterance.hear(1.0)
        await room.until(lambda: room.model.calls)
        await trio.testing.wait_all_tasks_blocked()
        await utterance.show(2.0)
        assert [interim.end_s for interim in shown(room)] == [2.0]
        utterance.close(2.0)
        assert (await utterance.final()).language == "es"


async def test_after_some_seconds_it_is_shown_all_the_same():
    async with open_room() as room:
        room.model.sounds[:] = [ANYTHING]
        utterance = Utterance(room)
        await utterance.show(PATIENCE_S)
        utterance.close(PATIENCE_S)
        assert (await utterance.final()).language == utterance.transcriber._language.code == "es"


async def test_the_first_interim_that_is_shown_settles_the_language():
    async with open_room() as room:
        room.model.sounds[:] = [SPANISH, ENGLISH]
        voice = room.voice()
        utterance = Utterance(room, voice=voice)
        await utterance.show(2.0)
        await utterance.show(3.0)
        utterance.close(6.0)
        assert (await utterance.final()).language == "es"
        first, *later = room.model.asked
        assert first.language is None
        assert {options.language for options in later} == {"es"}
        # Later interims do not listen for it; the final does, for the utterances to come.
        assert [options.languages is not None for options in later] == [False, True]
        assert (await spoken(room, voice, ANYTHING, number=2, seconds=1.0)).language == "en"


async def test_a_speculation_in_another_language_than_what_was_shown_is_not_the_final():
    async with open_room() as room:
        utterance = Utterance(room)
        await room.until(lambda: room.models.held)
        room.model.sounds[:] = [SPANISH, ENGLISH]
        room.model.gate.clear()
        utterance.hear(2.0)
        await room.until(lambda: room.model.calls)
        utterance.pause(2.0)  # submitted before the interim has settled anything
        room.model.gate.set()
        await room.until(lambda: shown(room) and len(room.model.calls) == 2)
        utterance.close(2.0)
        final = await utterance.final()
        assert (final.language, final.timing.speculative) == ("es", False)
        assert [call for call in room.model.calls if JobClass.FINAL in call]


async def test_what_an_utterance_sounded_like_is_not_believed_where_nothing_was_said():
    async with open_room() as room:
        voice = room.voice()
        await spoken(room, voice, SPANISH, number=1, seconds=0.2)  # too short for a word
        assert voice.languages.certain is None


async def test_a_language_that_was_asked_for_is_not_detected():
    async with open_room() as room:
        voice = room.voice(lang="de")
        assert (await spoken(room, voice, ENGLISH, number=1)).language == "de"
        assert voice.languages.certain == "de"
        assert {options.languages for options in room.model.asked} == {None}


async def test_one_possible_language_is_the_language():
    async with open_room() as room:
        voice = room.voice(languages=("pt",))
        assert (await spoken(room, voice, SPANISH, number=1)).language == "pt"
        assert {(options.language, options.languages) for options in room.model.asked} == {("pt", None)}


async def test_only_possible_languages_are_detected():
    async with open_room() as room:
        voice = room.voice(languages=("pt", "en"))
        assert (await spoken(room, voice, (("pt", 0.8), ("en", 0.2)), number=1)).language == "pt"
        assert [options.languages.allowed for options in room.model.asked] == [("pt", "en")]


async def test_an_utterance_from_before_a_change_of_language_does_not_decide_it():
    async with open_room() as room:
        voice = room.voice()
        room.model.sounds[:] = [SPANISH]
        utterance = Utterance(room, voice=voice)
        utterance.hear(3.0)
        voice.change(attrs.evolve(voice.options, lang=None), anew=True)  # as the ear does at `lang: auto`
        utterance.close(3.0)
        assert (await utterance.final()).language == "es"
        assert voice.languages.certain is None


async def test_a_model_that_does_not_choose_is_believed():
    async with open_room() as room:
        room.model.sounds[:] = [()]  # what a model of one language says
        utterance = Utterance(room)
        interim = await utterance.show(0.7)
        assert interim.text == "w1 w2"
        utterance.close(0.7)
        await utterance.final()


@pytest.mark.parametrize("trouble", [False, True])
async def test_a_final_without_a_decode_has_the_language_that_is_spoken(trouble):
    async with open_room() as room:
        voice = room.voice()
        await spoken(room, voice, SPANISH, number=1)
        if trouble:
            room.model.failures.append(RuntimeError("the engine fails"))
        utterance = Utterance(room, number=2, voice=voice)
        if trouble:
            utterance.close(2.0)
            final = await utterance.final()
        else:
            final = utterance.transcriber.final_at_once("drain", position=16_000)
            utterance.scope.cancel()
        assert isinstance(final, Final)
        assert (final.text, final.language) == ("", "es")
