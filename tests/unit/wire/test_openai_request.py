"""The fields of a request for a transcription, one by one."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ModelError, OverloadedError, ProtocolError
from sttd.wire.openai_answers import Refused
from sttd.wire.openai_request import read_request


def read(*fields, has_file=True, task="transcribe"):
    return read_request([(name, value.encode()) for name, value in fields], has_file=has_file, task=task)


def refused(*fields, **more):
    with pytest.raises(Refused) as caught:
        read(*fields, **more)
    error = json.loads(caught.value.answer.body)["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    return caught.value.answer.status, error["code"], error["param"]


def test_nothing_but_a_file_is_enough():
    request = read()
    assert (request.format, request.stream, request.model, request.language) == ("json", False, None, None)
    assert not request.needs_words


def test_of_a_field_with_one_value_the_last_counts_and_an_empty_one_was_not_said():
    request = read(("model", "base"), ("model[]", "tiny"), ("language", ""), ("response_format", " "))
    assert (request.model, request.language, request.format) == ("tiny", None, "json")


def test_lists_are_lists_with_or_without_brackets():
    request = read(
        ("languages", "de"),
        ("languages[]", "French"),
        ("keywords[]", "Ada"),
        ("keywords", "Lovelace"),
        ("hotwords", "Babbage, Byron"),
    )
    assert request.languages == ("de", "French")
    assert [word.strip() for word in request.hotwords] == ["Ada", "Lovelace", "Babbage", "Byron"]


def test_what_the_answer_shows_decides_whether_words_are_needed():
    assert read(("response_format", "srt")).needs_words
    assert read(("include[]", "logprobs")).needs_words
    assert not read(("include[]", "logprobs"), ("response_format", "text")).needs_words
    assert read(("include[]", "logprobs"), ("response_format", "text"), ("stream", "1")).logprobs
    verbose = ("response_format", "verbose_json")
    assert (read(verbose).segments, read(verbose).words) == (True, False)
    word = ("timestamp_granularities[]", "word")
    assert (read(verbose, word).segments, read(verbose, word).words) == (False, True)
    both = read(verbose, word, ("timestamp_granularities[]", "segment"))
    assert (both.segments, both.words) == (True, True)
    assert not read(word, ("timestamp_granularities[]", "sentence")).words  # elsewhere ignored


@pytest.mark.parametrize(
    ("field", "code"),
    [
        (("response_format", "xml"), "invalid_value"),
        (("response_format", "diarized_json"), "invalid_value"),
        (("temperature", "1.1"), "invalid_value"),
        (("temperature", "nan"), "invalid_value"),
        (("temperature", "warm"), "invalid_value"),
        (("stream", "perhaps"), "invalid_value"),
        (("language", "xx"), "unsupported_language"),
        (("languages", "xx"), "unsupported_language"),
    ],
)
def test_a_wrong_value_is_refused_by_the_name_of_its_field(field, code):
    assert refused(field) == (400, code, field[0])
    assert refused((field[0] + "[]", field[1])) == (400, code, field[0])


def test_a_stream_goes_with_text_and_json_alone():
    assert refused(("stream", "true"), ("response_format", "srt")) == (400, "invalid_value", "stream")
    assert read(("stream", "True"), ("response_format", "text")).stream
    assert not read(("stream", "false"), ("response_format", "srt")).stream


def test_granularities_are_two():
    verbose = ("response_format", "verbose_json")
    wrong = refused(verbose, ("timestamp_granularities[]", "sentence"))
    assert wrong == (400, "invalid_value", "timestamp_granularities")


def test_a_missing_file_is_named():
    assert refused(has_file=False) == (400, "missing_required_parameter", "file")


def test_what_upstream_has_and_sttd_has_not_is_ignored():
    read(
        ("chunking_strategy", "auto"),
        ("chunking_strategy[type]", "server_vad"),
        ("known_speaker_names[]", "Ada"),
        ("vad_filter", "true"),
        ("temperature", "0.2"),
        ("whatever", "x"),
    )


@given(st.lists(st.tuples(st.sampled_from(["model", "language", "stream", "temperature", "x", ""]), st.binary())))
def test_whatever_the_fields_say_is_a_request_or_a_refusal(fields):
    refusal = None
    try:
        read_request(fields, has_file=True, task="transcribe")
    except Refused as error:
        refusal = error
    assert refusal is None or refusal.answer.status == 400
    assert refusal is None or refusal.param in {name for name, _ in fields}


@pytest.mark.parametrize(
    ("error", "status", "code", "param"),
    [
        (ModelError("no", code="model_not_found"), 404, "model_not_found", "model"),
        (ModelError("no", code="model_not_local"), 503, "model_not_local", None),
        (ProtocolError("no", code="bad_option", data={"field": "lang"}), 400, "unsupported_language", "language"),
        (ProtocolError("no", code="bad_option", data={"field": "languages"}), 400, "unsupported_language", "languages"),
        (ProtocolError("no", code="bad_option", data={"field": "task"}), 400, "invalid_value", "model"),
        (ProtocolError("no", code="bad_audio"), 400, "invalid_audio", "file"),
        (OverloadedError("no", data={"retry_after_s": 1.25}), 429, "overloaded", None),
    ],
)
def test_errors_of_the_service_have_the_names_of_the_api(error, status, code, param):
    refusal = Refused.of(error)
    said = json.loads(refusal.answer.body)["error"]
    assert (refusal.answer.status, said["code"], said["param"]) == (status, code, param)
    assert said == refusal.error
    headers = dict(refusal.answer.headers)
    assert headers["x-request-id"].startswith("req_")
    assert "openai-processing-ms" in headers
    assert headers.get("x-should-retry") == ("false" if code == "model_not_local" else None)
    if status == 429:
        assert (headers["retry-after-ms"], headers["retry-after"]) == ("1250", "2")
