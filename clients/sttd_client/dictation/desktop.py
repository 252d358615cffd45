"""What the desktop is told and what it tells: a notification while the agent listens; locks, sleep, password fields.

Everything here is a courtesy of the desktop: where a bus is missing or goes away, dictation works without it. Whoever
may send signals on a bus could make the agent stop listening, and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import attrs
import trio
from jeepney import DBusAddress, MatchRule, Message, new_method_call
from jeepney.io.trio import DBusConnection
from jeepney.low_level import HeaderFields

from sttd_client.dictation.bus import ERRORS, BusError, call, connect, name_of, subscribe
from sttd_client.dictation.course import Show
from sttd_client.dictation.focus import Focus
from sttd_client.dictation.wish import Wish

_AGAIN_S = 10.0  # a bus that went away is being restarted
_NOTE_MS = 6000  # that a reason stays on the screen; chosen
_LISTENING = "Listening"  # this notification stays until another takes its place
_NOTIFICATIONS = DBusAddress(
    "/org/freedesktop/Notifications",
    bus_name="org.freedesktop.Notifications",
    interface="org.freedesktop.Notifications",
)
_LOGIND = "org.freedesktop.login1"
_MANAGER = DBusAddress("/org/freedesktop/login1", bus_name=_LOGIND, interface=f"{_LOGIND}.Manager")
_SLEEPS, _LOCKED = "the machine goes to sleep", "the screen is locked"
_PASSWORD = "the cursor is in a password field"
_LOOK_S = 1.0  # chosen: only the first dictation waits, or where programs do not answer
# Who says on which bus that nobody sits here: what it means, and whether it names it true or false.
_AWAY: Mapping[str, Mapping[tuple[str, str], tuple[str, bool | None]]] = {
    "SYSTEM": {
        (f"{_LOGIND}.Manager", "PrepareForSleep"): (_SLEEPS, None),
        (f"{_LOGIND}.Session", "Lock"): (_LOCKED, True),
        (f"{_LOGIND}.Session", "Unlock"): (_LOCKED, False),
    },
    "SESSION": {
        ("org.freedesktop.ScreenSaver", "ActiveChanged"): (_LOCKED, None),
        ("org.gnome.ScreenSaver", "ActiveChanged"): (_LOCKED, None),
    },
}


@attrs.define(eq=False, kw_only=True)
class Desktop:
    """The desktop of one user. `on_away` is called with the reason why nothing may be dictated any more."""

    environ: Mapping[str, str]
    on_away: Callable[[str], None]
    _refusals: dict[str, None] = attrs.field(factory=dict, init=False)
    _focus: Focus = attrs.field(init=False)
    _shows: trio.MemoryReceiveChannel[tuple[str, str, bool]] = attrs.field(init=False)
    _to_show: trio.MemorySendChannel[tuple[str, str, bool]] = attrs.field(init=False)
    _shown: int = attrs.field(default=0, init=False)  # the notification's number; 0: there is none

    def __attrs_post_init__(self) -> None:
        self._focus = Focus(lambda on: self.refuse(_PASSWORD, on=on))
        self._to_show, self._shows = trio.open_memory_channel[tuple[str, str, bool]](16)

    @property
    def refusal(self) -> str:
        """Why nothing may be dictated now; "" where it may."""
        return next(iter(self._refusals), "")

    async def look(self) -> None:
        """Find out where the cursor is, unless that is known; `_LOOK_S` at most."""
        with trio.move_on_after(_LOOK_S):
            await self._focus.look()

    def refuse(self, why: str, *, on: bool) -> None:
        """From now on something speaks against dictation, or does not any more."""
        if not on:
            self._refusals.pop(why, None)
        elif why not in self._refusals:
            self._refusals[why] = None
            self.on_away(why)

    def show(self, show: Show, *, wish: Wish, types: str) -> None:
        """Tell the state; never waits."""
        if show.state == "listening" and wish.notify:
            self.tell(_LISTENING, f"types with {types}", sound=wish.sound)
        elif show.state == "idle":
            self.tell("Dictation stopped" if show.note else "", show.note)

    def tell(self, title: str, text: str, *, sound: bool = False) -> None:
        """Show a notification in place of the last one; without a title there is none any more."""
        with suppress(trio.WouldBlock):
            self._to_show.send_nowait((title, text, sound))

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._notify)
            nursery.start_soon(self._focus.run)
            for address in _AWAY:
                nursery.start_soon(self._watch, address)

    # ---------------------------------------------------------------- notifications

    async def _notify(self) -> None:
        async for first in self._shows:
            with suppress(BusError, *ERRORS):
                bus = await connect("SESSION")
                async with bus:
                    await self._notify_with(bus, *first)
                    async for more in self._shows:
                        await self._notify_with(bus, *more)
            self._shown = 0

    async def _notify_with(self, bus: DBusConnection, title: str, text: str, sound: bool) -> None:
        if title:
            hints = {
                "transient": ("b", True),
                "urgency": ("y", 0),
                "suppress-sound": ("b", not sound),
                **({"sound-name": ("s", "message-new-instant")} if sound else {}),
            }
            expires_ms = 0 if title == _LISTENING else _NOTE_MS
            body: tuple[Any, ...] = ("sttd", self._shown, "audio-input-microphone", title, text, [], hints, expires_ms)
            (self._shown,) = await call(bus, new_method_call(_NOTIFICATIONS, "Notify", "susssasa{sv}i", body))
        elif self._shown:
            number, self._shown = self._shown, 0
            await call(bus, new_method_call(_NOTIFICATIONS, "CloseNotification", "u", (number,)))

    # ---------------------------------------------------------------- locks and sleep

    async def _watch(self, address: str) -> None:
        while True:
            with suppress(BusError, *ERRORS):
                bus = await connect(address)
                async with bus:
                    await self._hear(bus, address)
            for why, _ in _AWAY[address].values():  # nobody says when it is over
                self.refuse(why, on=False)
            await trio.sleep(_AGAIN_S)

    async def _hear(self, bus: DBusConnection, address: str) -> None:
        """Hear signals until the bus goes away."""
        early: list[Message] = []  # before the answers to what is asked here
        for interface, member in _AWAY[address]:
            rule = MatchRule(type="signal", interface=interface, member=member)
            await subscribe(bus, rule, on_signal=early.append)
        session = await self._session_path(bus, on_signal=early.append) if address == "SYSTEM" else None
        for message in early:
            self._heed(message, address, session)
        async for message in bus:
            self._heed(message, address, session)

    def _heed(self, message: Message, address: str, session: str | None) -> None:
        why, on = _AWAY[address].get(name_of(message), ("", None))
        path = message.header.fields.get(HeaderFields.path)
        if why and (session is None or path in (session, _MANAGER.object_path)):
            self.refuse(why, on=_said(message) if on is None else on)

    async def _session_path(self, bus: DBusConnection, *, on_signal: Callable[[Message], None]) -> str | None:
        """The path of this session, to tell its lock from that of somebody else's screen; None: not known."""
        if not (number := self.environ.get("XDG_SESSION_ID")):
            return None
        with suppress(BusError):
            (path,) = await call(bus, new_method_call(_MANAGER, "GetSession", "s", (number,)), on_signal=on_signal)
            return str(path)
        return None


def _said(message: Message) -> bool:
    """The one flag that a signal carries."""
    return bool(message.body and message.body[0])
