"""The hand for desktops that let a program type when their user has allowed it: the RemoteDesktop portal (GNOME, KDE).

The user is asked once, before the first dictation. What the desktop gives in exchange, a token, is kept in
`$XDG_STATE_HOME/sttd/`, so that he is not asked again; whoever can read that file can already read all that is his.
The desktop finds the keys for the characters that it is told.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

import attrs
import trio
from jeepney import Message

from sttd_client.dictation import x11
from sttd_client.dictation.backends import HandError
from sttd_client.dictation.bus import ERRORS, BusError
from sttd_client.dictation.portal import Portal, PortalError, is_end
from sttd_client.dictation.seat import KEYBOARD, REMOTE_DESKTOP

ASKS: Final = "the desktop asks whether sttd may type: allow it, and begin again"
_UNTIL_REVOKED: Final = 2  # for how long a permission holds
_DECIDE_S: Final = 120.0  # chosen: for somebody to read a dialog and decide
_BATCH: Final = 8  # letters between two answers of the desktop
_PACE_S: Final = 0.016  # for a batch, as with Wayland
_TOKEN_BYTES: Final = 4096  # a token is a UUID, of 36


@attrs.define(eq=False, kw_only=True)
class PortalHand:
    """Types by the desktop's leave. `prepare` asks for it; where it was lost, it is asked for anew."""

    environ: Mapping[str, str]
    name: str = "portal"
    _portal: Portal | None = attrs.field(default=None, init=False)
    _session: str = attrs.field(default="", init=False)  # "": there is none, or it was ended by the user
    _asks: bool = attrs.field(default=False, init=False)  # a dialog is open
    _turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)

    async def prepare(self) -> None:
        """Get the desktop's leave. Raises HandError."""
        if self._asks:
            raise HandError(ASKS)
        async with self._keyboard():
            pass

    async def write(self, text: str) -> None:
        """Type text. Raises HandError. Cancelled, a part of it may have been typed."""
        async with self._keyboard() as portal:
            for at in range(0, len(text), _BATCH):
                for char in text[at : at + _BATCH]:
                    await self._tap(portal, x11.keysym_of(char))
                await portal.ping()
                await trio.sleep(_PACE_S)

    async def erase(self, count: int) -> None:
        """Press Backspace so many times. Raises HandError."""
        await self.write("\b" * count)

    async def press(self, keys: str) -> None:
        """Press keys such as "ctrl+v" together. Raises HandError."""
        keysyms = [x11.KEYS[key] for key in keys.split("+")]
        async with self._keyboard() as portal:
            for keysym in keysyms:
                await self._key(portal, keysym, down=True)
            for keysym in reversed(keysyms):
                await self._key(portal, keysym, down=False)
            await portal.ping()

    async def aclose(self) -> None:
        """Give the permission back until the next text; the user sees that nobody can type any more."""
        portal, self._portal, self._session = self._portal, None, ""
        if portal is not None:
            with suppress(*ERRORS):
                await portal.aclose()

    # ---------------------------------------------------------------- the permission

    @asynccontextmanager
    async def _keyboard(self) -> AsyncIterator[Portal]:
        """The portal, with a session that may type; what goes wrong is a HandError, and ends it."""
        async with self._turn:
            try:
                if self._portal is not None:
                    with suppress(BusError):
                        await self._portal.ping()  # has the user ended it?
                if not self._session:
                    await self.aclose()
                    self._asks = True
                    try:
                        await self._begin()
                    finally:
                        self._asks = False
                assert self._portal is not None
                yield self._portal
            except (OSError, *ERRORS) as error:
                await self._end()
                raise HandError(f"the desktop lets nobody type: {str(error) or repr(error)}") from error
            except trio.Cancelled:
                await self._end()  # a key may be down
                raise

    async def _end(self) -> None:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await self.aclose()

    async def _begin(self) -> None:
        portal = self._portal = await Portal.open(REMOTE_DESKTOP, on_signal=self._heed)
        options: dict[str, tuple[str, object]] = {"session_handle_token": ("s", portal.token())}
        created = await portal.ask("CreateSession", "", options=options, within_s=_DECIDE_S)
        self._session = str(created["session_handle"])
        options = {"types": ("u", KEYBOARD), "persist_mode": ("u", _UNTIL_REVOKED)}
        if token := self._kept():
            options["restore_token"] = ("s", token)
        await portal.ask("SelectDevices", "o", self._session, options=options, within_s=_DECIDE_S)
        started = await portal.ask("Start", "os", self._session, "", options={}, within_s=_DECIDE_S)
        if not started.get("devices", 0) & KEYBOARD:
            raise PortalError("it gave no keyboard")
        self._keep(str(started.get("restore_token", "")))

    def _heed(self, message: Message) -> None:
        if self._session and is_end(message, self._session):
            self._session = ""

    async def _tap(self, portal: Portal, keysym: int) -> None:
        await self._key(portal, keysym, down=True)
        await self._key(portal, keysym, down=False)

    async def _key(self, portal: Portal, keysym: int, *, down: bool) -> None:
        if not self._session:
            raise PortalError("its permission was taken back")
        await portal.tell("NotifyKeyboardKeysym", "oa{sv}iu", self._session, {}, keysym, int(down))

    # ---------------------------------------------------------------- the token

    @property
    def _file(self) -> Path:
        home = Path(self.environ.get("HOME", "/"))
        return Path(self.environ.get("XDG_STATE_HOME") or home / ".local" / "state", "sttd", "remote-desktop-token")

    def _kept(self) -> str:
        try:
            with self._file.open() as file:
                return file.read(_TOKEN_BYTES).strip()
        except (OSError, ValueError):
            return ""

    def _keep(self, token: str) -> None:
        """Tokens are good for one time, so this one is for the next; an empty one means that he is asked again."""
        file = self._file
        with suppress(OSError):  # then he is asked again, too
            file.parent.mkdir(parents=True, exist_ok=True)
            new = file.with_suffix(".new")
            with open(new, "w", opener=lambda path, flags: os.open(path, flags, 0o600)) as output:
                output.write(token)
            new.replace(file)
