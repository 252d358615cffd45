"""What the pool has: the models in memory, the entries that the policy counts for them, and the presets they are of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import attrs
import trio

from sttd.core.pooling import EntryView, PoolPolicy, State
from sttd.engine import memory
from sttd.engine.contract import ModelKey, Preset
from sttd.engine.leases import Loaded, ModelsStatus, PoolEntry, PresetRow, entry_of
from sttd.engine.shelf import Shelf


@attrs.define(eq=False, kw_only=True)
class Stock:
    """Kept by the pool and its carrier; everything else here is a question about it."""

    policy: PoolPolicy[ModelKey]
    shelf: Shelf
    clock: Callable[[], float]
    processes: Callable[[], Sequence[int]] = tuple  # that models are in, besides this one
    loaded: dict[ModelKey, Loaded] = attrs.field(factory=dict, init=False)
    _gone: dict[str, Preset] = attrs.field(factory=dict, init=False)  # presets that a reload took away
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)

    # ------------------------------------------------------------ changes

    def has_changed(self) -> None:
        """Wake whoever waits for a change."""
        self._changed.set()
        self._changed = trio.Event()

    async def wait_for_change(self) -> None:
        """Wait until anything of it changes."""
        await self._changed.wait()

    def take_presets(self, presets: Mapping[str, Preset]) -> None:
        """Other presets from now on. One that is gone is there for the sessions that began with it."""
        self._gone |= {name: preset for name, preset in self.shelf.presets.items() if name not in presets}
        self.shelf = attrs.evolve(self.shelf, presets=presets)

    # ------------------------------------------------------------ questions

    def preset(self, name: str) -> Preset:
        """A preset, also one that a reload took away. Raises ModelError `model_not_found`."""
        return self.shelf.presets.get(name) or self._gone.get(name) or self.shelf.preset(name)

    def views(self) -> tuple[EntryView[ModelKey], ...]:
        """The policy's entries, least recently used first."""
        return self.policy.entries(now=self.clock())

    def entry(self, view: EntryView[ModelKey]) -> PoolEntry:
        """An entry as `status` shows it."""
        return entry_of(view, loaded=self.loaded.get(view.key), preset=self.shelf.presets.get(view.key.preset))

    def entries(self) -> tuple[PoolEntry, ...]:
        """All of them, least recently used first."""
        return tuple(self.entry(view) for view in self.views())

    def row(self, key: ModelKey) -> PoolEntry:
        """The entry of this key."""
        return next(entry for entry in self.entries() if entry.cache_key == str(key))

    def status(self) -> ModelsStatus:
        """A snapshot."""
        return ModelsStatus(
            loaded=len(self.loaded),
            max_loaded=self.policy.limits.max_loaded_models,
            entries=self.entries(),
            hits=self.policy.hits,
            misses=self.policy.misses,
            load_failures=self.policy.load_failures,
            idle_ttl_seconds=self.policy.limits.idle_ttl_s,
            process_rss_bytes=memory.process_rss_bytes(self.processes()),
            remotes=self.shelf.remotes(),
        )

    @property
    def workers(self) -> int:
        """Calls that the loaded models can run at the same time."""
        return sum(loaded.model.workers for loaded in self.loaded.values())

    def has(self, preset: str) -> bool:
        """Whether a preset's model is in memory."""
        return any(key.preset == preset for key in self.loaded)

    def can_serve(self, preset: str) -> bool:
        """Whether speech that wants this preset could have it now: it is here, or a slot can be had for it."""
        here = any(view.key.preset == preset and not view.draining for view in self.views())
        return here or not self.policy.held

    def in_device_memory(self) -> list[ModelKey]:
        """Models whose weights a suspend may lose. Parked ones are in main memory, and nobody goes on with the rest."""
        return [
            view.key
            for view in self.views()
            if view.state is State.READY and not view.draining and self.loaded[view.key].model.parkable
        ]

    def presets(self) -> list[PresetRow]:
        """The rows of `models`, but for `default_for`, which the service knows."""
        return self.shelf.rows({key.preset: loaded for key, loaded in self.loaded.items()})

    def changed_files(self) -> list[ModelKey]:
        """Loaded models whose preset means other files now."""
        return [key for key, loaded in self.loaded.items() if loaded.path != self.shelf.locate(loaded.preset)]
