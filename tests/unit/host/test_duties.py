"""A duty that fails is begun again, and takes nobody with it."""

import trio.testing

from sttd.host.duties import supervised


async def test_a_duty_that_fails_is_begun_again_until_it_ends(autojump_clock, caplog):
    runs = []

    async def duty():
        runs.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if len(runs) < 3:
            raise OSError("no more descriptors")

    await supervised(duty, pause_s=5.0)
    assert [round(at - runs[0]) for at in runs] == [0, 5, 10]
    assert caplog.text.count("a duty failed") == 2


async def test_cancelling_ends_it():
    with trio.move_on_after(0.01) as scope:
        await supervised(trio.sleep_forever)
    assert scope.cancelled_caught
