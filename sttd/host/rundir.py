"""The runtime directory: where it is, and that one daemon alone has it.

A daemon owns its directory for as long as it holds the lock on a file in it, which the kernel gives back when the
process ends, however it ends. One that others may write in is refused. A directory can be removed under a daemon, and
another daemon start in the new one: `Holding.renew` makes it again, unless somebody else was there first.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from sttd.errors import AccessError, ConfigError, OverloadedError

SYSTEM_DIR = Path("/run/sttd")
_LOCK = "sttd.lock"  # in the directory


def runtime_dir(configured: str, environ: Mapping[str, str]) -> Path:
    """The directory of the sockets. Raises ConfigError where there is no sensible one."""
    if configured:
        return Path(os.path.expanduser(configured)).absolute()
    if home := environ.get("XDG_RUNTIME_DIR"):
        return Path(home) / "sttd"
    if os.getuid() == 0:
        return SYSTEM_DIR
    fallback = Path(f"/run/user/{os.getuid()}")
    if fallback.is_dir():
        return fallback / "sttd"
    raise ConfigError("XDG_RUNTIME_DIR is not set, so there is no place for the sockets; use --runtime-dir DIR")


@attrs.define(eq=False)
class Holding:
    """A runtime directory that is this process's alone, for as long as it holds the lock on a file in it."""

    directory: Path
    _lock: int = attrs.field(init=False)
    _mode: int = attrs.field(init=False)
    _uid: int = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._lock = _lock_file(self.directory)
        found = self.directory.stat()
        self._mode, self._uid = stat.S_IMODE(found.st_mode), found.st_uid

    def renew(self) -> None:
        """Where the directory was removed, make it as it was and hold it again.

        Raises:
            OverloadedError: another daemon holds it by now.
            AccessError: it cannot be made or written, or belongs to somebody else by now.
        """
        try:
            with contextlib.suppress(FileExistsError):
                self.directory.mkdir(mode=0o700)
                self.directory.chmod(self._mode)
            if self.directory.stat().st_uid != self._uid:
                raise AccessError(f"{self.directory} belongs to another user by now")
        except OSError as exc:
            raise AccessError(f"{self.directory}: {exc.strerror}") from None
        with contextlib.suppress(OSError):
            if os.path.samestat(os.fstat(self._lock), (self.directory / _LOCK).stat()):
                return
        lock = _lock_file(self.directory)
        self.release()
        self._lock = lock

    def release(self) -> None:
        """Let others have it."""
        os.close(self._lock)


@contextlib.contextmanager
def owned(directory: Path) -> Iterator[Holding]:
    """Make the directory if need be and hold it for this process alone.

    Raises:
        OverloadedError: another daemon holds it.
        AccessError: it cannot be made or written.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise _no_place(directory, exc) from None
    holding = Holding(directory)
    try:
        yield holding
    finally:
        holding.release()


def _no_place(directory: Path, exc: OSError) -> AccessError:
    return AccessError(f"{directory}: {exc.strerror}; use --runtime-dir DIR for another place")


def _refusal(directory: Path) -> AccessError | None:
    """Whoever may write there can put sockets of his own in place of the daemon's, and hear what others say."""
    try:
        found = directory.stat()
    except OSError as exc:
        return _no_place(directory, exc)
    if found.st_uid not in (0, os.geteuid()):
        return AccessError(f"{directory} belongs to another user, who could listen in; use --runtime-dir DIR")
    if found.st_mode & stat.S_IWOTH:
        return AccessError(f"{directory} can be written by everybody, who could listen in; use --runtime-dir DIR")
    return None


def _lock_file(directory: Path) -> int:
    """The lock of a directory, taken, with this process's id in it.

    Whose directory it is matters less than that a daemon is there already, so that is told first.
    """
    refusal = _refusal(directory)
    # Not through a link: what it leads to would be overwritten. Nor for ever, where it is a pipe.
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        lock = os.open(directory / _LOCK, flags if refusal else flags | os.O_CREAT, 0o600)
    except OSError as exc:
        raise refusal or _no_place(directory, exc) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.read(lock, 32).decode(errors="replace").strip() or "?"
        os.close(lock)
        raise OverloadedError(
            f"another sttd (pid {holder}) serves {directory}; stop it, or use --runtime-dir DIR"
        ) from None
    if refusal:
        os.close(lock)
        raise refusal
    os.ftruncate(lock, 0)
    os.write(lock, str(os.getpid()).encode())
    return lock
