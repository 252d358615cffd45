"""Carries decoding jobs to the models and their outcomes back. Which job runs when is `core/scheduling.py`'s business.

    submit ──► SchedulingPolicy ──► a task per running call ──► trio.to_thread ──► Model.decode
      │                                                                                  │
      └── Ticket ◄───────────────────────── outcome, one-shot ◄──────────────────────────┘

Everything that changes the queue is synchronous and runs on Trio's thread, so there is no lock. A call in a thread
cannot be stopped: cancelling whoever waits for it discards its outcome, and cancelling `run` takes as long as the
longest running call. Each call holds its own lease, so a model is never unloaded under it.
"""

from __future__ import annotations

import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence

import attrs
import trio

from sttd.core.accounting import LatencyWindow, Ledger
from sttd.core.scheduling import Entry, PolicyOptions, SchedulingPolicy
from sttd.core.types import DecodeItem, Hypothesis, JobClass
from sttd.engine.boundary import decode_items, failures, is_short_of_memory
from sttd.engine.calls import Call, TicketHolders, entry_of, own_lease, room_for
from sttd.engine.contract import Lease, ModelKey, Result, SomeWaiters, Unfinished, Waiters
from sttd.engine.tickets import DispatcherStatistics, DropReason, Job, JobDropped, QueueWait, Ticket
from sttd.errors import DecodeError, OverloadedError
from sttd.host import logs

log = logs.get(__name__)

_STATISTICS_S = 300.0
_GLANCE_S = 1.0  # how often calls are looked at that may hang; chosen, against minutes
_RETRY_WHILE_DRAINING_S = 5.0  # about what a restart of the service takes


@attrs.define(eq=False, kw_only=True)
class Dispatcher:
    """Owns the queue and the calls. Nothing is decoded before `run` runs.

    Args:
        options: numbers of the rules.
        clock: the one that deadlines are on.
        call_timeout_s: a call that runs longer is written off: its jobs fail, and its worker counts as free.
        on_hang: told the lease of a call that was written off. Its thread runs on, if it ever ends.
    """

    options: PolicyOptions = attrs.field(factory=PolicyOptions)
    clock: Callable[[], float] = trio.current_time
    call_timeout_s: float = math.inf
    on_hang: Callable[[Lease], object] = lambda lease: None
    _policy: SchedulingPolicy = attrs.field(init=False)
    _limiter: trio.CapacityLimiter = attrs.field(init=False)  # never waited for: the policy stays within it
    _ids: Iterator[int] = attrs.field(factory=itertools.count, init=False)
    _tickets: dict[int, Ticket] = attrs.field(factory=dict, init=False)  # of the jobs that wait
    _calls: list[Call] = attrs.field(factory=list, init=False)  # that run
    _written_off: list[Call] = attrs.field(factory=list, init=False)  # that run on, for nobody
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
        entry = entry_of(job, number=next(self._ids))
        ticket = Ticket(job, self, entry)
        if self._closed:
            ticket.settle(JobDropped("shutting_down"))
            return ticket
        replaced = self._admit(entry)
        self._tickets[entry.id] = ticket
        self._drop(replaced, "coalesced")
        self._wake.set()
        return ticket

    def waits(self, ticket: Ticket) -> bool:
        """Whether its job waits for a worker."""
        return ticket.entry.id in self._tickets

    def cancel(self, ticket: Ticket) -> None:
        """As `Ticket.cancel`."""
        if self._policy.cancel(ticket.entry.id):
            self._drop([ticket.entry.id], "cancelled")
        else:
            ticket.settle(JobDropped("cancelled"))  # if it runs, its outcome comes too late for this ticket

    def promote(self, ticket: Ticket, *, deadline: float) -> None:
        """As `Ticket.promote`."""
        self._policy.promote(ticket.entry.id, deadline=deadline, now=self.clock())
        self._wake.set()

    def forget(self, session: str) -> None:
        """The session is gone: drop what waits for it."""
        self._drop(self._policy.forget(session), "session_gone")

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
                nursery.start_soon(self._watch)
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
        self._limiter.total_tokens = options.max_calls + len(self._written_off)
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

    def waiting_by_user(self) -> dict[int, float]:
        """Jobs of each user that wait, finals aside, of which there may be as many as were said."""
        return self._policy.waiting_by_user()

    @property
    def waiting_per_user(self) -> int:
        """As many of these may wait for one user, and as many windows of his files."""
        return self._policy.options.waiting_per_uid

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
            oldest_call_s=max((self._age_s(call) for call in self._calls), default=None),
            hung=len(self._written_off),
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
            self._tickets.pop(job_id).settle(JobDropped(reason))
        self._drains.unpark_all()

    def _requeue(self, ticket: Ticket, item: DecodeItem) -> bool:
        """What a call left of a job is a job again. False: nobody waits for it, or it failed."""
        if ticket.done:
            return False
        ticket.job = attrs.evolve(ticket.job, item=item)
        try:
            entry = entry_of(ticket.job, number=ticket.entry.id)
        except Exception as error:  # its lease was given back too early, which must not cost the others of the call
            self._fail(ticket, *failures([item], error))
            return False
        ticket.entry = attrs.evolve(entry, deadline=ticket.entry.deadline)
        self._tickets[ticket.entry.id] = ticket
        self._policy.resubmit(ticket.entry, now=self.clock())
        return True

    def _fail(self, ticket: Ticket, error: DecodeError | JobDropped) -> None:
        self._counts["failed"] += 1
        ticket.settle(error)

    def _next_call(self) -> Call | None:
        if self._paused:
            return None
        now = self.clock()
        urgent = self._policy.most_urgent(now=now)
        if urgent is None:
            return None
        room = room_for(self._tickets[urgent.head.id].job, urgent.head.key)
        batch = self._policy.begin(urgent, room=room, now=now)
        tickets = [self._tickets.pop(entry.id) for entry in batch.entries]
        for entry in batch.entries:
            self._waits_ms[entry.job_class].add(1000 * (batch.started - entry.submitted), now=batch.started)
        call = Call(batch, tickets, own_lease(tickets))
        self._calls.append(call)
        return call

    # ---------------------------------------------------------------- the calls

    async def _perform(self, call: Call) -> None:
        """Run one call and settle its tickets, whatever happens."""
        results: list[Result] | None = None
        try:
            results = await self._decode(call)
        finally:
            self._finish(call, results)

    async def _decode(self, call: Call) -> list[Result]:
        lease = call.lease
        if lease is None:
            return [*failures(call.items, RuntimeError("a job whose lease was given back before its ticket was done"))]

        def hurries() -> bool:
            return self._paused or self._policy.hurries(call.batch)

        patient_until = time.monotonic() + self.call_timeout_s - self._age_s(call)
        waiters = TicketHolders(call, self.clock, in_a_hurry=hurries, patient_until=patient_until)
        try:
            results: dict[int, Result] = {}
            await self._decode_some(call, lease, range(len(call.items)), results=results, waiters=waiters)
            return [results[index] for index in range(len(call.items))]
        finally:
            lease.release()

    async def _decode_some(
        self,
        call: Call,
        lease: Lease,
        indices: Sequence[int],
        *,
        results: dict[int, Result],
        waiters: Waiters,
        last_try: bool = False,
    ) -> None:
        """Decode some items of a call; those for which the memory did not suffice again, half as many at a time.

        One that did not fit although it was alone is tried once more: what else took the memory may be done.
        """
        items = [call.items[index] for index in indices]
        some = SomeWaiters(waiters, tuple(indices))
        decoded = await trio.to_thread.run_sync(decode_items, lease.model, items, some, limiter=self._limiter)
        results.update(zip(indices, decoded, strict=True))
        short = [index for index in indices if is_short_of_memory(results[index])]
        if not short or last_try:
            return
        self._policy.shrink(call.batch, tried=len(indices), now=self.clock())
        half, alone = (len(short) + 1) // 2, len(indices) == 1
        for part in (short[:half], short[half:]):
            if part:
                await self._decode_some(call, lease, part, results=results, waiters=waiters, last_try=alone)

    async def _watch(self) -> None:
        """Write off calls that hang."""
        while True:
            await trio.sleep(min(_GLANCE_S, self.call_timeout_s / 4))
            for call in [call for call in self._calls if self._age_s(call) >= self.call_timeout_s]:
                self._write_off(call)

    def _age_s(self, call: Call) -> float:
        return self.clock() - call.batch.started

    def _write_off(self, call: Call) -> None:
        """Whoever waits is told, and the worker counts as free, though no thread can be stopped."""
        seconds = round(self._age_s(call))
        log.error("a decode hangs and is written off", items=len(call.tickets), seconds=seconds)
        self._calls.remove(call)
        self._written_off.append(call)
        self._limiter.total_tokens += 1
        self._policy.complete(call.batch, now=self.clock(), seconds=None)
        for ticket in call.tickets:
            self._fail(ticket, DecodeError(f"the engine did not answer within {seconds} s"))
        if call.lease is not None:
            self.on_hang(call.lease)
        self._wake.set()
        self._drains.unpark_all()

    def _finish(self, call: Call, results: list[Result] | None) -> None:
        """Account for a call and settle its tickets; no results: it was cancelled before its thread began."""
        if call in self._written_off:
            self._written_off.remove(call)
            self._limiter.total_tokens -= 1
            return
        now = self.clock()
        decode_s = now - call.batch.started
        failed = results is None or any(isinstance(result, DecodeError) for result in results)
        self._policy.complete(call.batch, now=now, seconds=None if failed or call.set_back else decode_s)
        self._calls.remove(call)
        self._counts["batches"] += 1
        self._counts["batched"] += len(call.tickets)
        self._done.charge("decode", decode_s, now=now)
        left: list[Ticket] = []
        for index, ticket in enumerate(call.tickets):
            result = JobDropped("shutting_down") if results is None else results[index]
            if isinstance(result, Unfinished):
                ticket.queue_s += call.batch.started - call.batch.entries[index].submitted
                ticket.decode_s += decode_s
                if self._requeue(ticket, result.item):
                    left.append(ticket)
                    continue
            elif isinstance(result, Hypothesis):
                ticket.settle(call.outcome(index, result, now=now))
            else:
                self._fail(ticket, result)
            self._done.charge("audio", ticket.audio_s, now=now)
        for ticket in left:
            ticket.on_left()
        self._wake.set()
        self._drains.unpark_all()
