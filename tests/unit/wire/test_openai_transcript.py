"""Finals as answers of OpenAI's API: what must hold whatever was heard."""

import itertools
import json
import math
import re

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.wire.openai_request import TranscriptionRequest
from sttd.wire.openai_transcript import Transcript, comment, event, model_list


@attrs.frozen
class Heard:
    word: str
    start_s: float
    end_s: float
    probability: float = 0.5


@attrs.frozen
class Said:
    text: str
    start_s: float = 0.0
    end_s: float = 1.0
    language: str = "en"
    confidence: float = 0.8
    words: tuple | None = None


def transcript(*finals, task="transcribe", **asked):
    made = Transcript(TranscriptionRequest(task=task, **asked))
    for final in finals:
        made.add(final)
    return made


def body(made, duration_s):
    return json.loads(made.answer(duration_s).body)


HELLO = Said(
    "Hello, you.", 0.2, 1.4, words=(Heard(" Hello,", 0.2, 0.6), Heard("", 0.6, 0.6), Heard(" you.", 0.7, 1.4, 1.0))
)
AGAIN = Said("Again.", 2.0, 2.6, words=(Heard(" Again.", 2.0, 2.6),))


def test_json_has_text_usage_and_languages():
    assert body(transcript(HELLO, Said(""), AGAIN), 3.2) == {
        "text": "Hello, you. Again.",
        "usage": {"type": "duration", "seconds": 4},
        "languages": [{"code": "en"}],
    }
    assert body(transcript(), 3.0) == {"text": "", "usage": {"type": "duration", "seconds": 3}, "languages": []}


def test_tokens_are_words_with_the_space_before_them():
    tokens = body(transcript(HELLO, AGAIN, logprobs=True), 3.0)["logprobs"]
    assert [token["token"] for token in tokens] == ["Hello,", " you.", " Again."]
    assert [token["logprob"] for token in tokens] == [pytest.approx(math.log(0.5), abs=1e-6), 0.0, tokens[2]["logprob"]]
    assert bytes(tokens[1]["bytes"]) == b" you."


def test_text_and_subtitles():
    made = transcript(HELLO, AGAIN, format="text").answer(3.0)
    assert (made.body, made.content_type) == (b"Hello, you. Again.\n", "text/plain; charset=utf-8")
    made = transcript(HELLO, AGAIN, format="srt").answer(2.5)
    assert made.body.decode() == (
        "1\n00:00:00,200 --> 00:00:01,400\nHello, you.\n\n2\n00:00:02,000 --> 00:00:02,500\nAgain.\n"
    )
    assert made.content_type == "text/plain; charset=utf-8"
    made = transcript(HELLO, format="vtt").answer(3.0)
    assert made.body.decode() == "WEBVTT\n\n00:00:00.200 --> 00:00:01.400\nHello, you.\n"
    assert made.content_type == "text/vtt; charset=utf-8"


def test_without_text_subtitles_are_empty():
    assert transcript(Said(""), format="srt").answer(1.0).body == b""
    assert transcript(Said(""), format="vtt").answer(1.0).body == b"WEBVTT\n"
    assert transcript(Said(""), format="text").answer(1.0).body == b"\n"


def test_verbose_json_has_every_number():
    made = body(transcript(HELLO, AGAIN, format="verbose_json", segments=True, words=True), 3.0)
    assert (made["task"], made["language"], made["duration"]) == ("transcribe", "english", 3.0)
    assert [segment["text"] for segment in made["segments"]] == [" Hello, you.", " Again."]
    numbers = {"id", "seek", "start", "end", "temperature", "avg_logprob", "compression_ratio", "no_speech_prob"}
    for index, segment in enumerate(made["segments"]):
        assert segment.keys() == numbers | {"text", "tokens"}
        assert segment["id"] == index
        assert segment["tokens"] == []
        assert all(isinstance(segment[name], int | float) for name in numbers)
    assert made["words"] == [
        {"word": "Hello,", "start": 0.2, "end": 0.6},
        {"word": "you.", "start": 0.7, "end": 1.4},
        {"word": "Again.", "start": 2.0, "end": 2.6},
    ]
    made = body(transcript(HELLO, format="verbose_json", words=True), 3.0)
    assert "segments" not in made


def test_the_language_of_silence_is_the_one_that_was_asked_for():
    assert body(transcript(format="verbose_json", language="de-AT"), 1.0)["language"] == "german"
    assert body(transcript(format="verbose_json"), 1.0)["language"] == "unknown"
    assert body(transcript(format="verbose_json", task="translate"), 1.0)["language"] == "english"
    mixed = transcript(Said("a", 0, 1), Said("b", 1, 3, language="fr"), Said("c", 3, 3.5), format="verbose_json")
    assert body(mixed, 4.0)["language"] == "french"


def test_a_comment_says_how_far_it_is():
    assert comment(done_s=12.34, total_s=180.0) == b": done_s=12.3 total_s=180.0\n\n"
    assert comment(done_s=12.34) == b": done_s=12.3\n\n"
    assert re.fullmatch(rb": \w+\n\n", comment())


def test_an_event_is_one_line_whatever_is_in_it():
    assert event({"a": "one\ntwo\r\u2028é"}).count(b"\n") == 2


def test_the_list_of_models_ends_with_the_name_that_everybody_knows():
    made = json.loads(model_list(["base", "tiny"]).body)
    assert made["object"] == "list"
    assert [model["id"] for model in made["data"]] == ["base", "tiny", "whisper-1"]
    assert {(model["object"], model["owned_by"], type(model["created"])) for model in made["data"]} == {
        ("model", "sttd", int)
    }


def words_of(text, start_s, end_s):
    return st.lists(
        st.tuples(
            st.sampled_from([*text.split(), "never", "", text]), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)
        )
    ).map(
        lambda found: tuple(
            Heard(word, *(start_s + (end_s - start_s) * at for at in sorted((a, b))), probability)
            for word, a, b, probability in found
        )
    )


@st.composite
def finals(draw):
    start_s = 0.0
    made = []
    for text, length_s, gap_s, language in draw(
        st.lists(
            st.tuples(
                st.text("ab ,.。廣州\n", max_size=60).map(str.strip),
                st.floats(0, 30),
                st.floats(0, 3),
                st.sampled_from(["en", "zh", "de"]),
            ),
            max_size=6,
        )
    ):
        end_s = start_s + length_s
        words = draw(st.none() | words_of(text, start_s, end_s))
        made.append(Said(text, start_s, end_s, language, draw(st.floats(0, 1)), words))
        start_s = end_s + gap_s
    return made


def check_places(places, duration_s):
    for start, end in places:
        assert 0 <= start <= end <= duration_s
    for (_, before), (after, _) in itertools.pairwise(places):
        assert before <= after


@given(finals(), st.floats(0.1, 100))
def test_deltas_tokens_and_segments_are_the_text_and_times_lie_in_the_audio(said, duration_s):
    streamed = transcript(logprobs=True, stream=True)
    events = [json.loads(made[6:]) for final in said if (made := streamed.delta_event(final))]
    done = json.loads(streamed.done_event()[6:])
    assert "".join(delta["delta"] for delta in events) == done["text"] == streamed.text
    assert all(delta["delta"] for delta in events)
    for delta in events:
        assert "".join(token["token"] for token in delta["logprobs"]) == delta["delta"]
    assert [token for delta in events for token in delta["logprobs"]] == done["logprobs"]
    assert "usage" not in done

    verbose = body(transcript(*said, format="verbose_json", segments=True, words=True), duration_s)
    assert verbose["text"] == streamed.text
    assert "".join(segment["text"] for segment in verbose["segments"]).strip() == verbose["text"].strip()
    check_places([(segment["start"], segment["end"]) for segment in verbose["segments"]], duration_s)
    check_places([(word["start"], word["end"]) for word in verbose["words"]], duration_s)
    assert all(word["word"].strip() == word["word"] != "" for word in verbose["words"])

    clock = re.compile(r"(\d+):(\d\d):(\d\d),(\d{3}) --> (\d+):(\d\d):(\d\d),(\d{3})")
    subtitles = transcript(*said, format="srt").answer(duration_s).body.decode()
    found = [list(map(int, match.groups())) for match in clock.finditer(subtitles)]
    check_places(
        [tuple(3600 * h + 60 * m + s + ms / 1000 for h, m, s, ms in (row[:4], row[4:])) for row in found], duration_s
    )
