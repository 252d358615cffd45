"""The hand that types: runs what `backends` decided, one thing after the other, each within its time.

A hand that cannot type says so in a `HandError`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
import trio

from sttd_client.dictation.backends import BACKENDS, Backend, Clipboard, HandError, Step, clipboard_of, lacks_of
from sttd_client.dictation.portal_hand import PortalHand
from sttd_client.dictation.seat import Seat
from sttd_client.dictation.wayland_hand import WaylandHand
from sttd_client.dictation.x11_hand import X11Hand

_RUN_S = 5.0  # for the start of a program on a busy machine; chosen
_LETTER_S = 0.05  # on top for each letter: four times the pace of the slowest
_PASTE_S = 0.25  # until the program that is pasted into has read the clipboard; chosen, as pasting has no answer
_MAX_CLIPBOARD_BYTES = 8 << 20  # more than that is not put back
_LETTERS = 16  # that are typed at least of what is discarded meanwhile; chosen


class Hand(Protocol):
    """What types."""

    @property
    def name(self) -> str:
        """The backend's name."""

    async def prepare(self) -> None:
        """Get the leave to type, where somebody has to give it; it may take him minutes. Raises HandError."""

    async def write(self, text: str) -> None:
        """Type text. Raises HandError. Cancelled, a part of it may have been typed."""

    async def erase(self, count: int) -> None:
        """Press Backspace so many times. Raises HandError."""

    async def press(self, keys: str) -> None:
        """Press keys such as "ctrl+v" together. Raises HandError."""


_OWN: Mapping[str, Callable[..., Hand]] = {"wayland": WaylandHand, "x11": X11Hand, "portal": PortalHand}


@attrs.frozen(kw_only=True)
class ToolHand:
    """Types with a program; what that cannot type is pasted, where that is possible."""

    backend: Backend
    seat: Seat
    paste: Hand | None = None

    @property
    def name(self) -> str:
        """The backend's name."""
        return self.backend.name

    async def prepare(self) -> None:
        """Nobody has to allow it."""

    async def write(self, text: str) -> None:
        """Type text."""
        if self.backend.carries(text):
            await run_steps(self.backend.write(text), self.seat, letters=len(text))
        elif self.paste is not None:
            await self.paste.write(text)
        else:
            raise HandError(f"{self.name} types ASCII only; with wl-clipboard, xclip or xsel the rest would be pasted")

    async def erase(self, count: int) -> None:
        """Press Backspace so many times."""
        await run_steps(self.backend.erase(count), self.seat, letters=count)

    async def press(self, keys: str) -> None:
        """Press keys together."""
        await run_steps(self.backend.press(keys, 1), self.seat, letters=1)


@attrs.frozen(kw_only=True)
class PasteHand:
    """Puts text on the clipboard, pastes it, and puts back what was there if that was text."""

    clipboard: Clipboard
    presser: Hand
    seat: Seat
    keys: str = "ctrl+v"

    @property
    def name(self) -> str:
        """Which clipboard, and who presses the keys."""
        return f"clipboard ({self.clipboard.name}, {self.presser.name})"

    async def prepare(self) -> None:
        """Get the leave to press keys."""
        await self.presser.prepare()

    async def write(self, text: str) -> None:
        """Paste text. The old clipboard comes back also where this is cancelled."""
        old = await self._read()
        await self._fill(text.encode())
        try:
            await self.presser.press(self.keys)
            await trio.sleep(_PASTE_S)
        finally:
            if old:
                with trio.move_on_after(_RUN_S) as scope:
                    scope.shield = True
                    await self._fill(old)

    async def erase(self, count: int) -> None:
        """Press Backspace so many times."""
        await self.presser.erase(count)

    async def press(self, keys: str) -> None:
        """Press keys together."""
        await self.presser.press(keys)

    async def _read(self) -> bytes:
        """The text on the clipboard; empty where there is none, or too much."""
        with trio.move_on_after(_RUN_S):
            done = await trio.run_process(
                self.clipboard.read,
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                stdin=subprocess.DEVNULL,
                env=dict(self.seat.environ),
            )
            if done.returncode == 0 and len(done.stdout) <= _MAX_CLIPBOARD_BYTES:
                return bytes(done.stdout)
        return b""

    async def _fill(self, data: bytes) -> None:
        # These programs leave a child behind that owns the clipboard: it must not hold a pipe of ours.
        await run_steps([Step(self.clipboard.fill, data)], self.seat, letters=0)


async def run_steps(steps: Sequence[Step], seat: Seat, *, letters: int) -> None:
    """Run programs one after the other. Raises HandError where one fails, is not there or takes too long."""
    for step in steps:
        program = step.command[0]
        try:
            with trio.fail_after(_RUN_S + letters * _LETTER_S):
                done = await trio.run_process(
                    step.command,
                    stdin=step.stdin or subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    check=False,
                    env=dict(seat.environ),
                )
        except OSError as error:
            raise HandError(f"{program} does not start: {error.strerror}") from error
        except trio.TooSlowError:
            raise HandError(f"{program} does not end") from None
        if done.returncode:
            raise HandError(f"{program} failed with status {done.returncode}; `sttctl doctor` says what works here")


async def write_while(hand: Hand, text: str, goes_on: Callable[[], bool]) -> None:
    """Type text, and leave the rest once it is not to go on. Programs, and a clipboard, take all of it or nothing.

    Raises HandError.
    """
    letters = _LETTERS if hand.name in _OWN else len(text) or 1
    for at in range(0, len(text), letters):
        if not goes_on():
            return
        await hand.write(text[at : at + letters])


def hand_of(seat: Seat, *, wanted: str | None, paste_keys: str) -> Hand:
    """The hand for this session: the wanted one, or the best that works.

    Raises:
        HandError: there is none, or the wanted one lacks something.
    """
    lacks = lacks_of(seat)
    if wanted is not None and lacks[wanted]:
        raise HandError(f"{wanted} does not type here: {lacks[wanted]}")
    working = [name for name, lack in lacks.items() if not lack]
    if not working:
        raise HandError("nothing can type here; `sttctl doctor` says what is missing")
    hands = [_hand(name, seat) for name in working if name != "clipboard"]
    clipboard = clipboard_of(seat)
    paste = PasteHand(clipboard=clipboard, presser=hands[0], seat=seat, keys=paste_keys) if clipboard else None
    name = wanted or working[0]
    if name == "clipboard" and paste is not None:
        return paste
    hand = _hand(name, seat)
    return attrs.evolve(hand, paste=paste) if isinstance(hand, ToolHand) else hand


def _hand(name: str, seat: Seat) -> Hand:
    return _OWN[name](environ=seat.environ) if name in _OWN else ToolHand(backend=BACKENDS[name], seat=seat)
