"""The loaded models: the Trio shell around `core.pool_policy`.

The policy decides, in synchronous code, at every request, release and timeout; `run` owns the tasks that carry
its operations out, each in a thread of the pool's own limiter, so the event loop never waits for a model. Two
things are added here that a policy without IO cannot know:

- **Memory.** A load that does not fit closes idle models one after the other and tries again; if only leased
  ones are left it waits up to `load_wait_s` for one. Then it goes down the ladder of `pool_loading`.
- **What is on disk.** A lease on a model that is absent fails before anything is evicted for it.

Overflow: there is at most one operation an entry, so the queue of operations is bounded by the entries; waiters
are bounded by who calls, which the session limit bounds.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping
from typing import Final

import attrs
import trio

from sttd.core.pooling import (
    Action,
    Close,
    EntryView,
    Grant,
    Load,
    Park,
    PoolLimits,
    PoolPolicy,
    Recall,
    Refuse,
    State,
    Unpark,
)
from sttd.engine import memory
from sttd.engine.contract import Backend, ModelKey, Preset
from sttd.engine.leases import (
    Loaded,
    LoadResult,
    PoolEntry,
    PoolLease,
    PoolStatistics,
    PresetRow,
    UnloadResult,
    Waiter,
    entry_of,
)
from sttd.engine.loading import free, fresh, load_failure, load_what_fits, no_slot
from sttd.engine.presets import smaller_presets
from sttd.engine.shelf import Shelf
from sttd.errors import ModelError, SttdError
from sttd.host import logs

log = logs.get(__name__)

THREADS: Final = 4  # one loads; the others park and free

OnEvent = Callable[[str, PoolEntry, SttdError | None], None]


class ModelPool:
    """Loads, keeps and frees models, and leases them.

    Args:
        presets: name → preset.
        backends: name → backend.
        limits: slots and times.
        on_event: called on the event loop with `loading`, `loaded`, `unloaded` or `load_failed`, the entry, and
            what went wrong.
        clock: seconds; a test's own where it wants one.
    """

    def __init__(
        self,
        *,
        presets: Mapping[str, Preset],
        backends: Mapping[str, Backend],
        limits: PoolLimits,
        on_event: OnEvent | None = None,
        clock: Callable[[], float] = trio.current_time,
    ) -> None:
        self.shelf = Shelf(presets, backends)
        self._policy: PoolPolicy[ModelKey] = PoolPolicy(limits)
        self._on_event = on_event
        self._clock = clock
        self._limiter = trio.CapacityLimiter(THREADS)
        self._loaded: dict[ModelKey, Loaded] = {}
        self._gone: dict[str, Preset] = {}  # presets that a reload took away
        self._chosen: dict[str, tuple[int, int]] = {}  # threads and workers that `load` gave a preset
        self._waiters: dict[int, Waiter] = {}
        self._of_files: set[PoolLease] = set()  # the leases that can be recalled
        self._numbers = itertools.count()
        self._operations: deque[Action[ModelKey]] = deque()
        self._changed = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out the policy's operations, for ever.

        Cancellation: waits for the thread that is loading or freeing a model, since no thread can be stopped.
        """
        async with trio.open_nursery() as nursery:
            task_status.started()
            while True:
                while self._operations:
                    nursery.start_soon(self._perform, self._operations.popleft())
                wakeup = self._policy.next_wakeup()
                with trio.move_on_after(math.inf if wakeup is None else max(0.0, wakeup - self._clock())):
                    await self._changed.wait()
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
        own = self.shelf.preset(preset)
        threads = own.cpu_threads if cpu_threads is None else cpu_threads
        workers = own.num_workers if num_workers is None else num_workers
        key = self._key(preset, cpu_threads=threads, num_workers=workers)
        waiter, hit = self._request(key)
        lease = await self._collect(waiter)
        try:
            self._chosen[preset] = (key.cpu_threads, key.num_workers)
            seconds = self._loaded[key].load_seconds
            if keep_alive_s is not None:
                kept = self._policy.keep_alive(key, seconds=keep_alive_s, shields=shields, now=self._clock())
                self._apply(kept)
        finally:
            lease.release()
        return LoadResult(cache_hit=hit, load_seconds=0.0 if hit else seconds, entry=self._row(key))

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
            self.shelf.preset(preset)
        asked = {
            view.serial: view.key
            for view in self._views()
            if view.key.preset == preset or (preset is None and view.key.preset not in spare)
        }
        self._apply(self._policy.unload(asked.values(), now=self._clock()))
        while wait and any(view.serial in asked for view in self._views()):
            await self._changed.wait()
        left = tuple(
            self._entry(view) for view in self._views() if view.serial in asked and view.state is not State.CLOSING
        )
        return UnloadResult(
            unloaded=len(asked) - len(left),
            entries=left,
            native_trim_attempted=bool(asked) and not left,
            process_rss_bytes=memory.process_rss_bytes(),
            vram_bytes=memory.process_vram_bytes(),
        )

    def configure(self, presets: Mapping[str, Preset], limits: PoolLimits) -> None:
        """Apply a new configuration: models of changed presets drain, what `load` chose is forgotten.

        A preset that is gone is there for the sessions that began with it: they keep what they have.
        """
        stale = [
            view.key
            for view in self._views()
            if presets.get(view.key.preset, known := self._preset(view.key.preset)) != known
        ]
        self._gone |= {name: preset for name, preset in self.shelf.presets.items() if name not in presets}
        self.shelf = attrs.evolve(self.shelf, presets=presets)
        self._chosen.clear()
        self._apply(self._policy.configure(limits, now=self._clock()))
        still_there = {view.key for view in self._views()}
        self._apply(self._policy.unload(still_there.intersection(stale), now=self._clock()))

    def statistics(self) -> PoolStatistics:
        """A snapshot."""
        return PoolStatistics(
            loaded=len(self._loaded),
            max_loaded=self._policy.limits.max_loaded_models,
            entries=tuple(self._entries()),
            hits=self._policy.hits,
            misses=self._policy.misses,
            load_failures=self._policy.load_failures,
            idle_ttl_seconds=self._policy.limits.idle_ttl_s,
            process_rss_bytes=memory.process_rss_bytes(),
            workers=sum(loaded.model.workers for loaded in self._loaded.values()),
        )

    def has(self, preset: str) -> bool:
        """Whether a preset's model is in memory."""
        return any(key.preset == preset for key in self._loaded)

    def can_serve(self, preset: str) -> bool:
        """Whether speech that wants this preset could have it now: it is here, or a slot can be had for it."""
        here = any(view.key.preset == preset and not view.draining for view in self._views())
        return here or not self._policy.held

    @property
    def busy(self) -> bool:
        """Whether a thread is loading, freeing or moving a model."""
        return self._limiter.borrowed_tokens > 0

    def in_device_memory(self) -> list[ModelKey]:
        """Models whose weights a suspend may lose. Parked ones are in main memory, and nobody goes on with the rest."""
        return [
            view.key
            for view in self._views()
            if view.state is State.READY and not view.draining and self._loaded[view.key].model.parkable
        ]

    def presets(self) -> list[PresetRow]:
        """The rows of `models`, but for `default_for`, which the service knows."""
        return self.shelf.rows({key.preset: loaded for key, loaded in self._loaded.items()})

    def lose(self, lease: PoolLease) -> bool:
        """The model of this lease hangs: whoever has it goes without, the next who asks has it loaded afresh.

        Its memory comes back when the thread in it does, if ever. False: it was given up before.
        """
        if self._is_lost(lease):
            return False
        row = self._row(lease.key)
        del self._loaded[lease.key]
        self._apply(self._policy.lost(lease.key, now=self._clock()))
        self._emit("unloaded", row, error=ModelError("the model hung and was given up"))
        return True

    def renew(self) -> None:
        """Models are on disk that were not: presets that mean another one now load it for the next who asks."""
        for backend in self.shelf.backends.values():
            backend.forget()
        stale = [key for key, loaded in self._loaded.items() if loaded.path != self.shelf.locate(loaded.preset)]
        self._apply(self._policy.unload(stale, now=self._clock()))

    # ------------------------------------------------------------ leases

    def _key(self, preset: str, *, cpu_threads: int | None, num_workers: int | None) -> ModelKey:
        found = self._preset(preset)
        threads, workers = self._chosen.get(preset, (found.cpu_threads, found.num_workers))
        key = ModelKey(
            preset=preset,
            cpu_threads=threads if cpu_threads is None else cpu_threads,
            num_workers=workers if num_workers is None else num_workers,
        )
        if key not in self._loaded and self.shelf.locate(found) is None:
            raise self.shelf.absent(preset)
        return key

    def _preset(self, name: str) -> Preset:
        """A preset, also one that a reload took away. Raises ModelError `model_not_found`."""
        return self.shelf.presets.get(name) or self._gone.get(name) or self.shelf.preset(name)

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
            loaded=self._loaded[key],
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
        return lease.loaded is not self._loaded.get(lease.key)

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
        self._changed.set()
        self._changed = trio.Event()
        for lease in [lease for lease in self._of_files if lease.key in recalled]:
            lease.recall()

    async def _perform(self, operation: Action[ModelKey]) -> None:
        match operation:
            case Load(key=key):
                await self._load(key)
            case Close(key=key):
                await self._close(key)
            case Park(key=key):
                await self._park(key)
            case Unpark(key=key):
                await self._unpark(key)

    async def _load(self, key: ModelKey) -> None:
        self._emit("loading", self._row(key))
        started = self._clock()
        try:
            asked = self._preset(key.preset)
            deadline = started + self._policy.limits.load_wait_s
            path = self.shelf.locate(asked)
            preset, model = await load_what_fits(
                key,
                asked,
                backends=self.shelf.backends,
                smaller=self._smaller(asked),
                make_room=functools.partial(self._make_room, deadline),
                limiter=self._limiter,
            )
        except Exception as error:  # the boundary between a backend and the pool: everything reaches the waiters
            failure = load_failure(key, error)
            self._emit("load_failed", self._row(key), error=failure)
            self._apply(self._policy.load_failed(key, error=failure, now=self._clock()))
            return
        if preset.name != asked.name:
            path = self.shelf.locate(preset)
        self._loaded[key] = Loaded(preset=preset, model=model, load_seconds=self._clock() - started, path=path)
        self._apply(self._policy.loaded(key, parkable=model.parkable, now=self._clock()))
        self._emit("loaded", self._row(key))

    def _smaller(self, asked: Preset) -> list[Preset]:
        """What may stand in for a preset: only what is on disk, and only if the configuration allows it."""
        if not self._policy.limits.allow_smaller:
            return []
        return [small for small in smaller_presets(asked, self.shelf.presets) if self.shelf.is_local(small.name)]

    async def _make_room(self, deadline: float) -> bool:
        """Close an idle model and wait until it is gone; False when none gets idle in time."""
        while not (actions := self._policy.make_room()):
            coming = any(view.leases or view.state is State.CLOSING for view in self._views())
            if not coming or self._clock() >= deadline:
                return False
            with trio.move_on_after(deadline - self._clock()):
                await self._changed.wait()
        self._apply(actions)
        keys = {action.key for action in actions if isinstance(action, Close)}
        # By serial: somebody may ask for the same model again while it closes, and that is another one.
        closing = {view.serial for view in self._views() if view.key in keys and view.state is State.CLOSING}
        while any(view.serial in closing for view in self._views()):
            await self._changed.wait()
        return True

    async def _park(self, key: ModelKey) -> None:
        try:
            done = await trio.to_thread.run_sync(self._loaded[key].model.park, limiter=self._limiter)
        except Exception:  # like every backend error: it costs this model, not the daemon
            log.exception("a model does not park", preset=key.preset)
            done = False
        self._apply(self._policy.parked(key, done=done, now=self._clock()))

    async def _unpark(self, key: ModelKey) -> None:
        deadline = self._clock() + self._policy.limits.load_wait_s
        while True:
            try:
                await trio.to_thread.run_sync(self._loaded[key].model.unpark, limiter=self._limiter)
            except Exception as error:  # as in `_load`
                failure = load_failure(key, error)
                if failure.code == "out_of_memory" and await self._make_room(deadline):
                    continue
                self._emit("load_failed", self._row(key), error=failure)
                self._apply(self._policy.unpark_failed(key, error=failure, now=self._clock()))
                return
            self._apply(self._policy.unparked(key, now=self._clock()))
            return

    async def _close(self, key: ModelKey) -> None:
        row = self._row(key)
        loaded = self._loaded.pop(key)
        try:
            await trio.to_thread.run_sync(free, loaded.model, limiter=self._limiter)
        finally:
            self._apply(self._policy.closed(key, now=self._clock()))
        self._emit("unloaded", row)

    # ------------------------------------------------------------ views

    def _emit(self, event: str, entry: PoolEntry, *, error: SttdError | None = None) -> None:
        if self._on_event is not None:
            self._on_event(event, entry, error)

    def _row(self, key: ModelKey) -> PoolEntry:
        return next(entry for entry in self._entries() if entry.cache_key == str(key))

    def _views(self) -> tuple[EntryView[ModelKey], ...]:
        return self._policy.entries(now=self._clock())

    def _entries(self) -> list[PoolEntry]:
        return [self._entry(view) for view in self._views()]

    def _entry(self, view: EntryView[ModelKey]) -> PoolEntry:
        return entry_of(view, loaded=self._loaded.get(view.key), preset=self.shelf.presets.get(view.key.preset))
