"""Sockets that are looked at together, some times a second, in place of each when something comes.

What a message costs is mostly that somebody is woken for it: Trio's scheduler, two system calls, a processor that was
asleep. Where many come, they may wait for each other: at a tick all sockets are asked at once, and those that have
something are woken in one turn of the loop, so that what they then ask for (a run of the voice detector, a decode) is
asked for together, too.

    readable ──┐                      ┌──▶ read
    readable ──┼─▶ run: at each tick ─┼──▶ read
    readable ──┘   one epoll_wait     └──▶ read
"""

from __future__ import annotations

import select
from typing import Final

import attrs
import trio

AT_ONCE: Final = 16  # that are woken in one turn of the loop; chosen: what each then does may take half a millisecond


@attrs.define(eq=False)
class Ticks:
    """Wakes whoever waits in `readable`, at multiples of `every_s` on Trio's clock. Without `run` nobody waits."""

    every_s: float
    _epoll: select.epoll | None = attrs.field(default=None, init=False)  # while `run` runs
    _waiting: dict[int, trio.lowlevel.Task] = attrs.field(factory=dict, init=False)  # by descriptor
    _somebody: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    async def run(self) -> None:
        """Tick while somebody waits, until cancelled; who waits then is let go."""
        with select.epoll() as self._epoll:
            try:
                while True:
                    if not self._waiting:
                        await self._somebody.park()
                    await trio.sleep_until((trio.current_time() // self.every_s + 1) * self.every_s)
                    while self._wake(self._epoll) == AT_ONCE:
                        await trio.lowlevel.checkpoint()
            finally:
                self._epoll = None
                for task in self._waiting.values():
                    trio.lowlevel.reschedule(task)
                self._waiting.clear()

    async def readable(self, descriptor: int) -> None:
        """Wait until there may be something to read from a socket, or it has ended; one task at a time for each.

        Its owner closes it when nobody waits any more. Cancelling loses nothing.
        """
        if self._epoll is None or descriptor < 0:  # closed: whoever reads is told
            await trio.lowlevel.checkpoint_if_cancelled()
            return
        _watch(self._epoll, descriptor)
        self._waiting[descriptor] = trio.lowlevel.current_task()
        self._somebody.unpark()

        def leave(_: object) -> trio.lowlevel.Abort:
            del self._waiting[descriptor]
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def _wake(self, epoll: select.epoll) -> int:
        """Wake some who have something. Returns how many sockets had."""
        ready = epoll.poll(0, AT_ONCE)
        for descriptor, _ in ready:
            task = self._waiting.pop(descriptor, None)
            if task is not None:  # else it was cancelled
                trio.lowlevel.reschedule(task)
        return len(ready)


def _watch(epoll: select.epoll, descriptor: int) -> None:
    """Be told of a socket once. One that was closed is out of the set by itself, and its number may come again."""
    once = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLONESHOT
    try:
        epoll.modify(descriptor, once)
    except FileNotFoundError:
        epoll.register(descriptor, once)
