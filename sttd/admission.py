"""Who is let in. A session that would be served badly, or too late, is better told so at once.

0. The daemon takes sessions at all: it is not stopping, and nobody has drained it.
1. It names models that exist, that the configuration allows, and that are in memory or on disk.
2. There is room for one more session, and for one more of this user (`session/registry.py`).
3. Enough memory is free. Where it ends the kernel ends somebody, and that may be the daemon with everybody's sessions.
4. A slot for its models can be had: not every one is pinned, or leased by the speech of others. A file may wait.
5. A final would not wait longer than `admission_wait_s` behind those of others. A file may wait.

And what a peer may do to the models of all, who is neither root nor the daemon's own user:

6. Load what a session of his may name, with the threads and workers that it has. Such a pin keeps a model from
   expiring and makes room for others all the same (`core/pooling.py`, rule 5).
7. Unload what no session of another user runs on.

Rules 2 to 5 measure each how much of what they allow is taken. From 1 on they refuse, and the greatest of them is the
`admission` that `status` tells, so that who spreads sessions over several daemons sees a refusal before it is made.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Final, Literal, TypeAlias

import attrs

from sttd.config.tree import Config
from sttd.engine import memory
from sttd.engine.contract import Preset
from sttd.engine.engine import Engine
from sttd.engine.presets import not_found
from sttd.errors import AccessError, OverloadedError, SessionError, SttdError
from sttd.host import logs
from sttd.options import SessionOptions
from sttd.session.registry import Registry

log = logs.get("admission")

_SLOT_RETRY_S: Final = 5.0  # chosen: about an utterance
_MEMORY_RETRY_S: Final = 10.0  # memory comes back when a model idles out or a program ends: not within a second
_CLOSED: Final = {
    "draining": "the daemon takes no new sessions now: somebody has drained it",
    "stopping": "the daemon is stopping",
}

_Rule: TypeAlias = tuple[float, Callable[[], OverloadedError]]  # what of it is taken, and the refusal from 1 on


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


@attrs.define(eq=False)
class Place:
    """What one session of a user is let in by, until its block is left or the session takes it.

    `_counts` has those of each user: `Registry.expected`, which take room, or `Registry.promised`, which do not.
    """

    _counts: Counter[int]
    _uid: int
    _kept: bool = attrs.field(default=True, init=False)

    def __attrs_post_init__(self) -> None:
        self._counts[self._uid] += 1

    def leave(self) -> None:
        """Give it back. Idempotent."""
        if self._kept:
            self._kept = False
            self._counts[self._uid] -= 1
            if not self._counts[self._uid]:
                del self._counts[self._uid]

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *error: object) -> None:
        self.leave()


@attrs.define(eq=False, kw_only=True)
class Admission:
    """The rules above. A reload changes `config` and `presets`."""

    config: Config
    presets: Mapping[str, Preset]
    engine: Engine
    registry: Registry
    on_refused: Callable[[Literal["live", "file"]], None]  # is told the kind of each session for which there is no room
    network: bool  # the daemon may get a model itself
    available_bytes: Callable[[], int] = memory.available_bytes
    state: Literal["open", "draining", "stopping"] = attrs.field(default="open", init=False)  # rule 0

    def drain(self, *, uid: int) -> None:
        """Let nobody in, until `undrain`; `uid` is who wants that. Idempotent."""
        log.info("drain", uid=uid, sessions=len(self.registry))
        if self.state == "open":
            self.state = "draining"

    def undrain(self, *, uid: int) -> None:
        """Let people in again. Idempotent. Raises SessionError: the daemon is stopping."""
        log.info("undrain", uid=uid)
        if self.state == "stopping":
            raise SessionError(_CLOSED[self.state], code="shutting_down")
        self.state = "open"

    def closed(self) -> str | None:
        """Why nobody is let in; None: rule 0 holds."""
        return _CLOSED.get(self.state)

    def selectable(self) -> list[str]:
        """Presets that a session may name."""
        allowed = self.config.models.selectable
        return [name for name in self.presets if "*" in allowed or name in allowed]

    def expect(self, defaults: SessionOptions, *, uid: int) -> Place:
        """Keep a place for who is going to start a session, and has not said which. Raises what `admit` raises."""
        self.admit(defaults, uid=uid)
        return Place(self.registry.expected, uid)

    def promise(self, *, uid: int) -> Place:
        """For who has begun what a session follows, and is not to be refused because of a drain that comes between.

        Raises SessionError: `shutting_down`.
        """
        if (why := self.closed()) is not None:
            raise SessionError(why, code="shutting_down")
        return Place(self.registry.promised, uid)

    def admit(self, options: SessionOptions, *, uid: int, place: Place | None = None) -> None:
        """`check` for a session that is about to be opened, in the place that is kept for it; refusals are counted.

        Who was promised a place before a drain gets it.
        """
        if place is not None:
            place.leave()
        try:
            self.check(options, uid=uid, expected=place is not None)
        except OverloadedError:
            self.registry.refused += 1
            self.on_refused(options.kind)
            raise

    def check(self, options: SessionOptions, *, uid: int, expected: bool = False) -> None:
        """Raises ModelError (`model_not_found`, `model_not_local`), OverloadedError with `retry_after_s`, or
        SessionError: `shutting_down`."""
        if (why := self.closed()) is not None and not (expected and self.state == "draining"):
            raise SessionError(why, code="shutting_down")
        models = _models_of(options)
        for name in models:
            self.check_model(name)
        for taken, refusal in self._rules(options, models, uid):
            if taken >= 1:
                raise refusal()

    def usual(self, defaults: SessionOptions) -> float:
        """`taken` for who names no model, and is the daemon's own user, as all are who come by TCP."""
        return self.taken(defaults, uid=os.geteuid())

    def taken(self, options: SessionOptions, *, uid: int) -> float:
        """How near the daemon is to refusing such a session: 1 where `check` refuses now, else below."""
        models = _models_of(options)
        try:
            for name in models:
                self.check_model(name)
        except SttdError:
            return 1.0
        if self.closed() is not None:
            return 1.0
        most = max(taken for taken, _ in self._rules(options, models, uid))
        return 1.0 if most >= 1 else min(round(most, 3), 0.999)

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

    def _rules(self, options: SessionOptions, models: tuple[str, ...], uid: int) -> Iterator[_Rule]:
        """Rules 2 to 5 for such a session, in their order."""
        yield self.registry.taken(uid), partial(self.registry.refusal, uid)
        free_bytes, reserve_bytes = self.available_bytes(), self.config.limits.memory_reserve_bytes
        yield reserve_bytes / max(free_bytes, 1), partial(_no_memory, free_bytes)
        if options.kind != "live":
            return
        missing = [name for name in models if not self.engine.pool.stock.can_serve(name)]
        yield float(bool(missing)), partial(self._no_slot, missing)
        wait_s = max(self.engine.dispatcher.queue_wait_s(name) for name in models)
        yield wait_s / self.config.scheduler.admission_wait_s, partial(_late, wait_s)

    def _no_slot(self, missing: list[str]) -> OverloadedError:
        here = ", ".join(sorted({entry.preset for entry in self.engine.pool.stock.status().entries}))
        return OverloadedError(
            f"there is no room to load {missing[0]!r}: every model slot is in use ({here}). Come again later, name"
            f" one of these, or raise models.max_loaded_models",
            data={"retry_after_s": _SLOT_RETRY_S},
        )


def _models_of(options: SessionOptions) -> tuple[str, ...]:
    return tuple(dict.fromkeys((options.model, options.interim_model or options.model)))


def _no_memory(free_bytes: int) -> OverloadedError:
    return OverloadedError(
        f"only {free_bytes / 1e6:.0f} MB of memory are free; come again later, or free some"
        f" (`sttctl unload` frees idle models)",
        data={"retry_after_s": _MEMORY_RETRY_S, "available_bytes": free_bytes},
    )


def _late(wait_s: float) -> OverloadedError:
    return OverloadedError(
        f"a final would wait {wait_s:.1f} s now; come again later", data={"retry_after_s": round(wait_s, 1)}
    )
