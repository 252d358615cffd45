"""The loop's watch names who holds it, and says how late it is."""

import logging
import time
from functools import partial

import attrs
import trio

from sttd.host.looplag import LoopWatch


@attrs.define
class Clock:
    """Time passes where a test says so, and not while another process has the processor."""

    now: float = 0.0

    def __call__(self):
        return self.now

    def pass_by(self, seconds):
        self.now += seconds


async def hog(clock, seconds):
    clock.pass_by(seconds)
    await trio.lowlevel.checkpoint()


async def watched(watch, *functions):
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        async with trio.open_nursery() as work:
            for function in functions:
                work.start_soon(function)
        nursery.cancel_scope.cancel()


async def test_a_task_that_holds_the_loop_is_named_once(caplog):
    watch = LoopWatch(hold_s=0.02, clock=(clock := Clock()))
    with caplog.at_level(logging.WARNING):
        await watched(watch, partial(hog, clock, 0.03), partial(hog, clock, 0.03))
    assert watch.holds == 2
    (record,) = caplog.records
    assert record.fields["task"].endswith("hog")
    assert record.fields["held_ms"] >= 30
    assert "test_looplag.py" in record.fields["where"] or "trio" in record.fields["where"]


async def test_a_task_that_ends_in_the_long_step_is_named_too(caplog):
    clock = Clock()

    async def short():
        clock.pass_by(0.03)

    watch = LoopWatch(hold_s=0.02, clock=clock)
    await watched(watch, short)
    assert watch.holds == 1
    assert caplog.records[0].fields["where"] == "(ended)"


async def test_the_lag_is_the_lateness_of_a_sleeper():
    watch = LoopWatch()
    assert watch.lag_ms_p99() is None
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        for _ in range(3):
            await trio.sleep(0.06)
            time.sleep(0.08)  # noqa: ASYNC251
        await trio.sleep(0.06)
        nursery.cancel_scope.cancel()
    assert 20 < watch.lag_ms_p99() < 60_000


async def test_an_idle_loop_is_on_time(autojump_clock):
    watch = LoopWatch()
    async with trio.open_nursery() as nursery:
        await nursery.start(watch.run)
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert watch.lag_ms_p99() == 0
