"""What a request for a transcription asks for, field by field, as OpenAI's API has them.

Rules:

1. A name may end in `[]`. Of a field that has one value the last one counts; an empty one was not said.
2. What sttd has and upstream has not is taken too: `hotwords`, as some servers have it.
3. What upstream has and sttd has not is ignored, unless to ignore it would break a promise (`diarized_json`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Final, Literal, get_args

import attrs

from sttd.errors import ProtocolError
from sttd.fields import clip
from sttd.wire.http import Denial
from sttd.wire.names import find_language
from sttd.wire.openai_answers import Refused, wrong_value

Task = Literal["transcribe", "translate"]
Format = Literal["json", "text", "srt", "verbose_json", "vtt"]
_FORMATS: Final[tuple[Format, ...]] = get_args(Format)
_STREAMED: Final = ("json", "text")
_GRANULARITIES: Final = ("word", "segment")


@attrs.frozen(kw_only=True)
class TranscriptionRequest:
    """What a client asks for."""

    task: Task
    model: str | None = None
    language: str | None = None  # as the client says it; known
    languages: tuple[str, ...] = ()
    prompt: str | None = None
    hotwords: tuple[str, ...] = ()
    format: Format = "json"
    words: bool = False  # in `verbose_json`
    segments: bool = False  # the same
    logprobs: bool = False
    stream: bool = False

    @property
    def needs_words(self) -> bool:
        """Whether the answer shows where words are, or how sure each is."""
        return self.logprobs or self.format in ("srt", "vtt", "verbose_json")


def read_request(fields: Sequence[tuple[str, bytes]], *, has_file: bool, task: Task) -> TranscriptionRequest:
    """The fields of a form. Raises Refused."""
    values: dict[str, list[str]] = {}
    for given, data in fields:
        name = given.removesuffix("[]")
        try:
            values.setdefault(name, []).append(data.decode())
        except UnicodeDecodeError:
            raise wrong_value(clip(name), "the value is not UTF-8") from None

    def last(name: str) -> str | None:
        return values.get(name, [""])[-1].strip() or None

    _check_temperature(last("temperature"))
    format = _format(last("response_format"))  # noqa: A001
    stream = _stream(last("stream"), format)
    granularities = _granularities(values.get("timestamp_granularities", ())) if format == "verbose_json" else ()
    request = TranscriptionRequest(
        task=task,
        model=last("model"),
        language=_known("language", last("language")),
        languages=tuple(code for value in values.get("languages", ()) if (code := _known("languages", value))),
        prompt=last("prompt"),
        hotwords=tuple(_listed(values.get("keywords", ()))) + tuple(_listed(values.get("hotwords", ()))),
        format=format,
        words="word" in granularities,
        segments="segment" in granularities,
        logprobs="logprobs" in values.get("include", ()) and (format == "json" or stream),
        stream=stream,
    )
    if not has_file:
        raise Refused(Denial("missing_required_parameter", "there is no `file`", status=400), param="file")
    return request


def _check_temperature(text: str | None) -> None:
    try:
        temperature = float(text or 0)
    except ValueError:
        temperature = math.nan
    if not 0 <= temperature <= 1:
        raise wrong_value("temperature", "`temperature` must be a number from 0 to 1")


def _format(text: str | None) -> Format:
    for format in _FORMATS:  # noqa: A001
        if format == (text or "json"):
            return format
    why = "sttd tells no speakers apart" if text == "diarized_json" else f"not {clip(text or '')!r}"
    raise wrong_value("response_format", f"`response_format` must be one of {', '.join(_FORMATS)}; {why}")


def _stream(text: str | None, format: Format) -> bool:  # noqa: A002
    if (text or "false").lower() in ("false", "0"):
        return False
    if (text or "").lower() not in ("true", "1"):
        raise wrong_value("stream", f"`stream` must be `true` or `false`, not {clip(text or '')!r}")
    if format not in _STREAMED:
        raise wrong_value("stream", f"`stream` goes with `response_format` {' or '.join(_STREAMED)} alone")
    return True


def _granularities(values: Iterable[str]) -> tuple[str, ...]:
    given = tuple(value.strip() for value in values if value.strip())
    if wrong := [value for value in given if value not in _GRANULARITIES]:
        raise wrong_value(
            "timestamp_granularities",
            f"`timestamp_granularities` are {' and '.join(_GRANULARITIES)}, not {clip(wrong[0])!r}",
        )
    return given or ("segment",)


def _known(field: str, language: str | None) -> str | None:
    """A language that somebody knows."""
    try:
        find_language(language)
    except ProtocolError as error:
        raise Refused(Denial("unsupported_language", error.message, status=400), param=field) from None
    return language


def _listed(values: Iterable[str]) -> Iterable[str]:
    return (word for value in values for word in value.split(","))
