"""Every error that sttd shows to somebody, and the one table that says what each code means on each plane.

    SttdError
    ├── ConfigError          config_invalid
    ├── ProtocolError        bad_request · unknown_method · unknown_op · bad_option · bad_audio · not_started ·
    │                        already_started · too_large · too_many_requests
    ├── AccessError          unauthorized · forbidden
    ├── NotFoundError        not_found
    ├── ModelError           model_not_found · model_not_local · model_load_failed · out_of_memory
    ├── DecodeError          decode_failed
    ├── OverloadedError      overloaded
    ├── SessionError         slow_consumer · idle_timeout · shutting_down
    └── InternalError        internal

A code is stable: programs compare it. The message is for a person and says what to do; it is never parsed.
An error that reaches a user prints no traceback; a bug does, and arrives there as `internal`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple


class CodeRow(NamedTuple):
    """What one code becomes on the planes and in the shell."""

    close_code: int  # of the WebSocket, when the error is fatal to the connection
    http_status: int
    exit_status: int  # of sttctl and sttd: 1 failed, 2 usage, 3 no daemon, 4 denied, 5 not found, 6 busy
    retryable: bool
    summary: str


CODES: Mapping[str, CodeRow] = {
    "bad_request": CodeRow(1003, 400, 1, False, "The message is not what the protocol allows."),
    "unknown_method": CodeRow(1003, 404, 2, False, "The control plane has no such method."),
    "unknown_op": CodeRow(1003, 400, 2, False, "The audio plane has no such op."),
    "bad_option": CodeRow(1003, 400, 2, False, "An option is unknown, of the wrong type or out of range."),
    "bad_audio": CodeRow(1003, 415, 1, False, "The audio cannot be decoded as what was declared."),
    "not_started": CodeRow(1003, 400, 2, False, "Audio or an op came before `start`."),
    "already_started": CodeRow(1003, 400, 2, False, "A second `start` on one connection."),
    "too_large": CodeRow(1009, 413, 1, False, "A message exceeds the size limit."),
    "too_many_requests": CodeRow(1008, 429, 6, True, "More requests in flight than one connection may have."),
    "unauthorized": CodeRow(1008, 401, 4, False, "The token is missing or wrong."),
    "forbidden": CodeRow(1008, 403, 4, False, "This peer may not do that."),
    "not_found": CodeRow(1008, 404, 5, False, "There is no such thing, or it belongs to somebody else."),
    "model_not_found": CodeRow(1008, 404, 5, False, "No preset has that name."),
    "model_not_local": CodeRow(1008, 503, 5, True, "The model is not on disk yet."),
    "model_load_failed": CodeRow(1011, 503, 1, True, "The model is there and cannot be loaded."),
    "out_of_memory": CodeRow(1013, 503, 6, True, "There is not enough memory for the model or the batch."),
    "decode_failed": CodeRow(1011, 500, 1, True, "The engine failed on this audio."),
    "overloaded": CodeRow(1013, 503, 6, True, "The daemon has more work than it can do in time."),
    "slow_consumer": CodeRow(1008, 408, 1, True, "The client does not read what it is sent."),
    "idle_timeout": CodeRow(1008, 408, 1, True, "Nothing came from the client for too long."),
    "shutting_down": CodeRow(1001, 503, 6, True, "The daemon is stopping."),
    "config_invalid": CodeRow(1011, 500, 2, False, "The configuration does not hold."),
    "internal": CodeRow(1011, 500, 1, False, "A bug in sttd; the journal has the traceback."),
}

EXIT_OK, EXIT_FAILED, EXIT_USAGE, EXIT_NO_DAEMON, EXIT_DENIED, EXIT_NOT_FOUND, EXIT_BUSY = range(7)


class SttdError(Exception):
    """An error with a stable code.

    Args:
        message: for a person; says what is wrong and what to do about it.
        code: one of `CODES`; a subclass has a default.
        data: plain values that go to the client beside the message, such as `retry_after_s`.
        retryable: overrides the table's answer for this one error.
        close_code: the same for the WebSocket, where its own standard has a code for what happened.
    """

    default_code: ClassVar[str] = "internal"

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        data: Mapping[str, Any] | None = None,
        retryable: bool | None = None,
        close_code: int | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code if code is not None else self.default_code
        self.message = message
        self.data: dict[str, Any] = dict(data) if data else {}
        self.retryable = CODES[self.code].retryable if retryable is None else retryable
        self.close_code = CODES[self.code].close_code if close_code is None else close_code

    @property
    def row(self) -> CodeRow:
        """Close code, HTTP status and exit status of this error."""
        return CODES[self.code]

    def as_map(self) -> dict[str, Any]:
        """The error as the control plane and HTTP carry it."""
        return {"code": self.code, "message": self.message, "retryable": self.retryable, "data": self.data}


class ConfigError(SttdError):
    """The configuration is wrong; nothing of it was applied."""

    default_code = "config_invalid"


class ProtocolError(SttdError):
    """The peer sent something that the protocol does not allow."""

    default_code = "bad_request"


class AccessError(SttdError):
    """The peer is not allowed to do this."""

    default_code = "forbidden"


class NotFoundError(SttdError):
    """What was named does not exist, as far as this peer may know."""

    default_code = "not_found"


class ModelError(SttdError):
    """A model is unknown, absent, or does not load."""

    default_code = "model_load_failed"


class DecodeError(SttdError):
    """The engine failed on one piece of audio; other pieces are not affected."""

    default_code = "decode_failed"


class OverloadedError(SttdError):
    """Taking this on would make others wait too long. `data["retry_after_s"]` says when to come again."""

    default_code = "overloaded"


class SessionError(SttdError):
    """The session ends because of its client's behaviour, or because the daemon stops."""

    default_code = "idle_timeout"


class InternalError(SttdError):
    """A bug; the message carries no detail because the detail may contain what the client said."""

    default_code = "internal"


def first_of(error: BaseException) -> SttdError:
    """The error itself, or the first one of a group of such errors."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SttdError)
    return error


def from_map(error: Mapping[str, Any]) -> SttdError:
    """The error that a client received, as an exception of the same class as in the daemon."""
    code = str(error.get("code", "internal"))
    kind = _CLASS_OF_CODE.get(code, InternalError)
    return kind(
        str(error.get("message", code)),
        code=code if code in CODES else "internal",
        data=error.get("data") or {},
        retryable=bool(error.get("retryable", False)),
    )


_CLASS_OF_CODE: Mapping[str, type[SttdError]] = {
    "config_invalid": ConfigError,
    **dict.fromkeys(("unauthorized", "forbidden"), AccessError),
    "not_found": NotFoundError,
    **dict.fromkeys(("model_not_found", "model_not_local", "model_load_failed", "out_of_memory"), ModelError),
    "decode_failed": DecodeError,
    "overloaded": OverloadedError,
    **dict.fromkeys(("slow_consumer", "idle_timeout", "shutting_down"), SessionError),
    "internal": InternalError,
    **dict.fromkeys(
        (
            "bad_request",
            "unknown_method",
            "unknown_op",
            "bad_option",
            "bad_audio",
            "not_started",
            "already_started",
            "too_large",
            "too_many_requests",
        ),
        ProtocolError,
    ),
}
