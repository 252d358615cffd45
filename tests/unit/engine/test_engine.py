"""The engine as one thing: opened, configured, put to sleep, and finished within a time."""

import threading

import attrs
import numpy as np
import pytest
import trio

from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.core.types import DecodeItem, DecodeOptions, JobClass
from sttd.engine.contract import NOBODY, Preset
from sttd.engine.engine import build_engine, open_engine
from sttd.engine.fake import FakeBackend, FakeModel, FakeOptions
from sttd.engine.tickets import Job
from sttd.errors import DecodeError, ModelError

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
    with trio.fail_after(60):
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
            self.gate.wait(60)
            return super().load(preset, cpu_threads=cpu_threads, num_workers=num_workers)

    with trio.fail_after(60):
        async with open_engine(engine(Slow())) as running, trio.open_nursery() as nursery:
            nursery.start_soon(running.pool.lease, "fake")
            while not running.pool.busy:  # noqa: ASYNC110
                await trio.sleep(0.001)
            assert not await running.finish(patience_s=0.01)
            Slow.gate.set()


async def test_asleep_it_begins_nothing():
    with trio.fail_after(60):
        async with open_engine(engine()) as running:
            await running.sleep()
            await running.wake()
            assert running.restarts == 0


async def test_a_model_that_hangs_is_given_up_and_loaded_afresh():
    gate, abandoned = threading.Event(), []

    @attrs.frozen(kw_only=True)
    class Hanging(FakeModel):
        def decode(self, batch, *, waiters=NOBODY):
            assert waiters.patience_s() <= 0.1
            gate.wait(60)
            return super().decode(batch)

        def abandon(self):
            abandoned.append(self)

    class Once(FakeBackend):
        loads = 0

        def load(self, preset, *, cpu_threads, num_workers):
            Once.loads += 1
            return Hanging(options=FakeOptions()) if Once.loads == 1 else FakeModel(options=FakeOptions())

    def job(lease):
        item = DecodeItem(samples=np.zeros(9600, np.float32), options=DecodeOptions())
        deadline = trio.current_time() + 1
        return Job(item=item, job_class=JobClass.FINAL, session="s", uid=1, deadline=deadline, lease=lease)

    with trio.fail_after(60):
        async with open_engine(engine(Once(), call_timeout_s=0.1)) as running:
            first = await running.pool.lease("fake")
            with pytest.raises(DecodeError):
                await running.dispatcher.submit(job(first)).wait()
            assert (running.restarts, "hung" in running.trouble, len(abandoned)) == (1, True, 1)
            with pytest.raises(ModelError):
                first.duplicate()
            second = await running.pool.lease("fake")
            assert Once.loads == 2
            running.dispatcher.call_timeout_s = 10.0
            assert (await running.dispatcher.submit(job(second)).wait()).hypothesis.text == "w1 w2"
            first.release()  # of what is gone: changes nothing for the others
            second.release()
            assert not await running.finish(patience_s=1.0)  # its thread runs on
            gate.set()
