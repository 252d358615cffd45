"""Carries out what the pool's policy decided: loads, parks and frees models, each in a thread of its own limiter.

Two things are added here that a policy without IO cannot know:

- **Memory.** A load that does not fit closes idle models one after the other and tries again; if only leased ones are
  left it waits up to `load_wait_s` for one. Then it goes down the ladder of `loading.py`.
- **Fallbacks.** What is loaded in the end may be a smaller preset than was asked for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

import attrs
import trio

from sttd.core.pooling import Action, Close, Load, Park, PoolPolicy, State, Unpark
from sttd.engine.contract import ModelKey, Preset
from sttd.engine.leases import Loaded, PoolEntry
from sttd.engine.loading import free, load_failure, load_what_fits
from sttd.engine.presets import smaller_presets
from sttd.engine.stock import Stock
from sttd.errors import SttdError
from sttd.host import logs

log = logs.get(__name__)

THREADS: Final = 4  # one loads; the others park and free


OnEvent = Callable[[str, PoolEntry, SttdError | None], object]


@attrs.define(eq=False, kw_only=True)
class Carrier:
    """Moves models.

    Args:
        stock: where they are.
        apply: takes the actions that follow from a report.
        emit: called on the event loop with `loading`, `loaded`, `unloaded` or `load_failed`, the entry, and what went
            wrong.
    """

    stock: Stock
    apply: Callable[[list[Action[ModelKey]]], None]
    emit: OnEvent
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(THREADS), init=False)

    @property
    def busy(self) -> bool:
        """Whether a thread is loading, freeing or moving a model."""
        return self._limiter.borrowed_tokens > 0

    async def perform(self, operation: Action[ModelKey]) -> None:
        """Carry it out, and report to the policy."""
        match operation:
            case Load(key=key):
                await self._load(key)
            case Close(key=key):
                await self._close(key)
            case Park(key=key):
                await self._park(key)
            case Unpark(key=key):
                await self._unpark(key)

    @property
    def _policy(self) -> PoolPolicy[ModelKey]:
        return self.stock.policy

    async def _load(self, key: ModelKey) -> None:
        stock = self.stock
        self.emit("loading", stock.row(key), None)
        started = stock.clock()
        try:
            asked = stock.preset(key.preset)
            path = stock.shelf.locate(asked)
            preset, model = await load_what_fits(
                key,
                asked,
                backends=stock.shelf.backends,
                smaller=self._smaller(asked),
                make_room=functools.partial(self._make_room, started + self._policy.limits.load_wait_s),
                limiter=self._limiter,
            )
        except Exception as error:  # the boundary between a backend and the pool: everything reaches the waiters
            failure = load_failure(key, error)
            self.emit("load_failed", stock.row(key), failure)
            self.apply(self._policy.load_failed(key, error=failure, now=stock.clock()))
            return
        if preset.name != asked.name:
            path = stock.shelf.locate(preset)
        now = stock.clock()
        stock.loaded[key] = Loaded(preset=preset, model=model, load_seconds=now - started, path=path)
        self.apply(self._policy.loaded(key, parkable=model.parkable, now=now))
        self.emit("loaded", stock.row(key), None)

    def _smaller(self, asked: Preset) -> list[Preset]:
        """What may stand in for a preset: only what is on disk, and only if the configuration allows it."""
        shelf = self.stock.shelf
        if not self._policy.limits.allow_smaller:
            return []
        return [small for small in smaller_presets(asked, shelf.presets) if shelf.is_local(small.name)]

    async def _make_room(self, deadline: float) -> bool:
        """Close an idle model and wait until it is gone; False when none gets idle in time."""
        stock = self.stock
        while not (actions := self._policy.make_room()):
            coming = any(view.leases or view.state is State.CLOSING for view in stock.views())
            if not coming or stock.clock() >= deadline:
                return False
            with trio.move_on_after(deadline - stock.clock()):
                await stock.wait_for_change()
        self.apply(actions)
        keys = {action.key for action in actions if isinstance(action, Close)}
        # By serial: somebody may ask for the same model again while it closes, and that is another one.
        closing = {view.serial for view in stock.views() if view.key in keys and view.state is State.CLOSING}
        while any(view.serial in closing for view in stock.views()):
            await stock.wait_for_change()
        return True

    async def _park(self, key: ModelKey) -> None:
        try:
            done = await trio.to_thread.run_sync(self.stock.loaded[key].model.park, limiter=self._limiter)
        except Exception:  # like every backend error: it costs this model, not the daemon
            log.exception("a model does not park", preset=key.preset)
            done = False
        self.apply(self._policy.parked(key, done=done, now=self.stock.clock()))

    async def _unpark(self, key: ModelKey) -> None:
        stock = self.stock
        deadline = stock.clock() + self._policy.limits.load_wait_s
        while True:
            try:
                await trio.to_thread.run_sync(stock.loaded[key].model.unpark, limiter=self._limiter)
            except Exception as error:  # as in `_load`
                failure = load_failure(key, error)
                if failure.code == "out_of_memory" and await self._make_room(deadline):
                    continue
                self.emit("load_failed", stock.row(key), failure)
                self.apply(self._policy.unpark_failed(key, error=failure, now=stock.clock()))
                return
            self.apply(self._policy.unparked(key, now=stock.clock()))
            return

    async def _close(self, key: ModelKey) -> None:
        row = self.stock.row(key)
        loaded = self.stock.loaded.pop(key)
        try:
            await trio.to_thread.run_sync(free, loaded.model, limiter=self._limiter)
        finally:
            self.apply(self._policy.closed(key, now=self.stock.clock()))
        self.emit("unloaded", row, None)
