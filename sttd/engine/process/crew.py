"""All processes of models: who starts them, the spare one, and how often one had to be started again.

The **spare** has the libraries imported and no model, so that a load, or a start after a crash, does not wait for that.
There is one at most: started once a model has been loaded, of the same kind as the last, and ended `spare_ttl_s` after
the last model has gone. Nothing computes in it meanwhile.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Protocol

import attrs
import trio

from sttd.engine.contract import Recipe
from sttd.engine.process.worker import Worker, spawn
from sttd.host import logs

log = logs.get(__name__)

_GLANCE_S: Final = 0.5  # how often the crew is looked at; chosen, against the seconds that a start takes
_REST_S: Final = 2.0  # chosen: between a load and the start of a spare, so that the first decodes have the cores
_AGAIN_S: Final = 30.0  # chosen: between two starts of a spare that nobody hired; one that dies by itself is no use


class Mendable(Protocol):
    """A model whose process may die."""

    def wants_mending(self) -> bool:
        """Whether its process is gone and may be started again now. Cheap."""

    def mend(self) -> None:
        """Start it again. Blocks; raises nothing."""

    def pid(self) -> int | None:
        """Its process."""


@attrs.define(eq=False, kw_only=True)
class Crew:
    """Every method but `run` may be called from any thread.

    Args:
        spare_ttl_s: how long the spare outlives the last model; 0: there is none.
        log_format: of the log of the processes, which goes where the daemon's goes.
        start: starts a process.
    """

    spare_ttl_s: float = 0.0
    log_format: str = "auto"
    start: Callable[..., Worker] = spawn
    restarts: int = attrs.field(default=0, init=False)  # of processes that died or were ended for a hang
    trouble: str | None = attrs.field(default=None, init=False)  # the last of them, for `status`
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _models: set[Mendable] = attrs.field(factory=set, init=False)
    _spare: Worker | None = attrs.field(default=None, init=False)
    _last: Recipe | None = attrs.field(default=None, init=False)
    _used_at: float = attrs.field(factory=time.monotonic, init=False)  # when a process was last hired or a model went
    _started_at: float = attrs.field(default=-_AGAIN_S, init=False)  # when the spare was started
    _closed: bool = attrs.field(default=False, init=False)

    def hire(self, recipe: Recipe) -> Worker:
        """A process to load into: the spare, or a new one. Raises OSError."""
        with self._lock:
            self._last, self._used_at, self._started_at = recipe, time.monotonic(), -_AGAIN_S
            spare, self._spare = self._spare, None
        if spare is not None:
            if spare.recipe == recipe and spare.alive:
                return spare
            spare.close()
        return self.start(recipe, log_format=self.log_format)

    def add(self, model: Mendable) -> None:
        """A model was loaded."""
        with self._lock:
            self._models.add(model)

    def remove(self, model: Mendable) -> None:
        """It was freed, or given up."""
        with self._lock:
            self._models.discard(model)
            self._used_at = time.monotonic()

    def note_restart(self, preset: str, reason: str) -> None:
        """The process of a model died, or was ended."""
        with self._lock:
            self.restarts += 1
            self.trouble = f"the engine of {preset} died ({reason}) and was started again"

    def pids(self) -> tuple[int, ...]:
        """All processes."""
        with self._lock:
            pids = [model.pid() for model in self._models]
            pids += [self._spare.pid] if self._spare is not None else []
        return tuple(pid for pid in pids if pid is not None)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep the spare, and start again what died while nothing was decoded, until cancelled.

        Cancellation: ends the spare; a model that is being loaded again is not waited for.
        """
        limiter = trio.CapacityLimiter(2)  # one starts a process anew, one looks after the spare
        mending: set[Mendable] = set()
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    for model in self._broken() - mending:
                        mending.add(model)
                        nursery.start_soon(self._mend, model, mending, limiter)
                    if self._spare_is_wrong():
                        await trio.to_thread.run_sync(self._see_to_spare, limiter=limiter)
                    await trio.sleep(_GLANCE_S)
        finally:
            with self._lock:
                self._closed = True
                spare, self._spare = self._spare, None
            if spare is not None:
                with trio.CancelScope(shield=True):
                    await trio.to_thread.run_sync(spare.close)

    async def _mend(self, model: Mendable, mending: set[Mendable], limiter: trio.CapacityLimiter) -> None:
        try:
            await trio.to_thread.run_sync(model.mend, limiter=limiter, abandon_on_cancel=True)
        finally:
            mending.discard(model)

    def _broken(self) -> set[Mendable]:
        with self._lock:
            models = set(self._models)
        return {model for model in models if model.wants_mending()}

    def _wants_spare(self) -> bool:
        wanted = self.spare_ttl_s > 0 and self._last is not None and not self._closed
        return wanted and (bool(self._models) or time.monotonic() - self._used_at < self.spare_ttl_s)

    def _spare_is_wrong(self) -> bool:
        now = time.monotonic()
        with self._lock:
            if self._spare is not None and self._spare.alive:
                return not self._wants_spare()
            due = now - self._used_at >= _REST_S and now - self._started_at >= _AGAIN_S
            return due and self._wants_spare()

    def _see_to_spare(self) -> None:
        with self._lock:
            old, self._spare, self._started_at = self._spare, None, time.monotonic()
            recipe = self._last if self._wants_spare() else None
        if old is not None:
            old.close()
        if recipe is None:
            return
        try:
            spare = self.start(recipe, log_format=self.log_format)
        except OSError as error:
            log.warning("no spare process for a model", reason=str(error))
            return
        with self._lock:
            if not self._closed:
                self._spare = spare
                return
        spare.close()
