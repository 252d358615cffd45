"""Does what a `Hearing` wants done, and tells it what became of that: a task per lease and per decoding job.

    Hearing ──actions──▶ perform ──▶ leases of the pool, tickets of the dispatcher, events for the client
       ▲                                    │
       └──────────── leased, decoded, … ────┘

Actions are performed in order, and what follows from one at once comes behind those that were there before. No task
outlives the nursery it was given; what cancelled tasks leave behind, `give_everything_back` gives back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from typing import Protocol, get_args

import attrs
import trio

from sttd.core import actions as do
from sttd.core.actions import JobId, Role
from sttd.core.hearing import Action, Hearing, Tune
from sttd.core.types import SessionEvent
from sttd.engine.contract import Lease
from sttd.engine.tickets import Job, JobDropped, Ticket
from sttd.errors import DecodeError, OverloadedError, SttdError

_NO_JOB: JobId = (0, 0)
_LOOK_S = 0.35  # chosen: as often as live text changes at most (`interim_min_ms`)


class Leasing(Protocol):
    """The part of the model pool that sessions use."""

    async def lease(self, preset: str, *, on_recall: Callable[[], object] | None = None) -> Lease:
        """Wait for a loaded model; with `on_recall` for a file. Raises ModelError, OverloadedError."""


class Decoding(Protocol):
    """The part of the dispatcher that sessions use."""

    @property
    def load(self) -> float:
        """How busy live speech keeps the models, 0 to 1."""

    def submit(self, job: Job) -> Ticket:
        """Queue a job. Raises OverloadedError."""


@attrs.define(eq=False)
class _Held:
    """A lease that is held, or waited for within `asking`."""

    asking: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    lease: Lease | None = None
    recalled: bool = False  # it was granted, and recalled before it came, or while a call runs under it

    def give_back(self) -> None:
        self.asking.cancel()
        if self.lease is not None:
            self.lease.release()


@attrs.define(eq=False, kw_only=True)
class Performer:
    """The hands of one session. Synchronous but for its tasks, which run in `nursery`.

    Args:
        hearing: who says what is to be done.
        session: id of the session, for the scheduler.
        uid: whose session it is.
        models: where leases come from.
        decoding: where jobs go.
        clock: of the deadlines of jobs.
        emit: takes the events for the client.
        tune: takes a new aggressiveness of the voice detector.
    """

    hearing: Hearing
    session: str
    uid: int
    models: Leasing
    decoding: Decoding
    clock: Callable[[], float]
    emit: Callable[[SessionEvent], None]
    tune: Callable[[int], None]
    nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _waiting: deque[Action] = attrs.field(factory=deque, init=False)
    _performing: bool = attrs.field(default=False, init=False)
    _held: dict[tuple[int, Role], _Held] = attrs.field(factory=dict, init=False)
    _looking: trio.CancelScope | None = attrs.field(default=None, init=False)  # while there may be interims
    _pause: trio.CancelScope = attrs.field(factory=trio.CancelScope, init=False)  # between two looks
    _tickets: dict[JobId, Ticket] = attrs.field(factory=dict, init=False)
    _later: set[JobId] = attrs.field(factory=set, init=False)  # jobs that wait for their time

    @property
    def interim_waits(self) -> bool:
        """Whether the interim that is under way is still in the queue."""
        ticket = self._tickets.get(self.hearing.live_job or _NO_JOB)
        return ticket is not None and not ticket.started

    @property
    def kept_waiting(self) -> tuple[JobId, str] | None:
        """The first job whose decode waits for something, and for what."""
        for job, ticket in self._tickets.items():
            if ticket.waits_for is not None:
                return job, ticket.waits_for
        return None

    def perform(self, actions: Iterable[Action]) -> None:
        """Do what is to be done, in order."""
        self._waiting.extend(actions)
        if self._performing:
            return
        self._performing = True
        try:
            while self._waiting:
                self._do(self._waiting.popleft())
        finally:
            self._performing = False
        showing = self.hearing.showing
        if self._looking is not None and not showing:
            self._looking.cancel()
            self._looking = None
        elif self._looking is not None:
            self._pause.deadline = trio.current_time() + _LOOK_S
        elif showing and self.nursery is not None:
            self._looking = trio.CancelScope()
            self.nursery.start_soon(self._look, self._looking)

    def tell_what_was_said(self) -> None:
        """A bug has ended the work in the middle: of what was to be done, do what the client is owed."""
        events = [action.event for action in self._waiting if isinstance(action, do.Say)]
        self._waiting.clear()
        for event in events:
            self.emit(event)

    def give_everything_back(self) -> None:
        """Cancel every job, return every lease."""
        for ticket in self._tickets.values():
            ticket.cancel()
        for held in self._held.values():
            held.give_back()
        if self._looking is not None:
            self._looking.cancel()
        self._tickets.clear()
        self._held.clear()

    def _do(self, action: Action) -> None:
        match action:
            case do.Say():
                self.emit(action.event)
            case do.Lease():
                self._tasks.start_soon(self._lease, action)
            case do.Submit():
                if action.after_s:
                    self._later.add(action.job)
                    self._tasks.start_soon(self._submit_later, action)
                else:
                    self._submit(action)
            case do.Promote():
                if action.job in self._tickets:  # else it was refused a moment ago, and what follows comes behind this
                    self._tickets[action.job].promote(deadline=action.deadline)
            case do.Cancel():
                self._later.discard(action.job)
                if action.job in self._tickets:
                    self._tickets[action.job].cancel()
            case do.Release():
                roles = [action.role] if action.role is not None else get_args(Role)
                for role in roles:
                    if (held := self._held.pop((action.utterance, role), None)) is not None:
                        held.give_back()
            case Tune():
                self.tune(action.aggressiveness)
            case do.Hint():
                raise AssertionError("hints stay in `Hearing`")

    @property
    def _tasks(self) -> trio.Nursery:
        assert self.nursery is not None, "before the session runs nothing is heard"
        return self.nursery

    async def _look(self, scope: trio.CancelScope) -> None:
        """Audio and decodes ask whether an interim is due; so somebody must where none come for a while."""
        with scope:
            while True:
                with trio.move_on_after(_LOOK_S) as self._pause:
                    await trio.sleep_forever()
                load, waits = self.decoding.load, self.interim_waits
                self.perform(self.hearing.look(now=self.clock(), load=load, interim_waits=waits))

    async def _lease(self, wanted: do.Lease) -> None:
        """Get a lease and say so, unless the turn is done before."""
        key = wanted.utterance, wanted.role
        on_recall = partial(self._recall, *key) if wanted.file else None
        held = self._held[key] = _Held()
        with held.asking:
            await trio.sleep(wanted.after_s)
            try:
                lease = await self.models.lease(wanted.model, on_recall=on_recall)
                while held.recalled:
                    held.recalled = False
                    lease.release()
                    lease = await self.models.lease(wanted.model, on_recall=on_recall)
            except SttdError as error:
                self.perform(self.hearing.lease_failed(*key, error, now=self.clock()))
                return
            if self._held.get(key) is not held:
                lease.release()  # it came in the moment when it was given up
                return
            held.lease = lease
            actions = self.hearing.leased(*key, preset=lease.preset, now=self.clock(), load=self.decoding.load)
            self.perform(actions)

    def _recall(self, utterance: int, role: Role) -> None:
        """Speech needs the slot of a file's lease. A call that runs goes on: the lease comes back when it is done, or
        has left the job unfinished (`_give_way`)."""
        held = self._held.get((utterance, role))
        if held is None:
            return
        running = any(ticket.started for job, ticket in self._tickets.items() if job[0] == utterance)
        held.recalled = held.lease is None or running
        if not held.recalled:
            self.perform(self.hearing.recalled(utterance, role, now=self.clock()))

    def _give_way(self, utterance: int) -> None:
        """No call runs any more for this one: give back what was recalled meanwhile."""
        for (number, role), held in list(self._held.items()):
            if number == utterance and held.recalled and held.lease is not None:
                self._recall(number, role)

    def _submit(self, wanted: do.Submit) -> None:
        lease = self._held[wanted.job[0], wanted.role].lease
        assert lease is not None, "a turn decodes once it has a model"
        job = Job(
            item=wanted.item,
            job_class=wanted.job_class,
            session=self.session,
            uid=self.uid,
            deadline=wanted.deadline,
            lease=lease,
        )
        try:
            ticket = self.decoding.submit(job)
        except OverloadedError as error:
            self.perform(self.hearing.refused(wanted.job, error, now=self.clock()))
            return
        self._tickets[wanted.job] = ticket
        ticket.on_left = partial(self._give_way, wanted.job[0])
        self._tasks.start_soon(self._wait_for, wanted.job, ticket)

    async def _submit_later(self, wanted: do.Submit) -> None:
        await trio.sleep(wanted.after_s)
        if wanted.job in self._later:
            self._later.remove(wanted.job)
            self._submit(wanted)

    async def _wait_for(self, job: JobId, ticket: Ticket) -> None:
        """Wait for an outcome and say so."""
        try:
            outcome = await ticket.wait()
        except JobDropped:
            actions = self.hearing.failed(job, None, now=self.clock())
        except DecodeError as error:
            actions = self.hearing.failed(job, error, now=self.clock())
        else:
            actions = self.hearing.decoded(job, outcome, now=self.clock(), load=self.decoding.load)
        finally:
            self._tickets.pop(job, None)
        self.perform(actions)
