"""A decoding job and a call as the scheduling policy sees them."""

from __future__ import annotations

from collections.abc import Callable, Hashable

import attrs

from sttd.core.types import JobClass


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
    room: Callable[[], int]  # how many of that key a call may take, by the memory that is free now
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
