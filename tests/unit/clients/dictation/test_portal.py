"""The hand that types by the desktop's leave, with a portal that pretends on a real bus."""

import stat
from contextlib import asynccontextmanager

import pytest
import trio
from jeepney import DBusAddress, MessageType, message_bus, new_error, new_method_return, new_signal
from jeepney.io.trio import open_dbus_connection
from jeepney.low_level import HeaderFields
from sttd_client.dictation import hand as hands
from sttd_client.dictation import seat, x11
from sttd_client.dictation.backends import HandError, lacks_of
from sttd_client.dictation.portal_hand import PortalHand

from sttd.errors import AccessError
from tests.logind import start_bus

REQUEST, SESSION = "org.freedesktop.portal.Request", "org.freedesktop.portal.Session"


@pytest.fixture
def bus(tmp_path, monkeypatch):
    address = f"unix:path={tmp_path}/bus"
    process = start_bus(address)
    monkeypatch.setenv("DBUS_SESSION_BUS_ADDRESS", address)
    yield address
    process.terminate()
    process.wait()
    process.stdout.close()


class PretendedPortal:
    """As xdg-desktop-portal does it. `answer` is the user's, 0 for yes; with `early` it comes before the call returns."""

    def __init__(self, connection, *, answer=0, early=False, devices=1):
        self.connection, self.answer, self.early, self.devices = connection, answer, early, devices
        self.decided = trio.Event()
        self.decided.set()
        self.calls, self.keys, self.sessions = [], [], []

    @property
    def text(self):
        pressed = [keysym for keysym, state in self.keys if state]
        assert self.keys == [(keysym, state) for keysym in pressed for state in (1, 0)]
        return "".join({x11.RETURN: "\n", x11.BACKSPACE: "\b"}.get(key) or chr(key & 0xFFFFFF) for key in pressed)

    async def serve(self):
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
        elif member == "Start":
            results = {"devices": ("u", self.devices), "restore_token": ("s", f"token{len(self.calls)}")}
        response = new_signal(DBusAddress(path, interface=REQUEST), "Response", "ua{sv}", (self.answer, results))
        response.header.fields[HeaderFields.destination] = sender
        if not self.early:
            await self.connection.send(returned)
            await self.decided.wait()
        await self.connection.send(response)
        if self.early:
            await self.connection.send(returned)

    async def end_session(self):
        await self.connection.send(
            new_signal(DBusAddress(self.sessions.pop(), interface=SESSION), "Closed", "a{sv}", ({},))
        )

    def options_of(self, member):
        return [
            {name: value for name, (_, value) in body[-1].items()} for called, body in self.calls if called == member
        ]


@asynccontextmanager
async def a_portal(**options):
    async with trio.open_nursery() as nursery, await open_dbus_connection("SESSION") as connection:
        portal = PretendedPortal(connection, **options)
        await connection.send(message_bus.RequestName(seat.PORTAL))
        while (await connection.receive()).header.message_type is not MessageType.method_return:
            pass
        nursery.start_soon(portal.serve)
        yield portal
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def a_hand(tmp_path):
    hand = PortalHand(environ={"XDG_STATE_HOME": str(tmp_path / "state")})
    try:
        with trio.fail_after(60):
            yield hand
    finally:
        await hand.aclose()


@pytest.mark.parametrize("early", [False, True])
async def test_any_text_is_told_as_keysyms_and_taken_back_with_backspace(bus, tmp_path, early):
    async with a_portal(early=early) as portal, a_hand(tmp_path) as hand:
        await hand.write("Straße — 你好\n")
        await hand.erase(2)
        await hand.write("x")
        assert portal.text == "Straße — 你好\n\b\bx"
        assert [member for member, _ in portal.calls] == ["CreateSession", "SelectDevices", "Start"]
        assert portal.options_of("SelectDevices")[0] | {"handle_token": ""} == {
            "types": 1,
            "persist_mode": 2,
            "handle_token": "",
        }


async def test_keys_are_pressed_together(bus, tmp_path):
    async with a_portal() as portal, a_hand(tmp_path) as hand:
        await hand.press("ctrl+v")
        assert portal.keys == [(x11.CONTROL, 1), (ord("v"), 1), (ord("v"), 0), (x11.CONTROL, 0)]


async def test_who_has_allowed_it_is_not_asked_again(bus, tmp_path):
    async with a_portal() as portal:
        for _ in range(3):
            async with a_hand(tmp_path) as hand:
                await hand.prepare()
        tokens = [options.get("restore_token") for options in portal.options_of("SelectDevices")]
        assert tokens == [None, "token3", "token6"]
    (file,) = (tmp_path / "state" / "sttd").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


async def test_a_permission_that_is_taken_back_is_asked_for_again(bus, tmp_path):
    async with a_portal() as portal, a_hand(tmp_path) as hand:
        await hand.write("a")
        await portal.end_session()
        await hand.write("b")
        assert portal.text == "ab"
        assert len(portal.options_of("Start")) == 2


@pytest.mark.parametrize(
    ("answer", "devices", "words"),
    [(1, 1, "it was not allowed"), (2, 1, "the desktop could not do it"), (0, 2, "it gave no keyboard")],
)
async def test_a_refusal_is_said_and_asked_about_at_the_next_time(bus, tmp_path, answer, devices, words):
    async with a_portal(answer=answer, devices=devices) as portal, a_hand(tmp_path) as hand:
        with pytest.raises(HandError, match=words):
            await hand.write("secret")
        assert portal.keys == []
        portal.answer, portal.devices = 0, 1
        await hand.write("a")
        assert portal.text == "a"


async def test_without_a_portal_it_is_said(bus, tmp_path):
    async with a_hand(tmp_path) as hand:
        with pytest.raises(HandError, match="the desktop lets nobody type"):
            await hand.write("a")


async def test_a_dialog_stays_open_when_who_asked_has_gone(bus, tmp_path, monkeypatch):
    monkeypatch.setattr(hands, "_ALLOW_S", 0.1)
    async with a_portal() as portal, a_hand(tmp_path) as hand, trio.open_nursery() as nursery:
        portal.decided = trio.Event()
        for _ in range(2):
            with pytest.raises(AccessError, match="allow it, and begin again"):
                await hands.allow(hand, nursery)
        portal.decided.set()
        monkeypatch.setattr(hands, "_ALLOW_S", 60)
        await hands.allow(hand, nursery)
        assert len(portal.options_of("Start")) == 1


async def test_a_portal_with_a_keyboard_types_where_the_compositor_lets_no_program(bus, monkeypatch):
    def lacks(interfaces):
        monkeypatch.setattr(seat, "_wayland_interfaces", lambda environ: interfaces)
        return lacks_of(seat.look({}))["portal"]

    gnome = frozenset({"wl_seat"})
    assert await trio.to_thread.run_sync(lacks, gnome) == "the desktop has no RemoteDesktop portal with a keyboard"
    async with a_portal() as portal:
        assert await trio.to_thread.run_sync(lacks, gnome) == ""
        assert (
            await trio.to_thread.run_sync(lacks, gnome | {seat.MANAGER})
            == "the compositor lets programs type without it"
        )
        assert await trio.to_thread.run_sync(lacks, None) == "it is for Wayland"
        portal.devices = 2
        assert await trio.to_thread.run_sync(lacks, gnome) == "the desktop has no RemoteDesktop portal with a keyboard"
