"""Suspend and resume with a fake logind on a private bus."""

import pytest
import trio
from jeepney import new_signal
from jeepney.io.trio import open_dbus_connection
from jeepney.low_level import HeaderFields

from sttd.host import suspend
from sttd.host.suspend import watch_sleep
from tests.logind import MANAGER, Logind, start_bus, until


@pytest.fixture
def bus(tmp_path):
    """A private bus; its address and its process."""
    address = f"unix:path={tmp_path}/bus"
    with start_bus(address) as process:
        yield address, process
        process.kill()


class Daemon:
    """Counts the calls; `ready` lets `on_sleep` return."""

    def __init__(self):
        self.calls = []
        self.ready = trio.Event()

    async def on_sleep(self):
        self.calls.append("sleep")
        await self.ready.wait()
        self.calls.append("parked")

    async def on_resume(self):
        self.calls.append("resume")

    async def watch(self, address, *, task_status):
        await watch_sleep(on_sleep=self.on_sleep, on_resume=self.on_resume, address=address, task_status=task_status)


async def test_sleep_waits_for_the_daemon_and_the_lock_is_taken_again(bus):
    daemon = Daemon()
    async with trio.open_nursery() as nursery:
        logind = await Logind.arrive(bus[0], nursery)
        await nursery.start(daemon.watch, bus[0])
        assert logind.held() == 1
        assert logind.asked == [("sleep", "sttd", "Utterances get their final text first", "delay")]
        await logind.announce(True)
        await until(lambda: daemon.calls == ["sleep"])
        assert logind.held() == 1
        daemon.ready.set()
        await until(lambda: logind.held() == 0)
        assert daemon.calls == ["sleep", "parked"]
        await logind.announce(False)
        await until(lambda: logind.held() == 1)
        assert daemon.calls == ["sleep", "parked", "resume"]
        await let_go_again(logind)
        nursery.cancel_scope.cancel()
    await logind.leave()


async def let_go_again(logind):
    """A lock that was given may still be on its way; who announces a sleep is heard behind it."""
    await logind.announce(True)
    await until(lambda: logind.held() == 0)


async def test_cancelled_it_lets_go_of_the_lock(bus):
    daemon = Daemon()
    async with trio.open_nursery() as nursery:
        logind = await Logind.arrive(bus[0], nursery)
        await nursery.start(daemon.watch, bus[0])
        assert logind.held() == 1
        nursery.cancel_scope.cancel()
    assert logind.held() == 0
    await logind.leave()


async def test_a_resume_during_on_sleep_is_handled_after_it(bus):
    daemon = Daemon()
    async with trio.open_nursery() as nursery:
        logind = await Logind.arrive(bus[0], nursery)
        await nursery.start(daemon.watch, bus[0])
        await logind.announce(True)
        await logind.announce(False)
        await until(lambda: daemon.calls == ["sleep"])
        daemon.ready.set()
        await until(lambda: len(logind.locks) == 2 and logind.held() == 1)
        assert daemon.calls == ["sleep", "parked", "resume"]
        await let_go_again(logind)
        nursery.cancel_scope.cancel()
    await logind.leave()


async def test_without_the_lock_the_announcement_still_comes(bus, caplog):
    daemon = Daemon()
    daemon.ready.set()
    async with trio.open_nursery() as nursery:
        logind = await Logind.arrive(bus[0], nursery, refuse=True)
        await nursery.start(daemon.watch, bus[0])
        await logind.announce(True)
        await until(lambda: daemon.calls == ["sleep", "parked"])
        nursery.cancel_scope.cancel()
    assert "a suspend will not wait for sttd" in caplog.text
    await logind.leave()


async def test_a_logind_that_comes_later_or_again_is_found(bus):
    daemon = Daemon()
    daemon.ready.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.watch, bus[0])
        for round_ in range(2):
            logind = await Logind.arrive(bus[0], nursery)
            await until(lambda logind=logind: logind.locks and logind.held() == 1)
            await logind.announce(True)
            await until(lambda round_=round_: len(daemon.calls) == 3 * round_ + 2)
            await logind.announce(False)
            await until(lambda round_=round_: len(daemon.calls) == 3 * round_ + 3)
            await logind.leave()
        nursery.cancel_scope.cancel()
    assert daemon.calls == ["sleep", "parked", "resume"] * 2


async def test_a_logind_that_goes_while_the_machine_sleeps_does_not_leave_it_asleep(bus):
    daemon = Daemon()
    daemon.ready.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.watch, bus[0])
        logind = await Logind.arrive(bus[0], nursery)
        await until(lambda: logind.locks and logind.held() == 1)
        await logind.announce(True)
        await until(lambda: daemon.calls == ["sleep", "parked"])
        await logind.leave()
        await until(lambda: daemon.calls == ["sleep", "parked", "resume"])
        nursery.cancel_scope.cancel()


async def test_a_signal_of_somebody_else_is_not_logind_s(bus):
    daemon = Daemon()
    daemon.ready.set()
    async with trio.open_nursery() as nursery:
        logind = await Logind.arrive(bus[0], nursery)
        await nursery.start(daemon.watch, bus[0])
        async with await open_dbus_connection(bus[0]) as somebody:
            for destination in range(1, 10):  # the unique names of a young bus
                signal = new_signal(MANAGER, "PrepareForSleep", "b", (True,))
                signal.header.fields[HeaderFields.destination] = f":1.{destination}"
                await somebody.send(signal)
            await trio.sleep(0.2)
        assert daemon.calls == []
        await logind.announce(True)
        await until(lambda: daemon.calls == ["sleep", "parked"])
        nursery.cancel_scope.cancel()
    await logind.leave()


@pytest.mark.parametrize("address", ["unix:path=/nonexistent", "tcp:host=127.0.0.1,port=1"])
async def test_without_a_bus_it_returns_and_nothing_fails(address):
    daemon = Daemon()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            await nursery.start(daemon.watch, address)
    assert daemon.calls == []


async def test_a_bus_that_goes_away_is_looked_for_again(bus, monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(suspend, "_RECONNECT_S", 0.05)
    address, process = bus
    daemon = Daemon()
    daemon.ready.set()
    async with trio.open_nursery() as nursery:
        await nursery.start(daemon.watch, address)
        process.kill()
        await until(lambda: "the system bus went away" in caplog.text)
        (tmp_path / "bus").unlink()
        with start_bus(address) as again:
            logind = await Logind.arrive(address, nursery)
            await until(lambda: logind.locks and logind.held() == 1)
            nursery.cancel_scope.cancel()
            again.kill()
    await logind.leave()


async def test_what_a_callback_raises_is_raised(bus):
    async def broken():
        raise ValueError("broken")

    async def watch(*, task_status):
        await watch_sleep(on_sleep=broken, on_resume=broken, address=bus[0], task_status=task_status)

    logind = None
    with pytest.RaisesGroup(ValueError):
        async with trio.open_nursery() as nursery:
            logind = await Logind.arrive(bus[0], nursery)
            await nursery.start(watch)
            await logind.announce(True)
            await trio.sleep(5)
    assert logind.held() == 0
    await logind.leave()
