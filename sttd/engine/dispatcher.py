"""Carries decoding jobs to the models and their outcomes back. Which job runs when is `core/policy.py`'s business.

    submit ──► SchedulingPolicy ──► a task per running call ──► trio.to_thread ──► Model.decode
      │                                                                                  │
      └── Ticket ◄───────────────────────── outcome, one-shot ◄──────────────────────────┘

Everything that changes the queue is synchronous and runs on Trio's thread, so there is no lock. A call in a thread
cannot be stopped: cancelling whoever waits for it discards its outcome, and cancelling `run` takes as long as the
longest running call. Each call holds its own lease, so a model is never unloaded under it.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import attrs
import trio

from sttd.core.accounting import LatencyWindow, Ledger
from sttd.core.jobs import Batch, Entry
from sttd.core.policy import PolicyOptions, SchedulingPolicy
from sttd.core.types import DecodeItem, Hypothesis, JobClass, seconds
from sttd.engine.backend import Lease, ModelKey, Result, Unfinished, Waiters
from sttd.engine.dispatch_thread import decode_items, failures
from sttd.engine.dispatch_values import DispatcherStatistics, DropReason, Job, JobDropped, Outcome, QueueWait
from sttd.errors import DecodeError, OverloadedError

logger = logging.getLogger(__name__)

_STATISTICS_S = 300.0
_RETRY_WHILE_DRAINING_S = 5.0  # about what a restart of the service takes


@attrs.define(eq=False)
class Ticket:
    """The claim on one job's outcome. Keep it and wait, or cancel it."""

    job: Job
    _dispatcher: Dispatcher
    _entry: Entry
    _settled: trio.Event = attrs.field(factory=trio.Event, init=False)
    _result: Outcome | DecodeError | JobDropped | None = attrs.field(default=None, init=False)

    @property
    def done(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        return self._result is not None

    @property
    def started(self) -> bool:
        """Whether the job has left the queue: it runs, or it ran, or it was dropped."""
        return self._entry.id not in self._dispatcher._tickets

    async def wait(self) -> Outcome:
        """Wait for the outcome; may be called again and gives the same.

        Cancellation cancels the job: a decode that nobody waits for is not started.

        Raises:
            DecodeError: the engine failed on this item.
            JobDropped: a newer job replaced it, it was cancelled, or the dispatcher ended.
        """
        try:
            await self._settled.wait()
        except trio.Cancelled:
            self.cancel()
            raise
        if isinstance(self._result, Outcome):
            return self._result
        assert self._result is not None
        raise self._result

    def cancel(self) -> None:
        """Give the job up: removed if it waits, its outcome discarded if it runs. Does nothing when done."""
        self._dispatcher._cancel(self)

    def promote(self, *, deadline: float) -> None:
        """The endpoint confirmed this speculation: if it still waits, it goes on waiting as a final."""
        self._dispatcher._promote(self, deadline)

    def _settle(self, result: Outcome | DecodeError | JobDropped) -> None:
        if self._result is None:
            self._result = result
            self._settled.set()


@attrs.frozen(eq=False)
class _Call:
    """A batch and the tickets of its entries, in the same order."""

    batch: Batch
    tickets: list[Ticket]
    lease: Lease | None  # its own: whoever submitted may be gone before the call begins

    @property
    def items(self) -> list[DecodeItem]:
        return [ticket.job.item for ticket in self.tickets]


def _outcome(call: _Call, index: int, hypothesis: Hypothesis, *, now: float) -> Outcome:
    return Outcome(
        hypothesis=hypothesis,
        queue_s=call.batch.started - call.batch.entries[index].submitted,
        started=call.batch.started,
        decode_s=now - call.batch.started,
        batch_size=len(call.tickets),
    )


@attrs.frozen(eq=False)
class _TicketHolders:
    """The waiters of a call, for its thread."""

    call: _Call
    clock: Callable[[], float]
    on_shortage: Callable[[], None]
    in_a_hurry: Callable[[], bool]
    _token: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token, init=False)

    def tell(self, index: int, hypothesis: Hypothesis) -> None:
        self._token.run_sync_soon(self._settle, index, hypothesis)

    def gone(self, index: int) -> bool:
        return self.call.tickets[index].done  # read without the loop: a stale answer costs one try

    def hurry(self) -> bool:
        return self.in_a_hurry()

    def short_of_memory(self) -> None:
        self._token.run_sync_soon(self.on_shortage)

    def _settle(self, index: int, hypothesis: Hypothesis) -> None:
        self.call.tickets[index]._settle(_outcome(self.call, index, hypothesis, now=self.clock()))


@attrs.define(eq=False, kw_only=True)
class Dispatcher:
    """Owns the queue and the calls. Nothing is decoded before `run` runs.

    `clock` must be the one that deadlines are on.
    """

    options: PolicyOptions = attrs.field(factory=PolicyOptions)
    clock: Callable[[], float] = trio.current_time
    _policy: SchedulingPolicy = attrs.field(init=False)
    _limiter: trio.CapacityLimiter = attrs.field(init=False)  # never waited for: the policy stays within it
    _ids: Iterator[int] = attrs.field(factory=itertools.count, init=False)
    _tickets: dict[int, Ticket] = attrs.field(factory=dict, init=False)  # of the jobs that wait
    _calls: list[_Call] = attrs.field(factory=list, init=False)  # that run
    _wake: trio.Event = attrs.field(factory=trio.Event, init=False)
    _drains: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _paused: bool = attrs.field(default=False, init=False)
    _draining: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)
    _counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _waits_ms: dict[JobClass, LatencyWindow] = attrs.field(
        factory=lambda: {job_class: LatencyWindow(_STATISTICS_S) for job_class in JobClass}, init=False
    )
    _done: Ledger = attrs.field(factory=lambda: Ledger(_STATISTICS_S), init=False)  # "decode" and "audio" seconds

    @_policy.default
    def _build_policy(self) -> SchedulingPolicy:
        return SchedulingPolicy(self.options)

    @_limiter.default
    def _build_limiter(self) -> trio.CapacityLimiter:
        return trio.CapacityLimiter(self.options.max_calls)

    # ---------------------------------------------------------------- for sessions

    def submit(self, job: Job) -> Ticket:
        """Queue a job. Synchronous, so that no decision about the queue is ever half made.

        After the end of `run` the ticket comes back settled with `JobDropped`.

        Raises:
            OverloadedError: the policy refuses (never a final), or the dispatcher drains; has `retry_after_s`.
        """
        entry = _entry(next(self._ids), job)
        ticket = Ticket(job, self, entry)
        if self._closed:
            ticket._settle(JobDropped("shutting_down"))
            return ticket
        replaced = self._admit(entry)
        self._tickets[entry.id] = ticket
        self._drop(replaced, "coalesced")
        self._wake.set()
        return ticket

    def forget(self, session: str) -> None:
        """The session is gone: drop what waits for it."""
        self._drop(self._policy.forget(session), "session_gone")

    def queued_finals(self, session: str) -> int:
        """Finals of a session that wait for a worker."""
        return self._policy.queued_finals(session)

    @property
    def load(self) -> float:
        """How busy live speech kept the busiest model in the last seconds, 0 to 1; for the cadence of interims."""
        return self._policy.load(now=self.clock())

    def queue_wait_s(self, preset: str) -> float:
        """How long a final for that preset would now wait behind other finals; for admission."""
        now = self.clock()
        return max(
            (
                self._policy.final_wait_s(key, now=now, finals_alone=True)
                for key in self._policy.models
                if isinstance(key, ModelKey) and key.preset == preset
            ),
            default=0.0,
        )

    # ---------------------------------------------------------------- for the daemon

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Decode what is submitted until cancelled.

        Cancellation: calls that run are waited for, and their outcomes delivered; what waits is dropped.
        """
        try:
            async with trio.open_nursery() as nursery:
                task_status.started()
                while True:
                    while (call := self._next_call()) is not None:
                        nursery.start_soon(self._perform, call)
                    self._wake = trio.Event()
                    await self._wake.wait()
        finally:
            self._closed = True
            self._drop(list(self._tickets), "shutting_down")

    def configure(self, options: PolicyOptions) -> None:
        """Other numbers for the rules, from the next decision on."""
        self.options = options
        self._policy.options = options
        self._limiter.total_tokens = options.max_calls
        self._wake.set()

    async def quiesce(self) -> None:
        """Begin no call until `resume`, and wait until none runs: the machine is about to sleep."""
        self._paused = True
        await trio.lowlevel.checkpoint()
        while self._calls:
            await self._drains.park()

    def resume(self) -> None:
        """Begin calls again."""
        self._paused = False
        self._wake.set()

    async def drain(self) -> None:
        """Take nothing but finals from now on, and wait until nothing waits and nothing runs."""
        self._draining = True
        await trio.lowlevel.checkpoint()
        while self._tickets or self._calls:
            await self._drains.park()

    def statistics(self) -> DispatcherStatistics:
        """What goes on now, and went on in the last minutes."""
        now = self.clock()
        decoded_s = self._done.value("audio", now=now)
        batches = self._counts["batches"]
        return DispatcherStatistics(
            queued={job_class.name.lower(): self._policy.queued(job_class) for job_class in JobClass},
            in_flight=len(self._calls),
            workers=self._policy.workers,
            batches=batches,
            batch_size_mean=self._counts["batched"] / batches if batches else None,
            queue_wait_ms={
                job_class.name.lower(): QueueWait(*window.percentiles((0.5, 0.95), now=now))
                for job_class, window in self._waits_ms.items()
            },
            coalesced=self._counts["coalesced"],
            rejected=self._counts["rejected"],
            failed=self._counts["failed"],
            realtime_factor=self._done.value("decode", now=now) / decoded_s if decoded_s else None,
            load=self.load,
            estimated_wait_s=self._policy.worst_final_wait_s(now=now),
            oldest_call_s=max((now - call.batch.started for call in self._calls), default=None),
        )

    # ---------------------------------------------------------------- the queue

    def _admit(self, entry: Entry) -> list[int]:
        try:
            if self._draining and entry.job_class is not JobClass.FINAL:
                raise OverloadedError(
                    "the daemon is stopping", code="shutting_down", data={"retry_after_s": _RETRY_WHILE_DRAINING_S}
                )
            return self._policy.submit(entry, now=self.clock())
        except OverloadedError:
            self._counts["rejected"] += 1
            raise

    def _drop(self, ids: Iterable[int], reason: DropReason) -> None:
        for job_id in ids:
            self._counts[reason] += 1
            self._tickets.pop(job_id)._settle(JobDropped(reason))
        self._drains.unpark_all()

    def _cancel(self, ticket: Ticket) -> None:
        if self._policy.cancel(ticket._entry.id):
            self._drop([ticket._entry.id], "cancelled")
        else:
            ticket._settle(JobDropped("cancelled"))  # if it runs, its outcome comes too late for this ticket

    def _promote(self, ticket: Ticket, deadline: float) -> None:
        self._policy.promote(ticket._entry.id, deadline=deadline, now=self.clock())
        self._wake.set()

    def _requeue(self, ticket: Ticket, item: DecodeItem) -> None:
        """What a call left of a job is a job again, unless nobody waits for it."""
        if ticket.done:
            return
        ticket.job = attrs.evolve(ticket.job, item=item)
        ticket._entry = attrs.evolve(_entry(ticket._entry.id, ticket.job), deadline=ticket._entry.deadline)
        self._tickets[ticket._entry.id] = ticket
        self._policy.resubmit(ticket._entry, now=self.clock())

    def _next_call(self) -> _Call | None:
        if self._paused:
            return None
        batch = self._policy.next_batch(now=self.clock())
        if batch is None:
            return None
        tickets = [self._tickets.pop(entry.id) for entry in batch.entries]
        for entry in batch.entries:
            self._waits_ms[entry.job_class].add(1000 * (batch.started - entry.submitted), now=batch.started)
        call = _Call(batch, tickets, _own_lease(tickets))
        self._calls.append(call)
        return call

    # ---------------------------------------------------------------- the calls

    async def _perform(self, call: _Call) -> None:
        """Run one call and settle its tickets, whatever happens."""
        results: list[Result] | None = None
        try:
            results = await self._decode(call)
        finally:
            self._finish(call, results)

    async def _decode(self, call: _Call) -> list[Result]:
        lease = call.lease
        if lease is None:
            return failures(call.items, RuntimeError("a job whose lease was given back before its ticket was done"))

        def shrink() -> None:
            self._policy.shrink(call.batch, now=self.clock())

        def hurries() -> bool:
            return self._policy.hurries(call.batch.head.model)

        waiters = _TicketHolders(call, self.clock, on_shortage=shrink, in_a_hurry=hurries)
        try:
            results = await self._in_thread(lease, call.items, waiters=waiters)
            short = [index for index, result in enumerate(results) if _is_short_of_memory(result)]
            if short:
                shrink()
            half = (len(short) + 1) // 2
            for part in (short[:half], short[half:]):
                if part:
                    again = await self._in_thread(lease, [call.items[index] for index in part])
                    for index, result in zip(part, again, strict=True):
                        results[index] = result
            return results
        finally:
            lease.release()

    async def _in_thread(
        self, lease: Lease, items: list[DecodeItem], *, waiters: Waiters | None = None
    ) -> list[Result]:
        return await trio.to_thread.run_sync(decode_items, lease.model, items, waiters, limiter=self._limiter)

    def _finish(self, call: _Call, results: list[Result] | None) -> None:
        """Account for a call and settle its tickets; no results: it was cancelled before its thread began."""
        now = self.clock()
        decode_s = now - call.batch.started
        failed = results is None or any(isinstance(result, DecodeError) for result in results)
        self._policy.complete(call.batch, now=now, seconds=None if failed else decode_s)
        self._calls.remove(call)
        self._counts["batches"] += 1
        self._counts["batched"] += len(call.tickets)
        self._done.charge("decode", decode_s, now=now)
        for index, ticket in enumerate(call.tickets):
            result = JobDropped("shutting_down") if results is None else results[index]
            if isinstance(result, Unfinished):
                self._requeue(ticket, result.item)
                continue
            self._done.charge("audio", seconds(len(ticket.job.item.samples)), now=now)
            if isinstance(result, Hypothesis):
                ticket._settle(_outcome(call, index, result, now=now))
            else:
                self._counts["failed"] += 1
                ticket._settle(result)
        self._wake.set()
        self._drains.unpark_all()


def _entry(number: int, job: Job) -> Entry:
    model = job.lease.model
    key = model.batch_key(job.item)
    return Entry(
        id=number,
        job_class=job.item.job_class,
        session=job.session,
        uid=job.uid,
        deadline=job.deadline,
        model=job.lease.key,
        workers=model.workers,
        key=key,
        room=functools.partial(model.max_batch, key),
    )


def _own_lease(tickets: list[Ticket]) -> Lease | None:
    """A lease for the call, from any of its jobs: one whose submitter broke his promise must not cost the others."""
    for ticket in tickets:
        with contextlib.suppress(Exception):
            return ticket.job.lease.duplicate()
    return None


def _is_short_of_memory(result: Result) -> bool:
    return isinstance(result, DecodeError) and result.code == "out_of_memory"


__all__ = ["Dispatcher", "DispatcherStatistics", "Job", "JobDropped", "Outcome", "QueueWait", "Ticket"]
