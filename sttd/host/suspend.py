"""Suspend and resume, as logind announces them on the system bus.

logind sends ``PrepareForSleep(true)`` before the machine sleeps and waits for those who hold a *delay* lock, five
seconds at most (``InhibitDelayMaxSec=``); ``PrepareForSleep(false)`` follows after the machine woke up. So a lock is
held while awake, and let go once the daemon is ready to sleep: <https://systemd.io/INHIBITOR_LOCKS>.
"""

import logging
from collections.abc import Awaitable, Callable

import attrs
import trio
from jeepney import DBusAddress, MatchRule, Message, MessageType, message_bus, new_method_call
from jeepney.auth import AuthenticationError
from jeepney.fds import FileDescriptor
from jeepney.io.common import RouterClosed
from jeepney.io.trio import DBusConnection, open_dbus_connection
from jeepney.low_level import HeaderFields

from sttd.host import logs

log = logs.get(__name__)

_CONNECT_TIMEOUT_S = 5.0
_RECONNECT_S = 10.0  # a bus that went away is being restarted, or the machine goes down
_LOGIND = DBusAddress(
    "/org/freedesktop/login1", bus_name="org.freedesktop.login1", interface="org.freedesktop.login1.Manager"
)
_BUS = "org.freedesktop.DBus"
_SLEEPING = MatchRule(type="signal", sender=_LOGIND.bus_name, interface=_LOGIND.interface, member="PrepareForSleep")
_OWNER_CHANGED = MatchRule(type="signal", sender=_BUS, interface=_BUS, member="NameOwnerChanged")
_OWNER_CHANGED.add_arg_condition(0, _LOGIND.bus_name)
_BUS_ERRORS = (OSError, RuntimeError, AuthenticationError, RouterClosed, trio.EndOfChannel, trio.BrokenResourceError)

Callback = Callable[[], Awaitable[None]]


async def watch_sleep(
    *,
    on_sleep: Callback,
    on_resume: Callback,
    address: str = "SYSTEM",
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Call ``on_sleep`` before the machine sleeps, which waits for it, and ``on_resume`` after it woke up.

    Started once the lock is held, or was refused: then the announcement still comes, but nobody waits. Returns at
    once, with a debug message, where there is no system bus; a bus that goes away later is looked for again.
    What a callback raises is raised here. Cancelled, it lets go of the lock.

    Args:
        address: a D-Bus address instead of the system bus.
    """
    bus = await _connect(address)
    if bus is None:
        task_status.started()
        return
    while True:
        if bus is not None:
            async with bus:
                watch = _Watch(bus=bus, on_sleep=on_sleep, on_resume=on_resume)
                await watch.run(task_status)
            await watch.wake()
            log.warning("the system bus went away, suspend goes unnoticed until it is back")
            task_status = trio.TASK_STATUS_IGNORED
        await trio.sleep(_RECONNECT_S)
        bus = await _connect(address)


async def _connect(address: str) -> DBusConnection | None:
    bus = None
    try:
        with trio.fail_after(_CONNECT_TIMEOUT_S):
            bus = await open_dbus_connection(address, enable_fds=True)
    except* (*_BUS_ERRORS, trio.TooSlowError) as errors:
        log.debug("no system bus, suspend goes unnoticed", reason=repr(errors.exceptions[0]))
    return bus


@attrs.define(eq=False, kw_only=True)
class _Watch:
    """One connection to the bus. Messages are handled one after the other, in the order of logind."""

    bus: DBusConnection
    on_sleep: Callback
    on_resume: Callback
    _logind: str | None = None  # its unique name: anybody on the bus may send a signal that looks like logind's
    _lock: FileDescriptor | None = None
    _lock_request: int | None = None  # serial of the call under way
    _asleep: bool = False

    async def run(self, task_status: trio.TaskStatus[None]) -> None:
        """Until the bus goes away."""
        started = False
        try:
            await self.bus.send(message_bus.AddMatch(_OWNER_CHANGED))
            await self.bus.send(message_bus.AddMatch(_SLEEPING))
            await self._ask_for_lock()
            async for message in self.bus:
                await self._handle(message)
                if not started and self._lock_request is None:  # the last of three calls was answered
                    started = True
                    task_status.started()
        except trio.BrokenResourceError as error:
            log.debug("the connection to the system bus broke", reason=str(error))
        finally:
            self._release_lock()
        if not started:
            task_status.started()

    async def _handle(self, message: Message) -> None:
        fields = message.header.fields
        sender, member = fields.get(HeaderFields.sender), fields.get(HeaderFields.member)
        if self._lock_request is not None and fields.get(HeaderFields.reply_serial) == self._lock_request:
            self._lock_request = None
            self._take_lock(message)
        elif sender == _BUS and member == "NameOwnerChanged":
            # logind came, went or was restarted, and the lock went with it.
            await self.wake()
            self._release_lock()
            await self._ask_for_lock()
        elif sender == self._logind and member == "PrepareForSleep":
            (self._asleep,) = message.body
            await (self._sleep() if self._asleep else self._resume())

    async def wake(self) -> None:
        """Whoever was to say that the machine woke up is gone: it is awake, or this would not run."""
        if self._asleep:
            self._asleep = False
            await self.on_resume()

    async def _sleep(self) -> None:
        log.info("the machine is about to sleep")
        await self.on_sleep()
        self._release_lock()

    async def _resume(self) -> None:
        log.info("the machine woke up")
        await self.on_resume()
        await self._ask_for_lock()

    async def _ask_for_lock(self) -> None:
        what_who_why_mode = ("sleep", "sttd", "Utterances get their final text first", "delay")
        self._lock_request = next(self.bus.outgoing_serial)
        call = new_method_call(_LOGIND, "Inhibit", "ssss", what_who_why_mode)
        await self.bus.send(call, serial=self._lock_request)

    def _take_lock(self, reply: Message) -> None:
        sender = reply.header.fields.get(HeaderFields.sender)
        self._logind = None if sender == _BUS else sender
        if reply.header.message_type is not MessageType.method_return:
            log.log(
                logging.DEBUG if self._logind is None else logging.WARNING,
                "no lock from logind: a suspend will not wait for sttd",
                reason=str(reply.body[0]) if reply.body else "",
            )
            return
        (self._lock,) = reply.body
        if self._asleep:  # it came too late to be of use, and would only hold logind up
            self._release_lock()

    def _release_lock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None
