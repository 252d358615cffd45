"""Which job runs next, with whom, and on which worker: the scheduling rules of sttd, all of them.

A *job* is one piece of audio to decode. A *model* has `workers`, each of which runs one call at a time; a call takes
a *batch* of jobs and cannot be interrupted. Models do not share workers. The rules:

 1. **Class.** A free worker takes from the highest class that waits for its model: final, speculative, interim, file.
 2. **Deadline.** Within a class the earliest deadline goes first. A deadline lies between the job's submission and
    `slack_s` after it, whatever was asked.
 3. **Fairness.** In that comparison a job yields by twice the seconds for which its uid has lately held workers in
    that class (finals and speculations count together), and half those of its session; each at most `fairness_s`. So
    whoever used less goes first, first among users and then among a user's sessions; and yet a job that is
    `2 * fairness_s + slack_s` old goes before everything submitted since: nobody starves within a class.
 4. **One interim.** A session has at most one interim waiting, the newest, and at most one in flight. A newer one
    takes the place of the one that waits, with its deadline; that is dropped (`coalesced`). Waiting speculations alike.
 5. **Batches.** A worker never waits for company. The most urgent job takes along those of its class that have its
    batch key, most urgent first; speculations may ride with finals, as they share a key. A job joins while the batch
    is within what the free memory allows, and while the call's expected time is within the `hold` of the job's class.
    A single job always runs: no call takes longer than its hold or its first job, whichever is more. Finals may
    always take `final_stretch` times their first job: where single calls are slow a hold in seconds would forbid
    every batch, just when the queue is long. Expected times are learned from finished calls, per key.
 6. **Files.** They wait for everything else, with one exception: while files wait and had less than `file_share` of
    the time that the model's workers were lately busy, a file goes before interims. Interims are thinned by that;
    finals and speculations never are. When no live job has come for `quiet_s`, a call of files may hold longer. A
    file that needs further passes (another temperature, the rest of a window) comes back for each, with its deadline,
    when live jobs wait that would go before it: what holds a worker is one pass.
 7. **Limits.** Finals are always taken (the session stops hearing its client when too many wait). A speculation is
    refused while a final would wait longer than `speculation_wait_s` behind finals; a file when its session has
    `waiting_files` waiting, or its uid `waiting_per_uid` files; speculations and interims when their uid has as many
    of those. Interims need no other limit: under overload they are the first to wait for nothing (rule 1), replaced
    by newer ones until a worker is free.
 8. **Leaving.** A cancelled job that waits is removed. One that runs is decoded to the end of its pass, for a call
    cannot be stopped, and counts as in flight until then.
 9. **Memory.** After an out-of-memory error the batches of that key are halved for `shrunk_s`.
10. **Reserve.** Of several workers of a model `final_workers` are for finals and speculations alone, one at least is
    for all; so a final finds a worker that no interim holds, of the same weights in memory. Files may have all of them
    when no live job has come for `quiet_s`.

Nothing here depends on the passage of time alone: a decision can change only when a job comes, goes or finishes, so
there is no wake-up to ask for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import NamedTuple

import attrs

from sttd.core.accounting import CallCost, CostBook, Ledger
from sttd.core.types import JobClass
from sttd.errors import OverloadedError
from sttd.fields import integer, number
from sttd.options import MAX_WORKERS

_RIDERS = {JobClass.FINAL: (JobClass.SPECULATIVE,)}
_LATELY_S = 10.0  # how far back the fairness and the load look: a few utterances
_UID_WEIGHT = 2.0  # strong enough that seven sessions of one user get hardly more than the one of another
_SESSION_WEIGHT = 0.5
_SHARING_S = 60.0  # and the share of files: long against one call, which would else overshoot it
_RETRY_S = 0.5
_MODELS_KEPT = 32  # idle models beyond are forgotten; what their calls cost is in the book


@attrs.frozen(kw_only=True)
class PolicyOptions:
    """The numbers in the rules above. Holds are seconds that one call may keep a worker busy."""

    final_hold_s: float = number(  # finals behind it would queue anyway; batching shortens that queue
        "a batch of finals grows while its call should take no longer", minimum=0.05, maximum=60, default=2.0, unit="s"
    )
    final_stretch: float = 3.0  # 4 of base on two cores: 1.3 times the throughput
    speculative_hold_s: float = 0.5  # about the rest of the pause that a speculation runs in
    interim_hold_s: float = number(  # what a final may find in front of it; one interim step stays possible
        "the same for interims", minimum=0.05, maximum=60, default=0.3, unit="s"
    )
    file_hold_s: float = number(
        "the same for files, while somebody speaks", minimum=0.05, maximum=60, default=1.0, unit="s"
    )
    quiet_file_hold_s: float = 4.0  # room for batches of 8 windows, as faster-whisper's own pipeline has
    quiet_s: float = 10.0
    file_share: float = number(
        "share of worker time kept for files by thinning interims", minimum=0, maximum=0.9, default=0.10
    )
    fairness_s: float = 20.0
    slack_s: float = 30.0
    speculation_wait_s: float = 1.0
    waiting_files: int = 16  # two calls of 8 windows: one runs, one waits
    waiting_per_uid: int = 256
    shrunk_s: float = 300.0
    first_call_s: float = 1.0  # guess before a model's first call
    max_calls: int = 32  # over all models: the number of threads
    final_workers: int = integer(
        "workers of a preset with several that take finals alone; one at least takes all",
        minimum=0,
        maximum=MAX_WORKERS,
        default=1,
    )

    def hold_s(self, job_class: JobClass, *, quiet: bool) -> float:
        """How long a call may be expected to take for a job of this class to join it."""
        match job_class:
            case JobClass.FINAL:
                return self.final_hold_s
            case JobClass.SPECULATIVE:
                return self.speculative_hold_s
            case JobClass.INTERIM:
                return self.interim_hold_s
            case _:
                return self.quiet_file_hold_s if quiet else self.file_hold_s


@attrs.define(eq=False, kw_only=True)
class Entry:
    """A job in the queue. Only the policy changes it."""

    id: int  # rises with every job
    job_class: JobClass
    session: str
    uid: int
    deadline: float
    model: Hashable
    workers: int  # of that model
    key: Hashable  # entries of one model with equal keys may share a call
    submitted: float = attrs.field(default=0.0, init=False)

    @property
    def group(self) -> JobClass:
        """Its class, where a speculation counts as the final that it hopes to be."""
        return JobClass.FINAL if self.job_class is JobClass.SPECULATIVE else self.job_class

    @property
    def kind(self) -> Hashable:
        """The kind of call that it needs, as the book of costs knows it."""
        return self.model, self.key

    @property
    def family(self) -> Hashable:
        """What stands in for a kind that is new."""
        return self.model, self.group

    @property
    def uid_account(self) -> Hashable:
        """Where its user's waiting jobs are counted: files apart, or they would keep the same user from speaking."""
        return "uid", self.uid, self.job_class is JobClass.FILE

    @property
    def accounts(self) -> list[Hashable]:
        """Where it is counted while it waits; finals do not count against their user."""
        accounts: list[Hashable] = [self.job_class, (self.job_class, self.session)]
        return accounts if self.job_class is JobClass.FINAL else [*accounts, self.uid_account]

    @property
    def owners(self) -> tuple[Hashable, Hashable]:
        """Who is charged for its worker time, in its group."""
        return (self.group, "uid", self.uid), (self.group, "session", self.session)


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """One call to make: at least one entry, one model, one key."""

    entries: tuple[Entry, ...]
    started: float
    estimate_s: float
    owed: bool = False  # files that go before interims, for they had less than their share

    @property
    def head(self) -> Entry:
        """The job that the call is made for; the others ride with it."""
        return self.entries[0]


@attrs.define(eq=False)
class _Model:
    """What waits for one model and what it runs."""

    workers: int
    waiting: dict[JobClass, dict[int, Entry]] = attrs.field(factory=lambda: {each: {} for each in JobClass}, init=False)
    running: list[Batch] = attrs.field(factory=list, init=False)

    @property
    def idle(self) -> bool:
        return not self.running and not any(self.waiting.values())


_Ranked = tuple[float, int, Entry]  # rank and id, of which the lower goes first


class Urgent(NamedTuple):
    """Jobs of one model, the most urgent first, and the class that they go as; of two the lesser goes before."""

    job_class: JobClass
    ranked: list[_Ranked]

    @property
    def head(self) -> Entry:
        """The job that goes next."""
        return self.ranked[0][-1]


@attrs.define(eq=False)
class SchedulingPolicy:
    """The queue of all models. Synchronous; time comes in as `now`, monotonic seconds."""

    options: PolicyOptions = attrs.field(factory=PolicyOptions)
    _models: dict[Hashable, _Model] = attrs.field(factory=dict, init=False)
    _waiting: dict[int, Entry] = attrs.field(factory=dict, init=False)
    _newest: dict[tuple[JobClass, str], Entry] = attrs.field(factory=dict, init=False)  # rule 4: the one that waits
    _interim_runs: set[str] = attrs.field(factory=set, init=False)  # sessions with an interim in flight
    _counts: Counter[Hashable] = attrs.field(factory=Counter, init=False)  # waiting, per account of rule 7
    _used: Ledger = attrs.field(factory=lambda: Ledger(_LATELY_S), init=False)
    _shares: Ledger = attrs.field(factory=lambda: Ledger(_SHARING_S), init=False)
    _costs: CostBook = attrs.field(init=False)
    _last_live: float = attrs.field(default=float("-inf"), init=False)

    @_costs.default
    def _empty_book(self) -> CostBook:
        return CostBook(self.options.first_call_s)

    # ---------------------------------------------------------------- jobs come and go

    def submit(self, entry: Entry, *, now: float) -> list[int]:
        """Queue a job; returns the ids of those that it replaces.

        Raises:
            OverloadedError: rule 7; `data["retry_after_s"]` says when to come again. Nothing was queued.
        """
        replaced = self._newest.get((entry.job_class, entry.session))
        self._admit(entry, replacing=replaced is not None, now=now)
        if replaced is not None:
            self._remove(replaced)
        entry.submitted = now
        entry.deadline = self._clamp(entry.deadline, now)
        if replaced is not None:
            entry.deadline = min(entry.deadline, replaced.deadline)
        if entry.job_class is not JobClass.FILE:
            self._last_live = now
        self._add(entry)
        return [replaced.id] if replaced is not None else []

    def resubmit(self, entry: Entry, *, now: float) -> None:
        """Queue what a call left of a job: with its deadline, and beyond all limits (rule 6)."""
        entry.submitted = now
        self._add(entry)

    def promote(self, job_id: int, *, deadline: float, now: float) -> None:
        """The endpoint confirmed a speculation: while it still waits, it waits as a final from here on."""
        entry = self._waiting.get(job_id)
        if entry is None:
            return
        self._remove(entry)
        entry.job_class = JobClass.FINAL
        entry.deadline = self._clamp(deadline, now)
        entry.submitted = now
        self._add(entry)

    def cancel(self, job_id: int) -> bool:
        """Remove a job that waits. False: it runs, or is gone already."""
        entry = self._waiting.get(job_id)
        if entry is None:
            return False
        self._remove(entry)
        return True

    def forget(self, session: str) -> list[int]:
        """Remove all that waits for a session that is gone; returns the ids."""
        gone = [entry for entry in self._waiting.values() if entry.session == session]
        for entry in gone:
            self._remove(entry)
        return [entry.id for entry in gone]

    # ---------------------------------------------------------------- calls begin and end

    def most_urgent(self, *, now: float) -> Urgent | None:
        """Who goes next; None when no worker is free or nothing may run."""
        if self.in_flight >= self.options.max_calls:
            return None
        queues = [self._first(name, now) for name, model in self._models.items() if len(model.running) < model.workers]
        return min((queue for queue in queues if queue is not None), default=None)

    def begin(self, urgent: Urgent, *, room: int, now: float) -> Batch:
        """The call that goes next, which counts as running from here on.

        Args:
            urgent: what `most_urgent` said just now.
            room: how many jobs of its kind a call may take, by the memory that is free now.
            now: as there.
        """
        head, entries = urgent.head, self._company(urgent.ranked, room, now)
        batch = Batch(
            entries=tuple(entries),
            started=now,
            estimate_s=self._cost(head).estimate(len(entries)),
            owed=head.job_class is JobClass.FILE and self._short_of_files(head.model, now),
        )
        for entry in entries:
            self._remove(entry)
            if entry.job_class is JobClass.INTERIM:
                self._interim_runs.add(entry.session)
        self._models[head.model].running.append(batch)
        self._charge(batch, batch.estimate_s, now)
        return batch

    def complete(self, batch: Batch, *, now: float, seconds: float | None) -> None:
        """A call ended after `seconds`; None if it failed, which teaches nothing about its cost."""
        self._models[batch.head.model].running.remove(batch)
        self._interim_runs.difference_update(
            entry.session for entry in batch.entries if entry.job_class is JobClass.INTERIM
        )
        self._charge(batch, now - batch.started - batch.estimate_s, now)
        if seconds is not None:
            head = batch.head
            self._costs.observe(head.kind, family=head.family, items=len(batch.entries), seconds=seconds)

    def shrink(self, batch: Batch, *, tried: int, now: float) -> None:
        """There was not memory enough for so many jobs of that call: rule 9."""
        items = max(1, tried // 2)
        self._costs.shrink(batch.head.kind, items=items, until=now + self.options.shrunk_s)

    # ---------------------------------------------------------------- what others want to know

    def hurries(self, batch: Batch) -> bool:
        """Whether live jobs wait that would go before what a running call of files still has to do (rule 6).

        May be asked from any thread; a stale answer does no harm.
        """
        waiting = self._models[batch.head.model].waiting
        urgent = waiting[JobClass.FINAL] or waiting[JobClass.SPECULATIVE]
        return bool(urgent or (waiting[JobClass.INTERIM] and not batch.owed))

    @property
    def in_flight(self) -> int:
        """Calls that run."""
        return sum(len(model.running) for model in self._models.values())

    @property
    def workers(self) -> int:
        """Workers of all models that have work."""
        return sum(model.workers for model in self._models.values() if not model.idle)

    def queued(self, job_class: JobClass) -> int:
        """Jobs of a class that wait."""
        return self._counts[job_class]

    def waiting_by_user(self) -> dict[int, float]:
        """Jobs of each user that wait and count against him (rule 7)."""
        return dict(Counter(entry.uid for entry in self._waiting.values() if entry.job_class is not JobClass.FINAL))

    @property
    def models(self) -> list[Hashable]:
        """The models that have had work lately."""
        return list(self._models)

    def final_wait_s(self, name: Hashable, *, now: float, finals_alone: bool = False) -> float:
        """How long a final for that model, submitted now, would probably wait for a worker.

        Only what was measured counts: nobody is refused on the guess about a first call. With `finals_alone` a running
        call of a lower class counts for nothing: it is bounded, and nobody who comes later queues behind it.
        """
        model = self._models.get(name)
        if model is None:
            return 0.0
        finals = model.waiting[JobClass.FINAL].values()
        calls: dict[Hashable, list[Entry]] = {}
        for entry in finals:
            calls.setdefault(entry.key, []).append(entry)
        backlog_s = sum(self._drain_s(entries, now) for entries in calls.values())
        ends = [
            0.0 if finals_alone and batch.head.group is not JobClass.FINAL else self._remaining_s(batch, now)
            for batch in model.running
        ]
        return backlog_s / model.workers + (min(ends) if len(ends) >= model.workers else 0.0)

    def load(self, *, now: float) -> float:
        """How busy live speech kept the busiest model's workers lately, 0 to 1; files yield to it by themselves."""
        return max(
            (
                min(1.0, self._used.value((name, "live"), now=now) / (_LATELY_S * model.workers))
                for name, model in self._models.items()
            ),
            default=0.0,
        )

    # ---------------------------------------------------------------- inside

    def _admit(self, entry: Entry, *, replacing: bool, now: float) -> None:
        if entry.job_class is JobClass.FINAL:
            return
        wait_s = self.final_wait_s(entry.model, now=now, finals_alone=True)
        windows = self._counts[JobClass.FILE, entry.session]
        if entry.job_class is JobClass.SPECULATIVE and wait_s > self.options.speculation_wait_s:
            refusal = "finals wait too long for speculation"
        elif entry.job_class is JobClass.FILE and windows >= self.options.waiting_files:
            refusal = "the session has as many file windows waiting as it may"
        elif not replacing and self._counts[entry.uid_account] >= self.options.waiting_per_uid:
            refusal = "the user has as many jobs waiting as one user may"
        else:
            return
        raise OverloadedError(refusal, data={"retry_after_s": max(_RETRY_S, wait_s)})

    def _clamp(self, deadline: float, now: float) -> float:
        return min(max(deadline, now), now + self.options.slack_s)

    def _add(self, entry: Entry) -> None:
        model = self._models.get(entry.model)
        if model is None:
            if len(self._models) >= _MODELS_KEPT:
                self._models = {name: kept for name, kept in self._models.items() if not kept.idle}
            model = self._models[entry.model] = _Model(entry.workers)
        model.workers = entry.workers
        model.waiting[entry.job_class][entry.id] = entry
        self._waiting[entry.id] = entry
        if entry.job_class in (JobClass.SPECULATIVE, JobClass.INTERIM):
            self._newest[entry.job_class, entry.session] = entry
        self._counts.update(entry.accounts)

    def _remove(self, entry: Entry) -> None:
        del self._waiting[entry.id]
        del self._models[entry.model].waiting[entry.job_class][entry.id]
        self._newest.pop((entry.job_class, entry.session), None)
        for account in entry.accounts:
            self._counts[account] -= 1
            if not self._counts[account]:
                del self._counts[account]

    def _first(self, name: Hashable, now: float) -> Urgent | None:
        """From what a free worker of this model would take, most urgent first (rules 1 to 4 and 6)."""
        waiting = self._models[name].waiting
        reserved = self._reserved(name, now)
        for job_class in JobClass:
            if job_class in reserved:
                continue
            files_first = job_class is JobClass.INTERIM and self._owes_files(name, now)
            ranked = self._ranked(waiting[JobClass.FILE if files_first else job_class].values(), now)
            if ranked:
                return Urgent(job_class, ranked)
        return None

    def _reserved(self, name: Hashable, now: float) -> tuple[JobClass, ...]:
        """The classes that may have no further worker of this model (rule 10)."""
        model = self._models[name]
        open_to_all = max(1, model.workers - self.options.final_workers)
        if sum(batch.head.group is not JobClass.FINAL for batch in model.running) < open_to_all:
            return ()
        return (JobClass.INTERIM,) if self._quiet(now) else (JobClass.INTERIM, JobClass.FILE)

    def _quiet(self, now: float) -> bool:
        return now - self._last_live > self.options.quiet_s

    def _ranked(self, entries: Iterable[Entry], now: float) -> list[_Ranked]:
        """Those that may run now, most urgent first."""
        return sorted(
            (self._rank(entry, now), entry.id, entry)
            for entry in entries
            if entry.job_class is not JobClass.INTERIM or entry.session not in self._interim_runs
        )

    def _owes_files(self, name: Hashable, now: float) -> bool:
        return bool(self._models[name].waiting[JobClass.FILE]) and self._short_of_files(name, now)

    def _short_of_files(self, name: Hashable, now: float) -> bool:
        """Whether files had less than their share."""
        busy_s = self._shares.value(name, now=now)
        return self._shares.value((name, JobClass.FILE), now=now) < self.options.file_share * busy_s

    def _rank(self, entry: Entry, now: float) -> float:
        """The deadline, moved by what the job's owners have had (rules 2 and 3). Lower goes first."""
        uid, session = entry.owners
        limit = self.options.fairness_s
        by_uid = min(limit, _UID_WEIGHT * self._used.value(uid, now=now))
        by_session = min(limit, _SESSION_WEIGHT * self._used.value(session, now=now))
        return entry.deadline + by_uid + by_session

    def _company(self, ranked: Sequence[_Ranked], room: int, now: float) -> list[Entry]:
        """The batch that the first of `ranked` leads (rule 5)."""
        head = ranked[0][-1]
        model = self._models[head.model]
        cost = self._cost(head)
        self._costs.note_room(head.kind, max(1, room))
        cap = self._costs.cap(head.kind, now=now)
        quiet = self._quiet(now)
        batch = [head]
        for job_class in (head.job_class, *_RIDERS.get(head.job_class, ())):
            hold_s = self.options.hold_s(job_class, quiet=quiet)
            if job_class is JobClass.FINAL:
                hold_s = self._final_hold_s(cost)
            if job_class is not head.job_class:
                ranked = self._ranked(model.waiting[job_class].values(), now)
            for _, _, entry in ranked:
                if len(batch) >= cap or cost.estimate(len(batch) + 1) > hold_s:
                    break
                if entry.key == head.key and entry is not head:
                    batch.append(entry)
        return batch

    def _cost(self, entry: Entry) -> CallCost:
        return self._costs.cost(entry.kind, family=entry.family)

    def _final_hold_s(self, cost: CallCost) -> float:
        return max(self.options.final_hold_s, self.options.final_stretch * cost.estimate(1))

    def _drain_s(self, entries: list[Entry], now: float) -> float:
        """Worker seconds that finals of one key will take; 0 while nothing is known."""
        cost, cap = self._cost(entries[0]), self._costs.cap(entries[0].kind, now=now)
        if not cost.learned:
            return 0.0
        size, hold_s = 1, self._final_hold_s(cost)
        while size < min(cap, len(entries)) and cost.estimate(size + 1) <= hold_s:
            size += 1
        return len(entries) / size * cost.estimate(size)

    def _remaining_s(self, batch: Batch, now: float) -> float:
        """What a running call still takes. One that is overdue, or the first of its kind, needs as long again."""
        if not self._cost(batch.head).learned:
            return now - batch.started
        return abs(batch.started + batch.estimate_s - now)

    def _charge(self, batch: Batch, seconds: float, now: float) -> None:
        """Book worker time on the model, on the model's files, and on each owner's share of the batch."""
        model = batch.head.model
        self._shares.charge(model, seconds, now=now)
        if batch.head.job_class is JobClass.FILE:
            self._shares.charge((model, JobClass.FILE), seconds, now=now)
        else:
            self._used.charge((model, "live"), seconds, now=now)
        for entry in batch.entries:
            for owner in entry.owners:
                self._used.charge(owner, seconds / len(batch.entries), now=now)
