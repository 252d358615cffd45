"""The hand for Wayland: one virtual keyboard of the compositor, on which text is typed as `wayland` says."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from sttd_client.dictation import wayland
from sttd_client.dictation.backends import HandError

_ANSWER_S = 10.0  # chosen: a compositor that is busy for longer shows no letters either
_BATCH = 8  # letters between two answers of the compositor
_PACE_S = 0.016  # for a batch: 500 letters a second are more than editors that complete words like; chosen


@attrs.define(eq=False, kw_only=True)
class WaylandHand:
    """Types into the compositor of `environ`. It connects when it has to type, and anew where that was lost."""

    environ: Mapping[str, str]
    name: str = "wayland"
    _socket: trio.socket.SocketType | None = attrs.field(default=None, init=False)
    _events: wayland.Events = attrs.field(init=False)
    _keymap: wayland.Keymap = attrs.field(init=False)
    _syncs: int = attrs.field(default=0, init=False)

    async def prepare(self) -> None:
        """Nobody has to allow it."""

    async def write(self, text: str) -> None:
        """Type text. Raises HandError. Cancelled, a part of it may have been typed."""
        async with self._keyboard() as keyboard:
            for part in wayland.parts(text):
                await self._learn(keyboard, part)
                await self._type(keyboard, part)

    async def erase(self, count: int) -> None:
        """Press Backspace so many times. Raises HandError."""
        await self.write("\b" * count)

    async def press(self, keys: str) -> None:
        """Press keys such as "ctrl+v" together. Raises HandError."""
        mask, key = wayland.combination(keys)
        async with self._keyboard() as keyboard:
            await self._learn(keyboard, key)
            await _send(keyboard, wayland.modifiers(mask))
            await self._type(keyboard, key)
            await _send(keyboard, wayland.modifiers(0))

    async def aclose(self) -> None:
        """Leave the compositor; the next text connects anew."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    # ---------------------------------------------------------------- the connection

    @asynccontextmanager
    async def _keyboard(self) -> AsyncIterator[trio.socket.SocketType]:
        """The connection; what goes wrong on it is a HandError, and ends it."""
        try:
            if self._socket is None:
                with trio.fail_after(_ANSWER_S):
                    await self._connect()
            assert self._socket is not None
            yield self._socket
        except (OSError, trio.TooSlowError) as error:
            await self.aclose()
            raise HandError(f"the compositor takes no keys: {str(error) or 'it does not answer'}") from error
        except trio.Cancelled:
            await self.aclose()  # half a message may be out
            raise

    async def _connect(self) -> None:
        path = Path(self.environ.get("XDG_RUNTIME_DIR", "/"), self.environ.get("WAYLAND_DISPLAY", "wayland-0"))
        self._socket = display = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._events, self._keymap, self._syncs = wayland.Events(), wayland.Keymap(), 0
        await display.connect(str(path))
        await _send(display, wayland.HELLO)
        while not self._events.greeted:
            await self._read(display)
        await _send(display, wayland.bind(self._events.globals_))

    async def _learn(self, keyboard: trio.socket.SocketType, text: str) -> None:
        """Have a keymap with these characters."""
        if not self._keymap.learn(text):
            return
        data = self._keymap.text.encode() + b"\0"
        file = os.memfd_create("sttd-keymap", os.MFD_CLOEXEC)
        try:
            os.write(file, data)
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, file.to_bytes(4, "little"))]
            await keyboard.sendmsg([wayland.keymap_op(len(data))], rights)
        finally:
            os.close(file)
        await _send(keyboard, wayland.modifiers(0))
        await self._sync(keyboard)

    async def _type(self, keyboard: trio.socket.SocketType, text: str) -> None:
        for at in range(0, len(text), _BATCH):
            at_ms = round(1000 * trio.current_time()) & 0xFFFFFFFF
            batch = text[at : at + _BATCH]
            await _send(keyboard, b"".join(wayland.tap(self._keymap.code(char), at_ms=at_ms) for char in batch))
            await self._sync(keyboard)
            await trio.sleep(_PACE_S)

    async def _sync(self, keyboard: trio.socket.SocketType) -> None:
        """Wait until the compositor has done all that was sent."""
        number, self._syncs = self._syncs, self._syncs + 1
        with trio.fail_after(_ANSWER_S):
            await _send(keyboard, wayland.sync(number))
            while self._events.synced < number:
                await self._read(keyboard)

    async def _read(self, keyboard: trio.socket.SocketType) -> None:
        data = await keyboard.recv(1 << 16)
        if not data:
            raise wayland.WaylandError("it closed the connection")
        self._events.feed(data)


async def _send(keyboard: trio.socket.SocketType, data: bytes) -> None:
    while data:
        data = data[await keyboard.send(data) :]
