"""The Wyoming protocol of Home Assistant and its satellites as a codec: bytes in, events out; events in, bytes out.

An event is a line of JSON, then as many bytes of JSON as its `data_length` says, then as many bytes of payload as its
`payload_length` says. Written down from the package `wyoming` 1.10.2, whose clients these events are for.

What a client sends is bounded before it is looked at:

1. A line has `MAX_LINE_BYTES` at most, data and payload have as many as theirs; a length that is declared counts as if
   the bytes were there already.
2. Data must be an object, like the line. It is merged over a `data` in the line. Neither may hold more values than
   `_MAX_VALUES` and `_MAX_CONTAINERS`: what it costs to read a text is not the client's choice.
3. The payload of an `audio-chunk` is handed on as it comes (`Samples`), so that nobody holds a second of it. All other
   payloads, and unknown events with all that belongs to them, are read over.
4. `next_event` reads one JSON text at most, so that others get their turn in between.
5. After an error the stream has no meaning any more: where the next event starts, nobody knows.

However the bytes are cut, the same events come out, and the same samples one after the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, TypeAlias

import attrs

from sttd.errors import ProtocolError
from sttd.fields import integer
from sttd.options import MAX_CHANNELS, MAX_HOTWORD_CHARS, MAX_HOTWORDS, MAX_RATE, MIN_RATE, RawEncoding
from sttd.wire.jsontext import read_object, write_object
from sttd.wire.schema import parse

VERSION: Final = "1.10.2"  # that was read; nobody looks at it
MAX_LINE_BYTES: Final = 64 * 1024  # asyncio's, so the clients' own
MAX_DATA_BYTES: Final = 1 << 20
MAX_PAYLOAD_BYTES: Final = 1 << 20  # half a minute of 16 kHz

# Chosen: a list of names fits in, a text that only costs time does not. Measured on an idle core: 10 ms at most for a
# text at both bounds; 150 ms for a megabyte of empty lists without them.
_MAX_VALUES: Final = 200_000
_MAX_CONTAINERS: Final = 1_000


# ---------------------------------------------------------------- what a client sends


@attrs.frozen(kw_only=True)
class Format:
    """How the samples of an utterance lie in its bytes: little-endian integers, channels interleaved."""

    rate: int = integer("samples per second and channel", minimum=MIN_RATE, maximum=MAX_RATE, required=True)
    width: int = integer("bytes of a sample; one byte is unsigned", minimum=1, maximum=4, required=True)
    channels: int = integer("mixed down", minimum=1, maximum=MAX_CHANNELS, required=True)

    @property
    def encoding(self) -> RawEncoding:
        """What `Widener` makes of it."""
        return "pcm_s16le" if self.width <= 2 else "pcm_s32le"


@attrs.frozen
class Describe:
    """Wants to know what there is."""


@attrs.frozen
class Ping:
    """Wants its text back."""

    text: str | None


@attrs.frozen(kw_only=True)
class Transcribe:
    """What the utterances from here on are to be."""

    name: str | None = None  # of a model
    language: str | None = None
    words: tuple[str, ...] = ()  # names, then terms, that are likely to be said


@attrs.frozen
class AudioStart:
    """An utterance begins."""

    format: Format


@attrs.frozen
class AudioChunk:
    """Samples of this format follow."""

    format: Format


@attrs.frozen
class Samples:
    """A piece of the payload of the last `audio-chunk`; it may begin and end inside a sample."""

    data: bytes


@attrs.frozen
class AudioStop:
    """The utterance is over."""


@attrs.frozen
class Other:
    """Nothing that is of use here."""


Event: TypeAlias = Describe | Ping | Transcribe | AudioStart | AudioChunk | Samples | AudioStop | Other

# Those of whose data something is of use; the data of the others is read over.
_READ: Final = frozenset({"ping", "transcribe", "audio-start", "audio-chunk"})


@attrs.define(eq=False)
class EventReader:
    """Reads one direction of a connection."""

    _buffer: bytearray = attrs.field(factory=bytearray, init=False)
    _searched: int = attrs.field(default=0, init=False)  # so far there is no end of a line in the buffer
    _part: Literal["line", "data", "payload"] = attrs.field(default="line", init=False)  # that comes next
    _kind: str = attrs.field(default="", init=False)  # of the event of which `_part` is
    _inline: Mapping[str, Any] = attrs.field(factory=dict, init=False)  # the data in its line
    _data_bytes: int = attrs.field(default=0, init=False)  # still to come
    _payload_bytes: int = attrs.field(default=0, init=False)

    def receive_data(self, data: bytes) -> None:
        """Take what came."""
        self._buffer += data

    @property
    def held_bytes(self) -> int:
        """How many bytes came that belong to no event yet."""
        return len(self._buffer)

    @property
    def work_bytes(self) -> int:
        """How many bytes of JSON `next_event` will read now, at the most."""
        if self._part == "payload":
            return 0
        return len(self._buffer) if self._part == "line" or self._kind in _READ else 0

    def next_event(self) -> Event | None:
        """The next event; None: more bytes are wanted.

        Raises:
            ProtocolError: `too_large`; `bad_request`, where it is no event; `bad_option`, where a value of it is wrong.
                Nothing more is to be asked for then.
        """
        if self._part == "payload" and (samples := self._next_samples()) is not None:
            return samples
        if self._part == "line":
            line = self._take_line()
            if line is None:
                return None
            self._begin(line)
        if self._part == "data":
            return self._take_data()
        return None

    # ---------------------------------------------------------------- parts

    def _take_line(self) -> bytes | None:
        end = self._buffer.find(b"\n", self._searched)
        if end > MAX_LINE_BYTES or (end < 0 and len(self._buffer) > MAX_LINE_BYTES):
            raise ProtocolError(f"a line may have {MAX_LINE_BYTES} bytes at most", code="too_large")
        if end < 0:
            self._searched = len(self._buffer)
            return None
        self._searched = 0
        return self._take(end + 1)

    def _begin(self, line: bytes) -> None:
        """Take the line of an event."""
        head = _read(line)
        kind = head.get("type")
        if not isinstance(kind, str):
            raise ProtocolError("an event must have a `type`, which is text")
        self._data_bytes = _length(head, "data_length", at_most=MAX_DATA_BYTES)
        self._payload_bytes = _length(head, "payload_length", at_most=MAX_PAYLOAD_BYTES)
        inline = head.get("data")
        if kind in _READ and not isinstance(inline, dict | None):
            raise ProtocolError("the `data` of an event must be an object")
        self._kind, self._inline, self._part = kind, inline or {}, "data"

    def _take_data(self) -> Event | None:
        """The event, once its data is there."""
        if self._kind not in _READ:
            self._data_bytes -= len(self._take(min(self._data_bytes, len(self._buffer))))
            if self._data_bytes:
                return None
            data: Mapping[str, Any] = {}
        elif len(self._buffer) < self._data_bytes:
            return None
        else:
            data = self._inline
            if self._data_bytes:
                data = {**data, **_read(self._take(self._data_bytes))}
        self._part = "payload"
        return _event(self._kind, data)

    def _next_samples(self) -> Samples | None:
        piece = self._take(min(self._payload_bytes, len(self._buffer)))
        self._payload_bytes -= len(piece)
        if not self._payload_bytes:
            self._part = "line"
        return Samples(piece) if piece and self._kind == "audio-chunk" else None

    def _take(self, count: int) -> bytes:
        taken = bytes(self._buffer[:count])
        del self._buffer[:count]
        return taken


def _read(text: bytes) -> dict[str, Any]:
    """The object that this is (rule 2)."""
    containers = text.count(b"{") + text.count(b"[")
    if containers > _MAX_CONTAINERS or text.count(b",") > _MAX_VALUES:
        raise ProtocolError("an event may not have so many values", code="too_large")
    return read_object(text)


def _length(head: Mapping[str, Any], name: str, *, at_most: int) -> int:
    value = head.get(name)
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise ProtocolError(f"`{name}` must be a whole number, at least 0")
    if value > at_most:
        raise ProtocolError(f"`{name}` may be {at_most} at most", code="too_large")
    return value


def _event(kind: str, data: Mapping[str, Any]) -> Event:
    match kind:
        case "describe":
            return Describe()
        case "ping":
            text = data.get("text")
            return Ping(text if isinstance(text, str) else None)
        case "transcribe":
            words = _words(data, "transcript_names") + _words(data, "transcript_terms")
            return Transcribe(name=_text(data, "name"), language=_text(data, "language"), words=words)
        case "audio-start":
            return AudioStart(_format(data))
        case "audio-chunk":
            return AudioChunk(_format(data))
        case "audio-stop":
            return AudioStop()
    return Other()


def _format(data: Mapping[str, Any]) -> Format:
    return parse(Format, data, ignore_unknown=True)


def _text(data: Mapping[str, Any], name: str) -> str | None:
    value = data.get(name)
    if not isinstance(value, str | None):
        raise ProtocolError(f"`{name}` must be text", code="bad_option")
    return value


def _words(data: Mapping[str, Any], name: str) -> tuple[str, ...]:
    """Words that are likely to be said, as many as a session takes; those that nobody could say are left out."""
    value = data.get(name) or []
    if not isinstance(value, list):
        raise ProtocolError(f"`{name}` must be a list of texts", code="bad_option")
    words: dict[str, None] = {}  # each once, in their order
    for item in value:
        if not isinstance(item, str):
            raise ProtocolError(f"`{name}` must be a list of texts", code="bad_option")
        word = " ".join(item.split()) if len(item) <= MAX_HOTWORD_CHARS else ""
        if word and word.isprintable():
            words[word] = None
        if len(words) == MAX_HOTWORDS:
            break
    return tuple(words)


# ---------------------------------------------------------------- samples


_SIGNED: Final = bytes(byte ^ 0x80 for byte in range(256))


@attrs.define(eq=False)
class Widener:
    """Makes 16-bit samples of those of one byte, 32-bit ones of those of three; the others it leaves as they are."""

    width: int  # bytes, of what comes in
    _rest: bytes = attrs.field(default=b"", init=False)  # the start of a sample

    def widen(self, data: bytes) -> bytes:
        """The samples that `data` completes."""
        if self.width == 1:
            wide = bytearray(2 * len(data))
            wide[1::2] = data.translate(_SIGNED)
        elif self.width == 3:
            data = self._rest + data
            whole = len(data) // 3 * 3
            data, self._rest = data[:whole], data[whole:]
            wide = bytearray(len(data) // 3 * 4)
            for place in range(3):
                wide[place + 1 :: 4] = data[place::3]
        else:
            return data
        return bytes(wide)


# ---------------------------------------------------------------- what the daemon says


@attrs.frozen(kw_only=True)
class Model:
    """A model as `info` lists it."""

    name: str
    description: str
    repository: str | None  # where it was published
    installed: bool
    languages: Sequence[str]


def info(models: Sequence[Model], *, version: str, streaming: bool) -> bytes:
    """The answer to `describe`. `streaming`: text is told while it is spoken."""
    program = {
        "name": "sttd",
        "description": "The speech-to-text daemon of this machine",
        "version": version,
        "installed": True,
        "attribution": {"name": "sttd", "url": ""},
        "supports_transcript_streaming": streaming,
        "requires_external_vad": True,
        "models": [_model(model, version) for model in models],
    }
    return _written("info", {"asr": [program], **{kind: [] for kind in _NOT_OFFERED}})


_NOT_OFFERED: Final = ("tts", "wake", "handle", "intent", "mic", "snd")


def _model(model: Model, version: str) -> dict[str, Any]:
    owner = model.repository.partition("/")[0] if model.repository else "sttd"
    return {
        "name": model.name,
        "description": model.description,
        "version": version,
        "installed": model.installed,
        "attribution": {"name": owner, "url": f"https://huggingface.co/{model.repository}" if model.repository else ""},
        "languages": list(model.languages),
    }


def pong(text: str | None) -> bytes:
    """The answer to a ping."""
    return _written("pong", {"text": text})


def error(text: str, code: str) -> bytes:
    """What is said in place of a transcript, before the end of the connection."""
    return _written("error", {"text": text, "code": code})


def transcript_start(language: str | None) -> bytes:
    """Text follows."""
    return _written("transcript-start", _with_language({}, language))


def transcript_chunk(text: str) -> bytes:
    """More text, behind what came before."""
    return _written("transcript-chunk", {"text": text})


def transcript(text: str, language: str | None) -> bytes:
    """The text of an utterance."""
    return _written("transcript", _with_language({"text": text}, language))


def transcript_stop() -> bytes:
    """Nothing follows."""
    return _written("transcript-stop", {})


def _with_language(data: dict[str, Any], language: str | None) -> dict[str, Any]:
    return {**data, "language": language} if language else data


def _written(kind: str, data: Mapping[str, Any]) -> bytes:
    # A ping may hold half a surrogate pair, which JSON can spell and UTF-8 cannot.
    body = write_object(data).encode("utf-8", "replace") if data else b""
    length = {"data_length": len(body)} if data else {}
    return write_object({"type": kind, "version": VERSION, **length}).encode() + b"\n" + body
