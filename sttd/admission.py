"""Who is let in. A session that would be served badly, or too late, is better told so at once.

1. It names models that exist, that the configuration allows, and that are in memory or on disk.
2. There is room for one more session, and for one more of this user (`session/registry.py`).
3. Enough memory is free. Where it ends the kernel ends somebody, and that may be the daemon with everybody's sessions.
4. A slot for its models can be had: not every one is pinned, or leased by the speech of others. A file may wait.
5. A final would not wait longer than `admission_wait_s` behind those of others. A file may wait.

And what a peer may do to the models of all, who is neither root nor the daemon's own user:

6. Load what a session of his may name, with the threads and workers that it has. Such a pin keeps a model from
   expiring and makes room for others all the same (`core/pooling.py`, rule 5).
7. Unload what no session of another user runs on.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import attrs

from sttd.config.tree import Config
from sttd.engine import memory
from sttd.engine.contract import Preset
from sttd.engine.engine import Engine
from sttd.engine.presets import not_found
from sttd.errors import AccessError, OverloadedError
from sttd.options import SessionOptions
from sttd.session.registry import Registry

_SLOT_RETRY_S: Final = 5.0  # chosen: about an utterance
_MEMORY_RETRY_S: Final = 10.0  # memory comes back when a model idles out or a program ends: not within a second


@attrs.frozen(kw_only=True)
class Peer:
    """Who is at the other end of a connection.

    Privileged (root, the daemon's own uid): sees everybody's sessions, may change the daemon itself.
    """

    uid: int
    privileged: bool
    pid: int | None = None

    @property
    def sees(self) -> int | None:
        """The uid whose things this peer sees; None for all."""
        return None if self.privileged else self.uid


@attrs.define(eq=False, kw_only=True)
class Admission:
    """The rules above. A reload changes `config` and `presets`."""

    config: Config
    presets: Mapping[str, Preset]
    engine: Engine
    registry: Registry
    network: bool  # the daemon may get a model itself
    available_bytes: Callable[[], int] = memory.available_bytes

    def selectable(self) -> list[str]:
        """Presets that a session may name."""
        allowed = self.config.models.selectable
        return [name for name in self.presets if "*" in allowed or name in allowed]

    def check(self, options: SessionOptions, *, uid: int) -> None:
        """Raises ModelError (`model_not_found`, `model_not_local`), or OverloadedError with `retry_after_s`."""
        models = tuple(dict.fromkeys((options.model, options.interim_model)))
        for name in models:
            self.check_model(name)
        self.registry.check_room(uid)
        self._check_memory()
        if options.kind == "live":
            self._check_slots(models)
        wait_s = max(self.engine.dispatcher.queue_wait_s(name) for name in models)
        if wait_s > self.config.scheduler.admission_wait_s and options.kind == "live":
            raise OverloadedError(
                f"a final would wait {wait_s:.1f} s now; come again later", data={"retry_after_s": round(wait_s, 1)}
            )

    def check_model(self, name: str) -> None:
        """Rule 1 for one of the models. Raises ModelError."""
        shelf, defaults = self.engine.pool.stock.shelf, (self.config.models.model, self.config.models.interim_model)
        if name not in self.presets or not (name in self.selectable() or name in defaults):
            raise not_found(name, self.selectable())
        if not self.engine.pool.stock.has(name) and not shelf.is_local(name):
            raise shelf.absent(name, network=self.network)

    def check_load(self, preset: str, *, uid: int | None, own_settings: bool) -> None:
        """Rule 6; `uid` None: may do anything. Raises ModelError as `check`, AccessError."""
        if uid is None:
            return
        self.check_model(preset)
        if own_settings:
            raise AccessError(
                "how many threads and workers a model has is said for everybody: root and the user that the daemon runs"
                " as may. Leave out `cpu_threads` and `num_workers`"
            )

    def used_by_others(self, uid: int | None) -> frozenset[str]:
        """Presets that this user may not unload (rule 7); None: may do anything."""
        if uid is None:
            return frozenset()
        others = [session.options for session in self.registry.all() if session.uid != uid]
        return frozenset(name for options in others for name in (options.model, options.interim_model))

    def check_unload(self, preset: str, *, uid: int | None) -> None:
        """Rule 7. Raises AccessError."""
        if preset in self.used_by_others(uid):
            raise AccessError(f"other users' sessions run on {preset!r}: root and the daemon's user may unload it")

    def _check_slots(self, models: tuple[str, ...]) -> None:
        pool = self.engine.pool
        if missing := [name for name in models if not pool.stock.can_serve(name)]:
            here = ", ".join(sorted({entry.preset for entry in pool.stock.status().entries}))
            raise OverloadedError(
                f"there is no room to load {missing[0]!r}: every model slot is in use ({here}). Come again later, name"
                f" one of these, or raise models.max_loaded_models",
                data={"retry_after_s": _SLOT_RETRY_S},
            )

    def _check_memory(self) -> None:
        free_bytes, reserve_bytes = self.available_bytes(), self.config.limits.memory_reserve_bytes
        if free_bytes < reserve_bytes:
            raise OverloadedError(
                f"only {free_bytes / 1e6:.0f} MB of memory are free; come again later, or free some"
                f" (`sttctl unload` frees idle models)",
                data={"retry_after_s": _MEMORY_RETRY_S, "available_bytes": free_bytes},
            )
