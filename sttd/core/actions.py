"""What an utterance wants done (`core/turn.py`), for whoever does it (`session/performer.py`)."""

from __future__ import annotations

from typing import Literal

import attrs

from sttd.core.endpointer import TurnHint
from sttd.core.types import DecodeItem, JobClass, SessionEvent

Role = Literal["final", "interim"]
JobId = tuple[int, int]  # the utterance, and which of its jobs


@attrs.frozen
class Say:
    """Tell the client."""

    event: SessionEvent


@attrs.frozen(kw_only=True)
class Lease:
    """Get a lease, in so many seconds; answered by `leased` or `lease_failed`. A file's may be `recalled`."""

    utterance: int
    role: Role
    model: str
    file: bool
    after_s: float = 0.0


@attrs.frozen(kw_only=True, eq=False)
class Submit:
    """Decode this with the lease of that role, in so many seconds; answered by `decoded`, `failed` or `refused`."""

    job: JobId
    role: Role
    job_class: JobClass
    item: DecodeItem
    deadline: float
    after_s: float = 0.0


@attrs.frozen(kw_only=True)
class Promote:
    """The speculation is the final: if it still waits, it waits as a final."""

    job: JobId
    deadline: float


@attrs.frozen
class Cancel:
    """Nobody wants the outcome of this job."""

    job: JobId


@attrs.frozen
class Release:
    """Give back this lease, or stop waiting for it. Without a role both: the turn is done."""

    utterance: int
    role: Role | None = None


@attrs.frozen
class Hint:
    """What the text so far says about the end of the utterance; for the endpointer."""

    hint: TurnHint


Action = Say | Lease | Submit | Promote | Cancel | Release | Hint
