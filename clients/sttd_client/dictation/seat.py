"""What this session of the desktop offers: its display, its programs, its buses. Looks only, and bounded in time.

Functions here block (for `LOOK_S` at most), so the agent looks before its loop runs.
"""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Mapping
from pathlib import Path

import attrs
from jeepney import DBusAddress, Message, MessageType, Properties, message_bus
from jeepney.auth import AuthenticationError
from jeepney.io.blocking import open_dbus_connection

from sttd_client.dictation.wayland import HELLO, MANAGER, Events

ACCESSIBILITY = "org.a11y.Bus"  # who knows the accessibility bus, on the session's
PORTAL, PORTAL_PATH = "org.freedesktop.portal.Desktop", "/org/freedesktop/portal/desktop"
REMOTE_DESKTOP, KEYBOARD = "org.freedesktop.portal.RemoteDesktop", 1  # one of the portals, and of its devices
LOOK_S = 1.0  # a display that does not answer in this time will not take typed text either


@attrs.frozen(kw_only=True)
class Seat:
    """Where the text is to go."""

    environ: Mapping[str, str] = attrs.field(repr=False)
    wayland: frozenset[str] | None  # the interfaces of the compositor; None: there is none
    x11: bool  # an X server answers
    portal: bool = False  # the desktop lets a program be a keyboard where its user allows it; looked for under Wayland

    def program(self, name: str) -> str | None:
        """Where a program is, by this session's PATH."""
        return shutil.which(name, path=self.environ.get("PATH"))

    @property
    def desktop(self) -> str:
        """What the session calls itself, for people."""
        kind = "Wayland" if self.wayland is not None else "X11" if self.x11 else "a session without a display"
        name = self.environ.get("XDG_CURRENT_DESKTOP") or self.environ.get("DESKTOP_SESSION") or ""
        return f"{name} ({kind})" if name else kind

    @property
    def session_bus(self) -> bool:
        """Whether there is a bus of the session, for notifications and for signals of a locked screen."""
        runtime = self.environ.get("XDG_RUNTIME_DIR")
        return "DBUS_SESSION_BUS_ADDRESS" in self.environ or bool(runtime and os.path.exists(f"{runtime}/bus"))


def look(environ: Mapping[str, str]) -> Seat:
    """Look at the session that `environ` is of."""
    wayland = _wayland_interfaces(environ)
    portal = wayland is not None and MANAGER not in wayland and _portal_has_keyboard()
    return Seat(environ=environ, wayland=wayland, x11=_x_answers(environ), portal=portal)


def tells_focus() -> bool:
    """Whether programs tell where the cursor is: the accessibility bus of this process' session runs."""
    return bool(_answer(message_bus.NameHasOwner(ACCESSIBILITY)))


def _portal_has_keyboard() -> bool:
    portal = DBusAddress(PORTAL_PATH, bus_name=PORTAL, interface=REMOTE_DESKTOP)
    devices = _answer(Properties(portal).get("AvailableDeviceTypes"))
    return isinstance(devices, tuple) and isinstance(devices[1], int) and bool(devices[1] & KEYBOARD)


def _answer(question: Message) -> object:
    """What somebody on the bus of this process' session answers; None: nothing, or an error."""
    try:
        with open_dbus_connection("SESSION", auth_timeout=LOOK_S) as bus:
            reply = bus.send_and_get_reply(question, timeout=LOOK_S)
    except (OSError, KeyError, ValueError, AuthenticationError):  # no bus, or none that can be read
        return None
    return reply.body[0] if reply.header.message_type is MessageType.method_return and reply.body else None


def _wayland_interfaces(environ: Mapping[str, str]) -> frozenset[str] | None:
    """The names of a compositor's globals, asked of itself: no desktop's name says what it can do."""
    name, runtime = environ.get("WAYLAND_DISPLAY"), environ.get("XDG_RUNTIME_DIR", "")
    if not name:
        return None
    events = Events()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as display:
            display.settimeout(LOOK_S)
            display.connect(str(Path(runtime, name)))
            display.sendall(HELLO)
            while not events.greeted and (data := display.recv(4096)):
                events.feed(data)
    except OSError:
        return None
    return frozenset(events.globals_)


def _x_answers(environ: Mapping[str, str]) -> bool:
    """Whether something listens on the X display; a server on another machine counts as one."""
    host, colon, number = environ.get("DISPLAY", "").rpartition(":")
    screen = number.partition(".")[0]
    if not colon or not screen.isdigit():
        return False
    if host not in ("", "unix"):
        return True
    for address in (f"\0/tmp/.X11-unix/X{screen}", f"/tmp/.X11-unix/X{screen}"):
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as display:
                display.settimeout(LOOK_S)
                display.connect(address)
                return True
        except OSError:
            continue
    return False
