"""One utterance from its first sound to its final: every rule of `core/turn.py`, without a thread or a clock."""

import math

import pytest

from sttd.core import text
from sttd.core.actions import Lease, Release, Submit
from sttd.core.context import INTERIM_LIMITS_S
from sttd.core.turn import Phase
from sttd.core.types import SAMPLE_RATE, Effort, Failure, JobClass
from sttd.errors import DecodeError, ModelError, OverloadedError
from sttd.options import Endpointing, Tuning
from tests.unit.core.spoken import Spoken, options, outcome

FINAL, SPECULATIVE, INTERIM, FILE = JobClass.FINAL, JobClass.SPECULATIVE, JobClass.INTERIM, JobClass.FILE

NO_SLOT = OverloadedError("no slot", data={"retry_after_s": 10.0})
BROKEN = ModelError("cannot be loaded", code="model_load_failed")
UNKNOWN = ModelError("no such preset", code="model_not_found")
FAILED = DecodeError("the engine failed")


def spoken(*, leased=True, **changes):
    """An utterance whose model is there."""
    utterance = Spoken(options=options(**changes))
    if leased:
        utterance.lease()
    return utterance


def test_an_utterance_holds_the_model_from_its_first_sound_to_its_final():
    utterance = spoken(leased=False)
    assert (utterance.kinds, utterance.leases) == (["SpeechStart"], [("final", "fake")])
    utterance.lease(preset="smaller")
    utterance.close(1.2)
    assert (utterance.turn.phase, utterance.jobs) == (Phase.DECODING, [FINAL])
    assert not utterance.released
    utterance.decoded(FINAL)
    assert (utterance.turn.phase, utterance.released) == (Phase.DONE, True)
    assert utterance.kinds == ["SpeechStart", "SpeechEnd"]
    final = utterance.final
    assert (final.text, final.reason, final.end_s, final.model) == ("w1 w2 w3 w4", "endpoint", 1.2, "smaller")
    assert (final.timing.endpoint_ms, final.timing.queue_ms, final.timing.decode_ms) == (500, 10, 100)
    assert not final.timing.speculative
    assert 0 < final.confidence < 1
    assert utterance.said[1].silence_ms == 500


# ------------------------------------------------------------------ interims


def test_interims_come_as_audio_does_and_are_stable_in_front():
    utterance = spoken()
    interims = [utterance.show(seconds) for seconds in (0.9, 1.8, 2.4, 3.0)]
    assert [interim.seq for interim in interims] == [1, 2, 3, 4]
    assert interims[-1].text == "w1 w2 w3 w4 w5 w6 w7 w8 w9 w10"
    assert interims[-1].text[: interims[-1].stable_chars] == "w1 w2 w3 w4 w5 w6"
    assert (interims[-1].start_s, interims[-1].end_s) == (0.0, 3.0)
    assert len(utterance.hints) == 4


def test_an_interim_is_due_when_its_model_is_here_and_enough_was_said():
    utterance = spoken(leased=False)
    assert not utterance.due(1.0)
    utterance.lease()
    assert not utterance.due(0.05)
    assert utterance.due(1.0)


def test_none_is_due_while_one_is_decoded_but_one_that_waits_is_replaced():
    utterance = spoken()
    utterance.hear(1.0)
    first = utterance.turn.live_job
    utterance.now = 10.0
    assert not utterance.due(2.0)
    assert utterance.due(2.0, waits=True)
    utterance.hear(2.0, waits=True)
    assert utterance.turn.live_job not in (first, None)
    # The scheduler drops the older one; whatever becomes of it changes nothing.
    assert utterance.do(utterance.turn.failed(first, None, now=10.0)) == []
    assert utterance.turn.live_job is not None
    utterance.decoded(INTERIM, seconds=2.0)
    assert [interim.end_s for interim in utterance.interims] == [2.0]
    assert utterance.turn.live_job is None


def test_under_load_interims_yield():
    utterance = spoken()
    utterance.show(1.0)
    utterance.now += 0.4
    assert utterance.due(2.0)
    assert not utterance.due(2.0, load=1.0)


@pytest.mark.parametrize("how", ["fails", "is dropped", "is refused"])
def test_an_interim_that_comes_to_nothing_is_not_missed(how):
    utterance = spoken()
    utterance.hear(1.0)
    match how:
        case "fails":
            utterance.fails(INTERIM, FAILED)
        case "is dropped":
            utterance.fails(INTERIM)
        case _:
            utterance.refused(INTERIM, NO_SLOT)
    assert (utterance.kinds, utterance.turn.live_job) == (["SpeechStart"], None)
    utterance.show(2.0)
    assert utterance.kinds == ["SpeechStart", "Interim"]


def test_the_first_interim_has_text():
    utterance = spoken()
    assert utterance.show(0.5, text="") is None
    assert utterance.show(1.0).seq == 1
    assert utterance.show(2.0, text="").text == ""  # once something was shown, what vanishes must vanish


def test_nothing_is_shown_of_an_interim_that_ends_after_the_utterance():
    utterance = spoken()
    utterance.hear(1.0)
    job = utterance.turn.live_job
    utterance.close(1.0)
    assert utterance.cancelled == [job]
    utterance.decoded(INTERIM, seconds=1.0)
    utterance.decoded(FINAL, seconds=1.0)
    assert utterance.interims == []


def test_a_session_without_interims_asks_for_one_model_and_decodes_once():
    utterance = spoken(interim=False, interim_model="quick")
    assert not utterance.due(1.0)
    utterance.close(1.0)
    utterance.decoded(FINAL)
    assert (utterance.leases, utterance.jobs) == ([("final", "fake")], [FINAL])


def test_a_client_that_leaves_is_shown_no_more():
    utterance = spoken()
    utterance.hear(1.0)
    job = utterance.turn.live_job
    assert [action.job for action in utterance.do(utterance.turn.hush())] == [job]
    assert utterance.do(utterance.turn.hush()) == []
    utterance.now = 10.0
    assert not utterance.due(2.0)


@pytest.mark.parametrize(
    "heard",
    [
        {"text": "Thank you.", "no_speech": 0.7, "logprob": -1.1},
        {"text": "Thank you.", "least": [0.05, 0.9]},
        {"text": "... you", "least": [0.9, 0.05]},
    ],
)
def test_what_noise_makes_up_is_not_shown(heard):
    utterance = spoken(lang=None)
    assert utterance.show(1.0, **heard) is None
    assert (utterance.kinds, utterance.hints) == (["SpeechStart"], [])
    assert utterance.show(2.0).seq == 1
    assert utterance.show(3.0, text="Thank you.", no_speech=0.7, logprob=-1.1) is None  # nor does it take back anything


def test_a_first_word_that_is_stable_may_be_doubtful_again():
    utterance = spoken()
    utterance.show(1.0, text="so we go", least=0.9)
    utterance.show(1.5, text="so we go", least=0.9)
    assert utterance.turn.stable_text == "so we"
    assert utterance.show(2.0, text="so we go home", least=[0.05, 0.9, 0.9, 0.9]).text == "so we go home"


def test_a_doubtful_text_hints_at_the_end_before_it_is_shown():
    utterance = spoken()
    assert utterance.show(1.0, text="go home", least=0.5) is None
    assert (utterance.kinds, len(utterance.hints)) == (["SpeechStart"], 1)
    assert utterance.show(1.6, text="go home", least=0.5).text == "go home"


def test_who_asks_for_words_gets_those_of_interims_with_their_probabilities():
    utterance = spoken(words=True)
    utterance.show(1.0, text="so we go", least=0.9)
    shown = utterance.show(1.5, text="so we go home", least=[0.9, 0.8, 0.85, 0.9])
    assert [(word.word, word.probability, word.stable) for word in shown.words] == [
        ("so", 0.9, True),
        (" we", 0.8, True),
        (" go", 0.85, True),
        (" home", 0.9, False),
    ]
    assert spoken().show(1.0).words is None


def test_where_an_engine_is_not_asked_of_each_word_it_is_as_sure_of_all():
    shown = spoken(words=True).show(0.6)
    assert [(word.word, word.probability) for word in shown.words] == [
        ("w1", pytest.approx(0.82, abs=0.01)),
        (" w2", pytest.approx(0.82, abs=0.01)),
    ]


@pytest.mark.parametrize(("asked", "known"), [("de", "de"), (None, "en")])
def test_what_the_text_hints_depends_on_its_language(monkeypatch, asked, known):
    told = []
    monkeypatch.setattr(text, "turn_hint", lambda before, now, *, language, ending: told.append(language))
    utterance = spoken(lang=asked)
    utterance.show(1.0, language=known)
    assert told == [known]


# ------------------------------------------------------------------ models that are late or do not come


def test_the_interims_may_have_a_model_of_their_own():
    utterance = spoken(leased=False, interim_model="quick")
    assert utterance.leases == [("interim", "quick"), ("final", "fake")]
    utterance.lease()
    assert not utterance.due(1.0)
    utterance.lease("interim", preset="quick")
    utterance.show(1.0)
    assert utterance.job(INTERIM).role == "interim"
    utterance.close(1.0)
    assert utterance.job(FINAL).role == "final"
    utterance.decoded(FINAL)
    assert utterance.final.model == "fake"


def test_without_a_model_for_interims_there_is_still_a_final():
    utterance = spoken(interim_model="quick")
    utterance.lease_fails(NO_SLOT, "interim")
    assert not utterance.due(1.0)
    utterance.close(1.2)
    utterance.decoded(FINAL)
    assert (utterance.final.text, utterance.kinds) == ("w1 w2 w3 w4", ["SpeechStart", "Failure", "SpeechEnd"])


def test_the_final_waits_for_its_model():
    utterance = spoken(leased=False)
    utterance.pause(1.0)  # nothing to decode it with
    utterance.close(1.2)
    assert (utterance.turn.phase, utterance.jobs) == (Phase.ENDED, [])
    utterance.lease()
    assert utterance.jobs == [FINAL]


def test_a_model_that_does_not_load_is_said_once_and_asked_for_once_more():
    utterance = spoken(leased=False)
    utterance.lease_fails(BROKEN)
    assert utterance.said[1] == Failure(
        code="model_load_failed", message="cannot be loaded", retryable=True, fatal=False
    )
    assert len(utterance.leases) == 1
    utterance.close(1.0)
    assert len(utterance.leases) == 2
    utterance.lease_fails(BROKEN)
    assert utterance.kinds == ["SpeechStart", "Failure", "SpeechEnd"]
    assert (utterance.final.text, utterance.final.confidence, utterance.final.language) == ("", 0.0, "")
    assert (utterance.jobs, utterance.released) == ([], True)


def test_a_model_that_can_never_be_had_is_not_asked_for_again():
    utterance = spoken(leased=False)
    utterance.close(1.0)
    utterance.lease_fails(UNKNOWN)
    assert (utterance.final.text, len(utterance.leases)) == ("", 1)


def test_a_model_that_is_there_at_the_end_decodes_what_was_said_without_it():
    utterance = spoken(leased=False)
    utterance.lease_fails(BROKEN)
    utterance.close(1.2)
    utterance.lease()
    utterance.decoded(FINAL)
    assert (utterance.final.text, utterance.kinds.count("Failure")) == ("w1 w2 w3 w4", 1)


@pytest.mark.parametrize(("kind", "job"), [("live", FINAL), ("file", FILE)])
def test_what_was_said_waits_for_a_slot_however_long_and_it_is_said_once(kind, job):
    utterance = spoken(leased=False, kind=kind, interim=False)
    utterance.lease_fails(NO_SLOT)
    assert utterance.said[-1].data == {"retry_after_s": 10.0}
    utterance.lease_fails(NO_SLOT)
    utterance.close(1.2)
    utterance.lease_fails(NO_SLOT)
    assert len(utterance.leases) == 4
    assert utterance.actions[-1].after_s == 0.2  # not at once
    utterance.lease()
    utterance.decoded(job)
    assert (utterance.final.text, utterance.kinds.count("Failure")) == ("w1 w2 w3 w4", 1)


def test_nobody_waits_for_a_slot_for_a_client_that_has_left():
    utterance = spoken(leased=False)
    utterance.close(1.2)
    utterance.do(utterance.turn.hush())
    utterance.lease_fails(NO_SLOT)
    assert len(utterance.leases) == 2
    utterance.lease_fails(NO_SLOT)
    assert utterance.final.text == ""


def test_what_was_stable_stays_when_the_model_of_the_final_does_not_come():
    utterance = spoken(leased=False, model="big", interim_model="quick", lock_stable=True)
    utterance.lease("interim")
    for seconds in (1.2, 2.1, 3.0):
        shown = utterance.show(seconds)
    utterance.lease_fails(UNKNOWN)
    utterance.close(3.0)
    assert shown.stable_chars > 0
    assert utterance.final.text == shown.text[: shown.stable_chars]


# ------------------------------------------------------------------ decoding in the pause


@pytest.mark.parametrize("started", [0.5, 2.0])
def test_a_speculation_that_holds_is_the_final(started):
    utterance = spoken()
    utterance.pause(1.2)
    utterance.decoded(SPECULATIVE, started=started)
    utterance.now = 1.0
    utterance.close(1.2)
    assert (utterance.jobs, utterance.final.text) == ([SPECULATIVE], "w1 w2 w3 w4")
    assert utterance.final.timing.speculative == (started < 1.0)  # else it ran after the decision
    assert (utterance.promoted, utterance.cancelled) == ([], [])


def test_a_speculation_under_way_is_promoted_and_waited_for():
    utterance = spoken()
    utterance.pause(1.2)
    utterance.close(1.2)
    assert utterance.promoted == [utterance.job(SPECULATIVE).job]
    assert utterance.turn.final is None
    utterance.decoded(SPECULATIVE)
    assert (utterance.jobs, utterance.final.text) == ([SPECULATIVE], "w1 w2 w3 w4")


@pytest.mark.parametrize("decoded", [False, True])
def test_speech_that_goes_on_voids_the_speculation(decoded):
    utterance = spoken()
    utterance.pause(1.0)
    job = utterance.job(SPECULATIVE).job
    if decoded:
        utterance.decoded(SPECULATIVE)
    utterance.resume()
    assert utterance.cancelled == ([] if decoded else [job])
    assert utterance.resume() == []
    utterance.close(2.0)
    utterance.decoded(FINAL, seconds=2.1)
    assert (utterance.final.text, utterance.jobs) == ("w1 w2 w3 w4 w5 w6 w7", [SPECULATIVE, FINAL])


def test_a_speculation_that_is_there_when_the_speaker_goes_on_counts_as_an_interim():
    utterance = spoken()
    utterance.show(1.0, text="so we go", least=0.9)
    utterance.pause(1.2)
    utterance.decoded(SPECULATIVE, "so we went home", least=0.9)
    assert len(utterance.interims) == 1
    utterance.resume()
    shown = utterance.interims[-1]
    assert (shown.seq, shown.text, shown.text[: shown.stable_chars]) == (2, "so we went home", "so we")
    assert shown.end_s == pytest.approx(1.32, abs=0.001)  # with the quiet behind the speech
    utterance.show(2.0, text="so we went home again", least=0.9)
    assert utterance.turn.stable_text == "so we went home"
    assert utterance.jobs.count(SPECULATIVE) == 1


def test_an_interim_reaches_as_far_as_the_one_before_it():
    utterance = spoken()
    utterance.pause(1.2)
    utterance.decoded(SPECULATIVE)
    utterance.show(1.8)
    utterance.resume()
    assert [interim.end_s for interim in utterance.interims] == [1.8, 1.8]


@pytest.mark.parametrize("why", ["nobody reads", "it says nothing"])
def test_a_speculation_that_shows_nothing(why):
    utterance = spoken()
    utterance.pause(1.2)
    nothing = {"no_speech": 0.7, "logprob": -1.1} if why == "it says nothing" else {}
    utterance.decoded(SPECULATIVE, **nothing)
    if why == "nobody reads":
        utterance.do(utterance.turn.hush())
    utterance.resume()
    assert utterance.interims == []


def test_a_speculation_that_lacks_the_end_is_not_used():
    utterance = spoken()
    utterance.pause(1.0)
    utterance.close(2.0)
    assert utterance.jobs == [SPECULATIVE, FINAL]
    assert utterance.cancelled == [utterance.job(SPECULATIVE).job]


@pytest.mark.parametrize("error", [FAILED, None])
@pytest.mark.parametrize("awaited", [False, True])
def test_a_speculation_that_fails_is_tried_once_more_as_a_final(error, awaited):
    utterance = spoken()
    utterance.pause(1.2)
    if awaited:
        utterance.close(1.2)
    utterance.fails(SPECULATIVE, error)
    if not awaited:
        utterance.close(1.2)
    utterance.decoded(FINAL)
    assert (utterance.final.text, utterance.jobs) == ("w1 w2 w3 w4", [SPECULATIVE, FINAL])
    assert utterance.kinds == ["SpeechStart", "SpeechEnd"]


def test_a_speculation_that_is_refused_is_done_without():
    utterance = spoken()
    utterance.pause(1.2)
    utterance.refused(SPECULATIVE, NO_SLOT)
    utterance.close(1.2)
    assert (utterance.jobs, utterance.cancelled) == ([SPECULATIVE, FINAL], [])


def test_a_file_gives_its_model_back_for_speech_and_its_window_is_decoded_later():
    utterance = spoken(kind="file", interim=False)
    utterance.close(3.0)
    window = utterance.job(FILE)
    utterance.recall()
    assert utterance.cancelled == [window.job]
    assert utterance.actions[-2:] == [Release(1, "final"), utterance.all(Lease)[-1]]
    assert all(lease.file for lease in utterance.all(Lease))
    utterance.lease()
    assert utterance.jobs == [FILE, FILE]
    utterance.decoded(FILE)
    assert (utterance.final.text, utterance.kinds) == ("w1 w2 w3 w4", ["SpeechStart", "SpeechEnd"])
    assert utterance.recall() == [], "it has been given back"


def test_a_window_that_is_still_read_asks_again_too():
    utterance = spoken(kind="file", interim=False)
    utterance.recall()
    utterance.close(3.0)
    assert utterance.jobs == []
    utterance.lease()
    assert utterance.jobs == [FILE]


@pytest.mark.parametrize(("quick", "role"), [("fake", "final"), ("quick", "interim")])
def test_no_interim_is_shown_of_a_file_whose_model_was_recalled_until_it_is_back(quick, role):
    utterance = spoken(kind="file", interim_model=quick)
    if quick != "fake":
        utterance.lease("interim", preset=quick)
    utterance.hear(1.0)
    shown = utterance.job(INTERIM)
    utterance.recall(role)
    assert utterance.cancelled == [shown.job]
    assert not utterance.due(3.0)
    utterance.lease(role, preset=quick)
    assert utterance.due(3.0)


def test_the_model_of_the_interims_stays_when_that_of_the_final_is_recalled():
    utterance = spoken(kind="file", interim_model="quick")
    utterance.lease("interim", preset="quick")
    utterance.recall()
    assert utterance.due(1.0)


def test_a_file_is_not_decoded_in_its_pauses():
    utterance = spoken(kind="file", interim=False)
    utterance.pause(1.0)
    utterance.close(1.0)
    assert utterance.jobs == [FILE]
    assert utterance.job(FILE).item.recording is None
    assert utterance.job(FILE).item.options.effort is Effort.TIMED


def test_speculation_can_be_switched_off():
    utterance = Spoken(tuning=Tuning(speculate_ms=0))
    utterance.lease()
    assert utterance.pause(1.0) == []


# ------------------------------------------------------------------ what goes wrong while decoding


@pytest.mark.parametrize("error", [FAILED, None, NO_SLOT])
def test_a_decode_that_fails_is_said_and_the_final_is_the_stable_text(error):
    utterance = spoken()
    for seconds in (1.2, 2.1, 3.0):
        shown = utterance.show(seconds)
    utterance.close(3.0)
    if isinstance(error, OverloadedError):
        utterance.refused(FINAL, error)
    else:
        utterance.fails(FINAL, error)
    told = [event.code for event in utterance.said if isinstance(event, Failure)]
    assert told == ([] if error is None else [error.code])  # dropped: whoever dropped it says why
    assert utterance.final.text == shown.text[: shown.stable_chars] != ""
    assert utterance.final.confidence == 0.0


@pytest.mark.parametrize(("data", "after_s"), [({"retry_after_s": 3.0}, 3.0), ({}, 0.2)])
def test_a_window_of_a_file_waits_until_there_is_room(data, after_s):
    utterance = spoken(kind="file", interim=False)
    utterance.close(1.2)
    assert utterance.job(FILE).after_s == 0.0
    utterance.now = 5.0
    utterance.refused(FILE, OverloadedError("busy", data=data))
    assert (utterance.jobs, utterance.job(FILE).after_s) == ([FILE, FILE], after_s)
    assert utterance.job(FILE).deadline == pytest.approx(35.0 + after_s)
    utterance.decoded(FILE)
    assert (utterance.final.text, utterance.kinds) == ("w1 w2 w3 w4", ["SpeechStart", "SpeechEnd"])


def test_what_comes_of_jobs_that_nobody_wants_changes_nothing():
    utterance = spoken()
    utterance.close(1.2)
    old = (1, 99)
    assert utterance.do(utterance.turn.decoded(old, outcome("nothing of this"), now=0.0)) == []
    assert utterance.do(utterance.turn.failed(old, FAILED, now=0.0)) == []
    utterance.decoded(FINAL)
    assert utterance.final.text == "w1 w2 w3 w4"


# ------------------------------------------------------------------ ends that do not wait


def test_a_final_at_once_ends_the_utterance_where_it_is():
    utterance = spoken(lang="de", words=True)
    utterance.hear(1.0)
    utterance.pause(1.2)
    utterance.do(utterance.turn.at_once("drain", position=32_000))
    final = utterance.final
    assert utterance.kinds == ["SpeechStart", "SpeechEnd"]
    assert (final.text, final.reason, final.end_s, final.language, final.words) == ("", "drain", 2.0, "de", ())
    assert len(utterance.cancelled) == 2
    assert utterance.released
    assert utterance.do(utterance.turn.at_once("stop", position=64_000)) == []


def test_a_final_at_once_after_the_end_does_not_end_it_again():
    utterance = spoken(leased=False)
    utterance.close(1.0)
    utterance.do(utterance.turn.at_once("drain", position=32_000))
    assert utterance.kinds == ["SpeechStart", "SpeechEnd"]
    assert (utterance.final.end_s, utterance.final.reason) == (1.0, "drain")


# ------------------------------------------------------------------ what is decoded, and what a final carries


def test_words_are_on_the_clock_of_the_session():
    utterance = Spoken(options=options(words=True), start_s=1.0)
    utterance.lease()
    utterance.close(0.9)
    utterance.decoded(FINAL, seconds=0.9)
    assert [(word.word, word.start_s) for word in utterance.final.words] == [
        ("w1", pytest.approx(1.0)),
        ("w2", pytest.approx(1.3)),
        ("w3", pytest.approx(1.6)),
    ]


def test_a_locked_prefix_stays_in_the_final():
    utterance = spoken(lock_stable=True)
    for seconds in (1.2, 2.1, 3.0):
        shown = utterance.show(seconds)
    stable = shown.text[: shown.stable_chars]
    utterance.close(1.0)
    assert stable
    asked = utterance.job(FINAL).item.options
    assert (asked.keep, asked.keep_margin) == (stable, math.inf)
    assert utterance.job(INTERIM).item.options.keep == ""
    utterance.decoded(FINAL, "something else")
    assert utterance.final.text.startswith(stable)


def stable_as(utterance, text):
    """Interims until all of the text but its last word is stable."""
    for _ in range(2):
        utterance.show(1.0 + utterance.now / 100, text=text, least=0.9)
    return utterance.turn.stable_text


def test_a_final_is_told_what_to_keep_and_how_dearly():
    utterance = Spoken(tuning=Tuning(interim_min_ms=100, keep_margin=0.3))
    utterance.lease()
    stable = stable_as(utterance, "I will go home")
    assert stable == "I will go"
    utterance.pause(1.3)
    utterance.close(2.0)
    for job in (SPECULATIVE, FINAL):
        asked = utterance.job(job).item.options
        assert (asked.keep, asked.keep_margin) == (stable, 0.3)
    assert utterance.job(INTERIM).item.options.keep == ""


def test_nothing_is_to_be_kept_of_a_file():
    utterance = spoken(kind="file", interim=True)
    stable_as(utterance, "I will go home")
    utterance.close(2.0)
    assert utterance.job(FILE).item.options.keep == ""


@pytest.mark.parametrize(
    ("heard", "final"),
    [
        ("I'll go, home.", "I will go, home."),
        ("I'd go home.", "I'd go home."),
        ("", ""),
    ],
)
def test_a_final_of_the_same_words_keeps_their_form(heard, final):
    utterance = spoken()
    stable_as(utterance, "I will go home")
    utterance.close(2.0)
    utterance.decoded(FINAL, heard)
    assert utterance.final.text == final


def spoken_on_in_the_pause(**changes):
    """A speculation knows nothing of what was stable only later."""
    utterance = spoken(**changes)
    utterance.pause(1.2)
    assert stable_as(utterance, "I will go home") == "I will go"
    return utterance


@pytest.mark.parametrize(("heard", "again"), [("I'd go home.", True), ("I'll go home.", False), ("", False)])
@pytest.mark.parametrize("late", [False, True])
def test_a_speculation_that_contradicts_what_is_stable_since_is_decoded_again(heard, again, late):
    utterance = spoken_on_in_the_pause()
    if late:
        utterance.close(1.2)
    utterance.decoded(SPECULATIVE, heard)
    if not late:
        utterance.close(1.2)
    assert utterance.jobs.count(FINAL) == again
    if again:
        assert utterance.job(FINAL).item.options.keep == "I will go"
        utterance.decoded(FINAL, "I will go home.")
    assert utterance.final.text == ("I will go home." if heard else "")


@pytest.mark.parametrize("how", ["fails", "is dropped", "is refused"])
def test_where_that_comes_to_nothing_the_speculation_stands(how):
    utterance = spoken_on_in_the_pause()
    utterance.decoded(SPECULATIVE, "I'd go home.", started=0.5)
    utterance.now = 100.0
    utterance.close(1.2)
    match how:
        case "fails":
            utterance.fails(FINAL, FAILED)
        case "is dropped":
            utterance.fails(FINAL)
        case _:
            utterance.refused(FINAL, NO_SLOT)
    assert (utterance.final.text, utterance.final.timing.speculative) == ("I'd go home.", True)
    assert "Failure" not in utterance.kinds


def test_where_it_is_locked_a_final_is_made_to_keep_it():
    utterance = spoken_on_in_the_pause(lock_stable=True)
    utterance.decoded(SPECULATIVE, "I'd go home.")
    utterance.close(1.2)
    asked = utterance.job(FINAL).item.options
    assert (asked.keep, asked.keep_margin) == ("I will go", math.inf)
    utterance.fails(FINAL, FAILED)
    assert utterance.final.text == "I will go home."


@pytest.mark.parametrize(
    ("reason", "complete"), [("endpoint", False), ("max_length", False), ("finalize", True), ("stop", True)]
)
def test_who_ends_an_utterance_himself_has_spoken_its_last_word(reason, complete):
    utterance = spoken()
    utterance.close(1.2, reason=reason)
    assert utterance.job(FINAL).item.complete == complete


@pytest.mark.parametrize(("endpointing", "kept"), [(None, True), (Endpointing(), False)])
def test_who_finalizes_has_spoken_whatever_the_detectors_heard(endpointing, kept):
    utterance = spoken(endpointing=endpointing)
    utterance.close(1.2, speech_s=0.02)
    utterance.decoded(FINAL, "Thank you.")
    assert bool(utterance.final.text) == kept


def test_options_of_the_session_reach_the_engine():
    utterance = spoken(prompt="Notes.", hotwords=("sttd",), task="translate", words=True)
    utterance.hear(1.0)
    utterance.close(1.2)
    interim, final = utterance.job(INTERIM).item.options, utterance.job(FINAL).item.options
    assert (final.prompt, final.hotwords, final.task, final.words) == ("Notes.", ("sttd",), "translate", True)
    assert (interim.prompt, interim.words) == ("Notes.", False)
    assert utterance.job(INTERIM).item.recording == utterance.job(FINAL).item.recording == "s000001/1"
    assert (interim.effort, final.effort) == (Effort.QUICK, Effort.FULL)


def test_final_goes_first_and_interims_may_be_late():
    utterance = spoken()
    utterance.now = 100.0
    utterance.hear(1.0)
    utterance.pause(1.0)
    assert utterance.job(INTERIM).deadline == 100.5
    assert utterance.job(SPECULATIVE).deadline == 100.3


# ------------------------------------------------------------------ context


def second(*, gap_s=0.8, reason="endpoint", text="ask not", **changes):
    """The second utterance of a session whose first was "ask not" in 1.2 seconds."""
    first = Spoken(options=options(lang="en", **changes))
    first.lease()
    first.close(1.2, reason=reason)
    first.decoded(next(iter(first.jobs)), text)
    utterance = Spoken(options=first.options, context=first.context, number=2, start_s=1.2 + gap_s)
    utterance.lease()
    return utterance


def test_a_final_is_decoded_with_what_was_said_just_before_in_front():
    utterance = second()
    utterance.show(0.9)
    utterance.close(1.5)
    final = utterance.job(FINAL).item
    assert final.lead.text == "ask not"
    assert len(final.samples) == final.lead.samples + len(utterance.turn._closed.samples)
    assert final.options.languages is None
    utterance.decoded(FINAL, seconds=1.5)
    assert (utterance.final.text, utterance.final.start_s, utterance.final.end_s) == ("w1 w2 w3 w4 w5", 2.0, 3.5)


def test_an_interim_has_it_in_front_while_both_are_short():
    utterance = second()
    room_s = INTERIM_LIMITS_S[-1] - 1.2 - 0.12  # less the one before
    for said_s in (0.5, 1.2, room_s - 0.1, room_s + 0.1):
        utterance.show(said_s)
    first, short, longer, long = (submit.item for submit in utterance.all(Submit) if submit.job_class is INTERIM)
    assert short.lead.text == longer.lead.text == "ask not"
    assert first.lead is long.lead is None
    assert len(longer.samples) <= INTERIM_LIMITS_S[-1] * SAMPLE_RATE
    assert short.recording == longer.recording != long.recording == first.recording
    assert utterance.interims[0].text == "w1 w2"


def test_interims_that_say_nothing_for_it_are_decoded_alone_from_the_third_on():
    utterance = second()
    for said_s in (1.2, 1.6, 2.0, 2.4):
        text = "" if utterance.turn._fruitless < 2 else "what your"
        utterance.show(said_s, text=text)
    utterance.close(2.8)
    leads = [submit.item.lead is not None for submit in utterance.all(Submit)]
    assert utterance.jobs == [INTERIM] * 4 + [FINAL]
    assert leads == [True, True, False, False, True]
    assert [interim.text for interim in utterance.interims] == ["what your", "what your"]


def test_so_is_a_speculation_and_its_words_are_on_the_clock_of_the_session():
    utterance = second(words=True)
    utterance.pause(1.5)
    assert utterance.job(SPECULATIVE).item.lead is not None
    utterance.decoded(SPECULATIVE, seconds=1.5)
    utterance.close(1.5)
    assert utterance.jobs == [SPECULATIVE]
    assert utterance.final.words[0].start_s == 2.0


def test_a_lead_that_fits_no_longer_makes_another_recording():
    first = second()
    first.close(2.8)
    first.decoded(FINAL, "what your country", seconds=2.8)
    utterance = Spoken(options=first.options, context=first.context, number=3, start_s=5.6)
    utterance.lease()
    for end_s in (7.0, 7.4, 9.0):
        utterance.pause(end_s)
        utterance.resume()
    short, longer, long = (submit.item for submit in utterance.all(Submit) if submit.job_class is SPECULATIVE)
    assert short.lead == longer.lead != long.lead
    assert short.recording == longer.recording != long.recording


@pytest.mark.parametrize(
    "where",
    [
        {"context": "off"},
        {"kind": "file"},
        {"task": "translate"},
        {"gap_s": 5.0},
        {"reason": "finalize"},
        {"text": ""},
    ],
)
def test_nothing_stands_in_front_of_what_does_not_go_on(where):
    utterance = second(**where)
    utterance.close(1.5)
    assert utterance.all(Submit)[-1].item.lead is None


def test_what_has_room_for_less_in_front_is_another_recording():
    first = second(gap_s=0.5)
    first.close(5.0)
    first.decoded(FINAL, seconds=5.0)
    utterance = Spoken(options=first.options, context=first.context, number=3, start_s=7.5)
    utterance.lease()
    utterance.pause(4.5)
    utterance.turn.resumed()
    utterance.close(6.5)
    speculation, final = utterance.job(SPECULATIVE).item, utterance.job(FINAL).item
    assert speculation.lead.samples > final.lead.samples > 0
    assert speculation.recording != final.recording


def test_a_language_that_an_interim_detected_is_said_with_its_probability_also_behind_a_lead():
    heard = (("de", 0.9), ("en", 0.1))
    first = spoken()
    first.show(1.2, heard=heard, probability=0.99)
    first.close(1.2, reason="endpoint")
    first.decoded(first.jobs[-1], "wir fragen", heard=heard, probability=1.0)
    utterance = Spoken(options=first.options, context=first.context, languages=first.languages, number=2, start_s=2.0)
    utterance.lease()
    utterance.show(2.5, heard=heard, probability=0.97)
    utterance.close(2.5)
    assert utterance.job(FINAL).item.lead is not None
    utterance.decoded(FINAL, "und antworten", language="de")
    assert utterance.final.language_probability == 0.97
