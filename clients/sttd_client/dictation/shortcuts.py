"""Keys of the whole desktop, by its GlobalShortcuts portal: the user chooses them in a dialog of the desktop.

Keys belong to the connection that asked for them: they are there while somebody serves them. What was chosen once, the
desktop keeps, by the name of the session, which is therefore always the same.

A key that goes down is obeyed before the next, so no release overtakes its press. Of keys that repeat while nothing can
be done, `_KEYS` wait at most.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Final

import attrs
import trio
from jeepney import MatchRule, Message

from sttd.errors import AccessError
from sttd_client.dictation.backends import HandError
from sttd_client.dictation.bus import ERRORS, name_of, subscribe
from sttd_client.dictation.leave import allowed
from sttd_client.dictation.portal import Portal, is_end

INTERFACE: Final = "org.freedesktop.portal.GlobalShortcuts"
_SESSION_TOKEN: Final = "sttd_dictate"
_DECIDE_S: Final = 300.0  # chosen: for somebody to choose keys
_KEYS: Final = 16
# What can have a key, as the desktop shows it.
SHORTCUTS: Final[Mapping[str, str]] = {
    "toggle": "Dictate: start, or stop",
    "hold": "Dictate while the key is held",
    "cancel": "Stop dictating, and drop what is not typed yet",
}


class ShortcutError(HandError):
    """The desktop gives no keys. The message says why."""


@attrs.define(eq=False)
class Shortcuts:
    """Calls `obey` with what the agent is to do, and whether it is for as long as a key is held."""

    obey: Callable[[str, bool], Awaitable[None]]
    keys: Mapping[str, str] | None = attrs.field(default=None, init=False)  # as the desktop words them; None: unbound
    asks: bool = attrs.field(default=False, init=False)  # the user is choosing
    _session: str = attrs.field(default="", init=False)
    _ended: bool = attrs.field(default=False, init=False)
    _held: bool = attrs.field(default=False, init=False)
    _pressed: trio.MemorySendChannel[tuple[str, bool]] = attrs.field(init=False)

    async def bind(self, nursery: trio.Nursery) -> None:
        """Have keys, served in the nursery. Returns when they are there.

        Raises:
            ShortcutError: the desktop has none to give, or its user gives none.
            AccessError: he is still choosing.
        """
        asks = "the desktop asks which keys shall dictate: choose them there"
        if self.asks:
            raise AccessError(asks)
        if self.keys is None:
            await allowed(partial(nursery.start, self.serve), nursery, asks=asks)

    async def serve(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Ask for keys, and serve them until the desktop takes them back. Has started when they are there.

        Raises:
            ShortcutError: there is no such portal, or the user wants none.
        """
        self.asks = True
        try:
            portal = await Portal.open(INTERFACE, on_signal=self._heed)
            try:
                await self._bind(portal)
                self.asks = False
                async with trio.open_nursery() as nursery:
                    self._pressed, pressed = trio.open_memory_channel[tuple[str, bool]](_KEYS)
                    nursery.start_soon(self._obey, pressed)
                    task_status.started()
                    with suppress(*ERRORS):  # the desktop has gone, and its keys with it
                        while not self._ended:
                            self._heed(await portal.bus.receive())
                    self._pressed.close()  # what was pressed is still obeyed
                if self._held:  # nobody tells its release any more
                    await self.obey("stop", True)
            finally:
                self.keys = None
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    await portal.aclose()
        except (OSError, *ERRORS) as error:
            if self._session:
                return  # the desktop has gone, and its keys with it
            raise ShortcutError(f"the desktop gives no keys: {str(error) or repr(error)}") from error
        finally:
            self._session, self._ended, self.asks, self._held = "", False, False, False

    async def _bind(self, portal: Portal) -> None:
        rule = MatchRule(type="signal", interface=INTERFACE)
        await subscribe(portal.bus, rule, on_signal=self._heed)
        options: dict[str, tuple[str, object]] = {"session_handle_token": ("s", _SESSION_TOKEN)}
        created = await portal.ask("CreateSession", "", options=options, within_s=_DECIDE_S)
        session = str(created["session_handle"])
        wanted = [(name, {"description": ("s", text)}) for name, text in SHORTCUTS.items()]
        bound = await portal.ask("BindShortcuts", "oa(sa{sv})s", session, wanted, "", options={}, within_s=_DECIDE_S)
        self._session = session
        self.keys = {
            str(name): str(about.get("trigger_description", ("s", ""))[1])
            for name, about in bound.get("shortcuts", [])
            if name in SHORTCUTS
        }

    async def _obey(self, pressed: trio.MemoryReceiveChannel[tuple[str, bool]]) -> None:
        async for do, hold in pressed:
            await self.obey(do, hold)

    def _heed(self, message: Message) -> None:
        match name_of(message), message.body:
            case (interface, "Activated" | "Deactivated" as member), (session, str(name), *_) if (
                interface == INTERFACE and session == self._session and name in SHORTCUTS
            ):
                down, hold = member == "Activated", name == "hold"
                if hold and down == self._held:
                    return  # it repeats
                self._held = down if hold else self._held
                if down or hold:
                    with suppress(trio.WouldBlock):
                        self._pressed.send_nowait((name if not hold else "start" if down else "stop", hold))
            case _ if self._session and is_end(message, self._session):
                self._ended = True
