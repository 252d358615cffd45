"""Portals of the desktop that pretend, on a real bus: RemoteDesktop and GlobalShortcuts."""

from contextlib import asynccontextmanager

import trio
from jeepney import DBusAddress, MessageType, message_bus, new_error, new_method_return, new_signal
from jeepney.io.trio import open_dbus_connection
from jeepney.low_level import HeaderFields
from sttd_client.dictation import seat, x11

REQUEST, SESSION = "org.freedesktop.portal.Request", "org.freedesktop.portal.Session"
SHORTCUTS = "org.freedesktop.portal.GlobalShortcuts"


class PretendedPortal:
    """As xdg-desktop-portal does it. `answer` is the user's, 0 for yes; `early`: it comes before the call returns."""

    def __init__(self, connection, *, answer=0, early=False, devices=1):
        self.connection, self.answer, self.early, self.devices = connection, answer, early, devices
        self.signature = "ua{sv}" if isinstance(answer, int) else "sa{sv}"
        self.decided = trio.Event()
        self.decided.set()
        self.calls, self.keys, self.sessions = [], [], []

    @property
    def text(self):
        pressed = [keysym for keysym, state in self.keys if state]
        assert self.keys == [(keysym, state) for keysym in pressed for state in (1, 0)]
        return "".join({x11.RETURN: "\n", x11.BACKSPACE: "\b"}.get(key) or chr(key & 0xFFFFFF) for key in pressed)

    async def serve(self):
        try:
            await self._serve()
        except* trio.ClosedResourceError:
            pass

    async def _serve(self):
        async with trio.open_nursery() as nursery:
            async for message in self.connection:
                if message.header.message_type is not MessageType.method_call:
                    continue
                fields = message.header.fields
                match fields[HeaderFields.member], message.body:
                    case "Get", _:
                        await self.connection.send(new_method_return(message, "v", (("u", self.devices),)))
                    case "Ping", _:
                        await self.connection.send(new_method_return(message))
                    case "NotifyKeyboardKeysym", (session, _, keysym, state):
                        if session not in self.sessions:
                            await self.connection.send(
                                new_error(message, "org.freedesktop.DBus.Error.Failed", "s", ("no",))
                            )
                            continue
                        self.keys.append((keysym, state))
                        await self.connection.send(new_method_return(message))
                    case member, body:
                        self.calls.append((member, body))
                        nursery.start_soon(self.decide, message, member, body)

    async def decide(self, message, member, body):
        sender = message.header.fields[HeaderFields.sender]
        name, options = sender.removeprefix(":").replace(".", "_"), body[-1]
        path = f"{seat.PORTAL_PATH}/request/{name}/{options['handle_token'][1]}"
        returned = new_method_return(message, "o", (path,))
        results = {}
        if member == "CreateSession":
            session = f"{seat.PORTAL_PATH}/session/{name}/{options['session_handle_token'][1]}"
            self.sessions.append(session)
            results = {"session_handle": ("s", session)}
        elif member == "BindShortcuts":
            keys = [(name, {"trigger_description": ("s", "Super+D")}) for name, _ in body[1]]
            results = {"shortcuts": ("a(sa{sv})", keys)}
        elif member == "Start":
            results = {"devices": ("u", self.devices), "restore_token": ("s", f"token{len(self.calls)}")}
        response = new_signal(DBusAddress(path, interface=REQUEST), "Response", self.signature, (self.answer, results))
        response.header.fields[HeaderFields.destination] = sender
        if not self.early:
            await self.connection.send(returned)
            await self.decided.wait()
        await self.connection.send(response)
        if self.early:
            await self.connection.send(returned)

    async def key(self, name, *, down):
        """A key of the last session goes down, or up."""
        about = DBusAddress(seat.PORTAL_PATH, interface=SHORTCUTS)
        member, body = "Activated" if down else "Deactivated", (self.sessions[-1], name, 0, {})
        await self.connection.send(new_signal(about, member, "osta{sv}", body))

    async def leave(self):
        """As one does that is restarted: another may take its name."""
        await self.connection.send(message_bus.ReleaseName(seat.PORTAL))

    async def end_session(self):
        await self.connection.send(
            new_signal(DBusAddress(self.sessions.pop(), interface=SESSION), "Closed", "a{sv}", ({},))
        )

    def options_of(self, member):
        return [
            {name: value for name, (_, value) in body[-1].items()} for called, body in self.calls if called == member
        ]


@asynccontextmanager
async def a_portal(address="SESSION", **options):
    async with trio.open_nursery() as nursery, await open_dbus_connection(address) as connection:
        portal = PretendedPortal(connection, **options)
        await connection.send(message_bus.RequestName(seat.PORTAL))
        while (await connection.receive()).header.message_type is not MessageType.method_return:
            pass
        nursery.start_soon(portal.serve)
        yield portal
        nursery.cancel_scope.cancel()
