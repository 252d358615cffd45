"""What an error becomes at the shell: words on standard error, and an exit status (docs/reference/errors.md)."""

from __future__ import annotations

from sttd.errors import EXIT_BUSY, EXIT_FAILED, EXIT_NO_DAEMON, SttdError
from sttd_client.addresses import NoDaemonError


def words_of(error: Exception) -> str:
    """The error as a person reads it. The code is what to search for."""
    if isinstance(error, SttdError):
        return f"{error.message} ({error.code})"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


def exit_status_of(error: Exception) -> int:
    """The exit status that an error has."""
    if isinstance(error, SttdError):
        return error.row.exit_status
    if isinstance(error, NoDaemonError):
        return EXIT_NO_DAEMON
    return EXIT_BUSY if isinstance(error, TimeoutError) else EXIT_FAILED
