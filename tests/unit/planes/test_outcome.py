"""What becomes of an upload: the rules of planes/outcome.py."""

import attrs
import pytest

from sttd.core.results import NOT_DECODED
from sttd.core.types import Failure, Final, Progress, SpeechStart, Stopped, Warn
from sttd.errors import DecodeError, OverloadedError, ProtocolError, SttdError
from sttd.planes.outcome import Done, Outcome

STOPPED = Stopped(audio_s=2.5, utterances=1, dropped_s=0.0)


def final(text="so", *, decoded=True, **more):
    return Final(
        **{
            "utterance": 1,
            "text": text,
            "start_s": 0.0,
            "end_s": 2.0,
            "language": "en",
            "confidence": 0.9,
            "reason": "finalize",
            "model": "fake",
            "words": None,
            "timing": attrs.evolve(NOT_DECODED, decode_ms=1.0 if decoded else 0.0),
            **more,
        }
    )


def failed(outcome, event):
    with pytest.raises(SttdError) as caught:
        outcome.take(event)
    return caught.value.code


@pytest.fixture
def outcome():
    made = Outcome()
    made.fed = True
    return made


def test_finals_and_progress_are_said_and_the_end_is_the_end(outcome):
    said, progress = final(), Progress(done_s=1.0, total_s=None)
    assert outcome.take(SpeechStart(utterance=1, at_s=0.0)) is None
    assert outcome.take(said) is said
    assert outcome.take(progress) is progress
    assert outcome.take(STOPPED) == Done(2.5)


def test_an_utterance_that_was_not_decoded_fails_the_request(outcome):
    failure = Failure.of(DecodeError("the engine failed"), fatal=False)
    assert outcome.take(failure) is None
    assert outcome.take(final()) is not None  # of an utterance before it
    assert failed(outcome, final("", decoded=False)) == "decode_failed"


def test_a_failure_that_a_text_follows_is_forgotten(outcome):
    outcome.take(Failure.of(OverloadedError("no slot yet"), fatal=False))
    outcome.take(final())
    assert outcome.take(STOPPED) == Done(2.5)


def test_a_fatal_failure_fails_the_request_with_what_it_says(outcome):
    fatal = Failure.of(OverloadedError("no", data={"retry_after_s": 3.0}), fatal=True)
    with pytest.raises(OverloadedError) as caught:
        outcome.take(fatal)
    assert caught.value.data == {"retry_after_s": 3.0}


def test_a_recording_that_breaks_off_is_as_long_as_it_is(outcome):
    outcome.take(final())
    broken = ProtocolError("it breaks off", code="bad_audio", data={"breaks_off": True})
    assert outcome.take(Failure.of(broken, fatal=True)) is None
    assert outcome.take(Warn(code="damaged_audio", message="x")) is None
    assert outcome.end() == Done(2.0)
    assert failed(outcome, Failure.of(ProtocolError("it is none", code="bad_audio"), fatal=True)) == "bad_audio"


def test_half_a_text_is_none():
    assert failed(Outcome(), STOPPED) == "shutting_down"  # ended before all of it was there
    made = Outcome()
    made.fed = True
    assert failed(made, final("half", reason="drain")) == "shutting_down"
    made.unreadable = OverloadedError("the disk")
    assert failed(made, final("half", reason="drain")) == "overloaded"
