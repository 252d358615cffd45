"""The engine in a thread, asked from asyncio."""

import asyncio
import contextlib
import os
import signal
import threading

import pytest
import trio
from sttd_ray.engine import EngineThread, TooLateError

from sttd.core.types import DecodeItem, DecodeOptions, JobClass
from sttd.engine.contract import EngineLostError, Preset
from sttd.engine.fake import FakeBackend, FakeModel, FakeOptions
from sttd.engine.process.backend import IsolatedBackend
from sttd.engine.process.crew import Crew
from sttd.errors import DecodeError, ModelError
from tests.running import PATIENCE_S, eventually
from tests.unit.ray.recordings import silence

PRESET = Preset(name="fake", backend="fake", cpu_threads=1, num_workers=1)


class Gated(FakeModel):
    """A fake whose calls wait until they are let go; it remembers what was in each."""

    def __init__(self):
        super().__init__(options=FakeOptions())
        object.__setattr__(self, "calls", [])
        object.__setattr__(self, "begun", threading.Semaphore(0))
        object.__setattr__(self, "gate", threading.Semaphore(0))

    def decode(self, batch, **more):
        self.calls.append([len(item.samples) for item in batch])
        self.begun.release()
        assert self.gate.acquire(timeout=PATIENCE_S)
        return super().decode(batch, **more)


class Holding(FakeBackend):
    """A backend of one model."""

    def __init__(self, model):
        super().__init__()
        object.__setattr__(self, "model", model)

    def load(self, preset, **more):
        if isinstance(self.model, Exception):
            raise self.model
        return self.model


@contextlib.contextmanager
def running(model, *, decode_timeout_s=PATIENCE_S):
    engine = EngineThread(
        preset=PRESET, backends={"fake": Holding(model)}, crew=Crew(), decode_timeout_s=decode_timeout_s
    )
    engine.start()
    try:
        yield engine
    finally:
        if isinstance(model, Gated):
            model.gate.release(100)
        engine.stop(wait_s=PATIENCE_S)


def item(seconds):
    return DecodeItem(samples=silence(seconds), options=DecodeOptions())


def decode(engine, seconds, *, job_class=JobClass.FINAL, wait_s=PATIENCE_S):
    return engine.decode(item(seconds), job_class=job_class, wait_s=wait_s)


async def begun(model):
    assert await asyncio.to_thread(model.begun.acquire, timeout=PATIENCE_S)


def asked(engine, function):
    """What a function gives in the thread of the engine."""
    return trio.from_thread.run_sync(function, trio_token=engine.token)


async def waiting(engine, count):
    """Until so many wait for the model: what is asked is another thread, that tells nobody."""
    while sum(asked(engine, engine.dispatcher.statistics).queued.values()) != count:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


def test_what_comes_while_the_model_is_busy_is_decoded_in_one_call():
    model = Gated()

    async def ask():
        first = asyncio.create_task(decode(engine, 1))
        await begun(model)
        others = [asyncio.create_task(decode(engine, 2 + number)) for number in range(3)]
        await waiting(engine, 3)
        model.gate.release()
        model.gate.release()
        return [(await task).text for task in (first, *others)]

    with running(model) as engine:
        texts = asyncio.run(ask())
    assert [len(text.split()) for text in texts] == [3, 6, 10, 13]
    assert sorted(map(sorted, model.calls)) == [[16_000], [32_000, 48_000, 64_000]]


def test_who_has_gone_before_a_decode_begins_costs_none():
    model = Gated()

    async def ask():
        first = asyncio.create_task(decode(engine, 1))
        await begun(model)
        gone = asyncio.create_task(decode(engine, 2))
        await waiting(engine, 1)
        gone.cancel()
        await waiting(engine, 0)
        model.gate.release()
        await first
        with pytest.raises(asyncio.CancelledError):
            await gone

    with running(model) as engine:
        asyncio.run(ask())
    assert model.calls == [[16_000]]


def test_what_is_past_its_deadline_is_not_decoded():
    model = Gated()

    async def ask():
        first = asyncio.create_task(decode(engine, 1))
        await begun(model)
        with pytest.raises(TooLateError):
            await decode(engine, 2, wait_s=0.05)
        model.gate.release()
        await first

    with running(model) as engine:
        asyncio.run(ask())
    assert model.calls == [[16_000]]


def test_finals_go_before_what_has_waited_longer():
    model = Gated()

    async def ask():
        tasks = [asyncio.create_task(decode(engine, 1))]
        await begun(model)
        for number, job_class in enumerate((JobClass.FILE, JobClass.INTERIM, JobClass.FINAL), start=1):
            tasks.append(asyncio.create_task(decode(engine, 1 + number, job_class=job_class)))
            await waiting(engine, number)
        for _ in tasks:
            model.gate.release()
        await asyncio.gather(*tasks)

    with running(model) as engine:
        asyncio.run(ask())
    assert [call[0] // 16_000 for call in model.calls][:2] == [1, 4]


def test_a_model_that_does_not_load_is_the_error_of_the_start():
    with pytest.raises(ModelError, match="no such model"), running(ModelError("no such model")):
        pass


def test_an_engine_that_is_lost_says_so_and_a_bad_item_does_not_make_it_so():
    class Failing(FakeModel):
        def decode(self, batch, **more):
            return [
                EngineLostError("the device is gone") if len(item.samples) > 16_000 else DecodeError("odd")
                for item in batch
            ]

    async def ask(seconds):
        with pytest.raises(DecodeError):
            await decode(engine, seconds)
        return engine.lost

    with running(Failing(options=FakeOptions())) as engine:
        assert asyncio.run(ask(1)) is None
        assert asyncio.run(ask(2)) == "the device is gone"


def test_a_decode_that_hangs_makes_the_replica_one_to_be_replaced():
    model = Gated()

    async def ask():
        with pytest.raises(DecodeError):
            await decode(engine, 1)

    with running(model, decode_timeout_s=0.1) as engine:
        asyncio.run(ask())
        assert engine.lost is not None
        model.gate.release()


def test_after_its_end_nothing_is_waited_for():
    with running(FakeModel(options=FakeOptions())) as engine:
        pass

    async def ask():
        with pytest.raises(EngineLostError):
            await decode(engine, 1)

    asyncio.run(ask())


def test_a_process_that_does_not_come_back_makes_the_engine_lost():
    crew = Crew()
    engine = EngineThread(
        preset=PRESET,
        backends={"fake": IsolatedBackend(inner=FakeBackend(), crew=crew, isolation="process")},
        crew=crew,
        decode_timeout_s=PATIENCE_S,
        away_s=0.05,
    )
    engine.start()

    def is_lost():
        engine.look_after()
        return engine.lost

    try:
        assert is_lost() is None
        crew.start = nothing_starts
        (pid,) = crew.pids()
        os.kill(pid, signal.SIGKILL)
        assert "does not come back" in eventually(is_lost)
    finally:
        engine.stop(wait_s=PATIENCE_S)


def test_at_its_end_the_process_of_the_model_has_ended():
    crew = Crew()
    backend = IsolatedBackend(inner=FakeBackend(), crew=crew, isolation="process")
    engine = EngineThread(preset=PRESET, backends={"fake": backend}, crew=crew, decode_timeout_s=PATIENCE_S)
    engine.start()
    (pid,) = crew.pids()
    engine.stop(wait_s=PATIENCE_S)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def nothing_starts(*args, **options):
    raise OSError("no process")
