"""A little D-Bus for the agent: connect within a time, call and get the answer, hear signals while waiting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import trio
from jeepney import MatchRule, Message, MessageType, message_bus
from jeepney.auth import AuthenticationError
from jeepney.io.common import RouterClosed
from jeepney.io.trio import DBusConnection, open_dbus_connection
from jeepney.low_level import HeaderFields

CALL_S = 5.0  # chosen: for a service that is on the bus
ERRORS = (
    OSError,
    RuntimeError,
    KeyError,  # no DBUS_SESSION_BUS_ADDRESS
    AuthenticationError,
    RouterClosed,
    trio.EndOfChannel,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
)


class BusError(OSError):
    """The bus or who is on it refuses. The message is its own."""


async def connect(address: str) -> DBusConnection:
    """A connection to "SESSION", "SYSTEM" or an address. Raises BusError."""
    try:
        with trio.fail_after(CALL_S):
            return await open_dbus_connection(address)
    except* ERRORS as errors:
        error = errors.exceptions[0]
        raise BusError(f"no bus: {getattr(error, 'strerror', None) or repr(error)}") from None


async def call(
    bus: DBusConnection, message: Message, *, on_signal: Callable[[Message], None] | None = None
) -> tuple[Any, ...]:
    """Call a method and return its answer. Signals that come before it go to `on_signal`. Raises BusError.

    Cancellation: the answer is skipped when it comes, as nobody waits for its number any more.
    """
    serial = next(bus.outgoing_serial)
    try:
        with trio.fail_after(CALL_S):
            await bus.send(message, serial=serial)
            while True:
                reply = await bus.receive()
                if reply.header.fields.get(HeaderFields.reply_serial) == serial:
                    break
                if on_signal is not None and reply.header.message_type is MessageType.signal:
                    on_signal(reply)
    except ERRORS as error:
        raise BusError(f"the bus went away: {error!r}") from error
    if reply.header.message_type is MessageType.error:
        name = reply.header.fields.get(HeaderFields.error_name, "")
        raise BusError(f"{name}: {reply.body[0] if reply.body else ''}")
    return tuple(reply.body)


async def subscribe(bus: DBusConnection, rule: MatchRule, *, on_signal: Callable[[Message], None]) -> None:
    """Hear the signals of a rule from now on. Raises BusError."""
    await call(bus, message_bus.AddMatch(rule), on_signal=on_signal)


def name_of(message: Message) -> tuple[str, str]:
    """Interface and member of a signal."""
    fields = message.header.fields
    return fields.get(HeaderFields.interface, ""), fields.get(HeaderFields.member, "")
