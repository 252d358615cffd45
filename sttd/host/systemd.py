"""The service manager's two protocols: state notifications, and listening sockets passed in.

Both are stable and small (sd_notify(3), sd_listen_fds(3)): a datagram of ``NAME=value`` lines to the socket in
``NOTIFY_SOCKET``, and file descriptors from 3 on, announced by ``LISTEN_PID``, ``LISTEN_FDS`` and
``LISTEN_FDNAMES``. Every variable is taken *out* of the environment, so that no child takes itself for the daemon.
"""

import contextlib
import os
import socket
import weakref
from collections.abc import MutableMapping

import attrs

from sttd.errors import ConfigError

_FIRST_INHERITED_FD = 3  # SD_LISTEN_FDS_START: 0, 1 and 2 are the standard streams
_SEND_TIMEOUT_S = 0.5  # the manager's queue is full only while it is stuck; the event loop does not wait for it


class Notifier:
    """Tells the service manager what the daemon is doing. Without a manager every method does nothing.

    No method raises: a daemon whose manager does not listen goes on serving.

    Attributes:
        watchdog_interval_s: seconds between two ``watchdog()`` calls, half of what the manager allows;
            None when the unit has no ``WatchdogSec=``.
    """

    def __init__(self, *, address: str | None = None, watchdog_interval_s: float | None = None) -> None:
        self.watchdog_interval_s = watchdog_interval_s if address else None
        # A leading @ stands for the NUL byte of the abstract namespace.
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        # Kept, so that the watchdog can be fed when no more descriptors can be opened.
        self._connected: socket.socket | None = None

    @classmethod
    def from_environment(cls, environ: MutableMapping[str, str]) -> "Notifier":
        """Read and remove ``NOTIFY_SOCKET``, ``WATCHDOG_USEC`` and ``WATCHDOG_PID``."""
        address = environ.pop("NOTIFY_SOCKET", None)
        watchdog_usec = environ.pop("WATCHDOG_USEC", "")
        watchdog_pid = environ.pop("WATCHDOG_PID", str(os.getpid()))
        watched = watchdog_usec.isdecimal() and int(watchdog_usec) > 0 and watchdog_pid == str(os.getpid())
        return cls(address=address, watchdog_interval_s=int(watchdog_usec) / 2e6 if watched else None)

    @property
    def enabled(self) -> bool:
        """True when there is a service manager to tell."""
        return self._address is not None

    def ready(self, status: str | None = None) -> None:
        """The daemon answers on its listeners; also the end of a reload."""
        self._send("READY=1", status=status)

    def status(self, text: str) -> None:
        """One line for a person who reads ``systemctl status``."""
        self._send(status=text)

    def reloading(self, monotonic_usec: int) -> None:
        """A reload begins; ``ready()`` ends it, whether it went well or not.

        ``monotonic_usec`` is CLOCK_MONOTONIC now: with Type=notify-reload (systemd 253 and later) the manager
        waits for ever without it.
        """
        self._send("RELOADING=1", f"MONOTONIC_USEC={monotonic_usec}")

    def stopping(self, status: str | None = None) -> None:
        """The daemon takes no new work and is about to exit."""
        self._send("STOPPING=1", status=status)

    def watchdog(self) -> None:
        """Alive: call it only when both the event loop and the engine made progress."""
        self._send("WATCHDOG=1")

    def extend_timeout(self, seconds: float) -> None:
        """Ask for ``seconds`` more, from now, for the start, reload or stop under way."""
        self._send(f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}")

    def _send(self, *lines: str, status: str | None = None) -> None:
        if self._address is None:
            return
        if status is not None:
            # A line break would begin another assignment.
            lines = (*lines, "STATUS=" + " ".join(status.split()))
        data = "\n".join(lines).encode()
        # A manager that went away, or does not read: there is nobody to tell, and serving matters more.
        with contextlib.suppress(TimeoutError):
            for _ in range(2):  # the second time over a new connection
                try:
                    self._connect(self._address).sendall(data)
                except TimeoutError:
                    raise
                except OSError:
                    self._disconnect()
                else:
                    return

    def _connect(self, address: str) -> socket.socket:
        if self._connected is None:
            connected = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._connected = connected
            weakref.finalize(self, connected.close)
            connected.settimeout(_SEND_TIMEOUT_S)
            connected.connect(address)
        return self._connected

    def _disconnect(self) -> None:
        if self._connected is not None:
            self._connected.close()
            self._connected = None


@attrs.frozen(kw_only=True)
class InheritedSocket:
    """A listening stream socket that the service manager opened, under its ``FileDescriptorName=``."""

    name: str
    socket: socket.socket

    @property
    def fd(self) -> int:
        """The file descriptor; closed with ``socket``."""
        return self.socket.fileno()


def listen_fds(environ: MutableMapping[str, str]) -> list[InheritedSocket]:
    """Take over the listening sockets meant for this process, in the manager's order.

    Reads and removes ``LISTEN_PID``, ``LISTEN_FDS`` and ``LISTEN_FDNAMES``. Variables meant for another process
    are removed too, and give no sockets. Several sockets may share a name.

    Raises:
        ConfigError: a descriptor is not a listening stream socket of the Unix, IPv4 or IPv6 family; every socket
            taken over so far is closed.
    """
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdecimal():
        return []
    inherited: list[InheritedSocket] = []
    try:
        for index in range(int(count)):
            name = names[index] if index < len(names) else ""
            inherited.append(InheritedSocket(name=name, socket=_adopt(_FIRST_INHERITED_FD + index, name=name)))
    except ConfigError:
        for taken in inherited:
            taken.socket.close()
        raise
    return inherited


def _adopt(fd: int, *, name: str) -> socket.socket:
    try:
        os.set_inheritable(fd, False)
        sock = socket.socket(fileno=fd)  # asks the kernel for family and type
    except OSError as error:
        raise ConfigError(f"inherited descriptor {fd} ({name!r}) is no socket: {error.strerror}") from error
    families = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)
    listening = sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family not in families or not listening:
        sock.close()
        raise ConfigError(f"inherited descriptor {fd} ({name!r}) does not listen: its socket unit needs ListenStream=")
    return sock
