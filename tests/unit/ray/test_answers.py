"""What is heard of an answer by the daemon that asked."""

import json

import attrs
import pytest
from sttd_ray.answers import answer

from sttd.core.types import Certainty, DecodeItem, DecodeOptions, Hypothesis, Segment, Word
from sttd.engine.remote.asking import Answer, read_answer
from sttd.wire.openai_request import TranscriptionRequest
from tests.unit.ray.recordings import silence

WORDS = (
    Word(word=" Turn", start_s=0.1, end_s=0.4, probability=0.9),
    Word(word=" on", start_s=0.5, end_s=0.8, probability=0.7),
)
HEARD = Hypothesis(
    text="Turn on",
    segments=(
        Segment(
            text="Turn on", start_s=0.1, end_s=0.8, avg_logprob=-0.25, no_speech_prob=0.125, compression_ratio=1.5,
            words=WORDS,
        ),
    ),
    language="en",
    language_probability=0.75,
    avg_logprob=-0.25,
    no_speech_prob=0.125,
    compression_ratio=1.5,
    certainties=(Certainty(word="Turn", least=0.9), Certainty(word=" on", least=0.7)),
    ending=0.5,
)  # fmt: skip
VERBOSE = TranscriptionRequest(task="transcribe", format="verbose_json", words=True, segments=True)


def as_read(response, **options):
    item = DecodeItem(samples=silence(1.0), options=DecodeOptions(**options))
    return read_answer(Answer(status=response.status, headers={}, body=response.body), item)


def test_the_numbers_of_the_engine_reach_the_daemon_that_judges_by_them():
    read = as_read(answer(HEARD, VERBOSE, duration_s=1.0), words=True)
    assert read.text == "Turn on"
    assert (read.avg_logprob, read.no_speech_prob, read.compression_ratio) == (-0.25, 0.125, 1.5)
    assert [(word.word, word.start_s, word.end_s, word.probability) for word in read.words] == [
        ("Turn", 0.1, 0.4, 0.9),
        ("on", 0.5, 0.8, 0.7),
    ]
    assert read.language == "en"


def test_how_sure_the_engine_was_of_each_word_makes_live_text_stable_there():
    read = as_read(answer(HEARD, attrs.evolve(VERBOSE, words=False), duration_s=1.0))
    assert (read.certainties, read.ending) == (HEARD.certainties, 0.5)

    unknown = attrs.evolve(HEARD, certainties=None, ending=None)
    read = as_read(answer(unknown, VERBOSE, duration_s=1.0))
    assert (read.certainties, read.ending) == (None, None)


def test_nothing_that_was_heard_is_an_answer_too():
    read = as_read(answer(Hypothesis(text="", language="en"), VERBOSE, duration_s=1.0), words=True)
    assert (read.text, read.segments) == ("", ())


def test_what_was_not_asked_for_is_not_sent():
    content = json.loads(answer(HEARD, attrs.evolve(VERBOSE, words=False), duration_s=1.0).body)
    assert "words" not in content
    assert content["segments"][0]["text"] == "Turn on"


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        ("json", b'"text": "Turn on"'),
        ("text", b"Turn on\n"),
        ("srt", b"00:00:00,100 --> "),
        ("vtt", b"WEBVTT"),
    ],
)
def test_the_other_formats_are_those_of_sttd(form, expected):
    body = answer(HEARD, TranscriptionRequest(task="transcribe", format=form), duration_s=1.0).body
    assert expected.replace(b" ", b"") in body.replace(b" ", b"")


def test_a_stream_has_the_text_and_its_end():
    body = answer(HEARD, TranscriptionRequest(task="transcribe", stream=True), duration_s=1.0).body
    events = [json.loads(line.removeprefix(b"data: ")) for line in body.split(b"\n\n") if line]
    assert [event["type"] for event in events] == ["transcript.text.delta", "transcript.text.done"]
    assert events[-1]["text"] == "Turn on"
