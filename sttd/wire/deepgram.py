"""Deepgram's live API, sans IO: what a message of a client asks for, what it is told besides its text, how it ends.

    a message ──▶ Conversation ──▶ Audio | Finalize | Configure | CloseStream | Refuse | Fail

What is told of each channel is decided in `deepgram_channel.py`, and what the address asks for in `deepgram_query.py`.

Rules:

1. `KeepAlive` brings no answer, and neither does silence.
2. A message that is none (not JSON, an unknown type, a wrong value, text above `MAX_TEXT_BYTES`) is answered by an
   `Error` with what came, and changes nothing. A message above `MAX_MESSAGE_BYTES` ends the connection. After
   `CloseStream`, and an empty binary message is one, what the client says is of no more use.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs

from sttd.errors import ProtocolError, SttdError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES, read_object, write_object

# Chosen: upstream's keyterms are 500 tokens. Measured: text of 1 MiB may take 30 ms to look at, and this 2.
MAX_TEXT_BYTES: Final = 64 * 1024
_MAX_ECHO_CHARS: Final = 1000  # of a message that was not understood; chosen
_MAX_REASON_BYTES: Final = 123  # of a close frame (RFC 6455, section 5.5)

# ---------------------------------------------------------------- what a client asks for


@attrs.frozen
class Audio:
    """Audio of all channels, as it was sent."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Finalize:
    """The utterance ends here."""

    channel: int | None  # None: on every channel


@attrs.frozen
class Configure:
    """Other words are likely from the next utterance on; None: the same."""

    keyterms: tuple[str, ...] | None


@attrs.frozen
class CloseStream:
    """No more audio."""


@attrs.frozen
class Refuse:
    """To be told to the client; the stream goes on."""

    text: str


@attrs.frozen
class Fail:
    """The connection ends once what is pending was written."""

    error: SttdError


Asked: TypeAlias = Audio | Finalize | Configure | CloseStream | Refuse | Fail


@attrs.define(eq=False, kw_only=True)
class Conversation:
    """What the client says, and how the connection ends."""

    channels: int = 1  # that are transcribed
    ending: bool = attrs.field(default=False, init=False)
    error: SttdError | None = attrs.field(default=None, init=False)  # why it ends, if not in good order
    _digest: Any = attrs.field(factory=hashlib.sha256, init=False)

    @property
    def sha256(self) -> str:
        """Of the audio so far."""
        return str(self._digest.hexdigest())

    def receive(self, message: str | bytes) -> Asked | None:
        """What a message asks for; None: nothing."""
        if self.ending:
            return None
        size = len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
        if size > MAX_MESSAGE_BYTES:
            return self.fail(ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes at most", code="too_large"))
        if isinstance(message, bytes):
            self._digest.update(message)
            return Audio(message) if message else self._close()
        try:
            if size > MAX_TEXT_BYTES:
                raise ProtocolError(f"text may have {MAX_TEXT_BYTES} bytes at most")
            return self._parse(read_object(message))
        except ProtocolError as error:
            return Refuse(error_event("SchemaError", error.message, came=message))

    def fail(self, error: SttdError) -> Fail:
        """The connection ends for this reason. The first one counts."""
        self.ending = True
        self.error = self.error or error
        return Fail(self.error)

    def overrule(self, error: SttdError) -> None:
        """The connection ends for this reason, whatever was said before: a bug, or a client that does not read."""
        self.ending, self.error = True, error

    def close_with(self, session_code: int | None) -> tuple[int, str | None]:
        """Code and reason of the close frame; `session_code` is that of a session that ended by itself."""
        if self.error is None:
            return session_code or 1000, None
        match self.error.code:
            case "idle_timeout":
                return 1011, _reason(f"NET-0001: {self.error.message}")
            case "bad_audio" | "bad_option":  # a container may have other channels than was said
                return 1008, _reason(f"DATA-0000: {self.error.message}")
            case code:
                return self.error.close_code, code

    def _close(self) -> CloseStream:
        self.ending = True
        return CloseStream()

    def _parse(self, fields: Mapping[str, Any]) -> Asked | None:
        match fields.get("type"):
            case "KeepAlive":
                return None
            case "CloseStream":
                return self._close()
            case "Finalize":
                return Finalize(self._channel(fields.get("channel")))
            case "Configure":
                return Configure(_keyterms(fields))
            case _:
                raise ProtocolError("the type is none of KeepAlive, Finalize, CloseStream, Configure")

    def _channel(self, channel: object) -> int | None:
        if channel is None or (type(channel) is int and 0 <= channel < self.channels):
            return channel
        raise ProtocolError(f"`channel` is a number from 0 to {self.channels - 1}, or left out for all")


def _keyterms(fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    keyterms, features = fields.get("keyterms"), fields.get("features")
    if not isinstance(features, dict | None) or not all(isinstance(value, bool) for value in (features or {}).values()):
        raise ProtocolError("`features` is an object of true and false")
    if keyterms is None:
        return None
    if not isinstance(keyterms, list) or not all(isinstance(word, str) for word in keyterms):
        raise ProtocolError("`keyterms` is a list of strings")
    return tuple(keyterms)


def _reason(text: str) -> str:
    """As a close frame may carry it."""
    return text.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


# ---------------------------------------------------------------- what a client is told besides its text


def error_event(variant: str, description: str, *, came: str | None = None) -> str:
    """An `Error`; `came`: the message that it is about."""
    fields = {"type": "Error", "variant": variant, "description": description}
    if came is not None:
        # A lone surrogate, which JSON can spell, cannot be sent.
        fields["message"] = came[:_MAX_ECHO_CHARS].encode(errors="replace").decode()
    return write_object(fields)


def configured(request_id: str, keyterms: Sequence[str] | None) -> str:
    """A `ConfigureSuccess`; `keyterms` are those in effect, None: they were not named."""
    fields: dict[str, Any] = {"type": "ConfigureSuccess", "request_id": request_id}
    return write_object(fields if keyterms is None else {**fields, "keyterms": list(keyterms)})


def metadata(*, request_id: str, sha256: str, created: str, duration_ms: int, channels: int) -> str:
    """The last message of a stream that ended well."""
    return write_object(
        {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": request_id,
            "sha256": sha256,
            "created": created,
            "duration": duration_ms / 1000,
            "channels": channels,
        }
    )


@attrs.define(eq=False)
class Splitter:
    """Takes interleaved channels apart. A sample of all channels may be torn between two messages."""

    width: int  # bytes of a sample of one channel
    count: int  # channels
    _rest: bytes = attrs.field(default=b"", init=False)

    def split(self, data: bytes) -> list[bytes]:
        """What of each channel is whole now."""
        frame = self.width * self.count
        data = self._rest + data
        whole = len(data) - len(data) % frame
        data, self._rest = data[:whole], data[whole:]
        channels = []
        for channel in range(self.count):
            samples = bytearray(whole // self.count)
            for byte in range(self.width):
                samples[byte :: self.width] = data[channel * self.width + byte :: frame]
            channels.append(bytes(samples))
        return channels
