"""A daemon, a session and a machine that sleeps: nothing is lost. Needs dbus-daemon, no root."""

import trio

from tests.logind import Logind, start_bus, until
from tests.systemd.talk import Session, call

CONFIG = """\
[models]
model = "slow"

[presets.slow]
backend = "fake"
decode_ms = 2000
"""


def decoding(daemon):
    return call(daemon.control, "status")["scheduler"]["in_flight"]


async def test_a_session_outlives_a_suspend_and_the_machine_waits_for_its_decode(serve, tmp_path):
    (tmp_path / "sttd.toml").write_text(CONFIG)
    address = f"unix:path={tmp_path}/bus"
    in_thread = trio.to_thread.run_sync
    with start_bus(address) as bus, trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            logind = await Logind.arrive(address, nursery)
            arguments = ("--tcp", "off", "--config", str(tmp_path / "sttd.toml"))
            daemon = await in_thread(lambda: serve(*arguments, env={"DBUS_SYSTEM_BUS_ADDRESS": address}))
            await until(lambda: logind.held() == 1)
            with Session.open(daemon.audio) as session:
                session.speak(0.6)
                session.send(op="finalize")
                await until(lambda: decoding(daemon) == 1)

                await logind.announce(True)
                await until(lambda: logind.held() == 0)
                assert decoding(daemon) == 0, "the machine waits for the decode"
                assert session.until("final")["text"] == "w1 w2"

                # What is said while nobody may decode is not lost either.
                session.speak(0.9)
                session.send(op="finalize")
                await trio.sleep(0.3)
                assert decoding(daemon) == 0

                await logind.announce(False)
                final = await in_thread(session.until, "final")
                assert final["text"] == "w1 w2 w3"
                await until(lambda: logind.held() == 1)
                session.send(op="stop")
                assert await in_thread(session.until_closed) == 1000
            nursery.cancel_scope.cancel()
        await logind.leave()
        bus.kill()
