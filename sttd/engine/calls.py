"""A call into a model: the jobs that it decodes together, and what happens in its thread.

`decode_items` is the failure boundary of the engine: whatever a model raises or returns becomes a result for each item.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable

import attrs
import trio

from sttd.core.scheduling import Batch, Entry
from sttd.core.types import DecodeItem, Hypothesis, Outcome
from sttd.engine import memory
from sttd.engine.contract import Lease, Model, Result, Unfinished, Waiters, is_sound
from sttd.engine.tickets import Job, Ticket
from sttd.errors import DecodeError
from sttd.host import logs

log = logs.get(__name__)


@attrs.frozen(eq=False)
class Call:
    """A batch and the tickets of its entries, in the same order."""

    batch: Batch
    tickets: list[Ticket]
    lease: Lease | None  # its own: whoever submitted may be gone before the call begins

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


# ---------------------------------------------------------------- in the thread


def is_short_of_memory(result: Result) -> bool:
    """Whether an item did not fit."""
    return isinstance(result, DecodeError) and result.code == "out_of_memory"


def decode_items(model: Model, items: list[DecodeItem], waiters: Waiters) -> list[Result]:
    """One result an item, whatever the model raises or returns."""
    try:
        results = model.decode(items, waiters=waiters)
        if len(results) != len(items):
            raise RuntimeError(f"{len(results)} results for {len(items)} items")
    except Exception as error:
        return [*failures(items, error)]
    return [_checked(result) for result in results]


def _checked(result: object) -> Result:
    """What is no result, or has numbers that are none, is a failure of that item: nothing behind here looks again."""
    if isinstance(result, DecodeError | Unfinished):
        return result
    if isinstance(result, Hypothesis) and is_sound(result):
        return result
    log.error("the engine returned something that is no hypothesis", kind=type(result).__name__)
    return DecodeError("the engine returned nothing that could be used for this audio")


def failures(items: list[DecodeItem], error: Exception) -> list[DecodeError]:
    """The same failure for each item; logged once, without a word of what was said."""
    code = "out_of_memory" if memory.is_out_of_memory(error) else "decode_failed"
    log.error("a decode failed", items=len(items), code=code, exc_info=error)
    return [DecodeError("the engine failed on this audio", code=code) for _ in items]
