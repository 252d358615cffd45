"""Who wants to know: events of the daemon, fanned out to subscribers.

Publishing never waits. Each subscriber has a queue of 256 events; one that overflows loses the oldest and is told
once, with `{"topic": "lagged", "dropped": n}`, in the place where they are missing. `seq` counts per subscriber,
lost events included, so that a gap shows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import attrs
import trio

QUEUE = 256


@attrs.define(eq=False)
class Subscription:
    """One subscriber's queue. `close` ends it; leaving it unread harms nobody else."""

    topics: frozenset[str]
    uid: int | None  # None sees everything
    on_close: Callable[[Subscription], None]
    dropped: int = attrs.field(default=0, init=False)  # since the last event that was read
    _seq: int = attrs.field(default=0, init=False)
    _queue: deque[dict[str, Any]] = attrs.field(factory=deque, init=False)
    _readable: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    def offer(self, topic: str, event: Mapping[str, Any], *, uid: int | None) -> None:
        """Queue an event that concerns `uid` (None: everybody), if this subscriber wants and may see it."""
        if topic not in self.topics or not (self.uid is None or uid is None or uid == self.uid):
            return
        if len(self._queue) >= QUEUE:
            self._queue.popleft()
            self.dropped += 1
        self._seq += 1
        self._queue.append({"seq": self._seq, "topic": topic, **event})
        self._readable.unpark()

    async def receive(self) -> dict[str, Any]:
        """The next event. Raises trio.EndOfChannel once closed and empty; cancelling loses nothing."""
        await trio.lowlevel.checkpoint()
        while not self._queue and not self._closed:
            await self._readable.park()
        if not self._queue:
            raise trio.EndOfChannel
        if self.dropped:
            lost, self.dropped = self.dropped, 0
            return {"seq": self._queue[0]["seq"] - 1, "topic": "lagged", "dropped": lost}
        return self._queue.popleft()

    def close(self) -> None:
        """No more events; those in the queue can still be received. Idempotent."""
        if not self._closed:
            self._closed = True
            self._readable.unpark_all()
            self.on_close(self)


@attrs.define(eq=False)
class Hub:
    """All subscribers. Synchronous but for the reading end."""

    _subscriptions: dict[int, Subscription] = attrs.field(factory=dict, init=False)

    def subscribe(self, topics: frozenset[str], *, uid: int | None) -> Subscription:
        """A queue from now on: what happened before is for the listing methods to tell."""
        subscription = Subscription(topics, uid, self._forget)
        self._subscriptions[id(subscription)] = subscription
        return subscription

    def _forget(self, subscription: Subscription) -> None:
        self._subscriptions.pop(id(subscription), None)

    def publish(self, topic: str, event: Mapping[str, Any], *, uid: int | None = None) -> None:
        """Tell everybody who wants to know. `uid`: whose it is; None where it is nobody's secret."""
        for subscription in tuple(self._subscriptions.values()):
            subscription.offer(topic, event, uid=uid)

    def wanted(self, topic: str) -> bool:
        """Whether anybody listens: making an event can cost more than telling it."""
        return any(topic in subscription.topics for subscription in self._subscriptions.values())
