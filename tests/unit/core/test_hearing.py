"""What a session hears: numbers, the clock over dropped audio, options of the next utterance, finals in order."""

import numpy as np
import pytest

from sttd.core.endpointer import TurnHint
from sttd.core.types import JobClass
from sttd.errors import DecodeError, ModelError, OverloadedError
from sttd.options import Endpointing, SessionChanges, Tuning
from tests.unit.core.listened import Listened, activity


def test_audio_opens_an_utterance_and_the_clock_counts_it():
    session = Listened.to(interim=False)
    assert (session.hearing.position, session.hearing.speaking, session.hearing.lag_s(0.0)) == (0, False, 0.0)
    assert session.do(session.hearing.hear(np.zeros((0, 320), np.float32), activity(0, speech=False), now=0.0)) == []
    session.hear(0.9)
    hearing = session.hearing
    assert (hearing.position, hearing.speaking, hearing.utterances, hearing.owing) == (14_400, True, 1, 1)
    session.lease()
    session.do(hearing.end("stop", now=session.now))
    session.decode()
    assert [(final.text, final.reason) for final in session.finals] == [("w1 w2 w3", "stop")]
    assert hearing.owing == 0


def test_with_endpointing_silence_ends_an_utterance_and_the_pause_hides_the_decode():
    session = Listened.to(endpointing=Endpointing())
    session.hear(1.0, speech=False)
    session.hear(1.0)
    session.lease()
    session.hear(0.3, speech=False)
    assert JobClass.SPECULATIVE in [job.job_class for job in session.jobs.values()]
    speculation = next(job for job, wanted in session.jobs.items() if wanted.job_class is JobClass.SPECULATIVE)
    session.decode(speculation)
    assert session.finals == []
    session.hear(0.6, speech=False)
    assert session.kinds == ["SpeechStart", "SpeechEnd", "Final"]
    assert session.finals[0].reason == "endpoint"


def test_an_empty_finalize_is_answered_behind_what_is_owed():
    session = Listened.to(interim=False, words=True)
    session.hear(0.9)
    session.lease()
    session.finalize()
    session.now += 1
    session.finalize()
    assert session.finals == []
    assert session.hearing.lag_s(session.now) == pytest.approx(1.0)
    assert session.hearing.owing == 2
    session.decode()
    assert [(f.utterance, f.text, f.reason) for f in session.finals] == [
        (1, "w1 w2 w3", "finalize"),
        (2, "", "finalize"),
    ]
    assert session.finals[1].words == ()
    session.finalize()
    assert session.finals[2].utterance == 3  # nothing is owed before it


def test_finals_leave_in_the_order_of_their_utterances():
    session = Listened.to(interim=False)
    for _ in range(2):
        session.hear(0.9)
        session.finalize()
    slow, quick = session.leases
    assert (slow.utterance, quick.utterance) == (1, 2)
    session.lease(1)
    session.decode()
    assert session.finals == []
    assert session.hearing.owing == 2
    session.lease(0)
    session.decode()
    assert [final.utterance for final in session.finals] == [1, 2]


def test_interims_begin_once_their_model_is_there_and_nobody_has_to_speak_on():
    session = Listened.to(interim_model="quick")
    session.hear(1.0)
    assert session.jobs == {}
    assert [lease.model for lease in session.leases] == ["quick", "fake"]
    session.lease(0)
    assert [job.role for job in session.jobs.values()] == ["interim"]
    session.decode()
    assert session.kinds == ["SpeechStart", "Interim"]


def test_what_was_said_while_an_interim_was_decoded_is_decoded_next():
    session = Listened.to()
    session.hear(1.0)
    session.lease()
    first = session.hearing.live_job
    session.hear(1.0)
    assert session.hearing.live_job == first
    session.decode(first)
    assert session.hearing.live_job not in (first, None)
    session.decode()
    assert [event.end_s for event in session.said[1:]] == [1.0, 2.0]


def fading(*, speculate_ms=180):
    """Who has just stopped to speak, when an interim becomes due."""
    tuning = Tuning(interim_min_ms=300, speculate_ms=speculate_ms)
    session = Listened.to(endpointing=Endpointing(), tuning=tuning)
    session.hear(1.0, speech=False)
    session.hear(0.6)
    session.lease()
    session.decode()
    session.now += 10
    session.hear(0.26)
    session.hear(0.06, speech=False)
    return session


def test_no_interim_begins_as_the_speech_fades():
    session = fading()
    assert session.jobs == {}
    session.hear(0.02)
    assert [job.job_class for job in session.jobs.values()] == [JobClass.INTERIM]


@pytest.mark.parametrize("speculate_ms", [0, 180])
def test_where_the_audio_stops_as_the_speech_fades_its_last_words_are_shown(speculate_ms):
    session = fading(speculate_ms=speculate_ms)
    assert len(session.jobs) == (speculate_ms == 0)  # where nothing is asked for in a pause nothing would wait
    session.now += 10
    session.do(session.hearing.look(now=session.now))
    assert [job.job_class for job in session.jobs.values()] == [JobClass.INTERIM]


def test_an_interim_that_waits_is_replaced_by_what_was_said_since():
    session = Listened.to()
    session.hear(1.0)
    session.lease()
    session.hear(1.0, interim_waits=True)
    lengths = [len(job.item.samples) for job in session.jobs.values()]
    assert lengths == [16_000, 32_000]


def test_hints_reach_the_endpointer(monkeypatch):
    told = []
    session = Listened.to()
    monkeypatch.setattr(session.hearing._assembler, "hint", told.append)
    session.hear(1.0)
    session.lease()
    session.decode(text="Turn the lights on.")
    session.hear(1.0)
    session.decode(text="Turn the lights on.")
    assert told[-1] is TurnHint.ENDED


@pytest.mark.parametrize("error", [None, DecodeError("no"), OverloadedError("busy")])
def test_answers_go_to_the_utterance_that_asked(error):
    session = Listened.to(interim=False)
    session.hear(0.9)
    session.finalize()
    session.refuse_lease(ModelError("broken", code="model_not_found"))
    assert [final.text for final in session.finals] == [""]
    for answer in (
        lambda: session.hearing.leased(1, "final", preset="fake", now=1.0),
        lambda: session.hearing.lease_failed(1, "final", ModelError("late"), now=1.0),
        lambda: session.hearing.failed((1, 1), error, now=1.0),
        lambda: session.hearing.refused((1, 1), OverloadedError("late"), now=1.0),
        lambda: session.hearing.decoded((7, 1), None, now=1.0),
    ):
        assert answer() == []


def test_a_refused_interim_is_not_the_end_of_them():
    session = Listened.to()
    session.hear(1.0)
    session.lease()
    session.refuse(OverloadedError("busy"))
    assert session.hearing.live_job is None
    session.hear(1.0)
    assert session.hearing.live_job is not None
    session.fail(DecodeError("no"))
    assert session.kinds == ["SpeechStart"]


# ------------------------------------------------------------------ dropped audio


def test_a_hole_ends_the_open_utterance_and_the_clock_goes_on():
    session = Listened.to(interim=False)
    session.hear(1.0)
    session.lease()
    session.do(session.hearing.skip(16_000, now=session.now))
    assert not session.hearing.speaking
    session.decode()
    assert session.finals[0].reason == "endpoint"
    assert [(gap.from_s, gap.to_s) for gap in session.gaps] == [(1.0, 2.0)]
    assert (session.hearing.position, session.hearing.dropped_s) == (32_000, 1.0)


# ------------------------------------------------------------------ options


def test_changes_are_for_the_next_utterance():
    session = Listened.to(interim=False, lang="en")
    session.hear(0.9)
    session.change(SessionChanges(lang="de", prompt="Grüße"))
    session.finalize()
    session.hear(0.9)
    session.do(session.hearing.end("stop", now=session.now))
    while session.leases:
        session.lease()
        asked = session.jobs[session.newest()].item.options.language
        session.decode(language=asked)
    assert [final.language for final in session.finals] == ["en", "de"]
    assert session.hearing.options.prompt == "Grüße"


def test_a_language_named_anew_is_detected_anew():
    hearing = Listened.to().hearing
    hearing.languages.hear(1, (("fr", 0.99),), speech_s=5.0)
    hearing.change(SessionChanges(prompt="x"))
    assert hearing.languages.certain == "fr"
    hearing.change(SessionChanges(lang=None))
    assert hearing.languages.certain is None


def test_an_utterance_from_before_a_change_of_language_does_not_decide_it():
    session = Listened.to(interim=False)
    session.hear(3.0)
    session.lease()
    session.change(SessionChanges(lang=None))
    session.finalize()
    session.decode(heard=(("es", 0.97), ("en", 0.01)))
    assert session.finals[0].language == "es"
    assert session.hearing.languages.certain is None


def test_no_client_asks_for_more_than_its_model_takes():
    hearing = Listened.to(tuning=Tuning(max_window_s=10.0)).hearing
    hearing.change(SessionChanges(endpointing=Endpointing(max_utterance_s=28.0)))
    assert hearing.options.endpointing.max_utterance_s == 10.0
    hearing.change(SessionChanges(endpointing=Endpointing(max_utterance_s=5.0)))
    assert hearing.options.endpointing.max_utterance_s == 5.0
    hearing.change(SessionChanges(endpointing=None))
    assert hearing.options.endpointing is None


def test_the_detector_changes_with_the_next_utterance():
    session = Listened.to(interim=False)
    session.change(SessionChanges(endpointing=Endpointing(aggressiveness=1)))
    assert session.tuned == [1]  # nothing is open
    session.change(SessionChanges(endpointing=None))
    session.hear(0.9)
    session.change(SessionChanges(endpointing=Endpointing(aggressiveness=3)))
    assert session.tuned == [1]
    session.do(session.hearing.end("stop", now=session.now))
    assert session.tuned == [1, 3]


# ------------------------------------------------------------------ ends


def test_at_once_every_shown_utterance_has_its_final_in_order():
    session = Listened.to(interim=False)
    for _ in range(2):
        session.hear(0.9)
        session.finalize()
    session.finalize()
    session.hear(0.9)
    session.do(session.hearing.end_at_once("drain"))
    assert [(final.utterance, final.text) for final in session.finals] == [(1, ""), (2, ""), (3, ""), (4, "")]
    assert (session.leases, session.hearing.owing) == ([], 0)
    assert session.do(session.hearing.end_at_once("stop")) == []


def test_who_has_left_gets_no_interims_in_later_utterances_either():
    session = Listened.to(interim_model="quick")
    session.hear(1.0)
    session.lease(0)
    job = session.hearing.live_job
    session.do(session.hearing.hush())
    assert session.cancelled == {job}
    session.finalize()
    session.hear(1.0)
    assert [lease.model for lease in session.leases] == ["fake", "fake"]


def test_what_is_heard_after_that_is_nobodys():
    session = Listened.to(endpointing=Endpointing())
    session.hear(1.0)
    session.do(session.hearing.end_at_once("drain"))
    session.hear(2.0, speech=False)
    assert session.kinds == ["SpeechStart", "SpeechEnd", "Final"]


def test_a_speaker_who_goes_on_after_a_pause_is_decoded_once_more():
    session = Listened.to(endpointing=Endpointing(), interim=False)
    session.hear(1.0)
    session.lease()
    session.hear(0.3, speech=False)
    session.hear(1.0)
    assert len(session.cancelled) == 1
    session.hear(1.0, speech=False)
    assert session.kinds == ["SpeechStart", "SpeechEnd"]
    session.decode()
    assert len(session.finals) == 1


def test_an_utterance_goes_on_from_the_one_before_until_the_language_changes():
    session = Listened.to(endpointing=Endpointing(), lang="en")

    def utterance():
        session.hear(2.0)
        session.hear(0.8, speech=False)
        while session.leases:
            session.lease()
        final = [job for job in session.jobs.values() if job.job_class is not JobClass.INTERIM][-1]
        session.decode(final.job)
        return final.item.lead

    assert utterance() is None
    assert utterance().text == session.finals[0].text
    session.change(SessionChanges(lang="de"))
    assert utterance() is None
    session.hear(60.0, speech=False)
    assert session.hearing.context.kept_s == 0.0
