"""Sockets that are looked at together: who has something is woken at the tick, a few a turn, and nobody for ever."""

import os
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sttd.host.ticks import AT_ONCE, Ticks


@asynccontextmanager
async def ticking(every_s=0.04):
    ticks = Ticks(every_s)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ticks.run)
        await wait_all_tasks_blocked()
        yield ticks
        nursery.cancel_scope.cancel()


@pytest.fixture
def pipes():
    """Makes so many pipes: pairs of descriptors, read from and written to."""
    made = []

    def make(count):
        made.extend(os.pipe() for _ in range(count))
        return made[-count:]

    yield make
    for pair in made:
        for descriptor in pair:
            os.close(descriptor)


async def test_who_has_something_is_woken_at_the_tick_and_who_has_nothing_is_not(autojump_clock, pipes):
    woken = {}

    async def wait(name, descriptor):
        await ticks.readable(descriptor)
        woken[name] = trio.current_time() - began

    (early, to_early), (late, to_late), (never, _) = pipes(3)
    began = trio.current_time()
    async with ticking(1.0) as ticks, trio.open_nursery() as nursery:
        for name, descriptor in (("early", early), ("late", late), ("never", never)):
            nursery.start_soon(wait, name, descriptor)
        await trio.sleep(0.5)
        os.write(to_early, b"x")
        await trio.sleep(1)
        os.write(to_late, b"x")
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert woken == {"early": pytest.approx(1.0), "late": pytest.approx(2.0)}


class Turns(trio.abc.Instrument):
    """How many were woken in each turn of the loop."""

    def __init__(self):
        self.woken = [0]

    def before_io_wait(self, timeout):
        self.woken.append(0)


async def test_no_more_than_a_few_are_woken_in_one_turn(autojump_clock, pipes):
    turns = Turns()

    async def wait(descriptor):
        await ticks.readable(descriptor)
        turns.woken[-1] += 1

    async with ticking() as ticks:
        trio.lowlevel.add_instrument(turns)
        async with trio.open_nursery() as nursery:
            for descriptor, other in pipes(3 * AT_ONCE + 2):
                os.write(other, b"x")
                nursery.start_soon(wait, descriptor)
        trio.lowlevel.remove_instrument(turns)
    assert [count for count in turns.woken if count] == [AT_ONCE] * 3 + [2]


async def test_who_is_cancelled_is_not_woken_and_may_wait_again(autojump_clock, pipes):
    ((descriptor, other),) = pipes(1)
    async with ticking() as ticks:
        with trio.move_on_after(0.01) as scope:
            await ticks.readable(descriptor)
        assert scope.cancelled_caught
        os.write(other, b"x")
        await trio.sleep(1)
        with trio.fail_after(1):
            await ticks.readable(descriptor)


async def test_an_end_is_something_too_and_a_number_may_come_again(autojump_clock):
    async with ticking() as ticks:
        for _ in range(3):
            descriptor, other = os.pipe()  # the same numbers each time
            os.close(other)
            with trio.fail_after(1):
                await ticks.readable(descriptor)
            os.close(descriptor)


async def test_without_ticks_nobody_waits(autojump_clock, pipes):
    ((descriptor, _),) = pipes(1)
    began = trio.current_time()
    await Ticks(0.04).readable(descriptor)
    async with trio.open_nursery() as nursery, ticking(1.0) as ticks:
        nursery.start_soon(ticks.readable, descriptor)
        await wait_all_tasks_blocked()
    assert trio.current_time() == began


async def test_for_a_socket_that_was_closed_nobody_waits(autojump_clock):
    ours, theirs = trio.socket.socketpair()
    ours.close()
    theirs.close()
    began = trio.current_time()
    async with ticking() as ticks:
        await ticks.readable(ours.fileno())
    assert trio.current_time() == began


async def test_while_nobody_waits_it_does_not_tick(autojump_clock, pipes):
    ((descriptor, other),) = pipes(1)
    async with ticking() as ticks:
        await trio.sleep(10)
        assert trio.lowlevel.current_statistics().seconds_to_next_deadline == float("inf")
        os.write(other, b"x")
        await ticks.readable(descriptor)
