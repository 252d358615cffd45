"""The server's half of the audio protocol: every phase, without a socket."""

import json

import pytest

from sttd.errors import InternalError, ModelError, NotFoundError, OverloadedError, ProtocolError, SessionError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES
from sttd.wire.messages import Audio, Configure, Finalize, Resume, Start, Stop
from sttd.wire.talk import Fail, Phase, Refuse, Talk


def op(name, **fields):
    return json.dumps({"op": name, **fields})


def opened():
    talk = Talk()
    assert isinstance(talk.receive(op("start")), Start)
    assert talk.phase is Phase.OPENING
    talk.opened()
    return talk


def test_a_session_from_start_to_stop():
    talk = opened()
    assert talk.receive(b"\0\0") == Audio(payload=b"\0\0")
    assert isinstance(talk.receive(op("audio", payload="AAA=")), Audio)
    assert isinstance(talk.receive(op("finalize")), Finalize)
    assert isinstance(talk.receive(op("configure", lang="de")), Configure)
    assert isinstance(talk.receive(op("stop")), Stop)
    assert talk.phase is Phase.ENDING
    assert talk.receive(b"\0\0") is None
    assert talk.close_with(1001) == (1001, None)
    assert talk.close_with(None) == (1000, None)


@pytest.mark.parametrize("message", [b"\0\0", op("finalize"), op("configure"), op("stop")])
def test_before_start_nothing_is_obeyed_and_the_connection_goes_on(message):
    talk = Talk()
    answer = talk.receive(message)
    assert isinstance(answer, Refuse)
    assert (answer.error.code, talk.phase) == ("not_started", Phase.GREETING)
    assert isinstance(talk.receive(op("start")), Start)


def test_who_says_stop_after_a_refusal_waits_for_the_close():
    talk = Talk()
    talk.receive("nonsense")
    answer = talk.receive(op("stop"))
    assert isinstance(answer, Fail)
    assert (answer.error.code, talk.close_with(None)) == ("not_started", (1003, "not_started"))


def test_a_start_that_cannot_be_served_as_it_stands_may_be_repeated():
    talk = Talk()
    talk.receive(op("start"))
    assert isinstance(talk.not_opened(ProtocolError("no", code="bad_option")), Refuse)
    assert talk.phase is Phase.GREETING
    assert isinstance(talk.receive(op("start")), Start)


@pytest.mark.parametrize(
    ("error", "close"),
    [(OverloadedError("later"), 1013), (ModelError("no", code="model_not_found"), 1008)],
)
def test_where_the_reason_lies_with_the_daemon_the_connection_ends(error, close):
    talk = Talk()
    talk.receive(op("start"))
    assert talk.not_opened(error) == Fail(error)
    assert (talk.phase, talk.close_with(1000)) == (Phase.ENDING, (close, error.code))


def test_nothing_is_received_while_a_start_is_looked_into():
    talk = Talk()
    talk.receive(op("start"))
    with pytest.raises(AssertionError):
        talk.receive(b"")


@pytest.mark.parametrize("message", ["{", op("dance"), op("start")])
def test_what_is_wrong_in_a_session_is_refused_and_changes_nothing(message):
    talk = opened()
    assert isinstance(talk.receive(message), Refuse)
    assert talk.phase is Phase.OPEN


@pytest.mark.parametrize("message", [bytes(MAX_MESSAGE_BYTES + 1), "ö" * (MAX_MESSAGE_BYTES // 2 + 1)])
def test_too_large_a_message_ends_the_connection(message):
    talk = opened()
    answer = talk.receive(message)
    assert isinstance(answer, Fail)
    assert (answer.error.code, talk.phase) == ("too_large", Phase.ENDING)


def test_the_first_reason_counts_unless_it_is_overruled():
    talk = opened()
    first = SessionError("idle")
    talk.fail(first)
    assert talk.fail(OverloadedError("later")) == Fail(first)
    bug = InternalError("a bug")
    assert talk.overrule(bug) is bug
    assert talk.close_with(None)[0] == 1011


# ---------------------------------------------------------------- sessions that are resumed


RESUME = op("resume", token="t", last_seq=0)


def test_a_resume_is_a_start_too():
    talk = Talk()
    assert talk.receive(RESUME) == Resume(token="t", last_seq=0)
    assert talk.phase is Phase.OPENING
    talk.opened()
    for again in (RESUME, op("start")):
        answer = talk.receive(again)
        assert isinstance(answer, Refuse)
        assert (answer.error.code, talk.phase) == ("already_started", Phase.OPEN)


def test_a_token_that_opens_nothing_ends_the_connection_and_a_wrong_number_does_not():
    talk = Talk()
    talk.receive(RESUME)
    assert isinstance(talk.not_opened(ProtocolError("no such event", code="bad_option")), Refuse)
    talk.receive(RESUME)
    assert isinstance(talk.not_opened(NotFoundError("start anew")), Fail)
    assert talk.close_with(None) == (1008, "not_found")


def test_a_session_that_is_resumed_is_where_it_was():
    talk = Talk()
    talk.receive(RESUME)
    talk.opened(stopped=True)
    assert (talk.phase, talk.receive(b"\0\0"), talk.close_with(1000)) == (Phase.ENDING, None, (1000, None))
    talk = Talk()
    talk.receive(RESUME)
    talk.opened(error=SessionError("nothing came"))
    assert (talk.phase, talk.close_with(1000)) == (Phase.ENDING, (1008, "idle_timeout"))


def test_who_lost_the_session_to_another_connection_is_told_by_the_close():
    talk = opened()
    talk.supersede()
    assert talk.receive(op("stop")) is None
    assert talk.close_with(1000) == (1008, "resumed")
