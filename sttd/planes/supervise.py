"""The failure boundary of a plane: whatever goes wrong with one connection stays with it.

An exception that reached `trio.serve_listeners` would end the daemon, and libraries do raise on what strangers send.
So each connection runs inside `Supervisor.run`, the one place of a plane that catches `Exception`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import attrs
import trio

from sttd.host import logs

log = logs.get(__name__)

QUIET_S = 60.0  # the same kind of failure is logged with its traceback once in this time, so that nobody fills the disk


@attrs.define(eq=False)
class Supervisor:
    """Runs the connections of one plane and keeps count of them."""

    plane: str
    on_failure: Callable[[], object] = lambda: None
    active: int = attrs.field(default=0, init=False)
    failures: int = attrs.field(default=0, init=False)
    _logged: dict[str, float] = attrs.field(factory=dict, init=False)  # kind of failure -> when; kinds are few

    async def run(self, serve: Callable[[], Awaitable[object]]) -> None:
        """Serve one connection to its end. Raises nothing but Cancelled; logs and counts what `serve` raised."""
        self.active += 1
        try:
            await serve()
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            log.debug("connection lost", plane=self.plane)  # the peer went away in the middle, as peers do
        except* Exception as group:
            self._report(group)
        finally:
            self.active -= 1

    def _report(self, group: ExceptionGroup) -> None:
        self.failures += 1
        self.on_failure()
        kind = ", ".join(sorted({type(leaf).__name__ for leaf in _leaves(group)}))
        now = trio.current_time()
        if now - self._logged.get(kind, -QUIET_S) >= QUIET_S:
            self._logged[kind] = now
            log.error("connection failed", plane=self.plane, kind=kind, failures=self.failures, exc_info=group)


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    nested = [_leaves(e) if isinstance(e, BaseExceptionGroup) else [e] for e in group.exceptions]
    return [leaf for part in nested for leaf in part]


@contextmanager
def counted(counts: Counter[int], uid: int) -> Iterator[None]:
    """One more of this user for as long as the block runs."""
    counts[uid] += 1
    try:
        yield
    finally:
        counts[uid] -= 1
        if not counts[uid]:
            del counts[uid]
