"""What is sent to a server, and what is believed of what comes back."""

import io
import json
import math
import wave

import attrs
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.languages import Prior
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort, Lead
from sttd.engine.contract import is_sound
from sttd.engine.remote.asking import (
    MAX_CHARS,
    Answer,
    Kind,
    Trouble,
    check_probe,
    check_status,
    read_answer,
    request_for,
    wav,
    wrong_language,
)
from sttd.wire.multipart import FormReader
from sttd.wire.openai_request import read_request

BOUNDARY = "0123456789abcdef"
VERBOSE = {
    "task": "transcribe",
    "language": "german",
    "duration": 2.0,
    "text": "Guten Tag. Danke.",
    "segments": [
        {"id": 0, "start": 0.0, "end": 1.0, "text": " Guten Tag.", "avg_logprob": -0.1, "no_speech_prob": 0.2},
        {"id": 1, "start": 1.0, "end": 2.0, "text": " Danke.", "avg_logprob": -0.5, "no_speech_prob": 0.0},
    ],
    "words": [
        {"word": "Guten", "start": 0.0, "end": 0.4},
        {"word": "Tag.", "start": 0.4, "end": 0.9, "probability": 0.5},
        {"word": "Danke.", "start": 1.1, "end": 1.8},
    ],
}


def item(seconds=2.0, **options):
    samples = np.full(round(seconds * SAMPLE_RATE), 0.5, dtype=np.float32)
    return DecodeItem(samples=samples, options=DecodeOptions(**options))


def answer(content, status=200, **headers):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    return Answer(status=status, headers=headers, body=body)


def request(of, **changes):
    settings = {"model": "large", "answer": "verbose_json", "send_priority": False, "deadline_s": 3.0}
    return request_for(of, boundary=BOUNDARY, **(settings | changes))


def fields(asked):
    """The form as sttd's own server reads it: the fields, and the file."""
    form, audio = FormReader(BOUNDARY.encode()), bytearray()
    audio += form.feed(asked.body)
    form.finish()
    return form, bytes(audio)


def test_another_sttd_understands_what_is_asked_of_it():
    asked = request(item(language="de", words=True, prompt="Grüße", hotwords=("Kubernetes", "vLLM")))
    form, audio = fields(asked)
    read = read_request(form.fields, has_file=form.has_file, task="transcribe")
    assert (read.model, read.language, read.words, read.segments) == ("large", "de", True, True)
    assert read.prompt == "Kubernetes, vLLM Grüße"
    with wave.open(io.BytesIO(audio)) as heard:
        assert (heard.getframerate(), heard.getnchannels(), heard.getsampwidth()) == (16_000, 1, 2)
        assert heard.getnframes() == 2 * SAMPLE_RATE
    assert dict(asked.headers)["X-Sttd-Class"] == "final"
    assert dict(asked.headers)["X-Sttd-Deadline-Ms"] == "3000"


def test_what_a_server_may_not_know_is_sent_where_an_option_says_so_alone():
    plain = request(item(effort=Effort.TIMED)).body
    assert b"priority" not in plain
    assert b"word" not in plain
    asked = request(item(effort=Effort.TIMED), send_priority=True, answer="json").body
    assert b'name="priority"\r\n\r\n2\r\n' in asked
    assert b"timestamp_granularities" not in asked


def test_the_sound_before_an_item_stays_here_and_its_text_goes_with_the_prompt():
    whole = attrs.evolve(item(3.0), lead=Lead(samples=SAMPLE_RATE, text="What was said."))
    form, audio = fields(request(whole))
    assert len(audio) == 44 + 2 * 2 * SAMPLE_RATE
    assert read_request(form.fields, has_file=True, task="transcribe").prompt == "What was said."
    interim = attrs.evolve(whole, options=attrs.evolve(whole.options, effort=Effort.QUICK))
    form, again = fields(request(interim))
    assert (again, read_request(form.fields, has_file=True, task="transcribe").prompt) == (audio, None)


@given(st.lists(st.floats(-2, 2, width=32), max_size=50))
def test_audio_is_never_too_short_and_never_wraps_around(values):
    samples = np.array(values, dtype=np.float32)
    with wave.open(io.BytesIO(wav(samples))) as heard:
        assert heard.getnframes() == max(len(values), 1600)
        back = np.frombuffer(heard.readframes(heard.getnframes()), dtype="<i2") / 32767
    assert np.allclose(back[: len(values)], np.clip(samples, -1, 1), atol=1e-4)
    assert not back[len(values) :].any()


# ---------------------------------------------------------------- answers


def test_a_verbose_answer_gives_segments_words_and_numbers():
    found = read_answer(answer(VERBOSE), item(words=True))
    assert found.text == "Guten Tag. Danke."
    assert [segment.text for segment in found.segments] == ["Guten Tag.", "Danke."]
    assert [[word.word for word in segment.words] for segment in found.segments] == [["Guten", "Tag."], ["Danke."]]
    assert found.words[0].probability == pytest.approx(math.exp(-0.1)), "that of its segment"
    assert found.words[1].probability == 0.5
    assert -0.5 < found.avg_logprob < -0.1
    assert found.language == "de"
    assert found.languages[0][0] == "de"
    assert found.certainties is None


def test_words_nobody_asked_for_are_left_out_and_a_plain_text_is_enough():
    assert read_answer(answer(VERBOSE), item()).words == ()
    plain = read_answer(answer({"text": "  Hello.\n"}), item(words=True, language="en"))
    assert (plain.text, plain.language, plain.language_probability) == ("Hello.", "en", 1.0)
    assert [(segment.text, segment.end_s) for segment in plain.segments] == [("Hello.", 2.0)]
    assert read_answer(answer({"text": ""}), item()).segments == ()


def test_a_language_that_the_client_did_not_allow_is_asked_for_again_as_one_that_he_did():
    prior = Prior.among(["en", "fr"])
    heard = read_answer(answer(VERBOSE), item(languages=prior))
    assert wrong_language(heard, item(languages=prior).options) == "en"
    again = read_answer(answer(VERBOSE), item(languages=prior), language="en")
    assert again.language == "en"
    assert wrong_language(again, item(languages=prior).options) is None
    assert wrong_language(heard, item(languages=Prior()).options) is None
    unnamed = attrs.evolve(heard, language="")  # as servers that answer with the text alone leave it
    assert wrong_language(unnamed, item(languages=prior).options) is None


@pytest.mark.parametrize(
    "content",
    [
        b"<html>", b"\xff\xfe", b"[" * 100_000, [], "text", {}, {"text": None}, {"text": 7},
        {"text": "x" * (MAX_CHARS + 1)},
        b'{"text": "\\ud800"}', {"text": "a", "segments": "b"}, {"text": "a", "segments": ["b"]},
        {"text": "a", "segments": [{"text": 3}]}, {"text": "a", "segments": [{"text": ""}] * 5000},
    ],
)  # fmt: skip
def test_rubbish_is_no_answer(content):
    with pytest.raises(Trouble) as caught:
        read_answer(answer(content), item(words=True))
    assert caught.value.kind is Kind.BROKEN


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=12,
)
ROW = st.fixed_dictionaries(
    {"text": st.text(max_size=8), "word": st.text(max_size=8)},
    optional=dict.fromkeys(("start", "end", "avg_logprob", "no_speech_prob", "compression_ratio", "probability"), JSON),
)


@given(
    st.fixed_dictionaries(
        {"text": st.text(max_size=30)},
        optional={
            "language": JSON,
            "segments": st.lists(ROW, max_size=4) | JSON,
            "words": st.lists(ROW, max_size=6),
            "sttd": JSON | st.dictionaries(st.sampled_from(["certainties", "ending"]), JSON),
        },
    ),
    st.booleans(),
)
def test_whatever_is_answered_the_numbers_are_numbers_and_the_times_lie_inside(content, words):
    try:
        found = read_answer(answer(content), item(words=words, languages=Prior()))
    except Trouble:
        return
    assert is_sound(found)
    for parts in (found.segments, found.words):
        times = [time for part in parts for time in (part.start_s, part.end_s)]
        assert times == sorted(times)
        assert all(0 <= time <= 2.0 for time in times)
    assert all(0 <= word.probability <= 1 for word in found.words)
    assert found.avg_logprob <= 0
    assert all(0 <= piece.least <= 1 for piece in found.certainties or ())


@pytest.mark.parametrize(
    ("said", "certainties", "ending"),
    [
        ([["Guten", 0.9], [" Tag.", 0.5], [" Danke.", 7]], [0.9, 0.5, 1.0], 0.25),
        ([["Guten", 0.9], [" Tag.", None], [" Danke.", 0.5]], [0.9, 0.0, 0.5], 0.25),
        ([["Guten", 0.9], [" Abend.", 0.5], [" Danke.", 0.5]], None, None),
        ([["Guten", 0.9]], None, None),
        ([["Guten Tag. Danke."]], None, None),
        ("sure", None, None),
        (None, None, None),
    ],
)
def test_how_sure_the_engine_was_counts_where_its_pieces_are_the_text(said, certainties, ending):
    found = read_answer(answer({**VERBOSE, "sttd": {"certainties": said, "ending": 0.25}}), item())
    sure = None if found.certainties is None else [piece.least for piece in found.certainties]
    assert (sure, found.ending) == (certainties, ending)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, Kind.REFUSED), (400, Kind.ITEM), (401, Kind.REFUSED), (403, Kind.REFUSED), (404, Kind.REFUSED),
        (408, Kind.AGAIN), (413, Kind.ITEM), (415, Kind.ITEM), (422, Kind.ITEM), (429, Kind.BUSY), (500, Kind.BROKEN),
        (502, Kind.AGAIN), (503, Kind.AGAIN), (504, Kind.AGAIN), (204, Kind.BROKEN), (418, Kind.BROKEN),
    ],
)  # fmt: skip
def test_every_status_says_what_to_do(status, kind):
    with pytest.raises(Trouble) as caught:
        check_status(answer(b"", status))
    assert caught.value.kind is kind
    assert str(status) in caught.value.reason


def test_a_server_says_when_to_come_again_and_is_not_believed_beyond_a_minute():
    def wait(status, value):
        with pytest.raises(Trouble) as caught:
            check_status(answer(b"", status, **{"retry-after": value}))
        return caught.value.kind, caught.value.retry_after_s

    assert wait(429, "2") == (Kind.BUSY, 2.0)
    assert wait(503, "0.5") == (Kind.BUSY, 0.5)
    assert wait(429, "999999") == (Kind.BUSY, 60.0)
    assert wait(429, "Fri, 27 Nov 2026 10:00:00 GMT") == (Kind.BUSY, 1.0)
    assert wait(503, "nan") == (Kind.AGAIN, 0.0)


def test_of_an_error_its_code_is_told_and_nothing_that_may_be_what_was_said():
    said = {"error": {"code": "model_not_found", "message": "no model for: my secret words"}}
    with pytest.raises(Trouble) as caught:
        check_status(answer(said, 404))
    assert "model_not_found" in caught.value.reason
    assert "secret" not in caught.value.reason
    with pytest.raises(Trouble) as caught:
        check_status(answer({"error": {"code": "my secret words"}}, 400))
    assert "secret" not in caught.value.reason


def test_a_probe_asks_whether_anybody_is_there_and_takes_us():
    check_probe(answer(b"", 404))
    check_probe(answer(b"", 429))
    for status in (401, 500, 503):
        with pytest.raises(Trouble):
            check_probe(answer(b"", status))
