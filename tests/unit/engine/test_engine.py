"""The engine as one thing: opened, configured, put to sleep, and finished within a time."""

import threading

import trio

from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.engine.contract import Preset
from sttd.engine.engine import build_engine, open_engine
from sttd.engine.fake import FakeBackend

PRESETS = {"fake": Preset(name="fake", backend="fake", model="fake", num_workers=1)}


def engine(backend=None, **more):
    return build_engine(
        presets=PRESETS,
        backends={"fake": backend or FakeBackend()},
        limits=PoolLimits(),
        options=PolicyOptions(),
        **more,
    )


async def test_it_leases_decodes_and_is_finished():
    events = []
    with trio.fail_after(10):
        async with open_engine(engine(on_event=lambda event, entry, error: events.append(event))) as running:
            lease = await running.pool.lease("fake")
            lease.release()
            assert running.oldest_call_s() is None
            assert await running.finish(patience_s=5.0)
    assert events == ["loading", "loaded", "unloaded"]


async def test_a_load_under_way_is_not_waited_for():
    class Slow(FakeBackend):
        gate = threading.Event()

        def load(self, preset, *, cpu_threads, num_workers):
            self.gate.wait(10)
            return super().load(preset, cpu_threads=cpu_threads, num_workers=num_workers)

    with trio.fail_after(10):
        async with open_engine(engine(Slow())) as running, trio.open_nursery() as nursery:
            nursery.start_soon(running.pool.lease, "fake")
            while not running.pool.busy:  # noqa: ASYNC110
                await trio.sleep(0.001)
            assert not await running.finish(patience_s=0.01)
            Slow.gate.set()


async def test_asleep_it_begins_nothing():
    with trio.fail_after(10):
        async with open_engine(engine()) as running:
            await running.sleep()
            await running.wake()
            assert running.restarts == 0
