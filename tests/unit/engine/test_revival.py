"""Models after a suspend, with a backend whose device can be lost. Real threads, real clock."""

from __future__ import annotations

from pathlib import Path

import attrs
import pytest
import trio

from sttd.core.pooling import PoolLimits
from sttd.core.types import Hypothesis
from sttd.engine.contract import NOBODY, Preset
from sttd.engine.pool import ModelPool
from sttd.engine.revival import revive
from sttd.errors import DecodeError, ModelError

PRESETS = {name: Preset(name=name, backend="gpu", model=name) for name in ("a", "b")}


@attrs.define(eq=False)
class GpuModel:
    """Decodes until its device is lost."""

    backend: GpuBackend
    device: str
    lost: Exception | None = None
    closed: bool = False
    compute_type: str = "float16"
    workers: int = 1
    ram_bytes: int = 0
    vram_bytes: int = 10

    def decode(self, batch, *, waiters=NOBODY):
        assert not self.closed
        if isinstance(self.lost, DecodeError):
            return [self.lost for _ in batch]
        if self.lost is not None:
            raise self.lost
        return [Hypothesis(text="") for _ in batch]

    def close(self):
        self.closed = True
        if self.lost is not None:
            raise self.lost

    @property
    def parkable(self):
        return self.device != "cpu"

    def park(self):
        return False


@attrs.define(eq=False)
class GpuBackend:
    device: str = "cuda:0"
    fails: bool = False
    models: list[GpuModel] = attrs.field(factory=list)

    def resolve(self, preset):
        return preset

    def locate(self, preset):
        return Path()

    def load(self, preset, *, cpu_threads, num_workers):
        if self.fails:
            raise ModelError("no device")
        self.models.append(GpuModel(self, self.device))
        return self.models[-1]


@pytest.fixture
def backend():
    return GpuBackend()


@pytest.fixture
async def pool(backend, nursery):
    made = ModelPool(presets=PRESETS, backends={"gpu": backend}, limits=PoolLimits(idle_ttl_s=0.0))
    await nursery.start(made.run)
    with trio.fail_after(60):
        yield made


@pytest.mark.parametrize("lost", [RuntimeError("CUDA failed with error unknown error"), DecodeError("lost")])
async def test_a_lost_model_is_loaded_again_under_its_leases(pool, backend, lost):
    lease = await pool.lease("a")
    second = lease.duplicate()
    backend.models[0].lost = lost
    assert await revive(pool, backends={"gpu": backend}) == 1
    assert lease.model is second.model is backend.models[1]
    assert backend.models[0].closed
    (entry,) = pool.stock.status().entries
    assert (entry.leases, entry.state) == (2, "ready")
    lease.release()
    second.release()


async def test_models_that_answer_are_left_alone(pool, backend):
    lease = await pool.lease("a")
    await pool.load("b")
    assert await revive(pool, backends={"gpu": backend}) == 0
    assert lease.model is backend.models[0]
    assert len(backend.models) == 2
    assert [entry.leases for entry in sorted(pool.stock.status().entries, key=lambda entry: entry.preset)] == [1, 0]
    lease.release()


async def test_a_model_on_the_cpu_is_not_even_tried(pool, backend):
    backend.device = "cpu"
    await pool.load("a")
    backend.models[0].lost = RuntimeError("must not be noticed")
    assert await revive(pool, backends={"gpu": backend}) == 0
    assert len(backend.models) == 1
    backend.models[0].lost = None


async def test_a_model_that_does_not_come_back_is_unloaded_and_the_next_request_tries_afresh(pool, backend):
    await pool.load("a")
    backend.models[0].lost = RuntimeError("CUDA failed")
    backend.fails = True
    assert await revive(pool, backends={"gpu": backend}) == 0
    while pool.stock.status().entries:  # noqa: ASYNC110 - watches a thread, which has no Trio event
        await trio.sleep(0.005)
    backend.fails = False
    lease = await pool.lease("a")
    assert lease.model is backend.models[1]
    lease.release()


async def test_nothing_loaded_is_nothing_to_do(pool, backend):
    assert await revive(pool, backends={"gpu": backend}) == 0
