"""The desktop's buses, real ones with services that pretend: notifications, a locked screen, a machine that sleeps."""

import trio
from jeepney import DBusAddress, MessageType, message_bus, new_method_return, new_signal
from jeepney.io.trio import open_dbus_connection
from jeepney.low_level import HeaderFields
from sttd_client.dictation.course import Show
from sttd_client.dictation.desktop import Desktop
from sttd_client.dictation.wish import Wish

from tests.logind import MANAGER, Logind, until

NOTIFICATIONS = "org.freedesktop.Notifications"
SCREEN_SAVER = DBusAddress("/org/freedesktop/ScreenSaver", interface="org.freedesktop.ScreenSaver")
SESSION = DBusAddress("/org/freedesktop/login1/session/_31", interface="org.freedesktop.login1.Session")


class Notifications:
    """A notification service that keeps what it is told."""

    def __init__(self):
        self.shown, self.closed = [], []

    async def serve(self, address, *, task_status):
        async with await open_dbus_connection(address) as connection:
            await connection.send(message_bus.RequestName(NOTIFICATIONS))
            while (await connection.receive()).header.message_type is not MessageType.method_return:
                pass
            task_status.started()
            async for message in connection:
                member = message.header.fields.get(HeaderFields.member)
                if member == "Notify":
                    self.shown.append(message.body)
                    await connection.send(new_method_return(message, "u", (7,)))
                elif member == "CloseNotification":
                    self.closed.append(message.body[0])
                    await connection.send(new_method_return(message))


async def test_a_notification_stays_while_it_listens_and_tells_why_it_stopped(bus):
    service, desktop = Notifications(), Desktop(environ={}, on_away=lambda why: None)
    async with trio.open_nursery() as nursery:
        await nursery.start(service.serve, bus)
        nursery.start_soon(desktop.run)
        desktop.show(Show("listening"), wish=Wish(notify=False), types="x11")
        desktop.show(Show("listening"), wish=Wish(sound=True), types="x11")
        desktop.show(Show("finishing"), wish=Wish(), types="x11")
        desktop.show(Show("idle"), wish=Wish(), types="x11")
        desktop.show(Show("idle", "the microphone gives no sound"), wish=Wish(), types="x11")
        await until(lambda: len(service.shown) == 2)
        (_, replaces, _, title, text, _, hints, expires_ms), stopped = service.shown
        assert (replaces, title, text, expires_ms) == (0, "Listening", "types with x11", 0)
        assert hints["suppress-sound"] == ("b", False)
        assert service.closed == [7]
        assert stopped[3:5] == ("Dictation stopped", "the microphone gives no sound")
        assert stopped[7] > 0
        nursery.cancel_scope.cancel()


async def test_a_locked_screen_and_a_machine_that_sleeps_end_a_dictation_and_forbid_the_next(bus):
    away = []
    desktop = Desktop(environ={}, on_away=away.append)
    async with trio.open_nursery() as nursery:
        logind = await Logind.arrive(bus, nursery)
        nursery.start_soon(desktop.run)

        async def said(signal, refusal):
            """Said again until it is heard: nobody tells when the desktop has begun to listen."""
            with trio.fail_after(60):
                while desktop.refusal != refusal:
                    await logind.connection.send(signal)
                    await trio.sleep(0.02)

        await said(new_signal(SCREEN_SAVER, "ActiveChanged", "b", (True,)), "the screen is locked")
        await said(new_signal(SCREEN_SAVER, "ActiveChanged", "b", (False,)), "")
        await said(new_signal(SESSION, "Lock"), "the screen is locked")
        await said(new_signal(SESSION, "Unlock"), "")
        await said(new_signal(MANAGER, "PrepareForSleep", "b", (True,)), "the machine goes to sleep")
        await said(new_signal(MANAGER, "PrepareForSleep", "b", (False,)), "")
        assert away == ["the screen is locked", "the screen is locked", "the machine goes to sleep"]
        await logind.leave()
        nursery.cancel_scope.cancel()


async def test_what_is_signalled_before_all_is_asked_for_is_heeded(bus):
    async def serve(connection):
        """Ahead of the answer to the last question comes a signal."""
        async for message in connection:
            if message.header.fields.get(HeaderFields.member) == "GetSession":
                await connection.send(new_signal(MANAGER, "PrepareForSleep", "b", (True,)))
                await connection.send(new_method_return(message, "o", (SESSION.object_path,)))

    desktop = Desktop(environ={"XDG_SESSION_ID": "1"}, on_away=lambda why: None)
    async with trio.open_nursery() as nursery, await open_dbus_connection(bus) as connection:
        await connection.send(message_bus.RequestName(MANAGER.bus_name))
        nursery.start_soon(serve, connection)
        nursery.start_soon(desktop.run)
        await until(lambda: desktop.refusal == "the machine goes to sleep")
        nursery.cancel_scope.cancel()


async def test_without_a_bus_there_is_no_notification_and_no_error(monkeypatch, tmp_path):
    for name in ("SESSION", "SYSTEM"):
        monkeypatch.setenv(f"DBUS_{name}_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    desktop = Desktop(environ={}, on_away=lambda why: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(desktop.run)
        for _ in range(40):  # more than wait
            desktop.show(Show("listening"), wish=Wish(), types="x11")
        await trio.sleep(0.1)
        assert desktop.refusal == ""
        nursery.cancel_scope.cancel()
