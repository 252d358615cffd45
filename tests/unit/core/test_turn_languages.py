"""One utterance has one language, and a session knows which."""

import pytest

from sttd.core.languages import PATIENCE_S, SessionLanguages
from sttd.core.types import JobClass
from sttd.errors import DecodeError
from tests.unit.core.spoken import Spoken, options

FINAL, SPECULATIVE, INTERIM = JobClass.FINAL, JobClass.SPECULATIVE, JobClass.INTERIM

SPANISH = (("es", 0.97), ("pt", 0.02), ("en", 0.005))
ENGLISH = (("en", 0.99), ("es", 0.004))
NEARLY_PORTUGUESE = (("pt", 0.8), ("es", 0.1), ("en", 0.005))
ANYTHING = (("es", 0.2), ("pt", 0.18), ("fr", 0.15), ("de", 0.1), ("en", 0.02))


def choose(submit, sound):
    """As the real engine does: by the sound and by what the session knows; (language, probability, evidence)."""
    asked = submit.item.options
    if asked.language is None:
        language, probability = asked.languages.posterior(sound)[0]
        return {"language": language, "probability": probability, "heard": sound}
    return {"language": asked.language, "heard": sound if asked.languages is not None else ()}


def decode(utterance, job_class, sound, **more):
    return utterance.decoded(job_class, **choose(utterance.job(job_class), sound), **more)


def show(utterance, seconds, sound):
    utterance.now += 10
    assert utterance.hear(seconds)
    before = len(utterance.interims)
    decode(utterance, INTERIM, sound, seconds=seconds)
    return utterance.interims[before:]


def speak(sound, *, number, languages, seconds=4.0, text=None, **changes):
    """An utterance whose one decode hears that; its final."""
    utterance = Spoken(options=options(**changes), languages=languages, number=number)
    utterance.lease()
    utterance.close(seconds)
    decode(utterance, FINAL, sound, seconds=seconds, text=text)
    return utterance.final


def test_what_was_spoken_before_decides_where_a_sound_says_little():
    languages = SessionLanguages()
    assert speak(SPANISH, number=1, languages=languages).language == "es"
    assert speak(NEARLY_PORTUGUESE, number=2, languages=languages, seconds=1.0).language == "es"
    assert languages.certain == "es"


def test_a_change_of_language_is_followed_in_the_utterance_where_it_happens():
    languages = SessionLanguages()
    sounds = enumerate((SPANISH, SPANISH, ENGLISH), start=1)
    finals = [speak(sound, number=number, languages=languages) for number, sound in sounds]
    assert [final.language for final in finals] == ["es", "es", "en"]
    assert languages.certain == "en"


def test_an_interim_that_is_not_sure_of_its_language_is_not_shown():
    utterance = Spoken()
    utterance.lease()
    assert show(utterance, 1.0, ANYTHING) == []
    assert [interim.end_s for interim in show(utterance, 2.0, SPANISH)] == [2.0]
    utterance.close(2.0)
    assert utterance.job(FINAL).item.options.language == "es"


def test_after_some_seconds_it_is_shown_all_the_same():
    utterance = Spoken()
    utterance.lease()
    assert show(utterance, PATIENCE_S, ANYTHING)
    utterance.close(PATIENCE_S)
    assert utterance.job(FINAL).item.options.language == "es"


def test_the_first_interim_that_is_shown_settles_the_language():
    languages = SessionLanguages()
    utterance = Spoken(languages=languages)
    utterance.lease()
    show(utterance, 2.0, SPANISH)
    first = utterance.job(INTERIM).item.options
    show(utterance, 3.0, ENGLISH)
    later = utterance.job(INTERIM).item.options
    utterance.close(6.0)
    final = utterance.job(FINAL).item.options
    decode(utterance, FINAL, ENGLISH, seconds=6.0)
    assert utterance.final.language == "es"
    assert (first.language, later.language, final.language) == (None, "es", "es")
    # Later interims do not listen for it; the final does, for the utterances to come.
    assert (later.languages, final.languages is not None) == (None, True)
    assert speak(ANYTHING, number=2, languages=languages, seconds=1.0).language == "en"


@pytest.mark.parametrize("awaited", [False, True])
def test_a_speculation_in_another_language_than_what_was_shown_is_not_the_final(awaited):
    utterance = Spoken()
    utterance.lease()
    utterance.hear(2.0)
    utterance.pause(2.0)  # submitted before the interim has settled anything
    decode(utterance, INTERIM, SPANISH, seconds=2.0)
    if awaited:
        utterance.close(2.0)
    decode(utterance, SPECULATIVE, ENGLISH, seconds=2.0)
    if not awaited:
        utterance.close(2.0)
    decode(utterance, FINAL, ENGLISH, seconds=2.0)
    assert (utterance.final.language, utterance.final.timing.speculative) == ("es", False)


def test_what_an_utterance_sounded_like_is_not_believed_where_nothing_was_said():
    languages = SessionLanguages()
    speak(SPANISH, number=1, languages=languages, text="")
    assert languages.certain is None


def test_a_language_that_was_asked_for_is_not_detected():
    utterance = Spoken(options=options(lang="de"))
    utterance.lease()
    utterance.close(2.0)
    assert (utterance.job(FINAL).item.options.language, utterance.job(FINAL).item.options.languages) == ("de", None)
    decode(utterance, FINAL, ENGLISH)
    assert (utterance.final.language, utterance.languages.certain) == ("de", "de")


def test_one_possible_language_is_the_language():
    utterance = Spoken(options=options(languages=("pt",)))
    utterance.lease()
    utterance.close(2.0)
    asked = utterance.job(FINAL).item.options
    assert (asked.language, asked.languages) == ("pt", None)


def test_only_possible_languages_are_detected():
    utterance = Spoken(options=options(languages=("pt", "en")))
    utterance.lease()
    utterance.close(2.0)
    assert utterance.job(FINAL).item.options.languages.allowed == ("pt", "en")


def test_a_model_that_does_not_choose_is_believed():
    utterance = Spoken()
    utterance.lease()
    assert [interim.text for interim in show(utterance, 0.6, ())] == ["w1 w2"]  # what a model of one language says


@pytest.mark.parametrize("trouble", [False, True])
def test_a_final_without_a_decode_has_the_language_that_is_spoken(trouble):
    languages = SessionLanguages()
    speak(SPANISH, number=1, languages=languages)
    utterance = Spoken(languages=languages, number=2)
    utterance.lease()
    if trouble:
        utterance.close(2.0)
        utterance.fails(FINAL, DecodeError("the engine fails"))
    else:
        utterance.do(utterance.turn.at_once("drain", position=16_000))
    assert (utterance.final.text, utterance.final.language) == ("", "es")
