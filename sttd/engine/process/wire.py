"""What the daemon and the process of a model say to each other, as bytes. No IO.

Rules:

1. A message is a MessagePack list that begins with its name, behind its length in four bytes (little-endian). One of
   more than `MAX_BYTES` is neither written nor believed.
2. Audio is not in it: an item says where its samples lie in the memory that both see (`audio.py`). What is left of an
   item is nearly always a part of its audio, and said as such; other samples travel as bytes.
3. What is read is checked, type for type: a process whose memory is damaged may say anything. `WireError`, and nothing
   else, is what comes of it.
4. `DecodeItem.known` is opaque to the daemon: the process pickles it, and only a process unpickles it again (`Sealed`).

| from the daemon | answered by |
|---|---|
| `hello`, how to make the backend, libraries to import, level and format of the log, whether cores are off | `ready` |
| `load`, preset, threads, workers; with the descriptors of the lines | `loaded`, or `failed` with an error |
| `park`, `unpark` | `loaded` with what is so now, or `failed` |
| `decode`, items; on a line | any number of `tell`, `gone`, `hurry`; then `results` |
| `answer`, yes or no | follows `gone` and `hurry` |
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Generic, TypeVar, get_args

import attrs
import msgpack
import numpy as np

from sttd.core.languages import Prior
from sttd.core.types import Certainty, DecodeItem, DecodeOptions, Effort, Hypothesis, Lead, Samples, Segment, Word
from sttd.engine.contract import Result, Unfinished
from sttd.errors import CODES, DecodeError
from sttd.options import Task

MAX_BYTES: Final = 16 * 1024**2  # chosen: 32 hypotheses with the times of all words are half a megabyte
_LENGTH: Final = struct.Struct("<I")
_DEPTH_ERRORS: Final = (ValueError, TypeError, KeyError, OverflowError, RecursionError)

T = TypeVar("T")
U = TypeVar("U")


class WireError(Exception):
    """The other side said something that it cannot have meant."""


# ---------------------------------------------------------------- messages


def pack(message: Sequence[Any]) -> bytes:
    """A message as bytes. Raises WireError where it is too large, or holds what no message holds."""
    try:
        # Text of clients may hold half of a surrogate pair; what to make of it is the model's business.
        body: bytes = msgpack.packb(message, unicode_errors="surrogatepass")
    except _DEPTH_ERRORS as error:
        raise WireError(f"not to be written: {type(error).__name__}") from None
    if len(body) > MAX_BYTES:
        raise WireError(f"a message of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


@attrs.define(eq=False)
class Frames:
    """Bytes, however they were cut, to messages."""

    _held: bytearray = attrs.field(factory=bytearray, init=False)

    def feed(self, data: bytes) -> None:
        """More bytes came."""
        self._held += data

    def messages(self) -> Iterator[list[Any]]:
        """The messages that are complete. Raises WireError; what comes behind it means nothing."""
        while len(self._held) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._held)
            if length > MAX_BYTES:
                raise WireError(f"a message of {length} bytes")
            end = _LENGTH.size + length
            if len(self._held) < end:
                return
            body = bytes(self._held[_LENGTH.size : end])
            del self._held[:end]
            yield _message(body)


def _message(body: bytes) -> list[Any]:
    try:
        message = msgpack.unpackb(body, unicode_errors="surrogatepass", strict_map_key=True)
    except Exception as error:  # msgpack has several that have no common class
        raise WireError(f"not a message: {type(error).__name__}") from None
    if not isinstance(message, list) or not message or not isinstance(message[0], str):
        raise WireError("not a message")
    return message


# ---------------------------------------------------------------- kinds of values


@attrs.frozen
class Kind(Generic[T]):
    """How a value is written as plain ones, and read again. Reading raises WireError."""

    write: Callable[[T], Any]
    read: Callable[[Any], T]


def _only(kind: type[T]) -> Callable[[Any], T]:
    def read(value: Any) -> T:
        if type(value) is not kind:
            raise WireError(f"{type(value).__name__} where there should be {kind.__name__}")
        return value

    return read


def _number(value: Any) -> float:
    if type(value) not in (int, float):
        raise WireError(f"{type(value).__name__} where there should be a number")
    return float(value)


TEXT: Final = Kind[str](str, _only(str))
NUMBER: Final = Kind[float](float, _number)
COUNT: Final = Kind[int](int, _only(int))
FLAG: Final = Kind[bool](bool, _only(bool))
BYTES: Final = Kind[bytes](bytes, _only(bytes))


def optional(kind: Kind[T]) -> Kind[T | None]:
    """That, or None."""
    return Kind(
        lambda value: None if value is None else kind.write(value),
        lambda value: None if value is None else kind.read(value),
    )


def many(kind: Kind[T]) -> Kind[tuple[T, ...]]:
    """Any number of them."""
    read_list = _only(list)
    return Kind(
        lambda values: [kind.write(value) for value in values],
        lambda values: tuple(kind.read(value) for value in read_list(values)),
    )


def pair(first: Kind[T], second: Kind[U]) -> Kind[tuple[T, U]]:
    """One of each."""

    def read(value: Any) -> tuple[T, U]:
        if type(value) is not list or len(value) != 2:
            raise WireError("not a pair")
        return first.read(value[0]), second.read(value[1])

    return Kind(lambda value: [first.write(value[0]), second.write(value[1])], read)


def one_of(values: Sequence[str]) -> Kind[Any]:
    """One of some texts."""

    def read(value: Any) -> str:
        if value not in values:
            raise WireError("a word that is none of those that there are")
        return str(value)

    return Kind(str, read)


def shape(made: type[T], **fields: Kind[Any]) -> Kind[T]:
    """The fields of a class in that order. Every field that it has must be named."""
    names = tuple(fields)
    kinds = tuple(fields.values())
    assert set(names) == {field.name for field in attrs.fields(made)}, made  # type: ignore[arg-type]

    def write(value: T) -> list[Any]:
        return [kind.write(getattr(value, name)) for name, kind in fields.items()]

    def read(plain: Any) -> T:
        if type(plain) is not list or len(plain) != len(kinds):
            raise WireError(f"not a {made.__name__}")
        try:
            return made(**{name: kind.read(value) for name, kind, value in zip(names, kinds, plain, strict=True)})
        except ValueError as error:
            raise WireError(f"no {made.__name__} is like that: {error}") from None

    return Kind(write, read)


HEARD: Final = many(pair(TEXT, NUMBER))
WORD: Final = shape(Word, word=TEXT, start_s=NUMBER, end_s=NUMBER, probability=NUMBER)
SEGMENT: Final = shape(
    Segment,
    text=TEXT,
    start_s=NUMBER,
    end_s=NUMBER,
    avg_logprob=NUMBER,
    no_speech_prob=NUMBER,
    compression_ratio=NUMBER,
    words=many(WORD),
)
HYPOTHESIS: Final = shape(
    Hypothesis,
    text=TEXT,
    segments=many(SEGMENT),
    language=TEXT,
    language_probability=NUMBER,
    languages=HEARD,
    avg_logprob=NUMBER,
    no_speech_prob=NUMBER,
    compression_ratio=NUMBER,
    temperature=NUMBER,
    certainties=optional(many(shape(Certainty, word=TEXT, least=NUMBER))),
    ending=optional(NUMBER),
)
OPTIONS: Final = shape(
    DecodeOptions,
    effort=Kind[Effort](
        lambda effort: effort.value, lambda value: Effort(one_of([each.value for each in Effort]).read(value))
    ),
    language=optional(TEXT),
    languages=optional(shape(Prior, likely=HEARD, other=NUMBER, allowed=many(TEXT), weight=NUMBER)),
    task=one_of(get_args(Task)),
    words=FLAG,
    prompt=TEXT,
    hotwords=many(TEXT),
    prefix=TEXT,
    keep=TEXT,
    keep_margin=NUMBER,
)


# ---------------------------------------------------------------- items


@attrs.frozen
class Sealed:
    """What a process knows of an item that it left unfinished; for the next process that decodes it."""

    data: bytes


@attrs.frozen(kw_only=True)
class Placed:
    """An item whose samples lie somewhere else: `count` of them, `at` samples from the beginning."""

    at: int
    count: int
    options: DecodeOptions
    recording: str | None
    complete: bool
    known: bytes | None
    step: int
    lead: Lead | None

    @classmethod
    def of(cls, item: DecodeItem, *, at: int) -> Placed:
        """An item of the daemon's whose samples were put there."""
        return cls(
            at=at,
            count=len(item.samples),
            options=item.options,
            recording=item.recording,
            complete=item.complete,
            known=item.known.data if isinstance(item.known, Sealed) else None,
            step=item.step,
            lead=item.lead,
        )

    def item(self, samples: Samples, known: object) -> DecodeItem:
        """The item with its samples, and with what is known of it."""
        return DecodeItem(
            samples=samples,
            options=self.options,
            recording=self.recording,
            complete=self.complete,
            known=known,
            step=self.step,
            lead=self.lead,
        )


LEAD: Final = shape(Lead, samples=COUNT, text=TEXT)

PLACED: Final = shape(
    Placed,
    at=COUNT,
    count=COUNT,
    options=OPTIONS,
    recording=optional(TEXT),
    complete=FLAG,
    known=optional(BYTES),
    step=COUNT,
    lead=optional(LEAD),
)


def place_in(whole: Samples, part: Samples) -> int | None:
    """Where `part` begins within `whole`; None where it is none of it."""
    offset = part.__array_interface__["data"][0] - whole.__array_interface__["data"][0]
    inside = part.flags.c_contiguous and offset % whole.itemsize == 0
    at = int(offset // whole.itemsize)
    return at if inside and at >= 0 and at + len(part) <= len(whole) else None


# ---------------------------------------------------------------- results


def write_result(result: Result, item: DecodeItem, *, seal: Callable[[object], bytes]) -> list[Any]:
    """What became of an item, in the process. Raises WireError, TypeError, … where a model returned something odd."""
    if isinstance(result, DecodeError):
        return ["error", result.code, result.message]
    if isinstance(result, Hypothesis):
        return ["heard", HYPOTHESIS.write(result)]
    rest = result.item
    at = place_in(item.samples, rest.samples)
    known = seal(rest.known) if rest.known is not None else None
    left = attrs.evolve(Placed.of(rest, at=at or 0), known=known)
    samples = None if at is not None else np.ascontiguousarray(rest.samples, np.float32).tobytes()
    return ["left", PLACED.write(left), samples]


def read_result(plain: Any, item: DecodeItem) -> Result:
    """What became of an item, in the daemon. Raises WireError."""
    match plain:
        case ["error", str(code), str(message)] if code in CODES:
            return DecodeError(message, code=code)
        case ["heard", hypothesis]:
            return HYPOTHESIS.read(hypothesis)
        case ["left", left, samples]:
            return Unfinished(_rest(PLACED.read(left), optional(BYTES).read(samples), item))
        case _:
            raise WireError("not a result")


def _rest(left: Placed, samples: bytes | None, item: DecodeItem) -> DecodeItem:
    known = Sealed(left.known) if left.known is not None else None
    if left.lead is not None and left.lead.samples > left.count:
        raise WireError("a lead that is longer than its item")
    if samples is not None:
        if len(samples) != left.count * 4:
            raise WireError("samples of another length")
        return left.item(np.frombuffer(samples, np.float32), known)
    if not 0 <= left.at <= left.at + left.count <= len(item.samples):
        raise WireError("samples that the item does not have")
    return left.item(item.samples[left.at : left.at + left.count], known)


# ---------------------------------------------------------------- what a model is


@attrs.frozen(kw_only=True)
class ModelInfo:
    """What the daemon knows of a model in a process; `facts` are for the planner of its backend."""

    device: str
    compute_type: str
    workers: int
    ram_bytes: int
    vram_bytes: int
    parkable: bool
    facts: Mapping[str, Any]


def _facts(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise WireError("not facts")
    return value


INFO: Final = shape(
    ModelInfo,
    device=TEXT,
    compute_type=TEXT,
    workers=COUNT,
    ram_bytes=COUNT,
    vram_bytes=COUNT,
    parkable=FLAG,
    facts=Kind[Mapping[str, Any]](dict, _facts),
)
