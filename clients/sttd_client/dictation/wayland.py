"""Typing into a Wayland compositor that lets programs be keyboards: the protocol virtual-keyboard-unstable-v1.

Decides and encodes only; `wayland_hand` has the connection. A virtual keyboard brings its own keymap, so every
character has a key, whatever the user's layout is. A program hears of a new keymap in the same order as of the keys, so
none is ever looked up in the wrong one. Press and release go out in one write: a key that is down for long would
repeat.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Mapping

import attrs

MANAGER = "zwp_virtual_keyboard_manager_v1"
SEAT = "wl_seat"
_DISPLAY, _REGISTRY, _SYNC, _SEAT, _MANAGER, _KEYBOARD = 1, 2, 3, 4, 5, 6  # the numbers of our objects
_FIRST_SYNC = 7
_MAX_BYTES = 1 << 16  # that a compositor may send without an end of a message
_KEYS = 200  # of a keymap: codes end at 255
_EVDEV = 8  # between a code of XKB and one of the kernel
CONTROL, SHIFT = 4, 1  # masks
_NAMED = {"\n": "Return", "\b": "BackSpace", "\x7f": "Insert"}  # keys that are no characters, by what stands for them
_PRESSED = {"v": "v", "insert": "\x7f"}
_MASKS = {"ctrl": CONTROL, "shift": SHIFT}


class WaylandError(OSError):
    """The compositor refuses, or is none."""


def _message(sender: int, code: int, body: bytes) -> bytes:
    return struct.pack("=IHH", sender, code, 8 + len(body)) + body


def _string(text: str) -> bytes:
    data = text.encode() + b"\0"
    return struct.pack("=I", len(data)) + data + bytes(-len(data) % 4)


HELLO = _message(_DISPLAY, 1, struct.pack("=I", _REGISTRY)) + _message(_DISPLAY, 0, struct.pack("=I", _SYNC))


def sync(number: int) -> bytes:
    """Ask for an answer when all before it is done; `number` rises from 0."""
    return _message(_DISPLAY, 0, struct.pack("=I", _FIRST_SYNC + number))


def bind(globals_: Mapping[str, int]) -> bytes:
    """Make a virtual keyboard. Raises WaylandError where the compositor has none."""
    parts = []
    for name, number in ((SEAT, _SEAT), (MANAGER, _MANAGER)):
        if name not in globals_:
            raise WaylandError(f"it has no {name}")
        body = struct.pack("=I", globals_[name]) + _string(name) + struct.pack("=II", 1, number)
        parts.append(_message(_REGISTRY, 0, body))
    return b"".join([*parts, _message(_MANAGER, 0, struct.pack("=II", _SEAT, _KEYBOARD))])


def keymap_op(size: int) -> bytes:
    """Give the keyboard its keymap, whose file goes along with this message."""
    return _message(_KEYBOARD, 0, struct.pack("=II", 1, size))


def tap(code: int, *, at_ms: int) -> bytes:
    """Press and release a key."""
    return b"".join(_message(_KEYBOARD, 1, struct.pack("=III", at_ms, code, down)) for down in (1, 0))


def modifiers(mask: int) -> bytes:
    """Hold these modifiers from now on."""
    return _message(_KEYBOARD, 2, struct.pack("=IIII", mask, 0, 0, 0))


def combination(keys: str) -> tuple[int, str]:
    """Keys such as "ctrl+v": the mask of the modifiers, and what stands for the key."""
    *held, key = keys.split("+")
    return sum(_MASKS[name] for name in held), _PRESSED[key]


@attrs.define(eq=False)
class Keymap:
    """Which key has which character."""

    _codes: dict[str, int] = attrs.field(factory=dict, init=False)

    def learn(self, chars: Iterable[str]) -> bool:
        """Have keys for these characters, 200 different ones at most; whether the keymap is another one now."""
        new = [char for char in dict.fromkeys(chars) if char not in self._codes]
        if len(self._codes) + len(new) > _KEYS:
            self._codes, new = {}, list(dict.fromkeys(chars))
        self._codes |= {char: code for code, char in enumerate(new, len(self._codes) + 1)}
        return bool(new)

    def code(self, char: str) -> int:
        """The key of a character that was learnt, as the kernel counts."""
        return self._codes[char]

    @property
    def text(self) -> str:
        """The keymap as XKB reads it."""
        keys = "".join(f"<K{code}> = {code + _EVDEV};\n" for code in self._codes.values())
        symbols = "".join(f"key <K{code}> {{[{_symbol(char)}]}};\n" for char, code in self._codes.items())
        return (
            "xkb_keymap {\n"
            f'xkb_keycodes "sttd" {{\nminimum = {_EVDEV};\nmaximum = {_EVDEV + _KEYS + 1};\n{keys}}};\n'
            'xkb_types "sttd" { include "complete" };\n'
            'xkb_compatibility "sttd" { include "complete" };\n'
            f'xkb_symbols "sttd" {{\n{symbols}}};\n'
            "};\n"
        )


def _symbol(char: str) -> str:
    return _NAMED.get(char) or f"U{ord(char):04X}"


def parts(text: str) -> Iterator[str]:
    """A text in parts, each of few enough different characters for one keymap."""
    begin, seen = 0, set[str]()
    for at, char in enumerate(text):
        if char not in seen and len(seen) == _KEYS:
            yield text[begin:at]
            begin, seen = at, set()
        seen.add(char)
    yield text[begin:]


@attrs.define(eq=False)
class Events:
    """What a compositor sends. Keeps the globals; counts the syncs that were answered."""

    globals_: dict[str, int] = attrs.field(factory=dict, init=False)
    synced: int = attrs.field(default=-1, init=False)  # the largest number that was answered; -1: HELLO is not
    greeted: bool = attrs.field(default=False, init=False)
    _data: bytes = attrs.field(default=b"", init=False)

    def feed(self, data: bytes) -> None:
        """Take what came. Raises WaylandError for a refusal, or for what is no Wayland."""
        self._data += data
        while len(self._data) >= 8:
            sender, code, size = struct.unpack_from("=IHH", self._data)
            if size < 8:
                raise WaylandError("this is no Wayland")
            if len(self._data) < size:
                break
            self._take(sender, code, self._data[8:size])
            self._data = self._data[size:]
        if len(self._data) > _MAX_BYTES:
            raise WaylandError("it sends too much")

    def _take(self, sender: int, code: int, body: bytes) -> None:
        if sender == _DISPLAY and code == 0:
            raise WaylandError(f"the compositor refuses: {body[12:].split(bytes(1))[0].decode(errors='replace')}")
        if sender == _REGISTRY and code == 0 and len(body) >= 8:
            number, length = struct.unpack_from("=II", body)
            self.globals_.setdefault(body[8 : 8 + length].split(b"\0")[0].decode(errors="replace"), number)
        elif sender == _SYNC:
            self.greeted = True
        elif sender >= _FIRST_SYNC:
            self.synced = sender - _FIRST_SYNC
