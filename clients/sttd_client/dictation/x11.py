"""Typing into an X server, as its XTEST extension allows: which keys make a text, and the requests that press them.

Decides and encodes only; `x11_hand` has the connection. The programs that do this from outside lose or double letters
on a busy machine, and a machine that transcribes is busy: they give one spare key one letter after the other, and a
program that is late finds the wrong letter on it; and between a press and its release the server may start to repeat.
So here:

1. A press and its release are one write, and the server does both before anything else of this client.
2. A character of the keyboard's layout is typed with its own key, with Shift where it needs that. AltGr and dead keys
   are never pressed.
3. Any other character gets a key that nothing uses, once, and keeps it. When all are taken the one that was not used
   for longest is given away, after `LATE_S` at the earliest: until then a late program may still look it up.
4. Two levels of such a key have the same character, so that neither Shift nor Caps Lock nor another layout changes it.
5. Modifiers that are held, such as those of the key that began the dictation, are released first, and not pressed
   again: by then the user may have let go.

Keys that were given a character keep it when the agent ends; the next agent knows them by rule 4, and may give them
away. Codes are those of
the X Window System Protocol, release 7.7, and of the XTEST extension, version 2.2.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence

import attrs

LATE_S = 2.0  # chosen: a program that is later than this has more to lose than a letter
_SETUP_BYTES = 40
_REPLY_BYTES = 32
_MAX_REPLY_BYTES = 1 << 18  # a keyboard map is 16 KiB at most
_PRESS, _RELEASE = 2, 3
_LOCK_MASK = 2

RETURN, TAB, BACKSPACE, INSERT = 0xFF0D, 0xFF09, 0xFF08, 0xFF63
SHIFT, CONTROL, CAPS_LOCK = 0xFFE1, 0xFFE3, 0xFFE5
KEYS: Mapping[str, int] = {"ctrl": CONTROL, "shift": SHIFT, "v": ord("v"), "insert": INSERT, "backspace": BACKSPACE}

_NAMED: Mapping[str, int] = {"\n": RETURN, "\t": TAB, "\b": BACKSPACE}
Stroke = tuple[int, bool]  # a key code, and whether Shift is held


class XError(OSError):
    """The X server refuses, or is none."""


# ---------------------------------------------------------------- requests


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def setup(cookie: bytes) -> bytes:
    """The first words, with the cookie of the user's .Xauthority; empty where there is none."""
    name = b"MIT-MAGIC-COOKIE-1" if cookie else b""
    return struct.pack("<BxHHHHxx", ord("l"), 11, 0, len(name), len(cookie)) + _padded(name) + _padded(cookie)


def query_extension(name: bytes) -> bytes:
    """Ask for the code of an extension."""
    padded = _padded(name)
    return struct.pack("<BxHHxx", 98, 2 + len(padded) // 4, len(name)) + padded


def get_keyboard_mapping(first: int, count: int) -> bytes:
    """Ask what the keys mean."""
    return struct.pack("<BxHBBxx", 101, 2, first, count)


def change_keyboard_mapping(code: int, keysym: int) -> bytes:
    """Give a key one character, on both levels."""
    return struct.pack("<BBHBBxxII", 100, 1, 4, code, 2, keysym, keysym)


GET_MODIFIER_MAPPING = struct.pack("<BxH", 119, 1)
QUERY_KEYMAP = struct.pack("<BxH", 44, 1)
SYNC = struct.pack("<BxH", 43, 1)  # GetInputFocus: what came before it is done when it is answered


def xkb_use(code: int) -> bytes:
    """Begin to use XKB."""
    return struct.pack("<BBHHH", code, 0, 2, 1, 0)


def xkb_state(code: int) -> bytes:
    """Ask which layout and which locks are on."""
    return struct.pack("<BBHHxx", code, 4, 2, 0x100)


def fake_key(code: int, key: int, *, down: bool, delay_ms: int = 0) -> bytes:
    """Press or release a key; the server waits `delay_ms` before."""
    kind = _PRESS if down else _RELEASE
    return struct.pack("<BBHBBxxIIxxxxxxxxhhxxxxxxxB", code, 2, 9, kind, key, delay_ms, 0, 0, 0, 0)


def tap(code: int, key: int, *, pause_ms: int = 0) -> bytes:
    """Press and release a key."""
    return fake_key(code, key, down=True, delay_ms=pause_ms) + fake_key(code, key, down=False)


# ---------------------------------------------------------------- answers


@attrs.define(eq=False)
class Answers:
    """What an X server sends, cut into pieces. Events are skipped, for none was asked for but those that all get."""

    _data: bytearray = attrs.field(factory=bytearray, init=False)
    _ready: bool = attrs.field(default=False, init=False)  # the setup was answered

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The replies that are complete, the setup first. Raises XError for a refusal, or for what is no X."""
        self._data += data
        while piece := self._next():
            if piece[0] == 0:
                said = piece[8 : 8 + piece[1]].decode(errors="replace").strip() if not self._ready else ""
                raise XError(f"the X server refuses: {said or f'error {piece[1]}'}")
            if piece[0] == 1:
                self._ready = True
                yield piece

    def _next(self) -> bytes | None:
        if len(self._data) < (8 if not self._ready else _REPLY_BYTES):
            return None
        if not self._ready:
            size = 8 + 4 * int.from_bytes(self._data[6:8], "little")
        else:  # of the events, generic ones alone have a length
            more = self._data[0] == 1 or self._data[0] & 0x7F == 35
            size = _REPLY_BYTES + (4 * int.from_bytes(self._data[4:8], "little") if more else 0)
        if size > _MAX_REPLY_BYTES:
            raise XError("the X server sends too much")
        if len(self._data) < size:
            return None
        piece = bytes(self._data[:size])
        del self._data[:size]
        return piece


def key_codes(setup_reply: bytes) -> tuple[int, int]:
    """The smallest and the largest key code."""
    if len(setup_reply) < _SETUP_BYTES:
        raise XError("this is no X server")
    return setup_reply[34], setup_reply[35]


def extension_code(reply: bytes) -> int:
    """The code of an extension; 0: the server does not have it."""
    return reply[9] if reply[8] else 0


def rows(reply: bytes, first: int) -> dict[int, tuple[int, ...]]:
    """What each key means, by its code."""
    width = reply[1] or 1
    keysyms = struct.unpack(f"<{(len(reply) - _REPLY_BYTES) // 4}I", reply[_REPLY_BYTES:])
    return {first + at // width: keysyms[at : at + width] for at in range(0, len(keysyms), width)}


def held(keymap_reply: bytes, modifier_reply: bytes) -> list[int]:
    """The modifier keys that are down."""
    down = keymap_reply[8:40]
    keys = {key for key in modifier_reply[_REPLY_BYTES:] if key}
    return sorted(key for key in keys if down[key // 8] >> key % 8 & 1)


def layout_and_caps(state_reply: bytes) -> tuple[int, bool]:
    """The layout that is on, from 0, and whether Caps Lock is."""
    return state_reply[12], bool(state_reply[11] & _LOCK_MASK)


# ---------------------------------------------------------------- keys


def keysym_of(char: str) -> int:
    """The keysym of a character."""
    code = ord(char)
    if char in _NAMED:
        return _NAMED[char]
    return code if 0x20 <= code <= 0x7E or 0xA0 <= code <= 0xFF else 0x01000000 | code


@attrs.define(eq=False)
class Keyboard:
    """Which keys make which characters."""

    _keys: dict[int, Stroke] = attrs.field(factory=dict, init=False)  # by keysym
    _spare: list[int] = attrs.field(factory=list, init=False)
    _given: dict[int, tuple[int, float]] = attrs.field(factory=dict, init=False)  # keysym: key, when it was used last

    def learn(self, keys: Mapping[int, Sequence[int]], *, layout: int) -> None:
        """Take what the keys mean now; a user may have changed it."""
        used_s = dict(self._given.values())
        self._given = {row[0]: (key, used_s.get(key, float("-inf"))) for key, row in keys.items() if _was_given(row)}
        self._spare = [key for key, row in keys.items() if not any(row)]
        self._keys = {}
        for shifted in (False, True):  # what needs no Shift comes first
            for key, row in keys.items():
                column = 2 * layout + shifted
                # The protocol's map has two layouts; a key that means the same in all has its meaning in the first two.
                same = row[1] in (0, row[0]) if len(row) > 1 else True
                if same and row[0] and not shifted:
                    self._keys.setdefault(row[0], (key, False))
                elif not same and layout < 2 and column < len(row) and row[column]:
                    self._keys.setdefault(row[column], (key, shifted))

    def key(self, keysym: int) -> int:
        """The key of a keysym that has no character, such as Return. Raises XError where there is none."""
        if keysym not in self._keys:
            raise XError(f"the keyboard has no key for {keysym:#x}")
        return self._keys[keysym][0]

    def plan(self, text: str, *, now_s: float) -> tuple[str, list[tuple[int, int]], list[Stroke], float]:
        """How to type a text, or the longest beginning for which there are keys.

        Raises:
            XError: there is no key to give to a character at all.

        Returns:
            The rest of the text; keys to be given a keysym first; strokes; how long to wait before, in seconds.
        """
        giving: list[tuple[int, int]] = []
        strokes: list[Stroke] = []
        taken: set[int] = set()  # in this plan
        wait_s = 0.0
        for at, char in enumerate(text):
            keysym = keysym_of(char)
            if (stroke := self._keys.get(keysym)) is None:
                if (found := self._key_for(keysym, taken, now_s=now_s)) is None:
                    if not strokes:
                        raise XError("every key of the keyboard has a meaning")
                    return text[at:], giving, strokes, wait_s
                key, late_s = found
                wait_s = max(wait_s, late_s)
                giving.append((key, keysym))
                stroke = self._keys[keysym] = (key, False)
            if keysym in self._given:
                self._given[keysym] = (stroke[0], now_s + wait_s)
                taken.add(stroke[0])
            strokes.append(stroke)
        return "", giving, strokes, wait_s

    def _key_for(self, keysym: int, taken: set[int], *, now_s: float) -> tuple[int, float] | None:
        """A key to give to a character, and how long to wait for it; None: all are in use by the same text."""
        if self._spare:
            key, wait_s = self._spare.pop(), 0.0
        else:
            free = [(at_s, given) for given, (key, at_s) in self._given.items() if key not in taken]
            if not free:
                return None
            used_s, oldest = min(free)
            key, _ = self._given.pop(oldest)
            self._keys.pop(oldest, None)
            wait_s = max(0.0, used_s + LATE_S - now_s)
        self._given[keysym] = (key, now_s)
        return key, wait_s


def _was_given(row: Sequence[int]) -> bool:
    """Whether a key has one character on both levels, as no layout has but for the space bar."""
    keysym = row[0] if len(row) > 1 and row[0] == row[1] else 0
    return 0x20 < keysym <= 0x7E or 0xA0 < keysym <= 0xFF or keysym > 0x01000000


def pressed(code: int, strokes: Sequence[Stroke], *, shift: int, pace_ms: int) -> Iterator[bytes]:
    """The requests of strokes. Shift stays down for as long as strokes need it."""
    down = False
    for key, shifted in strokes:
        before = fake_key(code, shift, down=shifted) if shifted != down else b""
        down = shifted
        yield before + tap(code, key, pause_ms=pace_ms)
    if down:
        yield fake_key(code, shift, down=False)


def cookie_of(authority: bytes, display: str) -> bytes:
    """The cookie for a display number in the bytes of an .Xauthority; empty where there is none."""
    at, fields = 0, []
    while at + 2 <= len(authority):
        family = authority[at : at + 2]
        at += 2
        entry = []
        for _ in range(4):
            size = int.from_bytes(authority[at : at + 2], "big")
            entry.append(authority[at + 2 : at + 2 + size])
            at += 2 + size
        fields.append((family, *entry))
    for _, _, number, name, data in fields:
        if name == b"MIT-MAGIC-COOKIE-1" and number in (display.encode(), b""):
            return data
    return b""
