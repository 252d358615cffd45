"""What goes into the dispatcher and what comes out: jobs, outcomes, statistics."""

from __future__ import annotations

from typing import Literal

import attrs

from sttd.core.types import DecodeItem, Hypothesis
from sttd.engine.backend import Lease

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
    session: str
    uid: int
    deadline: float  # on the dispatcher's clock
    lease: Lease  # stays the submitter's, who keeps it until the ticket is done


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a job, and where its time went."""

    hypothesis: Hypothesis
    queue_s: float
    started: float  # on the dispatcher's clock
    decode_s: float
    batch_size: int


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
    estimated_wait_s: float  # of a final that came now
    oldest_call_s: float | None  # age of the longest running call, for a watchdog; None: nothing runs
