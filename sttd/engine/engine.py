"""The engine as one thing: models in their pool, the dispatcher that decodes with them, the network that hears voices.

    async with open_engine(presets=…, backends=…, limits=…, options=…) as engine:
        lease = await engine.pool.lease("base")
        ticket = engine.dispatcher.submit(…)

Leaving the block waits for the threads that still load or decode, since no thread can be stopped; `finish` goes before,
and says whether any is left to wait for.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import attrs
import trio

from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.engine.carrying import OnEvent
from sttd.engine.contract import Backend, Lease, Preset
from sttd.engine.dispatcher import Dispatcher
from sttd.engine.leases import PoolLease
from sttd.engine.pool import ModelPool
from sttd.engine.process.crew import Crew
from sttd.engine.revival import revive
from sttd.engine.silero_batch import SharedSilero
from sttd.host import logs

log = logs.get(__name__)


@attrs.define(eq=False, kw_only=True)
class Engine:
    """What sessions and the service use of it, and what the daemon does with it."""

    pool: ModelPool
    dispatcher: Dispatcher
    backends: Mapping[str, Backend]
    crew: Crew = attrs.field(factory=Crew)
    silero: SharedSilero | None = attrs.field(factory=SharedSilero)
    restarts: int = 0  # of models that a suspend had lost, or that hung in the daemon itself
    trouble: str | None = None  # the last thing that went wrong with those, for `status`

    async def voice_network(self) -> SharedSilero | None:
        """Silero, loaded in a thread. None where it does not load: then WebRTC VAD decides alone."""
        if self.silero is not None and not self.silero.loaded:
            try:
                await trio.to_thread.run_sync(self.silero.load)
            except Exception as error:
                self.silero = None
                self.trouble = f"Silero does not load, so noise may be taken for speech: {error}"
                log.exception("Silero does not load; WebRTC VAD decides alone what is speech")
        return self.silero

    def configure(
        self,
        *,
        presets: Mapping[str, Preset],
        limits: PoolLimits,
        options: PolicyOptions,
        call_timeout_s: float,
    ) -> None:
        """Take a new configuration, at once."""
        self.pool.configure(presets, limits)
        self.dispatcher.configure(options)
        self.dispatcher.call_timeout_s = call_timeout_s

    def lose(self, lease: Lease) -> None:
        """A decode with this lease hangs: its model is given up, and loaded afresh for the next who asks."""
        if isinstance(lease, PoolLease) and self.pool.lose(lease):
            self.restarts += 1
            self.trouble = f"a decode of {lease.preset} hung and was given up; the model is loaded afresh"

    async def sleep(self) -> None:
        """Let running decodes end, and begin none: a GPU may be gone when the machine wakes."""
        await self.dispatcher.quiesce()

    async def wake(self) -> None:
        """A GPU may have lost what was on it: such models are loaded again before decoding goes on."""
        try:
            self.restarts += await revive(self.pool, backends=self.backends)
        finally:
            self.dispatcher.resume()

    def oldest_call_s(self) -> float | None:
        """How long the longest running decode has been running."""
        return self.dispatcher.statistics().oldest_call_s

    async def finish(self, *, patience_s: float) -> bool:
        """Free all models within that time. False: a decode or a load is under way, and leaving would wait for it."""
        statistics = self.dispatcher.statistics()
        if statistics.in_flight or statistics.hung:
            return False
        with trio.move_on_after(patience_s):
            await self.pool.unload(wait=True)
        return not self.pool.busy


@asynccontextmanager
async def open_engine(engine: Engine) -> AsyncIterator[Engine]:
    """Run an engine for as long as the block runs."""
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.crew.run)
        await nursery.start(engine.pool.run)
        await nursery.start(engine.dispatcher.run)
        yield engine
        nursery.cancel_scope.cancel()


def build_engine(
    *,
    presets: Mapping[str, Preset],
    backends: Mapping[str, Backend],
    limits: PoolLimits,
    options: PolicyOptions,
    call_timeout_s: float = math.inf,
    on_event: OnEvent = lambda event, entry, error: None,
    crew: Crew | None = None,
) -> Engine:
    """An engine that does not run yet.

    Args:
        presets: name → preset.
        backends: name → backend.
        limits: of the pool.
        options: of the scheduler.
        call_timeout_s: a decode that takes longer hangs.
        on_event: told of models, as by the pool.
        crew: the processes of the backends.
    """
    crew = Crew() if crew is None else crew
    engine = Engine(
        pool=ModelPool(presets=presets, backends=backends, limits=limits, on_event=on_event, processes=crew.pids),
        dispatcher=Dispatcher(options=options, call_timeout_s=call_timeout_s),
        backends=backends,
        crew=crew,
    )
    engine.dispatcher.on_hang = engine.lose
    return engine
