"""A call into a model: the jobs that it decodes together, and those who wait for them."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Hashable

import attrs
import trio

from sttd.core.scheduling import Batch, Entry
from sttd.core.types import DecodeItem, Hypothesis, Outcome
from sttd.engine.contract import Lease
from sttd.engine.tickets import Job, Ticket
from sttd.host import logs

log = logs.get(__name__)


@attrs.define(eq=False)
class Call:
    """A batch and the tickets of its entries, in the same order."""

    batch: Batch
    tickets: list[Ticket]
    lease: Lease | None  # its own: whoever submitted may be gone before the call begins
    set_back: bool = False  # the engine failed under it and began again: the time it took says nothing of the model

    @property
    def items(self) -> list[DecodeItem]:
        """What is to be decoded."""
        return [ticket.job.item for ticket in self.tickets]

    def outcome(self, index: int, hypothesis: Hypothesis, *, now: float) -> Outcome:
        """What became of one of its jobs."""
        return Outcome(
            hypothesis=hypothesis,
            queue_s=self.tickets[index].queue_s + self.batch.started - self.batch.entries[index].submitted,
            started=self.batch.started,
            decode_s=self.tickets[index].decode_s + now - self.batch.started,
            batch_size=len(self.tickets),
        )


@attrs.frozen(eq=False)
class TicketHolders:
    """The waiters of a call, for its thread."""

    call: Call
    clock: Callable[[], float]
    in_a_hurry: Callable[[], bool]
    patient_until: float  # on the monotonic clock, which a thread may read
    _token: trio.lowlevel.TrioToken = attrs.field(factory=trio.lowlevel.current_trio_token, init=False)

    def tell(self, index: int, hypothesis: Hypothesis) -> None:
        """As in `Waiters`."""
        self._token.run_sync_soon(self._settle, index, hypothesis)

    def gone(self, index: int) -> bool:
        """As in `Waiters`."""
        return self.call.tickets[index].done  # read without the loop: a stale answer costs one try

    def hurry(self) -> bool:
        """As in `Waiters`."""
        return self.in_a_hurry()

    def patience_s(self) -> float:
        """As in `Waiters`."""
        return self.patient_until - time.monotonic()

    def set_back(self, waits_for: str | None = None) -> None:
        """As in `Waiters`."""
        self.call.set_back = True
        for ticket in self.call.tickets:
            ticket.waits_for = waits_for  # read by the loop: a stale one is said a moment later

    def _settle(self, index: int, hypothesis: Hypothesis) -> None:
        self.call.tickets[index].settle(self.call.outcome(index, hypothesis, now=self.clock()))


def entry_of(job: Job, *, number: int) -> Entry:
    """A job as the policy sees it."""
    model = job.lease.model
    return Entry(
        id=number,
        job_class=job.job_class,
        session=job.session,
        uid=job.uid,
        deadline=job.deadline,
        model=job.lease.key,
        workers=model.workers,
        key=model.batch_key(job.item),
    )


def room_for(job: Job, key: Hashable) -> int:
    """How many jobs of that key the model of this one may take in a call, by the memory that is free now.

    A model that cannot say is asked for one item: a question on the event loop must not end the daemon.
    """
    try:
        return max(1, job.lease.model.max_batch(key))
    except Exception:
        log.exception("no answer to how much memory there is")
        return 1


def own_lease(tickets: list[Ticket]) -> Lease | None:
    """A lease for the call, from any of its jobs. One whose lease was given back too early costs none of the others."""
    for ticket in tickets:
        with contextlib.suppress(Exception):
            return ticket.job.lease.duplicate()
    return None
