"""Where a daemon listens, and how to reach it: docs/reference/control.md and audio.md seen from the client's side."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit

import attrs

from sttd.errors import AccessError, ProtocolError

if TYPE_CHECKING:
    import ssl  # imported where it is used: most commands need none

SYSTEM_DIRECTORY = Path("/run/sttd")
DEFAULT_PORT = 7788
_SCHEMES = {"ws": 80, "http": 80, "wss": 443, "https": 443}  # and the ports that they mean
_UNKNOWN_ISSUER = (18, 19, 20, 21)  # of OpenSSL's X509_V_ERR: itself, itself in a chain, not found, not verifiable
_SILENT_S = 30  # chosen: a daemon leaves no connection unread for longer than 5 s, and its kernel answers in any case
# Small pieces of live audio must not wait. A network that is gone (a cable, another Wi-Fi) is a lost connection; by
# itself Linux finds that out after a quarter of an hour.
TCP_OPTIONS = (
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _SILENT_S * 1000),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _SILENT_S // 3),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _SILENT_S // 3),
)

Connection = TypeVar("Connection")


class NoDaemonError(ConnectionError):
    """Nothing answers where a daemon was looked for. The message says how to start one."""


class ConnectionLostError(ConnectionError):
    """The connection ended before what was asked for was done. Trying again may help."""


@attrs.frozen(kw_only=True)
class TcpAddress:
    """The audio plane over TCP; `token` is needed where the daemon listens beyond loopback.

    With `tls` the daemon, or the proxy before it, must show a certificate for `host`: of an authority that this machine
    trusts, or of those in the file `ca`.
    """

    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    token: str | None = attrs.field(default=None, repr=False)
    tls: bool = False
    ca: str | None = None

    @classmethod
    def of_url(cls, url: str, *, token: str | None = None, ca: str | None = None) -> TcpAddress:
        """The address in `wss://HOST:PORT`, or ws, https, http; without a port that of the scheme.

        Raises:
            ProtocolError: `bad_option`; it is no such URL, or says more than where the daemon is.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port
        except ValueError:
            host, port = None, None
        if host is None or parts.scheme not in _SCHEMES or parts.path not in ("", "/", "/ws"):
            raise ProtocolError("the URL of a daemon is wss://HOST:PORT or ws://HOST:PORT", code="bad_option")
        if parts.username is not None or parts.query or parts.fragment:
            raise ProtocolError("a URL names the place alone; a token is given beside it", code="bad_option")
        tls = parts.scheme in ("wss", "https")
        return cls(host=host, port=port or _SCHEMES[parts.scheme], token=token, tls=tls, ca=ca)

    @property
    def authority(self) -> str:
        """Host and port as a URL and the `Host` header write them."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def context(self) -> ssl.SSLContext:
        """What a TLS connection there begins with; it verifies. Raises OSError, naming `ca`, where that is wrong."""
        import ssl

        try:
            context = ssl.create_default_context(cafile=self.ca)
        except ssl.SSLError as error:
            raise OSError(f"{self.ca} holds no certificates (PEM)") from error
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.ca) from error
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        return context

    def refused(self, error: Exception) -> NoDaemonError:
        """The error of a connection that could not be made."""
        import ssl

        if isinstance(error, ssl.SSLCertVerificationError):
            told = f"{self.authority} shows a certificate that does not hold: {error.verify_message}"
            if error.verify_code in _UNKNOWN_ISSUER:
                wanted = f"{self.ca} has to hold" if self.ca else "name the file (`ca`, of sttctl `--ca`) that holds"
                told += f"\n{wanted} its authority's certificates, or that certificate itself"
            return NoDaemonError(told)
        why = error.reason or error if isinstance(error, ssl.SSLError) else error
        return NoDaemonError(f"no sttd daemon answers on {self.authority}: {why}")


def control_sockets(explicit: str | os.PathLike[str] | None = None) -> list[Path]:
    """The control sockets to try, best first.

    `--socket` and `STTD_SOCKET` name one and stop the search: a user who names a daemon does not want another one.
    """
    named = os.fspath(explicit) if explicit else os.environ.get("STTD_SOCKET")
    if named:
        path = Path(named)
        return [path / "control.sock" if os.path.isdir(path) else path]  # which, unlike Path.is_dir, never raises
    # Without the variable (su, cron) the daemon, too, falls back to where logind puts it.
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [Path(runtime, "sttd", "control.sock"), SYSTEM_DIRECTORY / "control.sock"]


def audio_sockets(explicit: str | os.PathLike[str] | None = None) -> list[Path]:
    """The audio sockets to try: each lies beside its control socket."""
    return [path.with_name("audio.sock") for path in control_sockets(explicit)]


def connect_unix(path: Path) -> socket.socket:
    """A blocking connection to one Unix socket; raises OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.connect(os.fspath(path))
    except BaseException:
        connection.close()
        raise
    return connection


def connect_first(paths: Sequence[Path], connect: Callable[[Path], Connection]) -> Connection:
    """Connect to the first of `paths` that a daemon answers on.

    Raises:
        AccessError: no daemon answers, and at least one socket exists that this user may not open.
        NoDaemonError: nobody listens on any of them.
    """
    denied: Path | None = None
    for path in paths:
        try:
            return connect(path)
        except PermissionError:
            denied = denied or path
        except OSError:  # absent, or left behind by a daemon that died: the next one may be alive
            continue
    raise nobody_answers(paths, denied=denied)


def nobody_answers(paths: Sequence[Path], *, denied: Path | None) -> NoDaemonError | AccessError:
    """The error after all `paths` were tried: says where, and how to get a daemon, or access to the one at `denied`."""
    if denied is None:
        places = " or ".join(str(path) for path in paths)
        return NoDaemonError(
            f"no sttd daemon answers on {places}\n"
            "start one: `systemctl --user start sttd` where it is installed as a service, or `sttd serve` in a terminal"
        )
    advice = (
        "join the group that owns it: `sudo usermod -aG sttd $USER`, then log in again"
        if denied.parent == SYSTEM_DIRECTORY
        else "it belongs to another user; start a daemon of your own with `sttd serve`"
    )
    return AccessError(f"permission denied on {denied}; {advice}")


def lost_error() -> ConnectionLostError:
    """The error of a daemon that went away in the middle."""
    return ConnectionLostError("the daemon closed the connection; the journal may say why: `journalctl --user -u sttd`")
