"""The hand that types by the desktop's leave, and its keys, with a portal that pretends on a real bus."""

import os
import stat
from contextlib import asynccontextmanager

import pytest
import trio
from sttd_client.dictation import leave, seat, x11
from sttd_client.dictation.backends import HandError, lacks_of
from sttd_client.dictation.portal_hand import PortalHand
from sttd_client.dictation.shortcuts import SHORTCUTS, ShortcutError, Shortcuts

from sttd.errors import AccessError
from tests.logind import start_bus, until
from tests.portal import a_portal


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


async def test_a_portal_that_is_restarted_is_asked_anew(bus, tmp_path):
    async with a_hand(tmp_path) as hand:
        async with a_portal() as portal:
            await hand.write("a")
            await portal.leave()
        async with a_portal() as portal:
            await hand.write("b")
            assert portal.text == "b"


async def test_who_presses_again_while_the_dialog_is_open_gets_no_second_one(bus, tmp_path):
    async with a_portal(answer=1) as portal, a_hand(tmp_path) as hand, trio.open_nursery() as nursery:
        portal.decided = trio.Event()

        async def refused():
            with pytest.raises(HandError, match="it was not allowed"):
                await hand.prepare()

        nursery.start_soon(refused)
        await until(lambda: portal.calls)
        with pytest.raises(HandError, match="asks whether sttd may type"):
            await hand.prepare()
        portal.decided.set()
    assert [member for member, _ in portal.calls] == ["CreateSession"]


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


async def test_an_answer_of_another_shape_is_a_failure_that_is_said(bus, tmp_path):
    async with a_portal(answer="yes") as portal, a_hand(tmp_path) as hand:
        with pytest.raises(HandError, match="the desktop could not do it"):
            await hand.write("a")
        assert portal.keys == []


async def test_without_a_portal_it_is_said(bus, tmp_path):
    async with a_hand(tmp_path) as hand:
        with pytest.raises(HandError, match="the desktop lets nobody type"):
            await hand.write("a")


async def test_a_dialog_stays_open_when_who_asked_has_gone(bus, tmp_path, monkeypatch):
    monkeypatch.setattr(leave, "PATIENCE_S", 0.1)
    async with a_portal() as portal, a_hand(tmp_path) as hand, trio.open_nursery() as nursery:
        portal.decided = trio.Event()
        with pytest.raises(AccessError, match="choose"):
            await leave.allowed(hand.prepare, nursery, asks="choose")
        portal.decided.set()
        await until(lambda: portal.options_of("Start"))
        await hand.write("a")  # behind the answer
        monkeypatch.setattr(leave, "PATIENCE_S", 60)
        await leave.allowed(hand.prepare, nursery, asks="choose")
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


# ---------------------------------------------------------------- keys


@asynccontextmanager
async def bound(*, obey=None):
    """A portal, keys that it gave, and what they asked for."""
    obeyed = []

    async def note(do, hold):
        obeyed.append((do, hold))

    async with a_portal() as portal, trio.open_nursery() as nursery:
        shortcuts = Shortcuts(obey or note)
        with trio.fail_after(60):
            await shortcuts.bind(nursery)
            yield portal, shortcuts, obeyed
        nursery.cancel_scope.cancel()


async def test_keys_are_asked_for_and_ask_for_a_dictation(bus):
    async with bound() as (portal, shortcuts, obeyed):
        assert shortcuts.keys == {"toggle": "Super+D", "hold": "Super+D", "cancel": "Super+D"}
        (_, (_, wanted, _, _)) = portal.calls[-1]
        assert {name: about["description"][1] for name, about in wanted} == SHORTCUTS
        for name, down in (("toggle", 1), ("toggle", 0), ("hold", 1), ("hold", 0), ("nonsense", 1), ("cancel", 1)):
            await portal.key(name, down=down)
        await until(lambda: len(obeyed) == 4)
        assert obeyed == [("toggle", False), ("start", True), ("stop", True), ("cancel", False)]


async def test_a_release_waits_for_what_its_press_asked_for(bus):
    obeyed, begun = [], trio.Event()

    async def obey(do, hold):
        obeyed.append(do)
        if do == "start":
            await begun.wait()

    async with bound(obey=obey) as (portal, _, _):
        for _ in range(100):  # a key that repeats while it is held
            await portal.key("hold", down=1)
        await portal.key("hold", down=0)
        await portal.key("toggle", down=1)
        await until(lambda: obeyed == ["start"])
        begun.set()
        await until(lambda: len(obeyed) == 3)
        assert obeyed == ["start", "stop", "toggle"]


@pytest.mark.parametrize("ends", ["end_session", "leave"])
async def test_keys_that_go_while_one_is_held_end_the_dictation(bus, ends):
    async with bound() as (portal, shortcuts, obeyed):
        await portal.key("hold", down=1)
        await until(lambda: obeyed == [("start", True)])
        await getattr(portal, ends)()
        await until(lambda: shortcuts.keys is None)
        assert obeyed == [("start", True), ("stop", True)]


async def test_a_bus_that_goes_takes_the_keys_and_nothing_else(bus, tmp_path):
    async with trio.open_nursery() as nursery:
        address = f"unix:path={tmp_path}/another"
        process = start_bus(address)
        os.environ["DBUS_SESSION_BUS_ADDRESS"] = address
        async with a_portal() as portal:
            shortcuts = Shortcuts(lambda do, hold: None)
            await shortcuts.bind(nursery)
            assert portal.sessions
            process.kill()
            process.communicate()
            await until(lambda: shortcuts.keys is None)


async def test_who_wants_none_is_told_so_and_may_ask_again(bus):
    async with a_portal(answer=1) as portal, trio.open_nursery() as nursery:
        shortcuts = Shortcuts(lambda do, hold: None)
        with pytest.raises(ShortcutError, match="it was not allowed"):
            await shortcuts.bind(nursery)
        portal.answer = 0
        await shortcuts.bind(nursery)
        await shortcuts.bind(nursery)  # they are there
        assert len(portal.options_of("BindShortcuts")) == 1
        nursery.cancel_scope.cancel()


async def test_keys_that_the_desktop_takes_back_can_be_asked_for_again(bus):
    async with bound() as (portal, shortcuts, _), trio.open_nursery() as nursery:
        await portal.end_session()
        await until(lambda: shortcuts.keys is None)
        await shortcuts.bind(nursery)
        assert shortcuts.keys
        nursery.cancel_scope.cancel()


async def test_without_such_a_portal_it_is_said(bus):
    async with trio.open_nursery() as nursery:
        with pytest.raises(ShortcutError, match="the desktop gives no keys"):
            await Shortcuts(lambda do, hold: None).bind(nursery)
