"""What goes into the dispatcher and what comes out: jobs, and the claims on their outcomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import attrs
import trio

from sttd.core.scheduling import Entry
from sttd.core.types import DecodeItem, JobClass, Outcome, seconds
from sttd.engine.contract import Lease
from sttd.errors import DecodeError
from sttd.host import logs

log = logs.get(__name__)

DropReason = Literal["coalesced", "cancelled", "session_gone", "shutting_down"]


class JobDropped(Exception):
    """The job was taken out of the queue before it ran, or its outcome is no longer wanted."""

    def __init__(self, reason: DropReason) -> None:
        super().__init__(reason)
        self.reason: DropReason = reason


@attrs.frozen(kw_only=True, eq=False)
class Job:
    """One piece of audio to decode, for whom, and until when."""

    item: DecodeItem
    job_class: JobClass
    session: str
    uid: int
    deadline: float  # on the dispatcher's clock
    lease: Lease  # stays the submitter's, who keeps it until the ticket is done


@attrs.frozen
class QueueWait:
    """Milliseconds that jobs of a class waited for a worker; None without samples."""

    p50: float | None
    p95: float | None


@attrs.frozen(kw_only=True)
class DispatcherStatistics:
    """A snapshot. Waits and factors are of the last 5 minutes; counts are since the start."""

    queued: dict[str, int]
    in_flight: int  # calls
    workers: int  # of the models that have work
    batches: int
    batch_size_mean: float | None
    queue_wait_ms: dict[str, QueueWait]
    coalesced: int
    rejected: int
    failed: int  # jobs whose decode failed
    realtime_factor: float | None  # worker seconds per second of audio
    load: float  # 0..1, of the busiest model's workers
    hung: int  # calls that were written off and run on
    oldest_call_s: float | None  # age of the longest running call, for a watchdog; None: nothing runs


class Desk(Protocol):
    """What a ticket asks of whoever gave it out."""

    def waits(self, ticket: Ticket) -> bool:
        """Whether its job waits for a worker."""

    def cancel(self, ticket: Ticket) -> None:
        """Give the job up."""

    def promote(self, ticket: Ticket, *, deadline: float) -> None:
        """Make a final of a speculation that waits."""


@attrs.define(eq=False)
class Ticket:
    """The claim on one job's outcome. Keep it and wait, or cancel it."""

    job: Job
    desk: Desk
    entry: Entry
    audio_s: float = attrs.field(init=False)  # of the whole job, whatever calls leave of it
    queue_s: float = attrs.field(default=0.0, init=False)  # of the calls before, which left it unfinished
    decode_s: float = attrs.field(default=0.0, init=False)
    waits_for: str | None = attrs.field(default=None, init=False)  # what keeps its call, in words; None: nothing does
    # Called when a call has left the job unfinished and it waits again: so long its lease can be given back.
    on_left: Callable[[], object] = attrs.field(default=lambda: None, init=False)
    _settled: trio.Event = attrs.field(factory=trio.Event, init=False)
    _result: Outcome | DecodeError | JobDropped | None = attrs.field(default=None, init=False)

    @audio_s.default
    def _whole(self) -> float:
        return seconds(len(self.job.item.samples))

    @property
    def done(self) -> bool:
        """Whether `wait` would return, or raise, at once."""
        return self._result is not None

    @property
    def started(self) -> bool:
        """Whether the job has left the queue: it runs, or it ran, or it was dropped."""
        return not self.desk.waits(self)

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
        self.desk.cancel(self)

    def promote(self, *, deadline: float) -> None:
        """The endpoint confirmed this speculation: if it still waits, it goes on waiting as a final."""
        self.desk.promote(self, deadline=deadline)

    def settle(self, result: Outcome | DecodeError | JobDropped) -> None:
        """For the dispatcher: the outcome is known. The first one counts."""
        if self._result is None:
            self._result = result
            self._settled.set()
