"""Finals as OpenAI's API writes them: JSON, text, subtitles, segments and words, and the events of a stream.

Rules:

1. The text is that of the finals in order, with what their language puts between sentences. In a stream each final
   that has text is a delta; all deltas together are the text, to the character. So are the tokens of `logprobs`, and
   the segments but for the space in front.
2. Segments and subtitles are the cues of `wire/cues.py`. They come in order, do not overlap, last a moment each and lie
   inside the audio; words rise and lie inside it.
3. A number that sttd does not know is 0.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Iterable, Sequence
from typing import Any, Final

import attrs

from sttd.language_names import language_name
from sttd.wire import cues
from sttd.wire.heard import Spoken, Utterance
from sttd.wire.http import Response, json_response
from sttd.wire.names import CONFIGURED, find_language, separator
from sttd.wire.openai_request import TranscriptionRequest

STREAM_TYPE: Final = "text/event-stream; charset=utf-8"
_LEAST_PROBABILITY: Final = 1e-10  # JSON has no minus infinity
_SHORTEST_S: Final = 0.1  # of a cue, where there is room; chosen
_ENGLISH: Final = "english"


@attrs.define(eq=False)
class Transcript:
    """What became of one request so far."""

    request: TranscriptionRequest
    text: str = attrs.field(default="", init=False, repr=False)
    _finals: list[tuple[str, Utterance]] = attrs.field(factory=list, init=False, repr=False)  # each with its delta

    def add(self, final: Utterance) -> str:
        """Take a final; returns what it adds to the text."""
        if not final.text:
            return ""
        delta = (separator(final.language) if self.text else "") + final.text
        self.text += delta
        self._finals.append((delta, final))
        return delta

    # ---------------------------------------------------------------- a whole answer

    def answer(self, duration_s: float) -> Response:
        """The answer in the format that was asked for; `duration_s` is that of the audio."""
        match self.request.format:
            case "text":
                return _text(self.text + "\n", "text/plain")
            case "srt":
                return _text(cues.subrip(self._cues(duration_s)), "text/plain")
            case "vtt":
                return _text(cues.webvtt(self._cues(duration_s)), "text/vtt")
            case "verbose_json":
                return json_response(self._verbose(duration_s))
        return json_response({"text": self.text, "usage": _usage(duration_s), **self._more()})

    def _more(self) -> dict[str, Any]:
        codes = dict.fromkeys(final.language for _, final in self._finals if final.language)
        more: dict[str, Any] = {"languages": [{"code": code} for code in codes]}
        if self.request.logprobs:
            more["logprobs"] = [token for delta, final in self._finals for token in tokens(delta, final)]
        return more

    def _verbose(self, duration_s: float) -> dict[str, Any]:
        answer: dict[str, Any] = {
            "task": self.request.task,
            "language": self._language(),
            "duration": round(duration_s, 3),
            "text": self.text,
        }
        if self.request.segments:
            answer["segments"] = self._segments(duration_s)
        if self.request.words:
            answer["words"] = self._words(duration_s)
        return {**answer, "usage": _usage(duration_s)}

    def _language(self) -> str:
        """The name of the one that was spoken longest."""
        if self.request.task == "translate":
            return _ENGLISH
        spoken: dict[str, float] = {}
        for _, final in self._finals:
            spoken[final.language] = spoken.get(final.language, 0.0) + final.end_s - final.start_s
        code = max(spoken, key=lambda code: spoken[code]) if spoken else find_language(self.request.language)
        return language_name(code) if code else "unknown"

    def _cues(self, duration_s: float) -> list[cues.Cue]:
        found = [cue for _, final in self._finals for cue in cues.cues_of(final)]
        places = _inside([(cue.start_s, cue.end_s) for cue in found], duration_s, least_s=_SHORTEST_S)
        return [attrs.evolve(cue, start_s=start, end_s=end) for cue, (start, end) in zip(found, places, strict=True)]

    def _segments(self, duration_s: float) -> list[dict[str, Any]]:
        parts = [(*part, final.confidence) for delta, final in self._finals for part in _parts(delta, final)]
        places = _inside([(cue.start_s, cue.end_s) for _, cue, _ in parts], duration_s, least_s=_SHORTEST_S)
        lead = separator(self._finals[0][1].language) if self._finals else ""  # what Whisper puts before each
        return [
            {
                "id": number,
                "seek": 0,
                "start": start,
                "end": end,
                "text": text if number else lead + text,
                "tokens": [],
                "temperature": 0.0,
                "avg_logprob": _logprob(confidence),
                "compression_ratio": _compression_ratio(text),
                "no_speech_prob": 0.0,
            }
            for number, ((text, _, confidence), (start, end)) in enumerate(zip(parts, places, strict=True))
        ]

    def _words(self, duration_s: float) -> list[dict[str, Any]]:
        words = [word for _, final in self._finals for word in final.words or () if word.word.strip()]
        places = _inside([(word.start_s, word.end_s) for word in words], duration_s, least_s=0.0)
        return [
            {"word": word.word.strip(), "start": start, "end": end}
            for word, (start, end) in zip(words, places, strict=True)
        ]

    # ---------------------------------------------------------------- a stream

    def delta_event(self, final: Utterance) -> bytes:
        """Take a final; returns the event that tells of it, b"" where it has no text."""
        delta = self.add(final)
        if not delta:
            return b""
        more = {"logprobs": tokens(delta, final)} if self.request.logprobs else {}
        return event({"type": "transcript.text.delta", "delta": delta, **more})

    def done_event(self) -> bytes:
        """The last event."""
        return event({"type": "transcript.text.done", "text": self.text, **self._more()})


def event(content: Any) -> bytes:
    """An event of a stream."""
    return b"data: " + json.dumps(content, ensure_ascii=False).encode() + b"\n\n"


def comment(*, done_s: float | None = None, total_s: float | None = None) -> bytes:
    """What keeps a stream alive, and says how far a file is."""
    known = (("done_s", done_s), ("total_s", total_s))
    said = " ".join(f"{name}={value:.1f}" for name, value in known if value is not None)
    return f": {said or 'wait'}\n\n".encode()


def model_list(presets: Iterable[str]) -> Response:
    """The models that requests may name."""
    return json_response({"object": "list", "data": [_model(name) for name in (*presets, CONFIGURED)]})


def model_answer(name: str) -> Response:
    """One of them."""
    return json_response(_model(name))


def _model(name: str) -> dict[str, Any]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "sttd"}


# ---------------------------------------------------------------- parts


def _text(text: str, kind: str) -> Response:
    return Response(status=200, body=text.encode(), content_type=f"{kind}; charset=utf-8")


def _usage(duration_s: float) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(duration_s)}


def tokens(delta: str, final: Spoken) -> list[dict[str, Any]]:
    """The delta cut behind each of its words (rule 1); a word that is not there as it was heard is part of the next."""
    found, begin = [], 0
    for word in final.words or ():
        text = word.word.strip()
        at = delta.find(text, begin) if text else -1
        if at >= 0:
            end = at + len(text)
            found.append((delta[begin:end], word.probability))
            begin = end
    if begin < len(delta):
        text, probability = found.pop() if found else ("", final.confidence)
        found.append((text + delta[begin:], probability))
    return [
        {"token": text, "logprob": _logprob(probability), "bytes": list(text.encode())} for text, probability in found
    ]


def _parts(delta: str, final: Utterance) -> list[tuple[str, cues.Cue]]:
    """The cues of a final, each with its piece of the delta. Where cues and text differ there is one of all."""
    found, parts, begin = cues.cues_of(final), list[tuple[str, cues.Cue]](), 0
    for cue in found:
        at = delta.find(cue.text, begin)
        if at < 0 or delta[begin:at].strip():
            break
        parts.append((delta[begin : at + len(cue.text)], cue))
        begin = at + len(cue.text)
    else:
        if begin == len(delta):
            return parts
    whole = cues.Cue(start_s=final.start_s, end_s=final.end_s, text=final.text, lines=(final.text,))
    return [(delta, whole)]


def _inside(places: Sequence[tuple[float, float]], duration_s: float, *, least_s: float) -> list[tuple[float, float]]:
    """Places in order, without overlaps, inside the audio, each of `least_s` where there is room; in milliseconds."""
    if not places:
        return []
    end_ms = math.floor(duration_s * 1000)
    least_ms = min(round(least_s * 1000), end_ms // len(places))
    forward, floor_ms = list[tuple[int, int]](), 0
    for start_s, end_s in places:
        start = max(round(start_s * 1000), floor_ms)
        floor_ms = max(round(end_s * 1000), start + least_ms)
        forward.append((start, floor_ms))
    inside, limit_ms = list[tuple[float, float]](), end_ms
    for start, end in reversed(forward):
        end = min(end, limit_ms)
        limit_ms = min(start, end - least_ms)
        inside.append((limit_ms / 1000, end / 1000))
    return inside[::-1]


def _logprob(probability: float) -> float:
    return round(math.log(min(max(probability, _LEAST_PROBABILITY), 1.0)), 6) + 0.0  # no minus zero


def _compression_ratio(text: str) -> float:
    """As Whisper computes it."""
    data = text.encode()
    return round(len(data) / len(zlib.compress(data)), 6)
