"""Ops and events of the audio plane."""

import base64
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ProtocolError
from sttd.fields import rules_of
from sttd.options import EndpointingFields
from sttd.wire import messages
from sttd.wire.messages import Start, encode_event, encode_op, parse_client, parse_event

# The audio plane of docs/reference/audio.md, by hand: the contract must not follow the code.
OPS = {
    "start": "kind sample_rate lang languages encoding channels channel_select interim task model interim_model words "
    "prompt hotwords endpointing overflow context lock_stable resumable label",
    "audio": "payload",
    "finalize": "",
    "configure": "lang languages prompt hotwords interim endpointing context",
    "stop": "",
    "resume": "token last_seq",
}
EVENTS = {
    "hello": "server protocol encodings presets",
    "started": "session resume_token " + OPS["start"],
    "resumed": "position_s resume_token ops",
    "ack": "position_s ops",
    "speech_start": "utterance at_s event_seq",
    "interim": "utterance seq text stable_chars start_s end_s words event_seq",
    "speech_end": "utterance at_s silence_ms event_seq",
    "final": "utterance text start_s end_s language language_probability confidence reason model words timing "
    "event_seq",
    "progress": "done_s total_s event_seq",
    "gap": "from_s to_s reason event_seq",
    "warning": "code message lag_s event_seq",
    "error": "code message retryable fatal data event_seq",
    "stopped": "audio_s utterances dropped_s event_seq",
}


def names(declared):
    return {name: " ".join(rules_of(cls)) for name, cls in declared.items()}


def test_the_messages_are_those_of_the_contract():
    assert names(messages.OPS) == OPS
    assert names(messages.EVENTS) == EVENTS


def test_the_shortest_client_is_understood():
    assert parse_client('{"op":"start","sample_rate":16000,"lang":"en"}') == Start(sample_rate=16000, lang="en")
    payload = base64.b64encode(b"\1\2\3\4").decode()
    assert parse_client(json.dumps({"op": "audio", "payload": payload})) == messages.Audio(payload=b"\1\2\3\4")
    assert parse_client(b'{"op":"stop"}') == messages.Stop()


def test_a_start_with_everything_makes_the_round_trip():
    start = Start(
        kind="file",
        sample_rate=44100,
        lang="auto",
        languages=("es", "en"),
        encoding="mulaw",
        channels=2,
        channel_select=1,
        interim=True,
        task="translate",
        model="demo",
        interim_model="fake",
        words=True,
        prompt="Ümlaut\nand a second line",
        hotwords=("sttd", "Trio"),
        endpointing=EndpointingFields(silence_ms_min=300, silence_ms_max=300, max_utterance_s=20.0, aggressiveness=3),
        overflow="drop",
        context="off",
        lock_stable=True,
        resumable=True,
        label="notes",
    )
    assert parse_client(encode_op(start)) == start
    assert parse_client({"op": "start", "endpointing": False}).endpointing is False
    assert parse_client('{"op":"start","model":null,"lang":null}') == Start()


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("", "bad_request"),
        ("[]", "bad_request"),
        ("{}", "unknown_op"),
        ('{"op":null}', "unknown_op"),
        ('{"op":["start"]}', "unknown_op"),
        ('{"op":"Start"}', "unknown_op"),
        ('{"op":"\\ud800"}', "unknown_op"),
        ('{"op":"audio"}', "bad_option"),
        ('{"op":"audio","payload":"?"}', "bad_option"),
        ('{"op":"stop","now":true}', "bad_option"),
        ('{"op":"start","langage":"en"}', "bad_option"),
        ('{"op":"configure","sample_rate":16000}', "bad_option"),
    ],
)
def test_what_is_wrong_has_its_code(message, code):
    with pytest.raises(ProtocolError) as caught:
        parse_client(message)
    assert caught.value.code == code
    assert caught.value.message.encode()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("kind", "batch"),
        ("sample_rate", 7999),
        ("sample_rate", 192_001),
        ("sample_rate", 16000.5),
        ("lang", "english"),
        ("lang", "xx"),
        ("lang", ""),
        ("languages", []),
        ("languages", "es"),
        ("languages", ["es", "xx"]),
        ("languages", ["auto"]),
        ("languages", ["es"] * 17),
        ("encoding", "opus"),
        ("channels", 0),
        ("channels", 9),
        ("channel_select", -1),
        ("channel_select", 1),  # of one channel
        ("task", "summarise"),
        ("interim", "yes"),
        ("prompt", "x" * 4001),
        ("hotwords", "sttd"),
        ("hotwords", ["x"] * 201),
        ("endpointing", True),
        ("endpointing", {"silence_ms_min": 99}),
        ("endpointing", {"silence_ms_min": 800, "silence_ms_max": 700}),
        ("endpointing", {"max_utterance_s": 31}),
        ("endpointing", {"aggressiveness": 4}),
        ("overflow", "block"),
        ("label", "x" * 201),
        ("label", "two\nlines"),
    ],
)
def test_an_option_out_of_range_is_named(field, value):
    with pytest.raises(ProtocolError) as caught:
        parse_client({"op": "start", field: value})
    assert caught.value.code == "bad_option"
    assert re.split(r"[.\[]", caught.value.data["field"])[0] == field


@pytest.mark.parametrize("op", ["start", "configure"])
def test_a_language_is_one_of_those_that_are_named(op):
    for lang in ("es", "auto", None):
        assert parse_client({"op": op, "lang": lang, "languages": ["es", "en"]}).languages == ("es", "en")
    with pytest.raises(ProtocolError) as caught:
        parse_client({"op": op, "lang": "fr", "languages": ["es", "en"]})
    assert (caught.value.code, caught.value.data["field"]) == ("bad_option", "lang")


def test_a_channel_of_a_container_is_not_ours_to_count():
    assert parse_client({"op": "start", "encoding": "container", "channel_select": 5}).channel_select == 5
    assert parse_client({"op": "start", "channels": 6, "channel_select": 5}).channel_select == 5


def test_events_make_the_round_trip():
    text = encode_event(
        "interim", {"utterance": 1, "seq": 2, "text": "ä", "stable_chars": 0, "start_s": 0, "end_s": 1.5}
    )
    assert text == '{"type":"interim","utterance":1,"seq":2,"text":"ä","stable_chars":0,"start_s":0,"end_s":1.5}'
    assert parse_event(text) == messages.Interim(utterance=1, seq=2, text="ä", stable_chars=0, start_s=0.0, end_s=1.5)


def test_a_client_takes_what_a_newer_daemon_adds():
    final = {
        "type": "final", "utterance": 1, "text": "hi", "start_s": 0.0, "end_s": 1.0, "reason": "stop", "mood": "good",
        "words": [{"word": "hi", "start_s": 0.0, "end_s": 1.0, "probability": 0.9, "speaker": 1}],
        "timing": {"queue_ms": 1, "gpu_ms": 2},
    }  # fmt: skip
    event = parse_event(final)
    assert isinstance(event, messages.Final)
    assert event.words == (messages.WordFields(word="hi", start_s=0.0, end_s=1.0, probability=0.9),)
    assert event.timing == messages.TimingFields(queue_ms=1.0)
    assert parse_event('{"type":"weather","temperature":20}') is None
    assert parse_event({"type": ["final"]}) is None


def test_a_daemon_that_breaks_the_protocol_is_found_out():
    with pytest.raises(ProtocolError):
        parse_event('{"type":"final","utterance":"one"}')


@given(st.text())
def test_a_text_at_random_is_an_error_with_a_code(text):
    with pytest.raises(ProtocolError) as caught:
        parse_client(text)
    assert caught.value.code in ("bad_request", "unknown_op")
