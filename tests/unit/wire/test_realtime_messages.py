"""Messages of a client of OpenAI's Realtime API, small and large, right and wrong."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.wire.jsontext import MAX_MESSAGE_BYTES
from sttd.wire.realtime_messages import (
    MAX_AUDIO_BYTES,
    MAX_BYTES,
    Append,
    Clear,
    Commit,
    LargeMessage,
    Update,
    is_large,
    read_message,
)
from sttd.wire.realtime_settings import RefusedError


def event(kind, **fields):
    return json.dumps({"type": kind, **fields})


def append(data, **fields):
    return event("input_audio_buffer.append", audio=base64.b64encode(data).decode(), **fields)


def read_large(message):
    assert is_large(message)
    large = LargeMessage(message)
    steps = sum(1 for _ in large)
    return large.event, steps


def test_every_event_is_read():
    assert read_message(append(b"\0\1\2")) == Append(event_id=None, audio=[b"\0\1\2"])
    assert read_message(event("input_audio_buffer.commit", event_id="a")) == Commit(event_id="a")
    assert read_message(event("input_audio_buffer.clear", event_id=5)) == Clear(event_id=None)
    assert read_message(event("session.update", session={})) == Update(event_id=None, dialect="ga", session={})
    assert read_message(event("input_audio_buffer.clear", event_id="\ud800")) == Clear(event_id=None)
    beta = read_message(event("transcription_session.update", event_id="x" * 600))
    assert beta == Update(event_id="x" * 512, dialect="beta", session=None)


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        (b"{}", "invalid_json", None),
        ("{", "invalid_json", None),
        ("[]", "invalid_json", None),
        ("{}", "missing_required_parameter", "type"),
        (event("input_audio_buffer.append", event_id="e"), "missing_required_parameter", "audio"),
        (event("input_audio_buffer.append", audio=5), "invalid_value", "audio"),
        (event("input_audio_buffer.append", audio="AAA"), "invalid_value", "audio"),
        (event("input_audio_buffer.append", audio="öäü="), "invalid_value", "audio"),
        (event("response.create"), "invalid_value", "type"),
        (event("conversation.item.create"), "invalid_value", "type"),
        (event("x" * 1000), "invalid_value", "type"),
    ],
)
def test_a_wrong_message_is_refused_by_name(message, code, param):
    with pytest.raises(RefusedError) as refused:
        read_message(message)
    assert (refused.value.code, refused.value.param) == (code, param)
    assert len(refused.value.message) < 400


def test_the_refusal_names_the_event():
    with pytest.raises(RefusedError) as refused:
        read_message(event("input_audio_buffer.append", event_id="e7", audio="!"))
    assert refused.value.event_id == "e7"


def test_the_largest_append_is_read_in_many_short_steps():
    data = bytes(range(256)) * (MAX_AUDIO_BYTES // 256)
    message = append(data, event_id="big")
    assert len(message) < MAX_BYTES
    large, steps = read_large(message)
    assert large.event_id == "big"
    assert b"".join(large.audio) == data
    assert steps > 300
    assert max(map(len, large.audio)) <= 48 * 1024


def test_a_large_append_may_have_its_keys_in_any_order_and_its_name_behind_it():
    data = b"\1" * MAX_MESSAGE_BYTES
    text = base64.b64encode(data).decode()
    large, _ = read_large(json.dumps({"audio": text, "event_id": "z", "type": "input_audio_buffer.append"}))
    assert (large.event_id, b"".join(large.audio)) == ("z", data)


def test_a_large_append_may_be_written_with_the_escapes_of_other_languages():
    data = b"\xff" * 200_000
    message = append(data, event_id="e").replace("/", "\\/").replace("=", "\\u003d")
    assert "\\/" in message
    large, _ = read_large(message)
    assert (large.event_id, b"".join(large.audio)) == ("e", data)


LONG = "A" * (MAX_MESSAGE_BYTES + 4)


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (event("session.update", session={"x": LONG}), "invalid_value"),
        (event("input_audio_buffer.append", audio="", event_id=LONG), "invalid_value"),
        (event("input_audio_buffer.append", audio=LONG + "!"), "invalid_value"),
        (event("input_audio_buffer.append", audio=LONG[:-1]), "invalid_value"),
        (event("input_audio_buffer.append", audio=LONG[:70_000] + "=" + LONG), "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "' + LONG, "invalid_value"),
        ('{"type": "input_audio_buffer.append", "audio": "' + LONG + '"', "invalid_json"),
        (event("session.update", session={"keywords": ["w"] * 60_000}), "invalid_value"),
        ('{"a": [' + '"",' * MAX_MESSAGE_BYTES + '""]}', "invalid_value"),
        ("[" * (MAX_MESSAGE_BYTES + 1), "invalid_value"),
        ('"' * (MAX_MESSAGE_BYTES + 1), "invalid_value"),
        (append(bytes(MAX_AUDIO_BYTES + 1)), "invalid_value"),
    ],
)
def test_a_large_message_that_is_no_append_is_refused_without_a_long_look(message, code):
    with pytest.raises(RefusedError) as refused:
        read_large(message)
    assert refused.value.code == code


@given(st.text() | st.binary() | st.recursive(st.text() | st.integers(), st.lists).map(json.dumps))
def test_whatever_comes_is_an_event_or_refused(message):
    with pytest.raises(RefusedError):
        read_message(message)


@given(
    before=st.text(alphabet='",:{}[]ab\\', max_size=80),
    middle=st.sampled_from(["A", '"', "\\", "=", "ö"]),
    after=st.text(alphabet='",:{}[]ab\\', max_size=40),
)
def test_whatever_is_large_is_an_append_or_refused(before, middle, after):
    message = before + middle * (MAX_MESSAGE_BYTES + 1) + after
    try:
        large, _ = read_large(message)
    except RefusedError:
        return
    assert isinstance(large, Append)
