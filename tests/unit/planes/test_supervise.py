"""Whatever a connection raises ends there, is counted, and is logged without filling the disk."""

import pytest
import trio

from sttd.planes.supervise import QUIET_S, Supervisor


def raiser(*errors):
    async def serve():
        await trio.lowlevel.checkpoint()
        raise errors[0] if len(errors) == 1 else ExceptionGroup("several", errors)

    return serve


async def test_a_bug_is_counted_each_time_and_logged_once_a_minute(autojump_clock, caplog):
    failures = []
    supervisor = Supervisor("audio", lambda: failures.append(1))
    for _ in range(3):
        await supervisor.run(raiser(RuntimeError("x")))
    await supervisor.run(raiser(KeyError("y")))
    await trio.sleep(QUIET_S)
    await supervisor.run(raiser(RuntimeError("x")))
    assert (supervisor.failures, len(failures), supervisor.active) == (5, 5, 0)
    assert [record.fields["kind"] for record in caplog.records] == ["RuntimeError", "KeyError", "RuntimeError"]
    assert caplog.records[0].exc_info


async def test_a_lost_peer_is_no_bug(caplog):
    supervisor = Supervisor("audio")
    await supervisor.run(raiser(trio.BrokenResourceError()))
    await supervisor.run(raiser(trio.ClosedResourceError(), ExceptionGroup("inner", [trio.BrokenResourceError()])))
    assert (supervisor.failures, caplog.records) == (0, [])


async def test_a_bug_beside_a_lost_peer_is_still_seen(caplog):
    supervisor = Supervisor("audio")
    await supervisor.run(raiser(trio.BrokenResourceError(), ExceptionGroup("inner", [ValueError("x")])))
    assert supervisor.failures == 1
    assert caplog.records[0].fields["kind"] == "ValueError"


async def test_cancellation_passes_through():
    supervisor = Supervisor("audio")
    with trio.move_on_after(0) as scope:
        await supervisor.run(trio.sleep_forever)
    assert scope.cancelled_caught
    assert (supervisor.active, supervisor.failures) == (0, 0)


async def test_what_is_not_an_exception_is_not_ours_to_keep():
    async def interrupted():
        await trio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await Supervisor("audio").run(interrupted)
