"""The errors that a program of a client meets, in one place.

Every `SttdError` has a `code`, which programs compare (docs/reference/errors.md), and `retryable`; the classes group
the codes. The two that are not the daemon's own are `ConnectionError`s.
"""

from sttd.errors import (
    AccessError,
    ConfigError,
    DecodeError,
    InternalError,
    ModelError,
    NotFoundError,
    OverloadedError,
    ProtocolError,
    SessionError,
    SttdError,
)
from sttd_client.addresses import ConnectionLostError, NoDaemonError

__all__ = [
    "SttdError",
    "AccessError",
    "ConfigError",
    "DecodeError",
    "InternalError",
    "ModelError",
    "NotFoundError",
    "OverloadedError",
    "ProtocolError",
    "SessionError",
    "NoDaemonError",
    "ConnectionLostError",
]
