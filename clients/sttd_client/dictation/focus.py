"""Whether the cursor is in a password field, as programs tell it on the desktop's accessibility bus (AT-SPI 2).

Rules:

1. The focus is where a program last said that it got it. It is lost by saying so, to another, or with the program.
2. What a field is, is asked each time that it gets the focus. A program that does not answer within `_ASK_S` is not
   waited for: its field is no password field.
3. What got the focus before anybody listened is looked for once, in the active windows, in `_QUESTIONS` of their parts.
4. A bus that nobody has started is not started here: no program would be on it.

A program without accessibility, and a password that a terminal asks for, are told by nobody. One that lies can stop a
dictation, and nothing else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TypeAlias

import attrs
import trio
from jeepney import DBusAddress, MatchRule, Message, MessageFlag, MessageType, new_method_call
from jeepney.io.trio import DBusConnection
from jeepney.low_level import HeaderFields

from sttd_client.dictation.bus import ERRORS, BusError, call, connect, subscribe
from sttd_client.dictation.seat import ACCESSIBILITY

_AGAIN_S: Final = 10.0  # until it is looked again whether there is such a bus
_ASK_S: Final = 0.5  # chosen: a program answers from its own loop, within a frame unless it hangs
_QUESTIONS: Final = 300  # chosen: a window of a toolkit has some dozens of parts, a web page thousands
_UNHEARD: Final = 256  # signals that may wait; only the last of them says where the focus is
_PASSWORD_TEXT: Final = 40  # ATSPI_ROLE_PASSWORD_TEXT, of atspi-constants.h
_ACTIVE, _FOCUSED = 1, 12  # ATSPI_STATE_…
_A11Y: Final = DBusAddress("/org/a11y/bus", bus_name=ACCESSIBILITY, interface=ACCESSIBILITY)
_REGISTRY: Final = "org.a11y.atspi.Registry"
_DESKTOP_PATH: Final = "/org/a11y/atspi/accessible/root"
_EVENTS: Final = "org.a11y.atspi.Event.Object"

Place: TypeAlias = tuple[str, str]  # a program's name on the bus, and a path of it


@attrs.define(eq=False)
class Focus:
    """Calls `on_password` when the focus goes into a password field, with True, and when it leaves it, with False."""

    on_password: Callable[[bool], None]
    _looked: trio.Event = attrs.field(factory=trio.Event, init=False)  # what can be known by now is known
    _wanted: trio.Event = attrs.field(factory=trio.Event, init=False)
    _follows: bool = attrs.field(default=False, init=False)
    _password: Place | None = attrs.field(default=None, init=False)  # the field that has the focus
    _unheard: deque[Message] = attrs.field(factory=lambda: deque(maxlen=_UNHEARD), init=False)

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            self._wanted = trio.Event()
            with suppress(BusError, *ERRORS):
                address = await _address()
                async with await connect(address) as bus:
                    await self._follow(bus)
            self._follows = False
            self._now(None)
            self._unheard.clear()
            self._looked.set()
            with trio.move_on_after(_AGAIN_S):
                await self._wanted.wait()

    async def look(self) -> None:
        """Return when what can be known by now is known; a bus that was not there before is looked for at once."""
        if not self._follows and self._looked.is_set():
            self._looked = trio.Event()
            self._wanted.set()
        await self._looked.wait()

    async def _follow(self, bus: DBusConnection) -> None:
        """Hear signals until the bus goes away."""
        focused = MatchRule(type="signal", interface=_EVENTS, member="StateChanged")
        focused.add_arg_condition(0, "focused")
        leaves = MatchRule(type="signal", interface="org.freedesktop.DBus", member="NameOwnerChanged")
        for rule in (focused, leaves):
            await subscribe(bus, rule, on_signal=self._unheard.append)
        registry = DBusAddress("/org/a11y/atspi/registry", bus_name=_REGISTRY, interface=_REGISTRY)
        await call(
            bus,
            new_method_call(registry, "RegisterEvent", "s", ("object:state-changed:focused",)),
            on_signal=self._unheard.append,
        )
        await self._got(bus, await self._search(bus))
        self._follows = True
        self._looked.set()
        while True:
            await self._heed(bus, self._unheard.popleft() if self._unheard else await bus.receive())

    async def _heed(self, bus: DBusConnection, message: Message) -> None:
        fields, body = message.header.fields, message.body
        if message.header.message_type is not MessageType.signal:
            return
        match fields.get(HeaderFields.member), body:
            case "NameOwnerChanged", (name, _, ""):
                if self._password and self._password[0] == name:
                    self._now(None)
            case "StateChanged", ("focused", int(on), *_):
                place = fields.get(HeaderFields.sender, ""), fields.get(HeaderFields.path, "")
                if on:
                    await self._got(bus, place)
                elif place == self._password:
                    self._now(None)

    async def _got(self, bus: DBusConnection, place: Place | None) -> None:
        """The focus is there; None: nowhere that is known."""
        role = await self._ask(bus, place, "GetRole") if place else None
        self._now(place if role == _PASSWORD_TEXT else None)

    def _now(self, password: Place | None) -> None:
        before, self._password = self._password, password
        if (password is None) != (before is None):
            self.on_password(password is not None)

    # ---------------------------------------------------------------- questions

    async def _search(self, bus: DBusConnection) -> Place | None:
        """What has the focus, breadth first in the active windows of all programs; None: it is not found."""
        programs = await self._children(bus, (_REGISTRY, _DESKTOP_PATH))
        windows = [window for program in programs for window in await self._children(bus, program)]
        active = [window for window in windows[:_QUESTIONS] if await self._has(bus, window, _ACTIVE)]
        places, asked = deque(active), 0
        while places:
            for place in await self._children(bus, places.popleft()):
                if (asked := asked + 1) > _QUESTIONS:
                    return None
                if await self._has(bus, place, _FOCUSED):
                    return place
                places.append(place)
        return None

    async def _children(self, bus: DBusConnection, place: Place) -> list[Place]:
        found = await self._ask(bus, place, "GetChildren")
        rows = found[:_QUESTIONS] if isinstance(found, list) else []
        return [(row[0], row[1]) for row in rows if isinstance(row, tuple) and [*map(type, row)] == [str, str]]

    async def _has(self, bus: DBusConnection, place: Place, state: int) -> bool:
        words = await self._ask(bus, place, "GetState")
        return isinstance(words, list) and bool(words) and isinstance(words[0], int) and bool(words[0] >> state & 1)

    async def _ask(self, bus: DBusConnection, place: Place, question: str) -> object:
        """What a part of a program answers; None: nothing, or an error."""
        name, path = place
        with suppress(BusError, ValueError, TypeError), trio.move_on_after(_ASK_S):
            about = DBusAddress(path, bus_name=name, interface="org.a11y.atspi.Accessible")  # "" is none
            answer = await call(bus, new_method_call(about, question), on_signal=self._unheard.append)
            return answer[0] if answer else None
        return None


async def _address() -> str:
    """Where the accessibility bus listens. Raises BusError where it does not run."""
    async with await connect("SESSION") as bus:
        message = new_method_call(_A11Y, "GetAddress")
        message.header.flags |= MessageFlag.no_auto_start
        (address,) = await call(bus, message)
        return str(address)
