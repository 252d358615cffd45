"""The model pool with fake backends in real threads: real clock, watchdogs, no autojump."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import attrs
import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from sttd.core.pooling import PoolLimits
from sttd.engine.contract import Place, Preset
from sttd.engine.pool import ModelPool
from sttd.errors import ModelError, OverloadedError

WATCHDOG_S = 20


@attrs.define(eq=False)
class StubModel:
    """A model that says what happens to it."""

    backend: StubBackend
    name: str
    compute_type: str
    workers: int
    device: str = "cpu"
    ram_bytes: int = 10
    vram_bytes: int = 0
    users: int = 0

    @property
    def parkable(self):
        return self.device != "cpu"

    def park(self):
        self.backend.note(f"park {self.name}")
        if self.backend.park_error is not None:
            raise self.backend.park_error
        return True

    def unpark(self):
        self.backend.note(f"unpark {self.name}")
        if self.backend.unpark_errors:
            raise self.backend.unpark_errors.pop(0)

    def close(self):
        assert self.users == 0, "closed under its user"
        self.backend.note(f"close {self.name}")
        if self.backend.close_error is not None:
            raise self.backend.close_error
        self.backend.held -= 1


@attrs.define(eq=False)
class StubBackend:
    """Loads as fast as `gate` lets it, fails as `errors` say, and has memory for `capacity` models."""

    name: str = "stub"
    device: str = "cpu"
    errors: list[Exception] = attrs.field(factory=list)
    unpark_errors: list[Exception] = attrs.field(factory=list)
    park_error: Exception | None = None
    close_error: Exception | None = None
    gate: threading.Event = attrs.field(factory=threading.Event)
    capacity: int = 100
    too_large: tuple[tuple[str, str], ...] = ()  # (preset, compute type) that never fits
    absent: tuple[str, ...] = ()
    log: list[str] = attrs.field(factory=list)
    held: int = 0
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def note(self, text):
        with self._lock:
            self.log.append(text)

    def resolve(self, preset):
        return preset

    def locate(self, preset):
        return None if preset.name in self.absent else Path()

    def describe(self, preset):
        return Place(model=preset.model, path=self.locate(preset))

    def languages(self, preset):
        return None

    def forget(self):
        self.note("forget")

    def suggest(self, preset):
        return preset.model

    def load(self, preset, *, cpu_threads, num_workers):
        self.note(f"load {preset.name}")
        assert self.gate.wait(WATCHDOG_S)
        if self.errors:
            raise self.errors.pop(0)
        if self.held >= self.capacity or (preset.name, preset.compute_type) in self.too_large:
            raise ModelError("full", code="out_of_memory", data={"compute_type": preset.compute_type})
        self.held += 1
        return StubModel(self, preset.name, preset.compute_type, num_workers, device=self.device)


LIMITS = PoolLimits(max_loaded_models=2, idle_ttl_s=0.0, load_wait_s=0.3)
PRESETS = {
    name: Preset(name=name, backend="stub", model=name, compute_type="float16", smaller=smaller)
    for name, smaller in (("a", "b"), ("b", "c"), ("c", "a"))
}


@pytest.fixture
def backend():
    stub = StubBackend()
    stub.gate.set()
    return stub


@pytest.fixture
def events():
    return []


@pytest.fixture
async def pool(backend, events, nursery):
    made = ModelPool(
        presets=PRESETS,
        backends={"stub": backend},
        limits=LIMITS,
        on_event=lambda event, entry, error: events.append((event, entry.preset, entry.state, error)),
    )
    await nursery.start(made.run)
    with trio.fail_after(WATCHDOG_S):
        yield made
    backend.gate.set()


def rows(pool):
    return {entry.preset: entry for entry in pool.stock.status().entries}


async def until(condition):
    while not condition():  # noqa: ASYNC110 - watches threads, which have no Trio event
        await trio.sleep(0.005)


# ------------------------------------------------------------ leases


async def test_lease_loads_gives_the_model_and_is_returned(pool, backend, events):
    lease = await pool.lease("a")
    assert (lease.preset, lease.model.name, str(lease.key)) == ("a", "a", "a|threads=0|workers=1")
    assert rows(pool)["a"].leases == 1
    lease.release()
    lease.release()
    assert rows(pool)["a"].leases == 0
    assert [event[0] for event in events] == ["loading", "loaded"]
    assert backend.log == ["load a"]


async def test_a_duplicate_keeps_the_model_after_the_first_lease_is_gone(pool, backend):
    lease = await pool.lease("a")
    second = lease.duplicate()
    lease.release()
    result = await pool.unload(wait=False)
    assert (result.unloaded, [entry.draining for entry in result.entries]) == (0, [True])
    assert second.model.name == "a"
    second.release()
    await until(lambda: not rows(pool))
    assert backend.log == ["load a", "close a"]


async def test_twenty_waiters_make_one_load(pool, backend, nursery):
    backend.gate.clear()
    leases = []

    async def want():
        leases.append(await pool.lease("a"))

    for _ in range(20):
        nursery.start_soon(want)
    await until(lambda: backend.log)
    await wait_all_tasks_blocked()
    backend.gate.set()
    await until(lambda: len(leases) == 20)
    assert backend.log == ["load a"]
    assert rows(pool)["a"].leases == 20
    statistics = pool.stock.status()
    assert (statistics.hits, statistics.misses, statistics.loaded) == (0, 20, 1)


async def test_a_failing_load_reaches_twenty_waiters_and_the_next_call_loads(pool, backend, events, nursery):
    backend.gate.clear()
    backend.errors = [ModelError("broken")]
    errors = []

    async def want():
        with pytest.raises(ModelError, match="broken") as caught:
            await pool.lease("a")
        errors.append(caught.value)

    for _ in range(20):
        nursery.start_soon(want)
    await until(lambda: backend.log)
    await wait_all_tasks_blocked()
    backend.gate.set()
    await until(lambda: len(errors) == 20)
    assert len({id(error) for error in errors}) == 20
    assert pool.stock.status().load_failures == 1
    assert events[-1][:3] == ("load_failed", "a", "loading")
    assert events[-1][3].as_map() == ModelError("broken").as_map()
    (await pool.lease("a")).release()
    assert backend.log == ["load a", "load a"]


async def test_a_surprise_in_a_backend_becomes_a_model_error(pool, backend, caplog):
    backend.errors = [ZeroDivisionError("oops")]
    with pytest.raises(ModelError, match="oops") as caught:
        await pool.lease("a")
    assert caught.value.code == "model_load_failed"
    assert "ZeroDivisionError" in caplog.text


async def test_unknown_and_absent_models_evict_nothing(pool, backend):
    backend.absent = ("c",)
    for name in ("a", "b"):
        (await pool.lease(name)).release()
    with pytest.raises(ModelError) as unknown:
        await pool.lease("nope")
    with pytest.raises(ModelError) as absent:
        await pool.lease("c")
    assert (unknown.value.code, absent.value.code) == ("model_not_found", "model_not_local")
    assert "sttctl pull c" in absent.value.message
    assert set(rows(pool)) == {"a", "b"}
    assert [row.local for row in pool.stock.presets()] == [True, True, False]


async def test_when_all_slots_are_leased_the_wait_is_bounded(pool):
    leases = [await pool.lease("a"), await pool.lease("b")]
    with pytest.raises(OverloadedError) as caught:
        await pool.lease("c")
    assert caught.value.data == {"retry_after_s": LIMITS.load_wait_s}
    leases[0].release()
    assert (await pool.lease("c")).model.name == "c"


async def test_a_load_that_nobody_waits_for_is_discarded(pool, backend, events):
    backend.gate.clear()
    with trio.move_on_after(0.05):
        await pool.lease("a")
    assert rows(pool)["a"].state == "loading"
    backend.gate.set()
    await until(lambda: not rows(pool))
    assert backend.log == ["load a", "close a"]
    assert [event[0] for event in events] == ["loading", "loaded", "unloaded"]


async def test_the_loop_runs_freely_during_a_load(pool, backend, nursery):
    backend.gate.clear()
    nursery.start_soon(pool.lease, "a")
    await until(lambda: backend.log)
    longest = 0.0
    for _ in range(20):
        started = time.perf_counter()
        await trio.sleep(0.001)
        longest = max(longest, time.perf_counter() - started)
    backend.gate.set()
    assert longest < 30  # the load ends after it


async def test_lease_cancelled_at_every_checkpoint_leaks_nothing(backend, nursery):
    """Cancel after 0, 1, 2, … scheduler ticks, cold and warm, until the lease comes through."""
    pool = ModelPool(presets=PRESETS, backends={"stub": backend}, limits=LIMITS)
    await nursery.start(pool.run)
    for warm in (False, True):
        for ticks in range(30):
            if not warm:
                await pool.unload()
            got = []

            async def want(scope, got=got):
                with scope:
                    got.append(await pool.lease("a"))

            scope = trio.CancelScope()
            with trio.fail_after(WATCHDOG_S):
                async with trio.open_nursery() as inner:
                    inner.start_soon(want, scope)
                    for _ in range(ticks):
                        await trio.lowlevel.cancel_shielded_checkpoint()
                    scope.cancel()
            for lease in got:
                lease.release()
            await until(lambda: not any(entry.state == "loading" for entry in pool.stock.status().entries))
            assert sum(entry.leases for entry in pool.stock.status().entries) == 0
            assert not pool._waiters
    (await pool.lease("a")).release()
    assert rows(pool)["a"].leases == 0


# ------------------------------------------------------------ load and unload


async def test_load_reports_and_its_options_become_those_of_sessions(pool, backend):
    first = await pool.load("a", cpu_threads=3, num_workers=2)
    second = await pool.load("a", cpu_threads=3, num_workers=2)
    assert (first.cache_hit, second.cache_hit, second.load_seconds) == (False, True, 0.0)
    assert first.load_seconds > 0
    assert first.entry.cache_key == second.entry.cache_key == "a|threads=3|workers=2"
    assert str((await pool.lease("a")).key) == "a|threads=3|workers=2"
    assert pool.stock.workers == 2
    assert str((await pool.lease("a", cpu_threads=0, num_workers=1)).key) == "a|threads=0|workers=1"


async def test_options_of_a_load_hold_until_the_next(pool):
    own = str((await pool.lease("a")).key)
    await pool.load("a", cpu_threads=3)
    assert str((await pool.lease("a")).key) == "a|threads=3|workers=1"
    assert (await pool.load("a")).entry.cache_key == own
    assert str((await pool.lease("a")).key) == own


async def test_keep_alive_pins_expires_or_frees(pool, backend):
    pinned = await pool.load("a", keep_alive_s=-1)
    assert (pinned.entry.pinned, pinned.entry.expires_in_s) == (True, None)
    expiring = await pool.load("b", keep_alive_s=0.05)
    assert 0 < expiring.entry.expires_in_s <= 0.05
    await until(lambda: set(rows(pool)) == {"a"})
    assert (await pool.load("c", keep_alive_s=0)).entry.leases == 0
    await until(lambda: set(rows(pool)) == {"a"})
    assert backend.log[-2:] == ["load c", "close c"]


async def test_an_idle_model_is_freed_after_the_ttl(backend, events, nursery):
    limits = attrs.evolve(LIMITS, idle_ttl_s=0.05)
    pool = ModelPool(presets=PRESETS, backends={"stub": backend}, limits=limits)
    await nursery.start(pool.run)
    with trio.fail_after(WATCHDOG_S):
        lease = await pool.lease("a")
        await trio.sleep(0.1)
        assert rows(pool)["a"].expires_in_s is None
        lease.release()
        await until(lambda: not rows(pool))
    assert backend.log == ["load a", "close a"]


async def test_unload_waits_for_the_user_and_then_reports_memory(pool, backend, nursery):
    lease = await pool.lease("a")
    lease.model.users = 1
    (await pool.lease("b")).release()
    results = []

    async def unload():
        results.append(await pool.unload())

    nursery.start_soon(unload)
    await until(lambda: set(rows(pool)) == {"a"})
    assert results == []
    assert rows(pool)["a"].draining
    lease.model.users = 0
    lease.release()
    await until(lambda: results)
    assert (results[0].unloaded, results[0].entries, results[0].native_trim_attempted) == (2, (), True)
    assert results[0].process_rss_bytes > 0
    assert backend.held == 0


async def test_unload_of_one_preset_leaves_the_others(pool):
    (await pool.lease("a")).release()
    (await pool.lease("b")).release()
    assert (await pool.unload("a")).unloaded == 1
    assert set(rows(pool)) == {"b"}
    assert (await pool.unload("a")).unloaded == 0
    with pytest.raises(ModelError, match="no preset 'nope'"):
        await pool.unload("nope")


async def test_a_model_that_does_not_close_does_not_keep_its_slot(pool, backend, caplog):
    backend.close_error = RuntimeError("stuck")
    (await pool.lease("a")).release()
    assert (await pool.unload()).unloaded == 1
    assert "did not close cleanly" in caplog.text
    backend.close_error = None
    assert (await pool.lease("a")).model.name == "a"


# ------------------------------------------------------------ memory


async def test_idle_models_make_room_in_memory(pool, backend):
    backend.capacity = 1
    (await pool.lease("a")).release()
    (await pool.lease("b")).release()
    assert backend.log == ["load a", "load b", "close a", "load b"]


async def test_a_load_waits_for_memory_that_a_lease_holds(pool, backend, nursery):
    backend.capacity = 1
    lease = await pool.lease("a")

    async def release():
        await trio.sleep(0.05)
        lease.release()

    nursery.start_soon(release)
    assert (await pool.lease("b")).model.name == "b"
    assert backend.held == 1


async def test_the_compute_type_goes_down_before_the_load_fails(pool, backend):
    backend.too_large = (("a", "float16"),)
    lease = await pool.lease("a")
    assert (lease.preset, lease.model.compute_type) == ("a", "int8_float16")
    backend.too_large = (("b", "float16"), ("b", "int8_float16"))
    with pytest.raises(ModelError) as caught:
        await pool.lease("b")
    assert caught.value.code == "out_of_memory"


async def test_a_smaller_preset_stands_in_where_the_configuration_allows_it(pool, backend):
    pool.configure(PRESETS, attrs.evolve(LIMITS, allow_smaller=True))
    backend.too_large = (("a", "float16"), ("a", "int8_float16"))
    backend.absent = ("b",)
    lease = await pool.lease("a")
    assert (lease.preset, lease.key.preset, lease.model.name) == ("c", "a", "c")


# ------------------------------------------------------------ GPU: two stages


@pytest.fixture
async def gpu_pool(backend, nursery):
    backend.device = "cuda:0"
    limits = attrs.evolve(LIMITS, idle_ttl_s=0.05, parked_ttl_s=5.0)
    made = ModelPool(presets=PRESETS, backends={"stub": backend}, limits=limits)
    await nursery.start(made.run)
    with trio.fail_after(WATCHDOG_S):
        yield made


async def test_an_idle_gpu_model_is_parked_and_comes_back(gpu_pool, backend):
    (await gpu_pool.lease("a")).release()
    await until(lambda: rows(gpu_pool)["a"].state == "parked")
    lease = await gpu_pool.lease("a")
    assert backend.log == ["load a", "park a", "unpark a"]
    assert gpu_pool.stock.status().hits == 1
    lease.release()


async def test_a_gpu_model_that_does_not_park_is_closed(gpu_pool, backend, caplog):
    backend.park_error = RuntimeError("busy")
    (await gpu_pool.lease("a")).release()
    await until(lambda: not rows(gpu_pool))
    assert backend.log == ["load a", "park a", "close a"]
    assert "does not park" in caplog.text


async def test_a_parked_model_that_lacks_memory_takes_it_from_an_idle_one(gpu_pool, backend):
    (await gpu_pool.lease("a")).release()
    await until(lambda: rows(gpu_pool)["a"].state == "parked")
    await gpu_pool.load("b", keep_alive_s=60)
    backend.unpark_errors = [ModelError("full", code="out_of_memory")]
    assert (await gpu_pool.lease("a")).model.name == "a"
    assert backend.log[-3:] == ["unpark a", "close b", "unpark a"]


async def test_a_parked_model_that_does_not_come_back_is_loaded_anew_by_the_next_request(gpu_pool, backend):
    (await gpu_pool.lease("a")).release()
    await until(lambda: rows(gpu_pool)["a"].state == "parked")
    backend.unpark_errors = [ModelError("gone")]
    with pytest.raises(ModelError, match="gone"):
        await gpu_pool.lease("a")
    await until(lambda: not rows(gpu_pool))
    assert (await gpu_pool.lease("a")).model.name == "a"


# ------------------------------------------------------------ reload


async def test_a_lowered_limit_frees_the_least_recently_used(pool):
    (await pool.lease("a")).release()
    (await pool.lease("b")).release()
    pool.configure(PRESETS, attrs.evolve(LIMITS, max_loaded_models=1))
    await until(lambda: set(rows(pool)) == {"b"})


async def test_models_of_changed_presets_drain_and_loads_options_are_forgotten(pool, backend):
    await pool.load("a", num_workers=4)
    lease = await pool.lease("b")
    changed = {**PRESETS, "b": attrs.evolve(PRESETS["b"], model="other")}
    pool.configure(changed, LIMITS)
    assert rows(pool)["b"].draining
    assert not rows(pool)["a"].draining
    lease.release()
    await until(lambda: "b" not in rows(pool))
    assert str((await pool.lease("a")).key) == "a|threads=0|workers=1"


async def test_a_preset_that_a_reload_took_away_is_there_for_the_sessions_that_have_it(pool, backend, nursery):
    lease = await pool.lease("b")
    pool.configure({"a": PRESETS["a"]}, LIMITS)
    assert not rows(pool)["b"].draining
    lease.release()
    (await pool.lease("b")).release()
    await pool.unload()
    (await pool.lease("b")).release()  # loaded again for them
    with pytest.raises(ModelError) as caught:
        await pool.load("b")  # for all others it is gone
    assert caught.value.code == "model_not_found"
    with pytest.raises(ModelError):
        await pool.lease("never there")
