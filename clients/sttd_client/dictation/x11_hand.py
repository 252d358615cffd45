"""The hand for X11: one connection to the server, on which text is typed as `x11` says."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from sttd_client.dictation import x11
from sttd_client.dictation.backends import HandError

_ANSWER_S = 10.0  # chosen: a server that is busy for longer shows no letters either
_PACE_MS = 2  # between two letters: 500 a second are more than editors that complete words like; chosen
_BATCH = 64  # strokes between two answers of the server, so that it is never far behind
_MAX_AUTHORITY_BYTES = 1 << 16


@attrs.define(eq=False, kw_only=True)
class X11Hand:
    """Types into the X server of `environ`. It connects when it has to type, and anew where the server was lost."""

    environ: Mapping[str, str]
    name: str = "x11"
    _keyboard: x11.Keyboard = attrs.field(factory=x11.Keyboard, init=False)
    _stream: trio.abc.Stream | None = attrs.field(default=None, init=False)
    _answers: x11.Answers = attrs.field(init=False)
    _waiting: deque[bytes] = attrs.field(factory=deque, init=False)
    _codes: tuple[int, int] = attrs.field(default=(8, 255), init=False)
    _xtest: int = attrs.field(default=0, init=False)
    _xkb: int = attrs.field(default=0, init=False)

    async def prepare(self) -> None:
        """Nobody has to allow it."""

    async def write(self, text: str) -> None:
        """Type text. Raises HandError. Cancelled, a part of it may have been typed."""
        async with self._keys() as stream:
            while text:
                text, giving, strokes, wait_s = self._keyboard.plan(text, now_s=trio.current_time())
                await trio.sleep(wait_s)
                for key, keysym in giving:
                    await stream.send_all(x11.change_keyboard_mapping(key, keysym))
                shift = self._keyboard.key(x11.SHIFT)
                await self._send(list(x11.pressed(self._xtest, strokes, shift=shift, pace_ms=_PACE_MS)))

    async def erase(self, count: int) -> None:
        """Press Backspace so many times. Raises HandError."""
        async with self._keys():
            key = self._keyboard.key(x11.BACKSPACE)
            await self._send([x11.tap(self._xtest, key, pause_ms=_PACE_MS)] * count)

    async def press(self, keys: str) -> None:
        """Press keys such as "ctrl+v" together. Raises HandError."""
        async with self._keys():
            codes = [self._keyboard.key(x11.KEYS[key]) for key in keys.split("+")]
            down = [x11.fake_key(self._xtest, code, down=True) for code in codes]
            up = [x11.fake_key(self._xtest, code, down=False) for code in reversed(codes)]
            await self._send([b"".join([*down, *up])])

    # ---------------------------------------------------------------- the connection

    @asynccontextmanager
    async def _keys(self) -> AsyncIterator[trio.abc.Stream]:
        """The connection, with the keyboard as it is now; what goes wrong on it is a HandError, and ends it."""
        try:
            with trio.fail_after(_ANSWER_S):
                stream = self._stream = self._stream or await self._connect()
                caps = await self._look()
            yield stream
            if caps is not None:
                await self._send([x11.tap(self._xtest, caps)])
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            await self.aclose()
            raise HandError(f"the X server takes no keys: {str(error) or 'it does not answer'}") from error
        except trio.Cancelled:
            await self.aclose()  # half a request may be out
            raise

    async def aclose(self) -> None:
        """Leave the server; the next text connects anew."""
        stream, self._stream = self._stream, None
        if stream is not None:
            await trio.aclose_forcefully(stream)

    async def _connect(self) -> trio.abc.Stream:
        host, _, number = self.environ.get("DISPLAY", "").rpartition(":")
        number = number.partition(".")[0]
        if host in ("", "unix"):
            stream: trio.SocketStream = await trio.open_unix_socket(f"/tmp/.X11-unix/X{number}")
        else:  # such as that of ssh -X
            stream = await trio.open_tcp_stream(host, 6000 + int(number))
        self._stream, self._answers = stream, x11.Answers()
        self._waiting.clear()
        self._codes = x11.key_codes(await self._ask(x11.setup(self._cookie(number))))
        self._xtest = x11.extension_code(await self._ask(x11.query_extension(b"XTEST")))
        self._xkb = x11.extension_code(await self._ask(x11.query_extension(b"XKEYBOARD")))
        if not self._xtest or not self._xkb:
            raise x11.XError("it lacks XTEST or XKEYBOARD")
        await self._ask(x11.xkb_use(self._xkb))
        return stream

    def _cookie(self, number: str) -> bytes:
        path = self.environ.get("XAUTHORITY") or Path(self.environ.get("HOME", "/"), ".Xauthority")
        try:
            with open(path, "rb") as file:
                return x11.cookie_of(file.read(_MAX_AUTHORITY_BYTES), number)
        except OSError:
            return b""

    async def _look(self) -> int | None:
        """Learn the keyboard, release what is held. Returns the key of Caps Lock where that was on, and is off now."""
        first, last = self._codes
        mapping = await self._ask(x11.get_keyboard_mapping(first, last - first + 1))
        layout, caps = x11.layout_and_caps(await self._ask(x11.xkb_state(self._xkb)))
        self._keyboard.learn(x11.rows(mapping, first), layout=layout)
        modifiers = await self._ask(x11.GET_MODIFIER_MAPPING)
        down = x11.held(await self._ask(x11.QUERY_KEYMAP), modifiers)
        await self._send([x11.fake_key(self._xtest, key, down=False) for key in down])
        if not caps:
            return None
        key = self._keyboard.key(x11.CAPS_LOCK)
        await self._send([x11.tap(self._xtest, key)])
        return key

    async def _send(self, requests: Sequence[bytes]) -> None:
        """Send requests, and wait after each batch until the server has done it."""
        for at in range(0, len(requests), _BATCH):
            with trio.fail_after(_ANSWER_S):
                await self._ask(b"".join(requests[at : at + _BATCH]) + x11.SYNC)

    async def _ask(self, request: bytes) -> bytes:
        assert self._stream is not None
        await self._stream.send_all(request)
        while not self._waiting:
            data = bytes(await self._stream.receive_some(1 << 16))
            if not data:
                raise x11.XError("it closed the connection")
            self._waiting.extend(self._answers.feed(data))
        return self._waiting.popleft()
