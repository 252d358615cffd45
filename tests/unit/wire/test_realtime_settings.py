"""What a client of OpenAI's Realtime API may set: both dialects, every bound, nothing of a wrong update."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.wire.realtime_settings import RefusedError, Settings


def audio(**keys):
    return {"type": "transcription", "audio": {"input": keys}}


def test_a_session_begins_with_24_khz_and_turn_detection():
    assert Settings().shown("ga") == {
        "audio": {
            "input": {
                "format": {"type": "audio/pcm", "rate": 24000},
                "transcription": {"model": "whisper-1", "language": None, "prompt": None},
                "noise_reduction": None,
                "turn_detection": {
                    "type": "server_vad",
                    "threshold": 0.5,
                    "prefix_padding_ms": 300,
                    "silence_duration_ms": 500,
                },
            }
        },
        "include": [],
    }
    assert Settings().silence_ms == (500, 500)


def test_both_dialects_say_the_same():
    transcription = {"model": "base", "language": "de-AT", "prompt": "names", "keywords": ["sttd", "", "sttd"]}
    turns = {"type": "semantic_vad", "eagerness": "low"}
    nested = Settings().updated(
        {
            **audio(
                format={"type": "audio/pcma"},
                transcription=transcription,
                noise_reduction={"type": "near_field"},
                turn_detection=turns,
            ),
            "include": ["item.input_audio_transcription.logprobs", "unheard.of"],
        }
    )
    flat = Settings().updated(
        {
            "input_audio_format": "g711_alaw",
            "input_audio_transcription": transcription,
            "input_audio_noise_reduction": {"type": "near_field"},
            "turn_detection": turns,
            "include": ["item.input_audio_transcription.logprobs"],
        }
    )
    assert nested == flat
    assert (flat.encoding, flat.rate, flat.silence_ms) == ("alaw", 8000, (700, 2000))
    shown = flat.shown("beta")
    assert shown["input_audio_format"] == "g711_alaw"
    assert shown["input_audio_transcription"] == {
        "model": "base",
        "language": "de",
        "prompt": "names",
        "keywords": ["sttd"],
    }
    assert shown["include"] == ["item.input_audio_transcription.logprobs"]


def test_what_is_left_out_keeps_its_value_and_null_clears_it():
    settings = Settings().updated(audio(transcription={"model": "base", "language": "german", "prompt": "x"}))
    settings = settings.updated(audio(transcription={"language": None}, unknown=1))
    assert settings.transcription.shown() == {"model": "base", "language": None, "prompt": "x"}
    settings = settings.updated(audio(format={"type": "audio/pcm", "rate": 48000}))
    assert settings.updated(audio(format={"type": "audio/pcm"})).rate == 48000
    assert settings.updated(audio(format=None)).rate == 24000
    assert settings.updated(audio(transcription=None)).transcription.shown()["model"] == "whisper-1"
    assert settings.updated({"audio": None, "include": None}) == settings


@pytest.mark.parametrize(
    ("asked", "silence_ms"),
    [
        ({"silence_duration_ms": 350}, (350, 350)),
        ({"type": "server_vad", "silence_duration_ms": 20.5}, (100, 100)),
        ({"type": "server_vad", "silence_duration_ms": 1e300}, (10_000, 10_000)),
        ({"type": "server_vad", "silence_duration_ms": None}, (500, 500)),
        ({"type": "semantic_vad"}, None),
        ({"type": "semantic_vad", "eagerness": "auto"}, None),
        ({"type": "semantic_vad", "eagerness": "high"}, (300, 500)),
    ],
)
def test_turn_detection_becomes_the_silence_that_ends_an_item(asked, silence_ms):
    settings = Settings().updated({"turn_detection": asked})
    assert settings.silence_ms == silence_ms
    assert settings.turn_detection is not None


def test_what_turn_detection_ignores_is_shown_as_far_as_anybody_means_it():
    settings = Settings().updated(
        {"turn_detection": {"threshold": 0.9, "create_response": False, "idle_timeout_ms": 10**400, "more": 1}}
    )
    assert settings.turn_detection == {
        "type": "server_vad",
        "threshold": 0.9,
        "prefix_padding_ms": 300,
        "silence_duration_ms": 500,
        "create_response": False,
    }


@pytest.mark.parametrize("model", ["gpt-realtime-whisper", "gpt-live-transcribe", "gpt-live-transcribe-2026-10-01"])
def test_models_without_turn_detection_upstream_have_none_unless_it_is_set(model):
    settings = Settings().updated(audio(transcription={"model": model}))
    assert settings.turn_detection is None
    assert settings.updated(audio(transcription={"model": "gpt-transcribe"})).turn_detection is not None
    on = settings.updated({"turn_detection": {"type": "server_vad"}})
    assert on.turn_detection is not None
    assert on.updated({"turn_detection": None}).updated(audio(transcription={"model": "x"})).turn_detection is None


@pytest.mark.parametrize(
    ("session", "param"),
    [
        ([], "session"),
        ({"type": "realtime"}, "session.type"),
        ({"audio": 1}, "session.audio"),
        (audio(format={"type": "audio/mp3"}), "session.audio.input.format.type"),
        (audio(format={"type": ["audio/pcm"]}), "session.audio.input.format.type"),
        (audio(format={"type": "audio/pcm", "rate": 7999}), "session.audio.input.format.rate"),
        (audio(format={"type": "audio/pcm", "rate": True}), "session.audio.input.format.rate"),
        (audio(format={"type": "audio/pcmu", "rate": 16000}), "session.audio.input.format.rate"),
        ({"input_audio_format": "mp3"}, "session.input_audio_format.type"),
        (audio(transcription="base"), "session.audio.input.transcription"),
        (audio(transcription={"prompt": "half a pair: \ud800"}), "session.audio.input.transcription.prompt"),
        (audio(transcription={"keywords": ["\udfff"]}), "session.audio.input.transcription.keywords"),
        (audio(transcription={"model": 1}), "session.audio.input.transcription.model"),
        (audio(transcription={"language": "klingon"}), "session.audio.input.transcription.language"),
        (audio(transcription={"languages": "en"}), "session.audio.input.transcription.languages"),
        (audio(transcription={"languages": ["en", "xx"]}), "session.audio.input.transcription.languages"),
        (audio(transcription={"keywords": [1]}), "session.audio.input.transcription.keywords"),
        ({"turn_detection": {"type": "magic"}}, "session.turn_detection.type"),
        ({"turn_detection": {"silence_duration_ms": "1"}}, "session.turn_detection.silence_duration_ms"),
        ({"turn_detection": {"type": "semantic_vad", "eagerness": "x"}}, "session.turn_detection.eagerness"),
        ({"include": "all"}, "session.include"),
    ],
)
def test_a_wrong_value_is_named(session, param):
    with pytest.raises(RefusedError) as refused:
        Settings().updated(session)
    assert (refused.value.param, refused.value.code) == (param, "invalid_value")


def test_an_update_without_a_session_lacks_it():
    with pytest.raises(RefusedError) as refused:
        Settings().updated(None)
    assert refused.value.code == "missing_required_parameter"


def test_what_is_kept_is_bounded():
    settings = Settings().updated(
        audio(transcription={"prompt": "x" * 9000 + "end", "keywords": [f"w{n}" for n in range(300)] + ["y" * 101]})
    )
    assert len(settings.transcription.prompt) == 4000
    assert settings.transcription.prompt.endswith("end")
    assert len(settings.transcription.keywords) == 200
    noise = {"type": "near_field" * 9, "strength": 1}
    assert Settings().updated(audio(noise_reduction=noise)).noise_reduction == {"strength": 1}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda value: st.lists(value, max_size=3) | st.dictionaries(st.text(max_size=5), value, max_size=3),
    max_leaves=6,
)
keys = st.sampled_from(
    ["type", "rate", "model", "language", "languages", "prompt", "keywords", "eagerness", "strength"]
)
values = json_values | st.dictionaries(keys, json_values, max_size=4)
nested = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(["format", "transcription", "noise_reduction", "turn_detection"], values)
)
flat = dict.fromkeys(
    ["input_audio_format", "input_audio_transcription", "input_audio_noise_reduction", "turn_detection", "include"],
    values,
)


@given(st.fixed_dictionaries({}, optional={"audio": st.fixed_dictionaries({"input": nested}), **flat}) | json_values)
def test_whatever_is_asked_for_is_either_refused_or_can_be_shown(session):
    try:
        settings = Settings().updated(session)
    except RefusedError:
        return
    for dialect in ("ga", "beta"):
        shown = json.loads(json.dumps(settings.shown(dialect), allow_nan=False))
        assert Settings().updated(shown) == Settings().updated(settings.shown("ga"))
