"""Asking a portal of the desktop (xdg-desktop-portal) for something that its user may have to allow.

A portal answers twice: at once, with the path of the request; then, when the user has decided, with a signal from
there. The path is known before, so that no answer is missed, however early it comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any, Final

import attrs
import trio
from jeepney import DBusAddress, MatchRule, Message, new_method_call
from jeepney.io.trio import DBusConnection
from jeepney.low_level import HeaderFields

from sttd_client.dictation.bus import ERRORS, BusError, call, connect, name_of, subscribe
from sttd_client.dictation.seat import PORTAL, PORTAL_PATH

_REQUEST: Final = "org.freedesktop.portal.Request"
SESSION: Final = "org.freedesktop.portal.Session"
_NOT_ALLOWED: Final = 1  # the answer of a user who said no; any other but 0 is a failure


class PortalError(OSError):
    """The portal refuses, or the user does. The message says which."""


def _leaves() -> MatchRule:
    rule = MatchRule(type="signal", interface="org.freedesktop.DBus", member="NameOwnerChanged")
    rule.add_arg_condition(0, PORTAL)
    return rule


def is_end(message: Message, session: str) -> bool:
    """The session is over: the desktop says so, or its portal has gone, which says nothing."""
    match name_of(message), message.body:
        case (interface, "Closed"), _:
            return interface == SESSION and message.header.fields.get(HeaderFields.path) == session
        case ("org.freedesktop.DBus", "NameOwnerChanged"), (name, before, _):
            return bool(name == PORTAL and before)
    return False


@attrs.define(eq=False)
class Portal:
    """One portal, on a connection of its own. One request at a time."""

    interface: str
    bus: DBusConnection
    on_signal: Callable[[Message], None]  # that is no answer
    _numbers: count[int] = attrs.field(factory=lambda: count(1), init=False)

    @classmethod
    async def open(cls, interface: str, *, on_signal: Callable[[Message], None]) -> Portal:
        """Connect. Raises BusError."""
        bus = await connect("SESSION")
        portal = cls(interface, bus, on_signal)
        try:
            for rule in (
                MatchRule(type="signal", interface=_REQUEST, path_namespace=f"{PORTAL_PATH}/request/{portal._sender}"),
                _leaves(),
                MatchRule(type="signal", interface=SESSION, path_namespace=f"{PORTAL_PATH}/session/{portal._sender}"),
            ):
                await subscribe(bus, rule, on_signal=on_signal)
        except BaseException:
            await bus.aclose()
            raise
        return portal

    async def aclose(self) -> None:
        """Leave; the portal ends what was asked for on this connection."""
        await self.bus.aclose()

    @property
    def _sender(self) -> str:
        return str(self.bus.unique_name).removeprefix(":").replace(".", "_")

    def token(self) -> str:
        """A name for something new."""
        return f"sttd{next(self._numbers)}"

    async def ask(
        self,
        method: str,
        signature: str,
        *arguments: object,
        options: Mapping[str, tuple[str, object]],
        within_s: float,
    ) -> dict[str, Any]:
        """What comes of a request, as plain values.

        Args:
            signature: of `arguments`; the options come behind them.

        Raises:
            BusError: there is no such portal, or it went away.
            PortalError: it was refused, or not decided within `within_s`.
        """
        token, early = self.token(), deque[Message]()
        path = f"{PORTAL_PATH}/request/{self._sender}/{token}"
        body = (*arguments, {**options, "handle_token": ("s", token)})
        await self.call(method, f"{signature}a{{sv}}", *body, on_signal=early.append)
        try:
            with trio.fail_after(within_s):
                while True:
                    message = early.popleft() if early else await self.bus.receive()
                    if (
                        name_of(message) == (_REQUEST, "Response")
                        and message.header.fields.get(HeaderFields.path) == path
                    ):
                        break
                    self.on_signal(message)
        except trio.TooSlowError:
            raise PortalError("nobody has allowed it") from None
        except ERRORS as error:
            raise BusError(f"the bus went away: {error!r}") from error
        match message.body:
            case 0, dict(results):
                return {name: value for name, (_, value) in results.items()}
            case int(decision), _ if decision == _NOT_ALLOWED:
                raise PortalError("it was not allowed")
        raise PortalError("the desktop could not do it")

    async def call(
        self, method: str, signature: str, *body: object, on_signal: Callable[[Message], None] | None = None
    ) -> tuple[Any, ...]:
        """Call a method that needs nobody's leave. Raises BusError."""
        message = new_method_call(self._address, method, signature, body)
        return await call(self.bus, message, on_signal=on_signal or self.on_signal)

    async def tell(self, method: str, signature: str, *body: object) -> None:
        """Call a method without waiting for it; the next `call` comes behind it. Raises BusError."""
        message = new_method_call(self._address, method, signature, body)
        try:
            await self.bus.send(message)
        except ERRORS as error:
            raise BusError(f"the bus went away: {error!r}") from error

    async def ping(self) -> None:
        """Hear what was signalled by now. Raises BusError where the portal is gone."""
        peer = DBusAddress(PORTAL_PATH, bus_name=PORTAL, interface="org.freedesktop.DBus.Peer")
        await call(self.bus, new_method_call(peer, "Ping"), on_signal=self.on_signal)

    @property
    def _address(self) -> DBusAddress:
        return DBusAddress(PORTAL_PATH, bus_name=PORTAL, interface=self.interface)
