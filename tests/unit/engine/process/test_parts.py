"""The parts of a model in a process: the memory for audio, who may be in it, and the spare."""

from __future__ import annotations

import mmap
import os
import threading
import time
from pathlib import Path

import attrs
import numpy as np
import pytest
import trio

from sttd.engine.contract import Recipe
from sttd.engine.process.audio import CAPACITY_SAMPLES, KEPT_BYTES, Room
from sttd.engine.process.channel import ClosedError, channel_pair
from sttd.engine.process.crew import Crew
from sttd.engine.process.turnstile import Turnstile

PATIENCE_S = 300.0

# ---------------------------------------------------------------- audio


def shared_bytes():
    """Memory of this process that others see, too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("RssShmem")).split()[1])


def test_what_one_side_puts_the_other_sees_and_cannot_change():
    room, descriptor = Room.made()
    theirs = Room.seen(descriptor)
    pieces = [np.arange(5, dtype=np.float32), np.ones(3, np.float32)]
    assert room.put(pieces) == [0, 5]
    seen = theirs.part(5, 3)
    assert seen.tolist() == [1, 1, 1]
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 2
    room.put([np.zeros(6, np.float32)])
    assert seen.tolist() == [0, 1, 1]


@pytest.mark.parametrize("place", [(-1, 3), (0, -1), (CAPACITY_SAMPLES, 1), (0, CAPACITY_SAMPLES + 1)])
def test_a_place_outside_is_refused(place):
    room, descriptor = Room.made()
    os.close(descriptor)
    with pytest.raises(ValueError, match="not within"):
        room.part(*place)


def test_it_holds_what_it_holds_and_gives_back_what_a_usual_call_does_not_need():
    room, descriptor = Room.made()
    theirs = Room.seen(descriptor)
    with pytest.raises(ValueError, match="more audio"):
        room.put([np.zeros(CAPACITY_SAMPLES // 2, np.float32), np.zeros(CAPACITY_SAMPLES // 2 + 1, np.float32)])
    before, large = shared_bytes(), 30 * 480_000
    room.put([np.ones(large, np.float32)])
    assert shared_bytes() - before > 50e6
    room.shrink(large)
    assert shared_bytes() - before <= KEPT_BYTES + mmap.PAGESIZE
    assert room.put([np.full(large, 2, np.float32)]) == [0], "and can be used again"
    assert theirs.part(large - 2, 2).tolist() == [2, 2]


# ---------------------------------------------------------------- messages


@pytest.mark.parametrize("whose", ["ours", "theirs"])
def test_a_channel_of_which_either_end_is_closed_says_so(whose):
    channel, theirs = channel_pair()
    with theirs:
        (channel if whose == "ours" else theirs).close()
        with pytest.raises(ClosedError):
            channel.send(["park"])
        with pytest.raises(ClosedError):
            channel.receive(until=time.monotonic() + PATIENCE_S)
        channel.close()


# ---------------------------------------------------------------- turns


def test_who_is_alone_waits_for_the_others_and_they_for_him():
    turnstile, entered, leave = Turnstile(), threading.Event(), threading.Event()
    inside = []

    def alone():
        with turnstile.turn(alone=True):
            inside.append("alone")
            entered.set()
            leave.wait(PATIENCE_S)

    thread = threading.Thread(target=alone)
    with turnstile.turn(alone=False):
        with turnstile.turn(alone=False):
            thread.start()
            assert not entered.wait(0.05)
        with pytest.raises(TimeoutError), turnstile.turn(alone=False, until=time.monotonic() + 0.05):
            pytest.fail("somebody waits to be alone: nobody else comes in")
    assert entered.wait(PATIENCE_S)
    for also_alone in (True, False):
        with pytest.raises(TimeoutError), turnstile.turn(alone=also_alone, until=time.monotonic() + 0.05):
            pytest.fail("somebody is alone in there")
    leave.set()
    thread.join(PATIENCE_S)
    with turnstile.turn(alone=False, until=time.monotonic() + PATIENCE_S):
        assert inside == ["alone"]


# ---------------------------------------------------------------- the spare

RECIPE = Recipe(factory="somewhere:Backend")


@attrs.define(eq=False)
class FakeWorker:
    recipe: Recipe
    alive: bool = True
    closed: bool = False
    pid: int = 7

    def close(self):
        self.alive, self.closed = False, True


@attrs.define(eq=False)
class FakeModel:
    broken: bool = False
    mended: int = 0

    def wants_mending(self):
        return self.broken

    def mend(self):
        self.mended += 1
        self.broken = False

    def pid(self):
        return None if self.broken else 8


@pytest.fixture
def hired(monkeypatch):
    """A crew of processes that are none, quick about its spare, and all that it started."""
    monkeypatch.setattr("sttd.engine.process.crew._REST_S", 0.0)
    monkeypatch.setattr("sttd.engine.process.crew._GLANCE_S", 0.005)
    started = []

    def start(recipe, *, log_format):
        started.append(FakeWorker(recipe))
        return started[-1]

    return Crew(spare_ttl_s=PATIENCE_S, start=start), started


async def until(condition):
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.005)


async def test_the_spare_is_hired_next_and_another_takes_its_place(hired):
    crew, started = hired
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.run)
        await trio.sleep(0.05)
        assert started == [], "nothing was loaded yet"
        assert crew.hire(RECIPE) is started[0]
        crew.add(FakeModel())
        await until(lambda: len(crew.pids()) == 2)
        assert crew.hire(RECIPE) is started[1]
        await until(lambda: len(started) == 3 and len(crew.pids()) == 2)
        nursery.cancel_scope.cancel()
    assert [worker.closed for worker in started] == [False, False, True], "the last spare ends with the crew"


async def test_a_spare_of_another_kind_or_a_dead_one_is_not_hired(hired):
    crew, started = hired
    other = Recipe(factory="elsewhere:Backend")
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.run)
        crew.hire(RECIPE)
        await until(lambda: crew.pids())
        assert crew.hire(other).recipe == other
        assert started[1].closed
        await until(lambda: crew.pids())
        started[3].alive = False
        assert crew.hire(other) is started[4]
        nursery.cancel_scope.cancel()


async def test_a_spare_that_dies_by_itself_is_not_started_again_and_again(hired):
    crew, started = hired
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.run)
        crew.hire(RECIPE)
        await until(lambda: crew.pids())
        started[1].alive = False
        await trio.sleep(0.1)
        assert len(started) == 2
        nursery.cancel_scope.cancel()


async def test_the_spare_goes_some_time_after_the_last_model(hired):
    crew, started = hired
    crew.spare_ttl_s, model = 0.2, FakeModel()
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.run)
        crew.hire(RECIPE)
        crew.add(model)
        await until(lambda: len(crew.pids()) == 2)
        await trio.sleep(0.4)
        assert not started[1].closed, "a model is there"
        crew.remove(model)
        await until(lambda: started[1].closed)
        assert crew.pids() == ()
        nursery.cancel_scope.cancel()


async def test_a_model_that_lost_its_process_is_mended_once(hired):
    crew, _ = hired
    model = FakeModel(broken=True)
    crew.add(model)
    assert crew.pids() == ()
    async with trio.open_nursery() as nursery:
        await nursery.start(crew.run)
        await until(lambda: model.mended)
        await trio.sleep(0.05)
        nursery.cancel_scope.cancel()
    assert (model.mended, crew.pids()) == (1, (8,))
