"""The small arithmetic behind decisions: what was used lately, what a call costs, how often and how long things took.

All of it forgets: a workstation's load of ten minutes ago says nothing about the next second.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Hashable, Sequence

import attrs


@attrs.define(eq=False)
class Ledger:
    """Seconds of worker time charged to anything hashable, fading exponentially.

    Under a constant use of `u` workers an account settles at `u * fade_s`, so `value / fade_s` is a utilisation.
    """

    fade_s: float
    _accounts: dict[Hashable, tuple[float, float]] = attrs.field(factory=dict, init=False)  # value, as of when

    def charge(self, account: Hashable, seconds: float, *, now: float) -> None:
        """Add `seconds`; a negative amount corrects an earlier guess."""
        self._accounts[account] = (self.value(account, now=now) + seconds, now)
        if len(self._accounts) > _LEDGER_LIMIT:
            worth = {key: self._worth(kept, now) for key, kept in self._accounts.items()}
            self._accounts = {key: (value, now) for key, value in worth.items() if value > _NEGLIGIBLE_S}

    def value(self, account: Hashable, *, now: float) -> float:
        """What is left of the account, never below zero."""
        kept = self._accounts.get(account)
        return max(0.0, self._worth(kept, now)) if kept else 0.0

    def _worth(self, kept: tuple[float, float], now: float) -> float:
        value, at = kept
        return value * math.exp((at - now) / self.fade_s)


_LEDGER_LIMIT = 1024  # accounts before the faded ones are swept out
_NEGLIGIBLE_S = 0.001


@attrs.define(eq=False)
class Frequency:
    """How often a second something happened lately; the last second counts for most, what is older for little."""

    _count: float = attrs.field(default=0.0, init=False)  # each worth less as time goes on
    _counted_at: float = attrs.field(default=-math.inf, init=False)

    def happened(self, *, times: float = 1, now: float) -> float:
        """Count it, so many times. Returns how often it has happened in a second, this included."""
        passed_s = now - self._counted_at
        self._count = times + (self._count * (1 - passed_s) if 0 <= passed_s < 1 else 0)
        self._counted_at = now
        return self._count


@attrs.define(eq=False)
class CallCost:
    """Learns `seconds = fixed + slope * items` of one kind of decode call, online.

    Weighted least squares over the calls seen, each older one counting `_KEEP` of the next, pulled towards a prior
    slope by a light ridge: as long as only single items were seen the slope is the prior's, and one batch or two
    are enough to correct it. Before the first call the answer rests on `first_call_s`, a guess on the long side.
    """

    first_call_s: float
    _weight: float = attrs.field(default=0.0, init=False)
    _items: float = attrs.field(default=0.0, init=False)  # the following are weighted sums
    _seconds: float = attrs.field(default=0.0, init=False)
    _items_squared: float = attrs.field(default=0.0, init=False)
    _items_seconds: float = attrs.field(default=0.0, init=False)

    @property
    def learned(self) -> bool:
        """Whether any call was observed."""
        return self._weight > 0

    def observe(self, items: int, seconds: float) -> None:
        """Learn from one finished call."""
        self._weight = self._weight * _KEEP + 1
        self._items = self._items * _KEEP + items
        self._seconds = self._seconds * _KEEP + seconds
        self._items_squared = self._items_squared * _KEEP + items * items
        self._items_seconds = self._items_seconds * _KEEP + items * seconds

    def estimate(self, items: int) -> float:
        """Expected seconds of a call with that many items; never falls when items are added."""
        if not self.learned:
            return self.first_call_s * (_FIXED_SHARE + (1 - _FIXED_SHARE) * items)
        mean_items = self._items / self._weight
        mean_seconds = self._seconds / self._weight
        single = mean_seconds / (_FIXED_SHARE + (1 - _FIXED_SHARE) * mean_items)
        spread = max(0.0, self._items_squared - self._items * mean_items)
        joint = self._items_seconds - self._items * mean_seconds
        slope = (joint + _RIDGE * (1 - _FIXED_SHARE) * single) / (spread + _RIDGE)
        slope = min(max(slope, 0.0), mean_seconds / mean_items)  # neither part of a cost can be negative
        return mean_seconds + slope * (items - mean_items)


_KEEP = 0.9  # chosen, so that about the last ten calls count
_RIDGE = 0.25  # in squared items: one call of two items among singles outweighs it
_FIXED_SHARE = (
    0.2  # the encoder of `base` gains 1.2x at batch 8 on two cores: an extra item costs 0.8 of a first at most
)


@attrs.define(eq=False)
class CostBook:
    """What is known of every kind of call: its cost, and how many items memory had room for.

    A kind belongs to a family, whose calls stand in for its own until it has any. Of many kinds, those that were asked
    for least recently are forgotten.
    """

    first_call_s: float
    _costs: OrderedDict[Hashable, CallCost] = attrs.field(factory=OrderedDict, init=False)  # least recently used first
    _room: dict[Hashable, int] = attrs.field(factory=dict, init=False)  # items, when last asked
    _caps: dict[Hashable, tuple[int, float]] = attrs.field(factory=dict, init=False)  # items, and until when

    def cost(self, kind: Hashable, *, family: Hashable) -> CallCost:
        """What a call of that kind probably costs."""
        cost = self._cost(kind)
        return cost if cost.learned else self._cost(family)

    def observe(self, kind: Hashable, *, family: Hashable, items: int, seconds: float) -> None:
        """Learn from one finished call."""
        self._cost(kind).observe(items, seconds)
        self._cost(family).observe(items, seconds)

    def shrink(self, kind: Hashable, *, items: int, until: float) -> None:
        """Allow such calls no more than that many items for a while."""
        self._caps[kind] = (items, until)

    def note_room(self, kind: Hashable, items: int) -> None:
        """Memory has room for that many items a call."""
        self._room[kind] = items

    def cap(self, kind: Hashable, *, now: float) -> int:
        """How many items memory allows; no limit while nobody knows of one."""
        room = self._room.get(kind, _NO_LIMIT)
        items, until = self._caps.get(kind, (room, now))
        if now >= until:
            self._caps.pop(kind, None)
            return room
        return min(items, room)

    def _cost(self, kind: Hashable) -> CallCost:
        cost = self._costs.setdefault(kind, CallCost(self.first_call_s))
        self._costs.move_to_end(kind)
        if len(self._costs) > _KINDS_KEPT:
            forgotten, _ = self._costs.popitem(last=False)
            self._caps.pop(forgotten, None)
            self._room.pop(forgotten, None)
        return cost


_NO_LIMIT = 1 << 30
_KINDS_KEPT = 512


@attrs.define(eq=False)
class LatencyWindow:
    """The samples of the last `span_s` seconds, for percentiles.

    At most `limit` of them are kept. Where there are more, every second one goes, and of the following as many: so they
    still stand for the whole span, and not for its last seconds alone.
    """

    span_s: float = 300.0
    limit: int = 4096
    _samples: deque[tuple[float, float]] = attrs.field(factory=deque, init=False)
    _stride: int = attrs.field(default=1, init=False)  # one of so many samples is kept
    _seen: int = attrs.field(default=0, init=False)

    def add(self, value: float, *, now: float) -> None:
        """Record one sample."""
        self._seen += 1
        if self._seen % self._stride:
            return
        self._forget(now)
        self._samples.append((now, value))
        if len(self._samples) > self.limit:
            self._samples = deque(list(self._samples)[1::2])
            self._stride *= 2
        elif self._stride > 1 and len(self._samples) < self.limit // 8:
            self._stride //= 2

    def _forget(self, now: float) -> None:
        while self._samples and self._samples[0][0] < now - self.span_s:
            self._samples.popleft()

    def percentiles(self, shares: Sequence[float], *, now: float) -> list[float | None]:
        """The values below which each share (0..1) of the samples lies (nearest rank); None without samples."""
        self._forget(now)
        ordered = sorted(value for _, value in self._samples)
        if not ordered:
            return [None] * len(shares)
        return [ordered[max(0, math.ceil(share * len(ordered)) - 1)] for share in shares]
