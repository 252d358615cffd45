"""The address of Deepgram's live API: every parameter that is read, and what is refused by its name."""

import contextlib
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ProtocolError
from sttd.wire.deepgram_query import parse_query

RAW = {"encoding": "linear16", "sample_rate": "16000"}


def asked(**given):
    return parse_query(urlencode(given, doseq=True))


def test_without_anything_the_audio_is_a_container_and_the_rest_is_as_configured():
    found = asked()
    assert (found.encoding, found.sample_rate, found.channels, found.multichannel) == ("container", None, 1, False)
    assert (found.model, found.language, found.hotwords) == (None, None, ())
    assert (found.endpointing, found.utterance_end_ms) == (None, None)
    assert not found.interim_results
    assert not found.vad_events


@pytest.mark.parametrize(
    ("given", "encoding", "rate"),
    [
        ({"encoding": "linear16", "sample_rate": "44100"}, "pcm_s16le", 44_100),
        ({"encoding": "linear32", "sample_rate": "8000"}, "pcm_f32le", 8_000),
        ({"encoding": "mulaw"}, "mulaw", 8_000),
        ({"encoding": "alaw", "sample_rate": "16000"}, "alaw", 16_000),
        ({"encoding": "flac", "sample_rate": "16000"}, "container", None),
        ({"encoding": "ogg-opus"}, "container", None),
        ({"encoding": ""}, "container", None),
    ],
)
def test_encodings(given, encoding, rate):
    found = asked(**given)
    assert (found.encoding, found.sample_rate) == (encoding, rate)


def test_what_pipecat_and_livekit_send():
    pipecat = {
        **RAW, "model": "nova-3-general", "language": "en", "channels": "1", "multichannel": "false",
        "interim_results": "true", "punctuate": "true", "smart_format": "false", "detect_entities": "false",
        "diarize": "false", "dictation": "false", "numerals": "false",
    }  # fmt: skip
    assert asked(**pipecat).interim_results
    livekit = {
        **RAW, "model": "nova-3", "punctuate": "true", "no_delay": "true", "interim_results": "true",
        "vad_events": "true", "channels": "1", "endpointing": "25", "filler_words": "true",
        "profanity_filter": "false", "mip_opt_out": "false", "language": "en-US", "keywords": ["sttd:1.5", "Trio:-2"],
        "utterance_end_ms": "1000",
    }  # fmt: skip
    found = asked(**livekit)
    assert (found.endpointing, found.vad_events, found.utterance_end_ms) == (25, True, 1000)
    assert found.hotwords == ("sttd", "Trio")


def test_keyterms_are_words_as_they_stand_and_keywords_lose_their_boost():
    found = asked(keyterm=["New York", "ratio 2:1"], keywords=["snuffleupagus:5", "plain", "a:b"])
    assert found.hotwords == ("New York", "ratio 2:1", "snuffleupagus", "plain", "a:b")


@pytest.mark.parametrize(
    ("value", "endpointing"), [("", None), ("true", None), ("false", False), ("False", False), ("0", 0), ("300", 300)]
)
def test_endpointing_is_a_silence_or_false(value, endpointing):
    assert asked(endpointing=value).endpointing is endpointing or asked(endpointing=value).endpointing == endpointing


def test_of_a_value_given_twice_the_last_counts():
    assert asked(model=["nova-2", "base"]).model == "base"


def test_detection_goes_before_a_language():
    assert asked(language="de", detect_language="true").language is None


@pytest.mark.parametrize(
    ("field", "given"),
    [
        ("encoding", {"encoding": "opus"}),
        ("encoding", {"encoding": "speex"}),
        ("sample_rate", {"encoding": "linear16"}),
        ("sample_rate", {"encoding": "linear16", "sample_rate": "7999"}),
        ("sample_rate", {"encoding": "mulaw", "sample_rate": "192001"}),
        ("sample_rate", {"encoding": "linear16", "sample_rate": "1" * 5000}),
        ("sample_rate", {"encoding": "linear16", "sample_rate": "16e3"}),
        ("channels", {**RAW, "channels": "0"}),
        ("channels", {**RAW, "channels": "9"}),
        ("channels", {"multichannel": "true"}),
        ("multichannel", {**RAW, "multichannel": "yes"}),
        ("interim_results", {"interim_results": "maybe"}),
        ("vad_events", {"vad_events": "2"}),
        ("endpointing", {"endpointing": "-1"}),
        ("endpointing", {"endpointing": "soon"}),
        ("utterance_end_ms", {"utterance_end_ms": "1000"}),
        ("utterance_end_ms", {"utterance_end_ms": "999", "interim_results": "true"}),
        ("utterance_end_ms", {"utterance_end_ms": "5001", "interim_results": "true"}),
        ("redact", {"redact": "pci"}),
        ("redact", {"redact": ["pci", "ssn"]}),
        ("callback", {"callback": "https://example.org"}),
    ],
)
def test_a_wrong_value_is_refused_by_its_name(field, given):
    with pytest.raises(ProtocolError) as caught:
        asked(**given)
    assert (caught.value.code, caught.value.data["field"]) == ("bad_option", field)
    assert field in caught.value.message
    assert len(caught.value.message) < 300


def test_who_does_not_want_them_may_say_so():
    asked(redact="false", callback="")


names = st.sampled_from(["encoding", "sample_rate", "channels", "endpointing", "keyterm", "redact", "model", "x"])


@given(query=st.one_of(st.text(), st.lists(st.tuples(names, st.text(max_size=8))).map(urlencode)))
def test_any_query_is_read_or_refused_as_a_value(query):
    with contextlib.suppress(ProtocolError):
        assert parse_query(query).channels in range(1, 9)
