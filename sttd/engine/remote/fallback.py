"""The preset of this machine that decodes while the server is away. For threads.

Rules:

1. It is loaded when it is first needed, by whoever needs it, while the others wait; if it does not load, nobody tries
   again for `AGAIN_S`. It stays until `free` is called and nobody is in it.
2. As many calls are in it as it has workers. Of those that wait a final comes before interims, and these before
   files; equals in the order in which they came. The dispatcher's order ends where its calls begin, and there may be
   more of them than this machine has workers.
3. An interim does not wait while somebody else loads it, and no longer than `INTERIM_S` for its turn: it would be late.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import attrs

from sttd.core.types import DecodeItem, Effort
from sttd.engine.boundary import decode_items
from sttd.engine.contract import Model, Result, Waiters
from sttd.engine.loading import free as free_model
from sttd.engine.remote.client import Gone
from sttd.errors import SttdError
from sttd.host import logs

log = logs.get(__name__)

AGAIN_S: Final = 10.0  # chosen: memory may be free again by then
INTERIM_S: Final = 0.5  # chosen: a later one is replaced by a newer one
_GLANCE_S: Final = 0.1  # chosen: between two looks at whether anybody waits
_ORDER: Final = {Effort.FULL: 0, Effort.QUICK: 1, Effort.TIMED: 2}


class NoFallbackError(Exception):
    """It does not decode this now; says why."""


@attrs.define(eq=False, kw_only=True)
class Fallback:
    """The rules above.

    Args:
        preset: its name.
        load: loads its model. Blocks; raises SttdError.
    """

    preset: str
    load: Callable[[], Model]
    _model: Model | None = attrs.field(default=None, init=False)
    _loading: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _abandoned: bool = attrs.field(default=False, init=False)  # with a load in it: nobody will close what comes
    _failed_at: float = attrs.field(default=-math.inf, init=False)
    _failure: str = attrs.field(default="", init=False)
    _inside: int = attrs.field(default=0, init=False)
    _waiting: list[tuple[int, int]] = attrs.field(factory=list, init=False)  # order and number; few
    _numbers: Iterator[int] = attrs.field(factory=itertools.count, init=False)
    _changed: threading.Condition = attrs.field(factory=threading.Condition, init=False)

    @property
    def model(self) -> Model | None:
        """The model, where it is loaded."""
        return self._model

    @property
    def busy(self) -> bool:
        """Whether it decodes now."""
        return self._inside > 0

    def decode(self, item: DecodeItem, *, waiters: Waiters, until: float) -> Result:
        """Decode an item; `waiters` are its own, and it is all of the batch.

        Raises:
            NoFallbackError: it does not load, or not in time; or this is an interim, and it has no time.
            Gone: nobody waits any more.
        """
        with self._turn(item.options.effort, until=until, gone=lambda: waiters.gone(0)) as model:
            return decode_items(model, [item], waiters)[0]

    def free(self) -> None:
        """Give its memory back, if nobody is in it or waits for it. Blocks."""
        with self._changed:
            if self._inside or self._waiting or self._loading or self._model is None:
                return
            model, self._model = self._model, None
        log.info("the fallback is no longer needed", preset=self.preset)
        free_model(model)

    def close(self) -> None:
        """Free it for good, with nobody in it. Waits for a load under way."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            while self._loading:
                self._changed.wait()
            model, self._model = self._model, None
        if model is not None:
            free_model(model)

    def abandon(self) -> None:
        """Give it up with somebody in it. Does not wait."""
        self._closed = self._abandoned = True
        if (model := self._model) is not None:
            model.abandon()

    # ------------------------------------------------------------------ turns

    @contextlib.contextmanager
    def _turn(self, effort: Effort, *, until: float, gone: Callable[[], bool]) -> Iterator[Model]:
        place = _ORDER[effort], next(self._numbers)
        patient_until = min(until, time.monotonic() + INTERIM_S) if effort is Effort.QUICK else until
        with self._changed:
            self._waiting.append(place)
            try:
                while (model := self._free_for(place)) is None:
                    self._step(effort, until=patient_until, gone=gone)
                self._inside += 1
            finally:
                self._waiting.remove(place)
                self._changed.notify_all()  # who is next may have room, too
        try:
            yield model
        finally:
            with self._changed:
                self._inside -= 1
                self._changed.notify_all()

    def _free_for(self, place: tuple[int, int]) -> Model | None:
        model = self._model
        if model is None or self._inside >= model.workers or place != min(self._waiting):
            return None
        return model

    def _step(self, effort: Effort, *, until: float, gone: Callable[[], bool]) -> None:
        """Wait for a moment, or load. Holds the lock, but for the time that it waits or loads."""
        now = time.monotonic()
        if self._closed:
            raise NoFallbackError("the model was given up")
        if gone():
            raise Gone
        if now >= until:
            raise NoFallbackError(f"the fallback {self.preset!r} had no time for it")
        if self._model is not None or self._loading:
            if self._loading and effort is Effort.QUICK:
                raise NoFallbackError(f"the fallback {self.preset!r} is being loaded")
            self._changed.wait(min(_GLANCE_S, until - now))
        elif now < self._failed_at + AGAIN_S:
            raise NoFallbackError(self._failure)
        else:
            self._load()

    def _load(self) -> None:
        self._loading = True
        self._changed.release()
        model: Model | None = None
        failure = ""
        try:
            model = self.load()
            log.info("the fallback is loaded", preset=self.preset)
        except SttdError as error:
            failure = f"the fallback {self.preset!r} does not load: {error.message}"
            log.error("the fallback does not load", preset=self.preset, reason=error.message)
        except Exception as error:  # as at the boundary between a backend and the pool
            log.error("the fallback does not load", preset=self.preset, exc_info=error)
            failure = f"the fallback {self.preset!r} does not load"
        finally:
            self._changed.acquire()
            self._loading = False
            self._model = model
            if model is None:
                self._failed_at, self._failure = time.monotonic(), failure
            if self._abandoned:
                self._model = None
            self._changed.notify_all()
        if self._abandoned and model is not None:  # nobody closes it any more
            model.close()
