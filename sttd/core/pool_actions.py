"""What the pool policy says: operations for the pool to carry out, answers for waiters, and views for `status`."""

from __future__ import annotations

import enum
from collections.abc import Hashable
from typing import Generic, TypeVar

import attrs

K = TypeVar("K", bound=Hashable)


class State(enum.Enum):
    """Where an entry is in its life."""

    LOADING = "loading"
    READY = "ready"
    PARKING = "parking"
    PARKED = "parked"
    UNPARKING = "unparking"
    CLOSING = "closing"


@attrs.frozen
class Load(Generic[K]):
    """Load the model of this key; then call `loaded` or `load_failed`."""

    key: K


@attrs.frozen
class Park(Generic[K]):
    """Move its weights to main memory; then call `parked`."""

    key: K


@attrs.frozen
class Unpark(Generic[K]):
    """Bring its weights back; then call `unparked` or `unpark_failed`."""

    key: K


@attrs.frozen
class Close(Generic[K]):
    """Free it; then call `closed`."""

    key: K


@attrs.frozen
class Grant(Generic[K]):
    """The waiter has a lease on this entry."""

    waiter: int
    key: K


@attrs.frozen
class Refuse:
    """The waiter gets nothing: the error of the load, or None when no slot came free in time."""

    waiter: int
    error: Exception | None


Action = Load[K] | Park[K] | Unpark[K] | Close[K] | Grant[K] | Refuse


@attrs.frozen(kw_only=True)
class EntryView(Generic[K]):
    """One entry as `status` shows it."""

    key: K
    serial: int
    state: State
    leases: int
    hits: int
    pinned: bool
    draining: bool
    loaded_for_s: float
    idle_for_s: float
    expires_in_s: float | None  # until it is parked or closed; None when in use, pinned or kept for good
