"""What a client of Deepgram's live API says, and what it is told besides its text."""

import hashlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import InternalError, OverloadedError, ProtocolError, SessionError
from sttd.wire import deepgram_answers
from sttd.wire.deepgram import (
    Audio,
    CloseStream,
    Configure,
    Conversation,
    Fail,
    Finalize,
    Refuse,
    Splitter,
    configured,
    error_event,
    metadata,
)
from sttd.wire.http import Denial
from sttd.wire.jsontext import MAX_MESSAGE_BYTES


def said(kind, **fields):
    return json.dumps({"type": kind, **fields})


def test_a_stream_from_its_first_audio_to_its_end():
    talk = Conversation()
    assert talk.receive(b"\1\2") == Audio(b"\1\2")
    assert talk.receive(said("KeepAlive")) is None
    assert talk.receive(said("Finalize")) == Finalize(None)
    assert talk.receive(said("Configure", keyterms=["sttd"], features={"numerals": True})) == Configure(("sttd",))
    assert talk.receive(said("Configure")) == Configure(None)
    assert talk.receive(b"\3") == Audio(b"\3")
    assert talk.receive(said("CloseStream")) == CloseStream()
    assert talk.receive(b"\4") is None
    assert talk.receive("nonsense") is None
    assert talk.sha256 == hashlib.sha256(b"\1\2\3").hexdigest()
    assert talk.close_with(1001) == (1001, None)
    assert talk.close_with(None) == (1000, None)


def test_an_empty_binary_message_closes_the_stream():
    talk = Conversation()
    assert talk.receive(b"") == CloseStream()
    assert talk.ending


def test_one_channel_of_several_may_be_finalized():
    talk = Conversation(channels=2)
    assert talk.receive(said("Finalize", channel=1)) == Finalize(1)
    for wrong in (2, -1, "0", 1.0, True, [0]):
        assert isinstance(talk.receive(said("Finalize", channel=wrong)), Refuse), wrong


@pytest.mark.parametrize(
    "message",
    [
        "nonsense",
        "[]",
        "{}",
        '{"type": 5}',
        said("Speak"),
        said("keepalive"),
        said("Configure", keyterms="sttd"),
        said("Configure", keyterms=[1]),
        said("Configure", features=["numerals"]),
        said("Configure", features={"numerals": "yes"}),
        '{"type": "Finalize", "type": "CloseStream"}',
        "[" * 50_000,
        '{"type": "\\ud800"}',
        said("Configure", keyterms=["sttd"] * 10_000),
    ],
)
def test_what_is_no_message_comes_back_and_changes_nothing(message):
    talk = Conversation()
    answer = talk.receive(message)
    assert isinstance(answer, Refuse)
    told = json.loads(answer.text)
    assert (told["type"], told["variant"]) == ("Error", "SchemaError")
    assert told["description"]
    assert message.startswith(told["message"])
    assert len(told["message"]) == min(len(message), 1000)
    assert not talk.ending


@pytest.mark.parametrize("message", [bytes(MAX_MESSAGE_BYTES + 1), "é" * (MAX_MESSAGE_BYTES // 2 + 1)])
def test_a_message_that_is_too_large_ends_the_stream(message):
    talk = Conversation()
    assert isinstance(talk.receive(message), Fail)
    assert talk.close_with(None) == (1009, "too_large")
    assert talk.receive(b"\0\0") is None


@pytest.mark.parametrize(
    ("error", "code", "reason"),
    [
        (SessionError("nothing came for 10 s"), 1011, "NET-0001: nothing came for 10 s"),
        (ProtocolError("no audio", code="bad_audio"), 1008, "DATA-0000: no audio"),
        (ProtocolError("one channel", code="bad_option"), 1008, "DATA-0000: one channel"),
        (OverloadedError("full"), 1013, "overloaded"),
        (InternalError("bug"), 1011, "internal"),
        (ProtocolError("reserved bits", close_code=1002), 1002, "bad_request"),
    ],
)
def test_close_codes_and_reasons(error, code, reason):
    talk = Conversation()
    talk.fail(error)
    talk.fail(OverloadedError("later"))
    assert talk.close_with(1000) == (code, reason)


def test_a_reason_fits_into_a_close_frame():
    talk = Conversation()
    talk.fail(ProtocolError("ä" * 200, code="bad_audio"))
    _, reason = talk.close_with(None)
    assert reason is not None
    assert len(reason.encode()) <= 123


def test_a_client_that_does_not_read_is_told_that_whatever_was_wrong_before():
    talk = Conversation()
    talk.fail(OverloadedError("full"))
    talk.overrule(SessionError("does not read", code="slow_consumer"))
    assert talk.close_with(None) == (1008, "slow_consumer")


@given(message=st.one_of(st.text(), st.binary(), st.recursive(st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["type", "channel", "keyterms", "features"]), inner)
).map(json.dumps)))  # fmt: skip
def test_any_message_is_understood_or_answered(message):
    answer = Conversation().receive(message)
    if isinstance(answer, Refuse):
        answer.text.encode()
        assert json.loads(answer.text)["variant"] == "SchemaError"
    else:
        assert answer is None or not isinstance(answer, Fail)


def test_what_the_client_is_told_besides_its_text():
    assert json.loads(configured("r", None)) == {"type": "ConfigureSuccess", "request_id": "r"}
    assert json.loads(configured("r", []))["keyterms"] == []
    assert json.loads(error_event("overloaded", "later")) == {
        "type": "Error",
        "variant": "overloaded",
        "description": "later",
    }
    told = json.loads(metadata(request_id="r", sha256="s", created="c", duration_ms=1500, channels=2))
    assert told == {
        "type": "Metadata", "transaction_key": "deprecated", "request_id": "r", "sha256": "s", "created": "c",
        "duration": 1.5, "channels": 2,
    }  # fmt: skip


def test_a_refusal_says_when_to_come_again():
    answer = deepgram_answers.refuse(Denial("overloaded", "full", retry_after_s=1.2))
    assert (answer.status, dict(answer.headers)["Retry-After"]) == (503, "2")
    assert json.loads(answer.body)["err_code"] == "SERVICE_UNAVAILABLE"


@given(
    width=st.sampled_from([1, 2, 4]),
    count=st.integers(1, 8),
    samples=st.integers(0, 40),
    cuts=st.lists(st.integers(0, 1300), max_size=6),
)
def test_channels_are_the_same_however_the_audio_was_cut(width, count, samples, cuts):
    data = bytes(n % 251 for n in range(width * count * samples))
    splitter, channels, edges = Splitter(width, count), [b""] * count, sorted(cut for cut in cuts if cut < len(data))
    for start, end in zip([0, *edges], [*edges, len(data)], strict=True):
        channels = [before + part for before, part in zip(channels, splitter.split(data[start:end]), strict=True)]
    for index, channel in enumerate(channels):
        offsets = range(index * width, len(data), width * count)
        assert channel == b"".join(data[at : at + width] for at in offsets)
