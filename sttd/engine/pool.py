"""The loaded models: the Trio shell around `core/pooling.py`, and the desk where leases are asked for.

The policy decides, in synchronous code, at every request, release and timeout. `Stock` is what there is; `Carrier` does
what the policy wants done, in threads, so the event loop never waits for a model. A lease on a model that is not on
disk fails before anything is evicted for it.

Overflow: there is at most one operation an entry, so the queue of operations is bounded by the entries; waiters are
bounded by who calls, which the session limit bounds.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence

import trio

from sttd.core.pooling import (
    Action,
    Grant,
    PoolLimits,
    PoolPolicy,
    Recall,
    Refuse,
    State,
)
from sttd.engine import memory
from sttd.engine.carrying import Carrier, OnEvent
from sttd.engine.contract import Backend, ModelKey, Preset
from sttd.engine.leases import (
    LoadResult,
    PoolLease,
    UnloadResult,
    Waiter,
)
from sttd.engine.loading import fresh, no_slot
from sttd.engine.shelf import Shelf
from sttd.engine.stock import Stock
from sttd.errors import ModelError


class ModelPool:
    """Loads, keeps and frees models, and leases them.

    Args:
        presets: name → preset.
        backends: name → backend.
        limits: slots and times.
        on_event: as `Carrier.emit`.
        clock: seconds; a test's own where it wants one.
        processes: those that models are in, besides this one.
    """

    def __init__(
        self,
        *,
        presets: Mapping[str, Preset],
        backends: Mapping[str, Backend],
        limits: PoolLimits,
        on_event: OnEvent = lambda event, entry, error: None,
        clock: Callable[[], float] = trio.current_time,
        processes: Callable[[], Sequence[int]] = tuple,
    ) -> None:
        self._policy: PoolPolicy[ModelKey] = PoolPolicy(limits)
        self.stock = Stock(policy=self._policy, shelf=Shelf(presets, backends), clock=clock, processes=processes)
        self._carrier = Carrier(stock=self.stock, apply=self._apply, emit=on_event)
        self._on_event = on_event
        self._clock = clock
        self._chosen: dict[str, tuple[int, int]] = {}  # threads and workers that `load` gave a preset
        self._waiters: dict[int, Waiter] = {}
        self._of_files: set[PoolLease] = set()  # the leases that can be recalled
        self._numbers = itertools.count()
        self._operations: deque[Action[ModelKey]] = deque()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out the policy's operations, for ever.

        Cancellation: waits for the thread that is loading or freeing a model, since no thread can be stopped.
        """
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                while self._operations:
                    nursery.start_soon(self._carrier.perform, self._operations.popleft())
                wakeup = self._policy.next_wakeup()
                with trio.move_on_after(math.inf if wakeup is None else max(0.0, wakeup - self._clock())):
                    await self.stock.wait_for_change()
                self._apply(self._policy.tick(self._clock()))

    # ------------------------------------------------------------ what the service calls

    async def lease(
        self,
        preset: str,
        *,
        cpu_threads: int | None = None,
        num_workers: int | None = None,
        on_recall: Callable[[], object] | None = None,
    ) -> PoolLease:
        """The right to use a model, loaded first if need be.

        Args:
            preset: its name.
            cpu_threads: None for what `load` last gave, or else the preset's own.
            num_workers: likewise.
            on_recall: makes it a file's lease, which waits as long as it must; called when speech needs the slot.

        Raises:
            ModelError: unknown, absent, or does not load.
            OverloadedError: no slot came free within `load_wait_s`.

        Cancellation: safe at any point; a load that nobody else waits for is discarded when it returns.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        key = self._key(preset, cpu_threads=cpu_threads, num_workers=num_workers)
        waiter, _ = self._request(key, on_recall=on_recall)
        return await self._collect(waiter)

    async def load(
        self,
        preset: str,
        *,
        cpu_threads: int | None = None,
        num_workers: int | None = None,
        keep_alive_s: float | None = None,
        shields: bool = True,
    ) -> LoadResult:
        """Load a model and keep it; its threads and workers are those of the preset's sessions from then on.

        The wire has checked what it is given (`wire/verbs.LoadParams`).

        Args:
            preset: its name.
            cpu_threads: 0 chooses from the machine; None is the preset's own.
            num_workers: None is the preset's own.
            keep_alive_s: how long it stays when idle; 0 frees it as soon as it is idle, -1 pins it, None leaves
                the configured time.
            shields: a pinned model makes room for nobody.

        Raises, Cancellation: as `lease`.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        own = self.stock.shelf.preset(preset)
        threads = own.cpu_threads if cpu_threads is None else cpu_threads
        workers = own.num_workers if num_workers is None else num_workers
        key = self._key(preset, cpu_threads=threads, num_workers=workers)
        waiter, hit = self._request(key)
        lease = await self._collect(waiter)
        try:
            self._chosen[preset] = (key.cpu_threads, key.num_workers)
            seconds = self.stock.loaded[key].load_seconds
            if keep_alive_s is not None:
                kept = self._policy.keep_alive(key, seconds=keep_alive_s, shields=shields, now=self._clock())
                self._apply(kept)
        finally:
            lease.release()
        return LoadResult(cache_hit=hit, load_seconds=0.0 if hit else seconds, entry=self.stock.row(key))

    async def unload(
        self, preset: str | None = None, *, spare: Collection[str] = (), wait: bool = True
    ) -> UnloadResult:
        """Free a preset's models, or all; those in use when their leases end.

        Args:
            preset: None for all but those of `spare`.
            spare: presets.
            wait: until they are gone. Otherwise `unloaded` counts those being freed now.

        Raises:
            ModelError: no preset of that name.

        Cancellation: ends the waiting; the models are freed all the same.
        """
        await trio.lowlevel.checkpoint()
        if preset is not None:
            self.stock.shelf.preset(preset)
        asked = {
            view.serial: view.key
            for view in self.stock.views()
            if view.key.preset == preset or (preset is None and view.key.preset not in spare)
        }
        self._apply(self._policy.unload(asked.values(), now=self._clock()))
        while wait and any(view.serial in asked for view in self.stock.views()):
            await self.stock.wait_for_change()
        drain = [view for view in self.stock.views() if view.serial in asked and view.state is not State.CLOSING]
        left = tuple(self.stock.entry(view) for view in drain)
        return UnloadResult(
            unloaded=len(asked) - len(left),
            entries=left,
            native_trim_attempted=bool(asked) and not left,
            process_rss_bytes=memory.process_rss_bytes(self.stock.processes()),
            vram_bytes=memory.process_vram_bytes(self.stock.processes()),
        )

    def configure(self, presets: Mapping[str, Preset], limits: PoolLimits) -> None:
        """Apply a new configuration: models of changed presets drain, what `load` chose is forgotten.

        A preset that is gone is there for the sessions that began with it: they keep what they have.
        """
        stale = [
            view.key
            for view in self.stock.views()
            if presets.get(view.key.preset, known := self.stock.preset(view.key.preset)) != known
        ]
        self.stock.take_presets(presets)
        self._chosen.clear()
        self._apply(self._policy.configure(limits, now=self._clock()))
        still_there = {view.key for view in self.stock.views()}
        self._apply(self._policy.unload(still_there.intersection(stale), now=self._clock()))

    @property
    def busy(self) -> bool:
        """Whether a thread is loading, freeing or moving a model."""
        return self._carrier.busy

    def lose(self, lease: PoolLease) -> bool:
        """The model of this lease hangs: whoever has it goes without, the next who asks has it loaded afresh.

        Its memory comes back when the thread in it does, if ever; that of a process at once. False: it was given up
        before.
        """
        if self._is_lost(lease):
            return False
        row = self.stock.row(lease.key)
        self.stock.loaded.pop(lease.key).model.abandon()
        self._apply(self._policy.lost(lease.key, now=self._clock()))
        self._on_event("unloaded", row, ModelError("the model hung and was given up"))
        return True

    def renew(self) -> None:
        """Models are on disk that were not: presets that mean another one now load it for the next who asks."""
        for backend in self.stock.shelf.backends.values():
            backend.forget()
        self._apply(self._policy.unload(self.stock.changed_files(), now=self._clock()))

    # ------------------------------------------------------------ leases

    def _key(self, preset: str, *, cpu_threads: int | None, num_workers: int | None) -> ModelKey:
        found = self.stock.preset(preset)
        threads, workers = self._chosen.get(preset, (found.cpu_threads, found.num_workers))
        key = ModelKey(
            preset=preset,
            cpu_threads=threads if cpu_threads is None else cpu_threads,
            num_workers=workers if num_workers is None else num_workers,
        )
        if key not in self.stock.loaded and self.stock.shelf.locate(found) is None:
            raise self.stock.shelf.absent(preset)
        return key

    def _request(self, key: ModelKey, *, on_recall: Callable[[], object] | None = None) -> tuple[Waiter, bool]:
        """Ask the policy; the second value says whether the model was there."""
        waiter = Waiter(number=next(self._numbers), on_recall=on_recall)
        self._waiters[waiter.number] = waiter
        hits = self._policy.hits
        actions = self._policy.request(waiter.number, key, now=self._clock(), file=on_recall is not None)
        hit = self._policy.hits > hits
        self._apply(actions)
        return waiter, hit

    async def _collect(self, waiter: Waiter) -> PoolLease:
        try:
            await waiter.answered.wait()
        except trio.Cancelled:
            if waiter.lease is not None:
                waiter.lease.release()
            elif waiter.error is None:
                del self._waiters[waiter.number]
                self._apply(self._policy.cancel(waiter.number, now=self._clock()))
            raise
        if waiter.error is not None:
            raise waiter.error
        assert waiter.lease is not None
        return waiter.lease

    def _lease(self, key: ModelKey, *, file: bool, on_recall: Callable[[], object] | None = None) -> PoolLease:
        """A lease that the policy has counted."""
        lease = PoolLease(
            key,
            loaded=self.stock.loaded[key],
            on_duplicate=self._duplicate,
            on_release=self._release,
            file=file,
            on_recall=on_recall,
        )
        if on_recall is not None:
            self._of_files.add(lease)
        return lease

    def _duplicate(self, lease: PoolLease) -> PoolLease:
        """Raises ModelError: the model is lost."""
        if self._is_lost(lease):
            raise ModelError("the model hung and was given up; the next utterance loads it afresh")
        self._policy.duplicate(lease.key, file=lease.file)
        return self._lease(lease.key, file=lease.file)

    def _release(self, lease: PoolLease) -> None:
        self._of_files.discard(lease)
        if not self._is_lost(lease):
            self._apply(self._policy.release(lease.key, file=lease.file, now=self._clock()))

    def _is_lost(self, lease: PoolLease) -> bool:
        return lease.loaded is not self.stock.loaded.get(lease.key)

    # ------------------------------------------------------------ the policy's actions

    def _apply(self, actions: list[Action[ModelKey]]) -> None:
        """Answer waiters at once, leave operations to `run`. Recalls are last: who is asked gives back at once."""
        recalled = set()
        for action in actions:
            match action:
                case Grant(waiter=number, key=key):
                    waiter = self._waiters.pop(number)
                    file = waiter.on_recall is not None
                    waiter.lease = self._lease(key, file=file, on_recall=waiter.on_recall)
                    waiter.answered.set()
                case Refuse(waiter=number, error=error):
                    waiter = self._waiters.pop(number)
                    waiter.error = no_slot(self._policy.limits) if error is None else fresh(error)
                    waiter.answered.set()
                case Recall(key=key):
                    recalled.add(key)
                case _:
                    self._operations.append(action)
        self.stock.has_changed()
        for lease in [lease for lease in self._of_files if lease.key in recalled]:
            lease.recall()
