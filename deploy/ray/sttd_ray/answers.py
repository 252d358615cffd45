"""What was heard, as OpenAI's API writes it.

`verbose_json` has the engine's own numbers (how probable a segment is, whether it is speech, how much it repeats
itself), since daemons judge by them. What upstream has no field for stands in one of our own, `sttd`: how sure the
decoder was of each word, which is what live text is made stable by. The other formats are those of sttd itself.
"""

from __future__ import annotations

import math
from typing import Any, Final

import attrs

from sttd.core.types import Hypothesis, Segment, Word
from sttd.language_names import language_name
from sttd.wire.http import Response, json_response
from sttd.wire.openai_request import TranscriptionRequest
from sttd.wire.openai_transcript import STREAM_TYPE, Transcript

_DIGITS: Final = 6  # of probabilities; more is noise


@attrs.frozen(kw_only=True)
class _Heard:
    """A hypothesis as a `wire.heard.Utterance`."""

    text: str
    language: str
    start_s: float
    end_s: float
    confidence: float
    words: tuple[Word, ...] | None


def answer(hypothesis: Hypothesis, request: TranscriptionRequest, *, duration_s: float) -> Response:
    """The answer to a request. `duration_s` is that of the audio."""
    if request.format == "verbose_json":
        return json_response(_verbose(hypothesis, request, duration_s))
    transcript = Transcript(request)
    heard = _Heard(
        text=hypothesis.text,
        language=hypothesis.language,
        start_s=0.0,
        end_s=duration_s,
        confidence=math.exp(min(0.0, hypothesis.avg_logprob)),
        words=hypothesis.words or None,
    )
    if request.stream:
        body = transcript.delta_event(heard) + transcript.done_event()
        return Response(status=200, body=body, content_type=STREAM_TYPE)
    transcript.add(heard)
    return transcript.answer(duration_s)


def _verbose(hypothesis: Hypothesis, request: TranscriptionRequest, duration_s: float) -> dict[str, Any]:
    language = "en" if request.task == "translate" else hypothesis.language
    content: dict[str, Any] = {
        "task": request.task,
        "language": language_name(language) if language else "unknown",
        "duration": round(duration_s, 3),
        "text": hypothesis.text,
    }
    if request.segments:
        content["segments"] = [
            _segment(number, segment, hypothesis.temperature) for number, segment in enumerate(hypothesis.segments)
        ]
    if request.words:
        content["words"] = [_word(word) for word in hypothesis.words]
    certainties = hypothesis.certainties
    content["sttd"] = {
        "certainties": None
        if certainties is None
        else [[each.word, round(each.least, _DIGITS)] for each in certainties],
        "ending": None if hypothesis.ending is None else round(hypothesis.ending, _DIGITS),
    }
    return {**content, "usage": {"type": "duration", "seconds": math.ceil(duration_s)}}


def _segment(number: int, segment: Segment, temperature: float) -> dict[str, Any]:
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start_s, 3),
        "end": round(segment.end_s, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": temperature,
        "avg_logprob": round(segment.avg_logprob, _DIGITS),
        "compression_ratio": round(segment.compression_ratio, _DIGITS),
        "no_speech_prob": round(segment.no_speech_prob, _DIGITS),
    }


def _word(word: Word) -> dict[str, Any]:
    return {
        "word": word.word,
        "start": round(word.start_s, 3),
        "end": round(word.end_s, 3),
        "probability": round(word.probability, _DIGITS),
    }
