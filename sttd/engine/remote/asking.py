"""What is sent to a server of OpenAI's transcription API, and what its answers mean. No IO.

Rules:

1. Audio goes as a WAV of 16 bits, 16 kHz, one channel, of at least `LEAST_S`: shorter ones are refused by servers, so
   they are filled up with silence. What stands in front of an item (its lead) is not sent; its text is, at the end of
   the prompt, which is how Whisper is told what was said before. Not so of interims: of so little speech Whisper is
   apt to write its prompt.
2. A language is sent where the session has one. Where it has none the server's word counts, with the certainty
   `HEARD`, since servers do not say how sure they are. One that the client did not allow: `wrong_language` says which
   to ask for.
3. **Nothing that comes back is believed.** An answer is a JSON object whose text is text of at most `MAX_CHARS`; its
   numbers are numbers; times lie inside the audio and rise; segments and words have a number that could be meant. What
   breaks that is `Trouble.BROKEN`, but for times and probabilities, which are set right: a text with a time too much
   is worth more than none.
4. Words have times only where the session asked for words and the server has them. A word without a probability has
   that of its segment. Servers do not say how sure they are of single pieces; sttd's own engine on Ray does, in a field
   `sttd` (`deploy/ray`), which counts where its pieces are the text.
5. What a status means: 429, and 503 with a time, *wait*; 408, 502, 503 and 504 *try again*; 400, 413, 415 and 422:
   *this item* is refused; 401, 403, 404, 405 and redirections: *we* are; everything else is broken. Of an error's text
   nothing is kept, since it may say what was said: its code alone, where that is a word.
"""

from __future__ import annotations

import enum
import json
import math
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import numpy as np

from sttd.core.types import (
    SAMPLE_RATE,
    Certainty,
    DecodeItem,
    DecodeOptions,
    Effort,
    Hypothesis,
    Samples,
    Segment,
    Word,
    seconds,
)
from sttd.language_names import language_code

MAX_BODY_BYTES: Final = 2 * 1024 * 1024  # chosen: 30 s of speech with its words take 20 kB, with token ids 60 kB
MAX_CHARS: Final = 10_000  # chosen: 30 s of quick speech have 700
_MAX_PARTS: Final = 2_000  # segments, and words; chosen
LEAST_S: Final = 0.1  # OpenAI's own bound
HEARD: Final = 0.9  # chosen: as sure as Whisper is of a language that it has right
_PROMPT_CHARS: Final = 1_000  # chosen: Whisper reads the last 224 tokens
MAX_RETRY_S: Final = 60.0  # chosen: who asks to be left alone for longer is asked again after that
_CODE: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")

_CLASS: Final = {Effort.FULL: "final", Effort.QUICK: "interim", Effort.TIMED: "file"}
_PRIORITY: Final = {Effort.FULL: 0, Effort.QUICK: 1, Effort.TIMED: 2}  # vLLM: the lower, the earlier


class Kind(enum.Enum):
    """What to do about a request without a hypothesis."""

    AGAIN = "again"  # no answer, or one that says so: it may be asked again
    TIMEOUT = "timeout"  # it took too long
    BUSY = "busy"  # the server says when
    ITEM = "item"  # it does not take this audio, or what was asked of it
    REFUSED = "refused"  # it does not take us
    BROKEN = "broken"  # it answers what is no answer


class Trouble(Exception):
    """A request without a hypothesis. `reason` is a phrase without what was said and without the token."""

    def __init__(self, kind: Kind, reason: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(reason)
        self.kind = kind
        self.reason = reason
        self.retry_after_s = retry_after_s


@attrs.frozen(kw_only=True)
class Request:
    """What is sent, but for the host."""

    method: str
    path: str  # below the address of the API
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = attrs.field(default=b"", repr=False)


@attrs.frozen(kw_only=True)
class Answer:
    """What came back, whole."""

    status: int
    headers: Mapping[str, str]  # names in lower case
    body: bytes = attrs.field(repr=False)


# ---------------------------------------------------------------- asking


def request_for(
    item: DecodeItem,
    *,
    model: str,
    answer: str,
    send_priority: bool,
    deadline_s: float,
    boundary: str,
    language: str | None = None,
) -> Request:
    """The request for an item.

    Args:
        item: what is to be decoded.
        model: as the server calls it.
        answer: the `response_format`.
        send_priority: as the option of that name.
        deadline_s: when nobody waits for the answer any more.
        boundary: of the parts of the form; random.
        language: in place of the item's own.
    """
    options = item.options
    lead = item.lead.text if item.lead is not None and options.effort is not Effort.QUICK else ""
    fields = [("model", model), ("response_format", answer), ("temperature", "0")]
    if (code := language or options.language) and options.task == "transcribe":
        fields.append(("language", code))
    if prompt := _prompt(options, lead):
        fields.append(("prompt", prompt))
    if answer == "verbose_json" and options.task == "transcribe":
        kinds = ("segment", "word") if options.words else ("segment",)
        fields += [("timestamp_granularities[]", kind) for kind in kinds]
    if send_priority:
        fields.append(("priority", str(_PRIORITY[options.effort])))
    return Request(
        method="POST",
        path="/audio/translations" if options.task == "translate" else "/audio/transcriptions",
        headers=(
            ("Content-Type", f"multipart/form-data; boundary={boundary}"),
            ("X-Sttd-Class", _CLASS[options.effort]),
            ("X-Sttd-Deadline-Ms", str(max(1, round(deadline_s * 1000)))),
        ),
        body=_form(fields, wav(item.alone().samples), boundary),
    )


PROBE: Final = Request(method="GET", path="/models")  # what every such server answers quickly


def wav(samples: Samples) -> bytes:
    """A WAV file of them, of at least `LEAST_S`."""
    data = np.zeros(max(len(samples), round(LEAST_S * SAMPLE_RATE)), dtype="<i2")
    data[: len(samples)] = np.rint(np.clip(samples, -1.0, 1.0) * 32767)
    size = data.nbytes
    head = b"RIFF" + (36 + size).to_bytes(4, "little") + b"WAVEfmt " + (16).to_bytes(4, "little")
    shape = (1, 2), (1, 2), (SAMPLE_RATE, 4), (2 * SAMPLE_RATE, 4), (2, 2), (16, 2)  # PCM, mono, 2 bytes a sample
    head += b"".join(value.to_bytes(width, "little") for value, width in shape)
    return head + b"data" + size.to_bytes(4, "little") + data.tobytes()


def _prompt(options: DecodeOptions, before: str) -> str:
    parts = (", ".join(options.hotwords), options.prompt, before)
    return " ".join(part for part in parts if part)[-_PROMPT_CHARS:].strip()


def _form(fields: Sequence[tuple[str, str]], audio: bytes, boundary: str) -> bytes:
    begin = f"--{boundary}\r\nContent-Disposition: form-data; name="
    parts = [f'{begin}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields]
    head = f'{begin}"file"; filename="audio.wav"\r\nContent-Type: audio/wav\r\n\r\n'.encode()
    return b"".join([*parts, head, audio, f"\r\n--{boundary}--\r\n".encode()])


# ---------------------------------------------------------------- what an answer means


def check_status(answer: Answer) -> None:
    """Nothing where it is 200. Raises Trouble (rule 5)."""
    status = answer.status
    if status == 200:
        return
    said = f"it answers {status}{_error_code(answer)}"
    retry_after_s = _retry_after_s(answer.headers.get("retry-after", ""))
    match status:
        case 429:
            raise Trouble(Kind.BUSY, said, retry_after_s=retry_after_s or 1.0)
        case 503 if retry_after_s:
            raise Trouble(Kind.BUSY, said, retry_after_s=retry_after_s)
        case 408 | 502 | 503 | 504:
            raise Trouble(Kind.AGAIN, said)
        case 400 | 413 | 415 | 422:
            raise Trouble(Kind.ITEM, said)
        case 401 | 403:
            raise Trouble(Kind.REFUSED, f"{said}: the token is missing or wrong (`token_file`)")
        case 404 | 405:
            raise Trouble(Kind.REFUSED, f"{said}: the address or the name of the model is wrong (`url`, `model`)")
        case _ if 300 <= status < 400:
            raise Trouble(Kind.REFUSED, f"{said}: it is somewhere else (`url`); redirections are not followed")
    raise Trouble(Kind.BROKEN, said)


def check_probe(answer: Answer) -> None:
    """Nothing where the server is there and takes us. Raises Trouble. It need not have what was asked for."""
    if answer.status not in (400, 404, 405, 429):
        check_status(answer)


def read_answer(answer: Answer, item: DecodeItem, *, language: str | None = None) -> Hypothesis:
    """What was heard. `language`: that was asked for in place of the item's own. Raises Trouble (rules 3 and 5)."""
    check_status(answer)
    content = _object(answer.body)
    options, audio_s = item.options, seconds(len(item.alone().samples))
    text = _text(content.get("text"))
    segments = _segments(content, text=text, audio_s=audio_s, words=options.words)
    code, probability, heard = _language(content, options, asked=language)
    certainties, ending = _certainties(content.get("sttd"), text)
    weights = [len(segment.text) or 1 for segment in segments]
    total = sum(weights) or 1

    def mean(value: Callable[[Segment], float], default: float) -> float:
        found = sum(weight * value(segment) for weight, segment in zip(weights, segments, strict=True)) / total
        return found if segments else default

    return Hypothesis(
        text=text,
        segments=segments,
        language=code,
        language_probability=probability,
        languages=heard,
        avg_logprob=mean(lambda segment: segment.avg_logprob, 0.0),
        no_speech_prob=mean(lambda segment: segment.no_speech_prob, 0.0),
        compression_ratio=max((segment.compression_ratio for segment in segments), default=1.0),
        certainties=certainties,
        ending=ending,
    )


def wrong_language(hypothesis: Hypothesis, options: DecodeOptions) -> str | None:
    """The language to ask for, where the server heard one that is not possible (rule 2); else None."""
    prior = options.languages
    if options.language is not None or prior is None or not prior.allowed or not hypothesis.language:
        return None  # nobody says: no server of `json` does
    if hypothesis.language in prior.allowed:
        return None
    known = dict(prior.likely)
    return max(prior.allowed, key=lambda code: known.get(code, prior.other))


# ---------------------------------------------------------------- parts


def _object(body: bytes) -> Mapping[str, Any]:
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Trouble(Kind.BROKEN, "its answer is no JSON object")
    return content


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_CHARS:
        raise Trouble(Kind.BROKEN, "its answer has no text, or one of any length")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Trouble(Kind.BROKEN, "its answer has a text that is none") from None
    return "".join(" " if unicodedata.category(char) == "Cc" else char for char in value).strip()


def _number(value: Any, default: float, *, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number within bounds; the default for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return default
    try:
        found = float(value)
    except OverflowError:
        return default
    return min(max(found, low), high) if math.isfinite(found) else default


def _parts(content: Mapping[str, Any], name: str) -> list[Mapping[str, Any]]:
    rows = content.get(name) or []
    if not isinstance(rows, list) or len(rows) > _MAX_PARTS or not all(isinstance(row, dict) for row in rows):
        raise Trouble(Kind.BROKEN, f"its answer has {name} that are none, or any number of them")
    return rows


def _segments(content: Mapping[str, Any], *, text: str, audio_s: float, words: bool) -> tuple[Segment, ...]:
    """The segments with their words; one of the whole text where the server gives none."""
    found, floor_s = list[Segment](), 0.0
    for row in _parts(content, "segments"):
        start_s = _number(row.get("start"), floor_s, low=floor_s, high=audio_s)
        floor_s = _number(row.get("end"), audio_s, low=start_s, high=audio_s)
        found.append(
            Segment(
                text=_text(row.get("text")),
                start_s=start_s,
                end_s=floor_s,
                avg_logprob=_number(row.get("avg_logprob"), 0.0, low=-100.0, high=0.0),
                no_speech_prob=_number(row.get("no_speech_prob"), 0.0, low=0.0, high=1.0),
                compression_ratio=_number(row.get("compression_ratio"), 1.0, low=0.0, high=1000.0),
            )
        )
    if not found and text:
        found = [Segment(text=text, start_s=0.0, end_s=audio_s)]
    return _with_words(found, content, audio_s=audio_s) if words and found else tuple(found)


def _with_words(segments: Sequence[Segment], content: Mapping[str, Any], *, audio_s: float) -> tuple[Segment, ...]:
    """Each word in the last segment that begins no later than the middle of the word."""
    mine: list[list[Word]] = [[] for _ in segments]
    at, floor_s = 0, 0.0
    for row in _parts(content, "words"):
        start_s = _number(row.get("start"), floor_s, low=floor_s, high=audio_s)
        end_s = floor_s = _number(row.get("end"), start_s, low=start_s, high=audio_s)
        while at + 1 < len(segments) and segments[at + 1].start_s <= (start_s + end_s) / 2:
            at += 1
        default = math.exp(segments[at].avg_logprob)
        probability = _number(row.get("probability"), default, low=0.0, high=1.0)
        word = _text(row.get("word"))
        if word:
            mine[at].append(Word(word=word, start_s=start_s, end_s=end_s, probability=probability))
    return tuple(attrs.evolve(segment, words=tuple(own)) for segment, own in zip(segments, mine, strict=True))


def _certainties(said: Any, text: str) -> tuple[tuple[Certainty, ...] | None, float | None]:
    """How sure the engine was of each piece of the text, and of the mark at its end (rule 4); None: it does not say."""
    rows = said.get("certainties") if isinstance(said, dict) else None
    if not isinstance(rows, list) or len(rows) > _MAX_PARTS:
        return None, None
    found = list[Certainty]()
    for row in rows:
        if not isinstance(row, list) or len(row) != 2 or not isinstance(row[0], str):
            return None, None
        found.append(Certainty(word=row[0], least=_number(row[1], 0.0, low=0.0, high=1.0)))
    if "".join(piece.word for piece in found).split() != text.split():
        return None, None
    ending = said.get("ending")
    return tuple(found), None if ending is None else _number(ending, 0.0, low=0.0, high=1.0)


def _language(
    content: Mapping[str, Any], options: DecodeOptions, *, asked: str | None
) -> tuple[str, float, tuple[tuple[str, float], ...]]:
    """The language, how probable it is, and what the sound says of it (rule 2)."""
    if options.language is not None:
        return options.language, 1.0, ()
    if asked is not None:
        return asked, HEARD, ((asked, HEARD),)
    said = content.get("language")
    code = language_code(said[:64]) if isinstance(said, str) else None
    if code is None:
        return "", 0.0, ()
    heard = ((code, HEARD),)
    prior = options.languages
    return code, HEARD if prior is None else dict(prior.posterior(heard)).get(code, 0.0), heard


def _retry_after_s(text: str) -> float:
    """The seconds of a `Retry-After`; 0 where it has none (a date counts as none)."""
    return min(float(text), MAX_RETRY_S) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", text.strip()) else 0.0


def _error_code(answer: Answer) -> str:
    """The code of an error, where it is a word."""
    try:
        error = json.loads(answer.body)["error"]
        code = error.get("code") or error.get("type")
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return ""
    return f" ({code})" if isinstance(code, str) and _CODE.fullmatch(code) else ""
