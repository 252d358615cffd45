"""Where the daemon listens: sockets that systemd passed, or its own.

One daemon owns a runtime directory (`rundir.py`). So a socket file that nobody answers there is stale and is replaced;
one that answers belongs to somebody else.

A directory can be removed under a daemon, and another daemon start in the new one. So a daemon removes the socket files
that it made and no others of the same name. And `watch` binds those again that clients no longer find: at the same
paths, with the same modes, in a directory that it holds again; where another daemon was there first, it says so and
stays as it is. What systemd passed is systemd's to mend.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import socket
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import trio

from sttd.config.tree import parse_tcp, parse_wyoming
from sttd.errors import AccessError, ConfigError, OverloadedError
from sttd.host import logs
from sttd.host.rundir import Holding
from sttd.host.systemd import InheritedSocket

log = logs.get("sockets")

BACKLOG = 128
_PATH_BYTES = 107  # sockaddr_un, less the zero at its end
_WATCH_S = 5.0  # chosen: between two looks at the files
OPEN_FILES = 8192  # all planes at their limits are some 3600 connections


def allow_open_files(count: int = OPEN_FILES) -> int:
    """Raise this process's limit of open files, as far as it may; returns what holds.

    Shells and systemd set it to 1024, for the sake of programs that call `select`. Connections alone could reach that,
    and then no model's file and no /proc could be opened for anybody.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(ValueError, OSError):  # a sandbox may forbid it: then the old limit holds, as before
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


_File = tuple[int, int, int]


def _file_at(path: Path) -> _File | None:
    """Which file that is: the number of an inode may come again, but not with the time at which it was made."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns


@attrs.define(eq=False)
class UnixListener(trio.abc.Listener[trio.SocketStream]):
    """A socket of this daemon's own, which can be bound to its path again while somebody accepts on it."""

    path: Path
    shared: bool  # with a group
    file: _File | None = attrs.field(init=False)  # that was made
    trouble: str = attrs.field(default="", init=False)  # why it could not be bound again, as it was said
    _listener: trio.SocketListener = attrs.field(init=False)
    _waiting: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._listener = _bind_unix(self.path, shared=self.shared)
        self.file = _file_at(self.path)

    @property
    def socket(self) -> trio.socket.SocketType:
        """What is listened on now."""
        return self._listener.socket

    @property
    def missing(self) -> bool:
        """Whether clients no longer find it at its path."""
        return not self._closed and _file_at(self.path) != self.file

    def bind_again(self) -> None:
        """Listen on a new socket at the same path, in place of the one that nobody finds. Raises AccessError."""
        lost, self._listener = self._listener, _bind_unix(self.path, shared=self.shared)
        self.file = _file_at(self.path)
        self._waiting.cancel()
        lost.socket.close()

    async def accept(self) -> trio.SocketStream:
        """As trio.abc.Listener; one task at a time."""
        while True:
            listener = self._listener
            with trio.CancelScope() as self._waiting:
                try:
                    return await listener.accept()
                except trio.ClosedResourceError:
                    if listener is self._listener:
                        raise

    async def aclose(self) -> None:
        """As trio.abc.Listener. The file stays."""
        self._closed = True
        await self._listener.aclose()


Listener = trio.SocketListener | UnixListener


@attrs.define(eq=False)
class Listeners:
    """What the planes accept on, and what to say about it in `status`."""

    control: list[Listener] = attrs.field(factory=list)
    audio: list[Listener] = attrs.field(factory=list)
    tcp: list[trio.SocketListener] = attrs.field(factory=list)
    wyoming: list[Listener] = attrs.field(factory=list)
    names: list[str] = attrs.field(factory=list)
    inherited: bool = False
    holding: Holding | None = None  # of the directory, while there is a daemon
    _of_systemd: dict[Path, _File | None] = attrs.field(factory=dict)  # those that are there, by path

    @property
    def _own(self) -> list[UnixListener]:
        unix = (*self.control, *self.audio, *self.wyoming)
        return [listener for listener in unix if isinstance(listener, UnixListener)]

    def remove_files(self) -> None:
        """Unlink the socket files that this daemon made; those of systemd and of other daemons stay."""
        for own in self._own:
            if own.file is not None and _file_at(own.path) == own.file:
                own.path.unlink(missing_ok=True)

    async def watch(self) -> None:
        """Look after the socket files for ever: one that is gone is bound again, unless somebody else is there now."""
        while True:
            await trio.sleep(_WATCH_S)
            for own in self._own:
                if own.missing:
                    self._bind_again(own)
            for path, file in list(self._of_systemd.items()):
                if _file_at(path) != file:
                    del self._of_systemd[path]  # said once
                    log.error(f"{path} is gone; it is systemd's, and comes back when its socket unit is restarted")

    def _bind_again(self, own: UnixListener) -> None:
        try:
            if self.holding is not None:
                self.holding.renew()
            _remove_stale(own.path)
            own.bind_again()
        except (AccessError, OverloadedError) as error:
            if own.trouble != error.message:
                own.trouble = error.message
                log.error(f"new clients do not find this daemon at {own.path}, and it cannot be mended: {error}")
        else:
            own.trouble = ""
            log.warning(f"{own.path} was gone and is bound again", path=str(own.path))

    def discard(self) -> None:
        """Close what was opened: the start failed."""
        for listener in (*self.control, *self.audio, *self.tcp, *self.wyoming):
            listener.socket.close()
        self.remove_files()


async def open_listeners(
    directory: Path,
    *,
    tcp: str,
    tcp_is_default: bool,
    wyoming: Sequence[str] = (),
    wyoming_is_default: bool = False,
    inherited: Sequence[InheritedSocket] = (),
    holding: Holding | None = None,
) -> Listeners:
    """Listen on everything that is wanted; a socket that systemd passed is taken instead of an own one.

    Args:
        holding: of the directory, which is held again with it where it was removed.

    Raises:
        OverloadedError: a socket or a configured port is in use.
        AccessError: not allowed to bind.
        ConfigError: a socket of systemd's has an unknown name, or the path of a socket is too long.
    """
    listeners = Listeners(holding=holding)
    try:
        _take_inherited(listeners, inherited)
        _open_unix(listeners, directory)
        if not listeners.tcp and (address := parse_tcp(tcp)) is not None:
            remedy = "choose another with --tcp HOST:PORT, or --tcp off"
            opened = await _open_tcp("audio-tcp", address, listeners, is_default=tcp_is_default, remedy=remedy)
            listeners.tcp += opened
        if not listeners.wyoming:
            await _open_wyoming(listeners, directory, wyoming, is_default=wyoming_is_default)
    except BaseException:
        listeners.discard()
        raise
    return listeners


def _take_inherited(listeners: Listeners, inherited: Sequence[InheritedSocket]) -> None:
    groups: dict[str, list[Any]] = {
        "control": listeners.control,
        "audio": listeners.audio,
        "audio-tcp": listeners.tcp,
        "wyoming": listeners.wyoming,
    }
    for passed in inherited:
        if passed.name not in groups:
            raise ConfigError(
                f"systemd passed a socket named {passed.name!r}; FileDescriptorName= must be one of {', '.join(groups)}"
            )
        groups[passed.name].append(trio.SocketListener(trio.socket.from_stdlib_socket(passed.socket)))
        if passed.socket.family == socket.AF_UNIX and (file := _file_at(path := Path(passed.socket.getsockname()))):
            listeners._of_systemd[path] = file
        listeners.names.append(f"{passed.name}: systemd")
        listeners.inherited = True


def _open_unix(listeners: Listeners, directory: Path) -> None:
    for name, group in (("control", listeners.control), ("audio", listeners.audio)):
        if not group:
            path = directory / f"{name}.sock"
            group.append(_listen_unix(path))
            listeners.names.append(f"{name}: {path}")


async def _open_wyoming(listeners: Listeners, directory: Path, addresses: Sequence[str], *, is_default: bool) -> None:
    for text in dict.fromkeys(addresses):
        address = parse_wyoming(text)
        if isinstance(address, str):
            path = _unix_path(directory, address)
            listeners.wyoming.append(_listen_unix(path))
            listeners.names.append(f"wyoming: {path}")
        else:
            remedy = "choose another with `server.wyoming`, or `[]` for none"
            opened = await _open_tcp("wyoming", address, listeners, is_default=is_default, remedy=remedy)
            listeners.wyoming += opened


def _unix_path(directory: Path, text: str) -> Path:
    return directory / os.path.expanduser(text)  # an absolute one is what it is


async def _open_tcp(
    name: str, address: tuple[str, int], listeners: Listeners, *, is_default: bool, remedy: str
) -> list[trio.SocketListener]:
    """Listen on a port, and note its name. A default one is a convenience that may be missing, a configured one is a
    promise. Raises OverloadedError, AccessError."""
    host, port = address
    shown = f"[{host}]" if ":" in host else host
    try:
        opened = await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
    except OSError as exc:
        in_use = _errno(exc) == errno.EADDRINUSE
        trouble = f"{shown}:{port} {'is in use by another program' if in_use else exc.strerror or exc}"
        if not is_default:
            raise (OverloadedError if in_use else AccessError)(f"{trouble}; {remedy}") from None
        log.warning(f"{trouble}; serving without it; {remedy}")
        return []
    listeners.names.append(f"{name}: {shown}:{opened[0].socket.getsockname()[1]}")
    return opened


def _errno(exc: OSError) -> int | None:
    # trio raises a plain OSError from an errno-bearing one where several addresses were tried
    cause = exc.__cause__
    return exc.errno if exc.errno is not None else cause.errno if isinstance(cause, OSError) else None


def _listen_unix(path: Path) -> UnixListener:
    try:
        # Others may connect where they may enter the directory as a group: that is how the system service is shared.
        shared = bool(path.parent.stat().st_mode & stat.S_IXGRP)
        _remove_stale(path)
    except OSError as exc:
        raise AccessError(f"{path}: {exc.strerror}") from None
    return UnixListener(path, shared=shared)


def _bind_unix(path: Path, *, shared: bool) -> trio.SocketListener:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    before = os.umask(0o117 if shared else 0o177)  # at bind, so that the file never has wider permissions
    try:
        sock.bind(str(path))
    except OSError as exc:
        sock.close()
        if exc.errno is None:  # Python's own
            raise ConfigError(
                f"{path}: {exc}; the path of a socket has {_PATH_BYTES} bytes at the most: use --runtime-dir DIR"
            ) from None
        raise AccessError(f"{path}: {exc.strerror}") from None
    finally:
        os.umask(before)
    sock.listen(BACKLOG)
    return trio.SocketListener(trio.socket.from_stdlib_socket(sock))


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise AccessError(f"{path} is in the way and is no socket; remove it, or use --runtime-dir DIR")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            log.info("replacing a stale socket", path=str(path))
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # a backlog that is full
        except OSError as exc:
            raise AccessError(f"{path}: {exc.strerror}") from None
    raise OverloadedError(
        f"somebody listens on {path} already, perhaps systemd for the sttd service: use that daemon (`sttctl status`), "
        "stop it (`systemctl --user stop sttd.socket sttd-audio.socket sttd.service`), or use --runtime-dir DIR"
    )
