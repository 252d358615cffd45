"""The programs that can type for another program: what each needs, and what it is to be told.

Decides only; `hand` runs what is decided here. Text goes in by standard input, so that no list of processes shows it.
What works without the right to be a keyboard comes first, pasting comes last. `wayland`, `x11` and `portal` are no
programs but hands of their own: what wtype and xdotool do from outside loses or doubles letters on a busy machine.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence

import attrs

from sttd_client.dictation.names import NAMES
from sttd_client.dictation.seat import Seat
from sttd_client.dictation.wayland import MANAGER

_BATCH = 100  # Backspaces in one command; a command line is bounded
_PACE_MS = 12  # between the keys of xdotool: with less, programs under load lose letters (its own default)


class HandError(OSError):
    """Nothing can be typed. The message says why, for a person; nothing of the text is in it."""


@attrs.frozen
class Step:
    """One run of a program."""

    command: tuple[str, ...]
    stdin: bytes = b""


@attrs.frozen(kw_only=True)
class Backend:
    """A way to type. `lacks` says what is missing in a session, "" where nothing is."""

    name: str
    lacks: Callable[[Seat], str]
    write: Callable[[str], Sequence[Step]]
    press: Callable[[str, int], Sequence[Step]]  # a key or "ctrl+v", so many times
    advice: str = ""  # how to get it
    carries: Callable[[str], bool] = lambda text: True  # whether it can type this text

    def erase(self, count: int) -> list[Step]:
        """Backspace so many times."""
        return [step for at in range(0, count, _BATCH) for step in self.press("BackSpace", min(_BATCH, count - at))]


@attrs.frozen(kw_only=True)
class Clipboard:
    """A program for the clipboard: how to read it and how to fill it."""

    name: str
    lacks: Callable[[Seat], str]
    read: tuple[str, ...]
    fill: tuple[str, ...]


# ---------------------------------------------------------------- wtype


def _wtype_lacks(seat: Seat) -> str:
    return _wayland_lacks(seat) or ("" if seat.program("wtype") else "wtype is not installed")


def _wtype_press(keys: str, count: int) -> list[Step]:
    *modifiers, key = keys.split("+")
    held = [word for modifier in modifiers for word in ("-M", modifier)]
    released = [word for modifier in reversed(modifiers) for word in ("-m", modifier)]
    return [Step(("wtype", *held, *(["-k", key] * count), *released))]


# ---------------------------------------------------------------- xdotool


def _xdotool_lacks(seat: Seat) -> str:
    return _x11_lacks(seat) or ("" if seat.program("xdotool") else "xdotool is not installed")


def _xdotool_press(keys: str, count: int) -> list[Step]:
    return [Step(("xdotool", "key", "--clearmodifiers", f"--delay={_PACE_MS}", *([keys] * count)))]


# ---------------------------------------------------------------- a keyboard of the kernel: dotool, ydotool


def _dotool_lacks(seat: Seat) -> str:
    if not seat.program("dotool"):
        return "dotool is not installed"
    return "" if os.access("/dev/uinput", os.W_OK) else "/dev/uinput is not yours to write"


def _dotool_write(text: str) -> list[Step]:
    lines = [f"type {line}" if line else "" for line in text.split("\n")]
    return [Step(("dotool",), "\nkey enter\n".join(lines).encode() + b"\n")]


def _dotool_press(keys: str, count: int) -> list[Step]:
    return [Step(("dotool",), f"key {keys.lower()}\n".encode() * count)]


def _ydotool_lacks(seat: Seat) -> str:
    if not seat.program("ydotool"):
        return "ydotool is not installed"
    if any(os.access(path, os.W_OK) for path in _ydotool_sockets(seat.environ)):
        return ""
    return "ydotoold does not run, or its socket is not yours"


def _ydotool_sockets(environ: Mapping[str, str]) -> list[str]:
    runtime = environ.get("XDG_RUNTIME_DIR")
    named = environ.get("YDOTOOL_SOCKET")
    return [*([named] if named else []), *([f"{runtime}/.ydotool_socket"] if runtime else []), "/tmp/.ydotool_socket"]


_KEY_CODES = {"ctrl": 29, "shift": 42, "alt": 56, "v": 47, "insert": 110, "backspace": 14}  # linux/input-event-codes.h


def _ydotool_press(keys: str, count: int) -> list[Step]:
    codes = [_KEY_CODES[key] for key in keys.lower().split("+")]
    strokes = [f"{code}:1" for code in codes] + [f"{code}:0" for code in reversed(codes)]
    return [Step(("ydotool", "key", *(strokes * count)))]


# ---------------------------------------------------------------- all

BACKENDS: Mapping[str, Backend] = {
    backend.name: backend
    for backend in (
        Backend(
            name="wtype",
            lacks=_wtype_lacks,
            write=lambda text: [Step(("wtype", "-"), text.encode())],
            press=_wtype_press,
        ),
        Backend(
            name="xdotool",
            lacks=_xdotool_lacks,
            write=lambda text: [
                Step(("xdotool", "type", "--clearmodifiers", f"--delay={_PACE_MS}", "--file", "-"), text.encode())
            ],
            press=_xdotool_press,
        ),
        Backend(
            name="dotool",
            lacks=_dotool_lacks,
            write=_dotool_write,
            press=_dotool_press,
            carries=str.isascii,
            advice="for any desktop: install dotool, join the group `input`, set DOTOOL_XKB_LAYOUT",
        ),
        Backend(
            name="ydotool",
            lacks=_ydotool_lacks,
            write=lambda text: [Step(("ydotool", "type", "--file", "-"), text.encode())],
            press=_ydotool_press,
            carries=str.isascii,
            advice="for any desktop with a US keyboard: install ydotool 1.x and start ydotoold",
        ),
    )
}


def _copier_lacks(program: str, *, wayland: bool) -> Callable[[Seat], str]:
    def lacks(seat: Seat) -> str:
        if wayland and seat.wayland is None:
            return "there is no Wayland compositor"
        if not wayland and not seat.x11:
            return "there is no X server"
        return "" if seat.program(program) else f"{program} is not installed"

    return lacks


CLIPBOARDS: tuple[Clipboard, ...] = (
    Clipboard(
        name="wl-copy",
        lacks=_copier_lacks("wl-copy", wayland=True),
        read=("wl-paste", "--no-newline", "--type", "text"),
        fill=("wl-copy",),
    ),
    Clipboard(
        name="xclip",
        lacks=_copier_lacks("xclip", wayland=False),
        read=("xclip", "-selection", "clipboard", "-o"),
        fill=("xclip", "-selection", "clipboard", "-i"),
    ),
    Clipboard(
        name="xsel",
        lacks=_copier_lacks("xsel", wayland=False),
        read=("xsel", "--clipboard", "--output"),
        fill=("xsel", "--clipboard", "--input"),
    ),
)


def clipboard_of(seat: Seat) -> Clipboard | None:
    """The clipboard program that works here."""
    return next((clipboard for clipboard in CLIPBOARDS if not clipboard.lacks(seat)), None)


def lacks_of(seat: Seat) -> dict[str, str]:
    """What each way to type lacks in a session, best first; "" where it works."""
    lacks = {"wayland": _wayland_lacks(seat), "x11": _x11_lacks(seat), "portal": _portal_lacks(seat)}
    lacks |= {name: BACKENDS[name].lacks(seat) for name in NAMES if name in BACKENDS}
    if clipboard_of(seat) is None:
        return lacks | {"clipboard": "no program for the clipboard: wl-clipboard, xclip or xsel"}
    return lacks | {"clipboard": "" if "" in lacks.values() else "nothing that could press Ctrl+V"}


def _wayland_lacks(seat: Seat) -> str:
    if seat.wayland is None:
        return "there is no Wayland compositor"
    return "" if MANAGER in seat.wayland else "the compositor lets no program be a keyboard (GNOME and KDE do not)"


def _x11_lacks(seat: Seat) -> str:
    if seat.wayland is not None:
        return "under Wayland it reaches old X programs only"
    return "" if seat.x11 else "there is no X server"


def _portal_lacks(seat: Seat) -> str:
    if seat.wayland is None:
        return "it is for Wayland"
    if MANAGER in seat.wayland:
        return "the compositor lets programs type without it"
    return "" if seat.portal else "the desktop has no RemoteDesktop portal with a keyboard"
