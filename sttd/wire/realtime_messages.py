"""What a client of OpenAI's Realtime API says: text messages, each a JSON object with a `type`.

An append may hold fifteen megabytes of audio. To parse such a message, and to decode its base64, takes a tenth of a
second in which nothing else would run, in a thread too: the C functions that do it hold the interpreter's lock. So a
large one is read in steps (`LargeMessage`): its long string is cut out, what is left is parsed, and the string is
decoded a piece at a time. What is large and no append is refused: no update means so much, and a list of a hundred
thousand keywords takes as long to look at.
"""

from __future__ import annotations

import binascii
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeGuard

import attrs

from sttd.errors import ProtocolError
from sttd.fields import clip
from sttd.wire.jsontext import MAX_MESSAGE_BYTES, read_object
from sttd.wire.realtime_settings import Dialect, RefusedError, is_text

MAX_BYTES: Final = 21 * 1024 * 1024  # of a message: 15 MiB of audio in base64, and some
MAX_AUDIO_BYTES: Final = 15 * 1024 * 1024  # of one append; upstream's limit
PIECE_CHARS: Final = 64 * 1024  # of base64 that are decoded in one go; chosen: a fifth of a millisecond

_LARGE_CHARS: Final = 2 * PIECE_CHARS  # of a message; the audio of a larger append is longer than a piece
_CUT_OUT: Final = "*"  # stands for the long string; no base64 has it
_MAX_QUOTES: Final = 32  # before the long string; an append has three names and three values

_MAX_EVENT_ID_CHARS: Final = 512  # upstream's limit
_UPDATES: Final[dict[str, Dialect]] = {"session.update": "ga", "transcription_session.update": "beta"}
_APPEND, _COMMIT, _CLEAR = "input_audio_buffer.append", "input_audio_buffer.commit", "input_audio_buffer.clear"


@attrs.frozen(kw_only=True)
class Update:
    """Other settings; the answer has the form of this dialect."""

    event_id: str | None
    dialect: Dialect
    session: object  # not looked into yet


@attrs.frozen(kw_only=True)
class Append:
    """Audio, in pieces that may be cut anywhere."""

    event_id: str | None
    audio: Sequence[bytes]


@attrs.frozen(kw_only=True)
class Commit:
    """The item ends here."""

    event_id: str | None


@attrs.frozen(kw_only=True)
class Clear:
    """What was not committed is not meant."""

    event_id: str | None


ClientEvent = Update | Append | Commit | Clear


def read_message(message: str | bytes) -> ClientEvent:
    """What a message says that is not large. Raises RefusedError."""
    return _read(_parse(message))


def is_large(message: str | bytes) -> TypeGuard[str]:
    """Whether a message is to be read by `LargeMessage`."""
    return isinstance(message, str) and len(message) > _LARGE_CHARS


@attrs.define(eq=False)
class LargeMessage:
    """One message that is read in steps, each of which is short. Iterate to the end, then `event` is there.

    Raises RefusedError from any step.
    """

    message: str
    event: Append = attrs.field(init=False)

    def __iter__(self) -> Iterator[None]:
        opening = self._opening()
        yield
        closing = self.message.find('"', opening + 1)
        yield
        head, tail = self.message[: opening + 1], self.message[closing:]
        fields = _parse(f"{head}{_CUT_OUT}{tail}") if len(head) + len(tail) < PIECE_CHARS else {}
        if fields.get("type") != _APPEND or fields.get("audio") != _CUT_OUT:
            raise _too_large(fields)
        if self.message.find("\\", opening, closing) >= 0 and len(self.message) <= MAX_MESSAGE_BYTES:
            # Some languages escape a `/` or `=` in JSON. One string of this size is still read in a millisecond or two.
            fields["audio"] = _parse(self.message)["audio"]
            self.event = Append(event_id=_event_id(fields), audio=[_decode(fields["audio"], fields)])
            return
        pieces: list[bytes] = []
        for start in range(opening + 1, closing, PIECE_CHARS):
            end = min(start + PIECE_CHARS, closing)
            pieces.append(_decode(self.message[start:end], fields, last=end == closing))
            yield
        self.event = Append(event_id=_event_id(fields), audio=_bounded(pieces, fields))

    def _opening(self) -> int:
        """Where its long string begins: at the first quote that has no other one within a piece."""
        at = self.message.find('"')
        for _ in range(_MAX_QUOTES):
            following = self.message.find('"', at + 1, at + 1 + PIECE_CHARS) if at >= 0 else -1
            if following < 0:
                break
            at = following
        if at < 0 or self.message.find('"', at + 1) < 0:
            raise _too_large({})
        return at


def _parse(message: str | bytes) -> dict[str, Any]:
    if isinstance(message, bytes):
        raise RefusedError("messages are JSON text, not binary", code="invalid_json")
    try:
        return read_object(message)
    except ProtocolError as error:
        raise RefusedError(error.message, code="invalid_json") from None


def _read(fields: dict[str, Any]) -> ClientEvent:
    kind, event_id = fields.get("type"), _event_id(fields)
    if not isinstance(kind, str):
        raise _missing("type", fields)
    if kind in _UPDATES:
        return Update(event_id=event_id, dialect=_UPDATES[kind], session=fields.get("session"))
    if kind == _APPEND:
        if fields.get("audio") is None:
            raise _missing("audio", fields)
        return Append(event_id=event_id, audio=_bounded([_decode(fields["audio"], fields)], fields))
    if kind == _COMMIT:
        return Commit(event_id=event_id)
    if kind == _CLEAR:
        return Clear(event_id=event_id)
    known = ", ".join((*_UPDATES, _APPEND, _COMMIT, _CLEAR))
    message = f"a transcription session has no event {clip(kind)!r}; there is: {known}"
    raise RefusedError(message, param="type", event_id=event_id)


def _decode(text: object, fields: dict[str, Any], *, last: bool = True) -> bytes:
    if isinstance(text, str):
        try:
            data = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:  # binascii.Error is one, and so is what a character outside ASCII raises
            pass
        else:
            if last or len(data) * 4 == len(text) * 3:  # padding stands at the end alone
                return data
    raise RefusedError("`audio` must be base64", param="audio", event_id=_event_id(fields))


def _bounded(pieces: list[bytes], fields: dict[str, Any]) -> list[bytes]:
    if sum(map(len, pieces)) > MAX_AUDIO_BYTES:
        message = f"an append may have {MAX_AUDIO_BYTES} bytes of audio at most"
        raise RefusedError(message, param="audio", event_id=_event_id(fields))
    return pieces


def _event_id(fields: dict[str, Any]) -> str | None:
    event_id = fields.get("event_id")
    return event_id[:_MAX_EVENT_ID_CHARS] if is_text(event_id) else None


def _missing(name: str, fields: dict[str, Any]) -> RefusedError:
    message = f"an event needs `{name}`"
    return RefusedError(message, param=name, code="missing_required_parameter", event_id=_event_id(fields))


def _too_large(fields: dict[str, Any]) -> RefusedError:
    message = f"of more than {_LARGE_CHARS} characters a message may be an append with one long string"
    return RefusedError(message, event_id=_event_id(fields))
