"""Which models are loaded, and when each is loaded, parked, freed or given out. No IO: time is an argument.

The policy names operations (`Load`, `Park`, `Unpark`, `Close`) and answers (`Grant`, `Refuse`); the pool carries
them out and reports back. An entry has at most one operation under way. The states of an entry:

    (none) ── Load ──> LOADING ──> READY ── Park ──> PARKING ──> PARKED ── Unpark ──> UNPARKING ──> READY
                          │          └──────────────── Close ──────┴──> CLOSING ──> (none)
                          └ failed ──> (none)

Rules:

 1. A request for a READY entry is granted at once. A request for a LOADING one waits for that load: one load,
    however many wait. A request for a PARKED one brings it back.
 2. Every entry, in whatever state, takes one of `max_loaded_models` slots. One load runs at a time; keys are
    loaded in the order in which they were first asked for, those that speech asked for before those of files.
 3. When the next load finds no free slot, the least recently used entry that is neither leased, waited for nor
    shielded is closed for it. When there is none, those who wait are refused after `load_wait_s`; time in which
    something is being loaded, closed or given back does not count. So are those who wait for an entry that drains
    and stays leased.
 4. An entry with leases is never closed or parked.
 5. An idle entry expires after its keep-alive, or else after `idle_ttl_s` (0 = never). A keep-alive of 0 expires
    at once, -1 never, and where whoever asked for it may say so for everybody it shields from eviction too. An entry
    that can be parked is parked first and closed `parked_ttl_s` later.
 6. `unload` drains: nobody new is granted the entry, and it is closed when its last lease ends, pinned or not.
    Who waits for its load already is still served.
 7. A failed load refuses every waiter once, with the error, and leaves no trace but the count: the next request
    loads again.
 8. A load that nobody waits for any more is closed when it returns.
 9. A model that hangs is lost: its entry is gone at once, with the leases on it, and the next request loads afresh.
10. A lowered limit closes idle entries at once and leased ones when they are released.
11. Speech does not wait for files. When its load finds no room by rule 3, or the entry that it wants drains, an entry
    whose leases are all of files is recalled: they are given back as soon as no call runs under them, and nothing of
    a file is granted it until the speech has its slot.
12. Files wait for speech: without a time limit, and what speech used within `_SPEECH_RESTS_S` is not closed for them.

`_settle` applies rules 1 to 5 and 10 to 12 after every input; the inputs only change state.
"""

from __future__ import annotations

import enum
import itertools
import math
from collections.abc import Hashable, Iterable
from typing import Final, Generic, TypeVar

import attrs

from sttd import fields

PINNED: Final = -1.0
_SPEECH_RESTS_S: Final = 10.0  # chosen: who speaks again after less finds the model where it was

K = TypeVar("K", bound=Hashable)


class State(enum.Enum):
    """Where an entry is in its life."""

    LOADING = "loading"
    READY = "ready"
    PARKING = "parking"
    PARKED = "parked"
    UNPARKING = "unparking"
    CLOSING = "closing"


@attrs.frozen
class Load(Generic[K]):
    """Load the model of this key; then call `loaded` or `load_failed`."""

    key: K


@attrs.frozen
class Park(Generic[K]):
    """Move its weights to main memory; then call `parked`."""

    key: K


@attrs.frozen
class Unpark(Generic[K]):
    """Bring its weights back; then call `unparked` or `unpark_failed`."""

    key: K


@attrs.frozen
class Close(Generic[K]):
    """Free it; then call `closed`."""

    key: K


@attrs.frozen
class Grant(Generic[K]):
    """The waiter has a lease on this entry."""

    waiter: int
    key: K


@attrs.frozen
class Refuse:
    """The waiter gets nothing: the error of the load, or None when no slot came free in time."""

    waiter: int
    error: Exception | None


@attrs.frozen
class Recall(Generic[K]):
    """Whoever has a file's lease on this entry gives it back and asks again, unless a call runs under it."""

    key: K


Action = Load[K] | Park[K] | Unpark[K] | Close[K] | Grant[K] | Refuse | Recall[K]


@attrs.frozen(kw_only=True)
class EntryView(Generic[K]):
    """One entry as `status` shows it."""

    key: K
    serial: int
    state: State
    leases: int
    hits: int
    pinned: bool
    draining: bool
    loaded_for_s: float
    idle_for_s: float
    expires_in_s: float | None  # until it is parked or closed; None when in use, pinned or kept for good


@attrs.frozen(kw_only=True)
class PoolLimits:
    """What the configuration sets; may change while the pool runs."""

    max_loaded_models: int = fields.integer("loaded models at the same time", minimum=1, maximum=64, default=2)
    idle_ttl_s: float = fields.number(
        "unload a model that nobody used for so long; 0: never", minimum=0, default=300.0, unit="s"
    )
    parked_ttl_s: float = fields.number(
        "keep an idle GPU model's weights in RAM for so long; 0: free them at once", minimum=0, default=600.0, unit="s"
    )
    load_wait_s: float = fields.number(
        "how long a load waits for a slot when every one is in use", minimum=0, maximum=600, default=10.0, unit="s"
    )
    allow_smaller: bool = fields.flag("out of memory: fall back to a preset's `smaller` one", default=False)


@attrs.define(eq=False, kw_only=True)
class _Entry(Generic[K]):
    key: K
    serial: int
    since: float
    state: State = State.LOADING
    leases: int = 0
    leases_of_files: int = 0  # of these
    hits: int = 0
    keep_alive_s: float | None = None
    shielded: bool = False
    draining: bool = False
    recalled: bool = False
    parkable: bool = False
    idle_since: float = 0.0
    spoken_at: float | None = None  # when speech last got or gave back a lease

    @property
    def resting(self) -> bool:
        """No lease on it and no operation under way."""
        return self.leases == 0 and self.state in (State.READY, State.PARKED)

    @property
    def with_files(self) -> bool:
        """Leased, and by files alone."""
        return 0 < self.leases == self.leases_of_files


@attrs.define(eq=False, kw_only=True)
class _Waiter(Generic[K]):
    key: K
    file: bool
    deadline: float | None = None  # set while it is stuck (rule 3)


class PoolPolicy(Generic[K]):
    """The rules above for keys of any kind."""

    def __init__(self, limits: PoolLimits) -> None:
        self.limits = limits
        self.hits = 0
        self.misses = 0
        self.load_failures = 0
        self._entries: dict[K, _Entry[K]] = {}  # least recently used first
        self._waiters: dict[int, _Waiter[K]] = {}  # in order of arrival
        self._serials = 0

    # ------------------------------------------------------------ what users of models do

    def request(self, waiter: int, key: K, *, now: float, file: bool = False) -> list[Action[K]]:
        """Ask for a lease, for speech or for a file. `waiter` is a number of the caller's choice.

        Answered by one `Grant` or `Refuse`.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.state in (State.READY, State.PARKED) and not entry.draining:
            self.hits += 1
            entry.hits += 1
        else:
            self.misses += 1
        self._waiters[waiter] = _Waiter(key=key, file=file)
        return self._settle(now)

    def cancel(self, waiter: int, *, now: float) -> list[Action[K]]:
        """The waiter has gone away before it was answered."""
        del self._waiters[waiter]
        return self._settle(now)

    def duplicate(self, key: K, *, file: bool = False) -> None:
        """A second lease beside one that is held, for the same."""
        entry = self._entries[key]
        assert entry.leases > 0
        entry.leases += 1
        entry.leases_of_files += file

    def release(self, key: K, *, now: float, file: bool = False) -> list[Action[K]]:
        """A lease ends."""
        entry = self._entries[key]
        assert entry.leases > 0
        entry.leases -= 1
        entry.leases_of_files -= file
        self._touch(entry, now, file=file)
        return self._settle(now)

    def keep_alive(self, key: K, *, seconds: float, now: float, shields: bool = True) -> list[Action[K]]:
        """Set how long this entry stays when idle (rule 5), until it is closed."""
        entry = self._entries[key]
        entry.keep_alive_s, entry.shielded = seconds, shields and seconds == PINNED
        return self._settle(now)

    def unload(self, keys: Iterable[K], *, now: float) -> list[Action[K]]:
        """Drain these entries (rule 6)."""
        for key in keys:
            self._entries[key].draining = True
        return self._settle(now)

    def configure(self, limits: PoolLimits, *, now: float) -> list[Action[K]]:
        """Change the limits."""
        self.limits = limits
        return self._settle(now)

    def make_room(self) -> list[Action[K]]:
        """Close the least recently used idle entry, for memory that a load lacks. [] when there is none."""
        victim = self._victim()
        return [] if victim is None else [self._close(victim)]

    @property
    def held(self) -> bool:
        """Whether nothing but time makes room for speech: every slot is shielded, or leased by speech."""
        shut = [entry.shielded or entry.leases > entry.leases_of_files for entry in self._entries.values()]
        return len(shut) >= self.limits.max_loaded_models and all(shut)

    # ------------------------------------------------------------ what became of operations

    def loaded(self, key: K, *, parkable: bool, now: float) -> list[Action[K]]:
        """A load succeeded."""
        entry = self._entries[key]
        entry.parkable = parkable
        self._ready(entry, now)
        waiting = self._waiting_for(key)
        entry.draining = entry.draining or not waiting
        granted: list[Action[K]] = [self._grant(waiter, entry, now) for waiter in waiting]
        return granted + self._settle(now)

    def load_failed(self, key: K, *, error: Exception, now: float) -> list[Action[K]]:
        """A load failed."""
        self.load_failures += 1
        return self._fail(key, error) + self._settle(now)

    def parked(self, key: K, *, done: bool, now: float) -> list[Action[K]]:
        """The weights were moved, or could not be; then the entry is closed instead."""
        entry = self._entries[key]
        entry.state = State.PARKED
        entry.idle_since = now
        entry.draining = entry.draining or not done
        return self._settle(now)

    def unparked(self, key: K, *, now: float) -> list[Action[K]]:
        """The weights are back."""
        self._ready(self._entries[key], now)
        return self._settle(now)

    def unpark_failed(self, key: K, *, error: Exception, now: float) -> list[Action[K]]:
        """The weights did not come back; who waits is told, and the entry closed."""
        self.load_failures += 1
        entry = self._entries[key]
        entry.state = State.PARKED
        entry.draining = True
        return self._refuse(key, error) + self._settle(now)

    def lost(self, key: K, *, now: float) -> list[Action[K]]:
        """A model that is in use will never answer again (rule 9); nobody releases the leases on it any more."""
        entry = self._entries.pop(key)
        assert entry.leases > 0, "only a model that decodes can hang"
        return self._settle(now)

    def closed(self, key: K, *, now: float) -> list[Action[K]]:
        """The entry is gone."""
        del self._entries[key]
        return self._settle(now)

    # ------------------------------------------------------------ time

    def tick(self, now: float) -> list[Action[K]]:
        """Apply what is due."""
        return self._settle(now)

    def next_wakeup(self) -> float | None:
        """When `tick` has something to do, if nothing else happens before."""
        resting = [entry for entry in self._entries.values() if entry.resting]
        times = [self._expires_at(entry) for entry in resting]
        times += [waiter.deadline for waiter in self._waiters.values()]
        waiter = self._next_waiter()
        if waiter is not None and waiter.file and not self._is_moving():
            times += [self._rested_at(entry) for entry in resting if self._may_go(entry)]
        return min((at for at in times if at is not None), default=None)

    # ------------------------------------------------------------ views

    def entries(self, *, now: float) -> tuple[EntryView[K], ...]:
        """All entries, least recently used first."""
        return tuple(self._view(entry, now) for entry in self._entries.values())

    # ------------------------------------------------------------ the rules

    def _settle(self, now: float) -> list[Action[K]]:
        self._forget_recalls()
        actions: list[Action[K]] = []
        for entry in list(self._entries.values()):
            if self._wanted(entry):
                actions += self._serve(entry, now)
            if entry.resting and not self._wanted(entry) and self._expired(entry, now):
                actions.append(self._expire(entry))
        surplus = len(self._entries) - self.limits.max_loaded_models - self._count(State.CLOSING)
        for _ in range(surplus):
            actions += self.make_room()
        return actions + self._start_load(now) + self._recall() + self._time_out(now)

    def _serve(self, entry: _Entry[K], now: float) -> list[Action[K]]:
        """Rule 1."""
        if entry.state is State.READY:
            return [self._grant(waiter, entry, now) for waiter in self._served(entry)]
        if entry.state is State.PARKED:
            entry.state = State.UNPARKING
            return [Unpark(entry.key)]
        return []

    def _expire(self, entry: _Entry[K]) -> Action[K]:
        """Rule 5."""
        parks = entry.parkable and self.limits.parked_ttl_s > 0 and entry.keep_alive_s != 0
        if entry.state is State.READY and parks and not entry.draining:
            entry.state = State.PARKING
            return Park(entry.key)
        return self._close(entry)

    def _start_load(self, now: float) -> list[Action[K]]:
        """Rules 2 and 3: load the first key that waits without an entry, or make room for it."""
        waiter = self._next_waiter()
        if waiter is None or self._count(State.LOADING):
            return []
        if len(self._entries) < self.limits.max_loaded_models:
            self._serials += 1
            self._entries[waiter.key] = _Entry(key=waiter.key, serial=self._serials, since=now)
            return [Load(waiter.key)]
        if self._count(State.CLOSING):
            return []
        victim = self._victim(rested_at=now if waiter.file else math.inf)
        return [] if victim is None else [self._close(victim)]

    def _recall(self) -> list[Action[K]]:
        """Rule 11: whatever drains while speech wants it, and one entry more where speech finds no room."""
        wanted = self._wanted_by_speech()
        recalled = [
            entry
            for entry in self._entries.values()
            if entry.draining and entry.key in wanted and entry.leases_of_files
        ]
        if self._is_full() and not wanted <= self._entries.keys() and self._victim() is None:
            others = (entry for entry in self._entries.values() if entry.with_files and not entry.shielded)
            recalled += itertools.islice(others, 1)
        actions: list[Action[K]] = []
        for entry in recalled:
            if not entry.recalled:
                entry.recalled = True
                actions.append(Recall(entry.key))
        return actions

    def _forget_recalls(self) -> None:
        """Rule 11: files go on once the speech has what it waited for."""
        wanted = self._wanted_by_speech()
        if wanted <= self._entries.keys():
            for entry in self._entries.values():
                entry.recalled = entry.recalled and entry.draining and entry.key in wanted

    def _wanted_by_speech(self) -> set[K]:
        return {waiter.key for waiter in self._waiters.values() if not waiter.file}

    def _is_full(self) -> bool:
        """Whether no slot is free, and none is about to be by what is under way."""
        return (
            len(self._entries) >= self.limits.max_loaded_models
            and not self._is_moving()
            and not any(entry.recalled and entry.with_files for entry in self._entries.values())
        )

    def _is_moving(self) -> bool:
        """Whether a slot is about to change hands without anybody's help."""
        return bool(self._count(State.LOADING) or self._count(State.CLOSING))

    def _time_out(self, now: float) -> list[Action[K]]:
        """Rule 3: refuse who has been stuck for too long."""
        full = self._is_full()
        refused: list[Action[K]] = []
        for number, waiter in list(self._waiters.items()):
            entry = self._entries.get(waiter.key)
            stuck = full if entry is None else entry.draining and entry.leases > 0 and not entry.with_files
            if not stuck or waiter.file:
                waiter.deadline = None
            elif waiter.deadline is None:
                waiter.deadline = now + self.limits.load_wait_s
            if waiter.deadline is not None and waiter.deadline <= now:
                del self._waiters[number]
                refused.append(Refuse(number, None))
        return refused

    def _expired(self, entry: _Entry[K], now: float) -> bool:
        at = self._expires_at(entry)
        return entry.draining or (at is not None and at <= now)

    def _expires_at(self, entry: _Entry[K]) -> float | None:
        """When a resting entry is to be parked or closed; None: never."""
        if entry.state is State.PARKED:
            return entry.idle_since + self.limits.parked_ttl_s
        if entry.keep_alive_s is not None:
            return None if entry.keep_alive_s < 0 else entry.idle_since + entry.keep_alive_s
        return entry.idle_since + self.limits.idle_ttl_s if self.limits.idle_ttl_s > 0 else None

    def _rested_at(self, entry: _Entry[K]) -> float:
        """Until when files spare it (rule 12)."""
        return -math.inf if entry.spoken_at is None else entry.spoken_at + _SPEECH_RESTS_S

    def _may_go(self, entry: _Entry[K]) -> bool:
        """Rule 3."""
        return entry.resting and not entry.shielded and not self._wanted(entry)

    def _victim(self, *, rested_at: float = math.inf) -> _Entry[K] | None:
        """The first that may be closed, and whose time by rule 12 has come until then."""
        entries = (entry for entry in self._entries.values() if self._may_go(entry))
        return next((entry for entry in entries if self._rested_at(entry) <= rested_at), None)

    def _wanted(self, entry: _Entry[K]) -> bool:
        return not entry.draining and bool(self._served(entry))

    def _served(self, entry: _Entry[K]) -> list[int]:
        """Who waits for it and may have it."""
        return [
            number for number in self._waiting_for(entry.key) if not (entry.recalled and self._waiters[number].file)
        ]

    # ------------------------------------------------------------ small steps

    def _grant(self, number: int, entry: _Entry[K], now: float) -> Grant[K]:
        file = self._waiters.pop(number).file
        entry.leases += 1
        entry.leases_of_files += file
        self._touch(entry, now, file=file)
        return Grant(number, entry.key)

    def _ready(self, entry: _Entry[K], now: float) -> None:
        if entry.state is State.LOADING:
            entry.since = now
        entry.state = State.READY
        entry.idle_since = now

    def _close(self, entry: _Entry[K]) -> Close[K]:
        entry.state = State.CLOSING
        return Close(entry.key)

    def _fail(self, key: K, error: Exception) -> list[Action[K]]:
        del self._entries[key]
        return self._refuse(key, error)

    def _refuse(self, key: K, error: Exception) -> list[Action[K]]:
        waiting = self._waiting_for(key)
        for number in waiting:
            del self._waiters[number]
        return [Refuse(number, error) for number in waiting]

    def _touch(self, entry: _Entry[K], now: float, *, file: bool) -> None:
        """Mark as used most recently."""
        entry.idle_since = now
        if not file:
            entry.spoken_at = now
        self._entries[entry.key] = self._entries.pop(entry.key)

    def _waiting_for(self, key: K) -> list[int]:
        return [number for number, waiter in self._waiters.items() if waiter.key == key]

    def _next_waiter(self) -> _Waiter[K] | None:
        homeless = [waiter for waiter in self._waiters.values() if waiter.key not in self._entries]
        return min(homeless, key=lambda waiter: waiter.file, default=None)  # the first of those that are equal

    def _count(self, state: State) -> int:
        return sum(entry.state is state for entry in self._entries.values())

    def _view(self, entry: _Entry[K], now: float) -> EntryView[K]:
        expires_at = self._expires_at(entry) if entry.resting else None
        return EntryView(
            key=entry.key,
            serial=entry.serial,
            state=entry.state,
            leases=entry.leases,
            hits=entry.hits,
            pinned=entry.keep_alive_s == PINNED,
            draining=entry.draining,
            loaded_for_s=now - entry.since,
            idle_for_s=0.0 if entry.leases or entry.state is State.LOADING else now - entry.idle_since,
            expires_in_s=None if expires_at is None else max(0.0, expires_at - now),
        )
