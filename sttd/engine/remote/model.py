"""A model that a server decodes. What becomes of a call, while the server is there and while it is not.

Rules:

1. One item a call, so that what the dispatcher holds most urgent is the next to leave this machine. As many calls at
   the same time as `max_in_flight`.
2. **Finals and windows of files** are asked for again after failures before an answer, and after refusals for the
   moment; each time after a wait that doubles, from `FIRST_WAIT_S` on, less up to half of it by chance, or that the
   server named. To decode the same audio twice does no harm. Interims are never asked for again: the next one is
   better.
3. **With a fallback** all of this ends after `timeout_s`, and while the breaker is open it does not begin: the fallback
   decodes, interims too, if it has time for them. It also decodes the finals that the server refuses or answers with
   rubbish.
4. **Without one**, or if it does not load, finals wait and ask again until nobody would wait any longer; then they
   fail, with a word on what to do. Who waits is told what for (`Waiters.set_back`). Windows of files fail at once where
   somebody waited for the server in vain, until it answers: else a long file would wait anew for each of them.
5. What was told to come again until its time was over, or for a time behind that, counts against the server: after a
   few in a row it is away (`breaker`, rule 6), and the fallback decodes at once.
6. Whoever is gone is no longer asked for: his connection is cut.
7. The fallback is freed once the server has been back for `fallback_keep_s`, behind the call that finds it so.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Final

import attrs

from sttd.core.types import DecodeItem, Effort
from sttd.engine.contract import NOBODY, Result, SomeWaiters, Waiters
from sttd.engine.remote.asking import Kind, Trouble
from sttd.engine.remote.breaker import Pass
from sttd.engine.remote.client import Client, Gone
from sttd.engine.remote.fallback import Fallback, NoFallbackError
from sttd.engine.remote.link import Link
from sttd.errors import DecodeError

FIRST_WAIT_S: Final = 0.1  # chosen: a connection that was cut is there again at once
MOST_WAIT_S: Final = 2.0  # chosen
_GLANCE_S: Final = 0.1  # chosen: between two looks at whether anybody waits
# Of the patience of those who wait, so that they hear it before the call is written off; chosen, as in `process/model`.
_MARGIN: Final = 0.05
_MARGIN_S: Final = 1.0


@attrs.define(eq=False, kw_only=True)
class RemoteModel:
    """A `Model`.

    Args:
        link: the server.
        client: how it is reached.
        workers: requests at the same time.
        fallback: decodes while the server is away.
    """

    link: Link
    client: Client
    workers: int
    fallback: Fallback | None
    device: str = "remote"
    compute_type: str = "remote"
    parkable: bool = False
    _closed: threading.Event = attrs.field(factory=threading.Event, init=False)

    @property
    def ram_bytes(self) -> int:
        """Main memory of the fallback, where it is loaded."""
        model = self.fallback.model if self.fallback is not None else None
        return 0 if model is None else model.ram_bytes

    @property
    def vram_bytes(self) -> int:
        """GPU memory of the fallback, where it is loaded."""
        model = self.fallback.model if self.fallback is not None else None
        return 0 if model is None else model.vram_bytes

    def batch_key(self, item: DecodeItem) -> Hashable:
        """What takes as long is alike."""
        return item.options.effort

    def max_batch(self, key: Hashable) -> int:
        """One (rule 1)."""
        return 1

    def decode(self, batch: Sequence[DecodeItem], *, waiters: Waiters = NOBODY) -> list[Result]:
        """As in `Model`."""
        return [self._decode(item, SomeWaiters(waiters, (index,))) for index, item in enumerate(batch)]

    def park(self) -> bool:
        """There is nothing to move."""
        return False

    def unpark(self) -> None:
        """There is nothing to bring back."""

    def close(self) -> None:
        """Close the connections and free the fallback."""
        self._closed.set()
        self.client.close()
        if self.fallback is not None:
            self.fallback.close()

    def abandon(self) -> None:
        """The same without waiting; calls end at their next look around."""
        self._closed.set()
        self.client.close()
        if self.fallback is not None:
            self.fallback.abandon()

    # ------------------------------------------------------------------ one item

    def _decode(self, item: DecodeItem, waiters: Waiters) -> Result:
        began = time.monotonic()
        attempt = _Attempt(
            model=self,
            item=item,
            waiters=waiters,
            until=began + _within(waiters.patience_s()),
            insists_until=began + self.link.options.timeout_s,
        )
        try:
            return attempt.run()
        except Gone:
            return DecodeError("nobody waits for it any more")

    @property
    def is_closed(self) -> bool:
        """Whether it was given up."""
        return self._closed.is_set()

    def wait(self, seconds: float) -> None:
        """Wait so long, or until it is given up."""
        self._closed.wait(seconds)

    def after_answer(self, tell: Callable[[], None]) -> None:
        """Rule 7; `tell` lets those who wait have their answer first."""
        fallback, link = self.fallback, self.link
        if fallback is None or fallback.model is None:
            return
        if link.reachable and link.since_s >= link.options.fallback_keep_s:
            tell()
            fallback.free()


@attrs.define(eq=False, kw_only=True)
class _Attempt:
    """What is done for one item. `until`: those who wait give up; `insists_until`: so long the server is asked, if
    there is a fallback. Both on the monotonic clock."""

    model: RemoteModel
    item: DecodeItem
    waiters: Waiters
    until: float
    insists_until: float
    _tries: int = attrs.field(default=0, init=False)
    _reason: str = attrs.field(default="", init=False)  # why there is no text yet
    _advice: str = attrs.field(default="", init=False)  # why the fallback does not help

    def run(self) -> Result:
        """Raises Gone."""
        while True:
            if self._gone():
                raise Gone
            leave = self.model.link.leave()
            if leave is None:
                self._reason = self.model.link.reason or self._reason
                ended = self._without_server(wait_s=self.model.link.wait_s())
            else:
                try:
                    until = min(self.until, time.monotonic() + self.model.link.options.timeout_s)
                    hypothesis = self.model.link.ask(self.model.client, self.item, leave, until=until, gone=self._gone)
                except Trouble as trouble:
                    ended = self._after(trouble, leave)
                else:
                    self.model.after_answer(functools.partial(self.waiters.tell, 0, hypothesis))
                    return hypothesis
            if ended is not None:
                return ended

    def _gone(self) -> bool:
        return self.waiters.gone(0) or self.model.is_closed

    @property
    def _is_interim(self) -> bool:
        return self.item.options.effort is Effort.QUICK

    def _after(self, trouble: Trouble, leave: Pass) -> Result | None:
        """What becomes of the item after a try without a text; None: it is tried again."""
        self._reason = trouble.reason
        self._wait_for_server()
        if self._is_interim:
            return self._failed()
        if trouble.kind in (Kind.ITEM, Kind.BROKEN):
            return self._by_fallback() or self._failed()
        self._tries += 1
        wait_s = trouble.retry_after_s
        if trouble.kind is not Kind.BUSY:
            wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._tries - 1, 16))
            wait_s *= 1 - self.model.link.chance() / 2
        insists_until = self.until if self.model.fallback is None else min(self.until, self.insists_until)
        late = time.monotonic() + wait_s >= insists_until
        if late and trouble.kind is Kind.BUSY:
            self.model.link.unanswered(leave, trouble)
        if self.model.fallback is not None and (late or self.model.link.wait_s() > 0):
            return self._without_server(wait_s=wait_s)
        return self._pause(wait_s)

    def _without_server(self, *, wait_s: float) -> Result | None:
        """The server counts as away, or was asked for long enough."""
        self.waiters.set_back()
        if (result := self._by_fallback()) is not None:
            return result
        self._wait_for_server()
        return self._failed() if self._is_interim else self._pause(max(wait_s, FIRST_WAIT_S))

    def _by_fallback(self) -> Result | None:
        """What the fallback made of it; None: there is none that can."""
        if self.model.fallback is None:
            return None
        try:
            return self.model.fallback.decode(self.item, waiters=self.waiters, until=self.until)
        except NoFallbackError as error:
            self._advice = str(error)
            return None

    def _pause(self, wait_s: float) -> Result | None:
        """Wait before the next try; a result where there would be none in time. Raises Gone."""
        link, again = self.model.link, time.monotonic() + wait_s
        if again >= self.until:
            link.waited_in_vain()
            return self._failed()
        if link.hopeless and self.item.options.effort is Effort.TIMED:
            return self._failed()
        while (left_s := again - time.monotonic()) > 0:
            if self._gone():
                raise Gone
            self.model.wait(min(left_s, _GLANCE_S))
        return None

    def _wait_for_server(self) -> None:
        self.waiters.set_back(f"waiting for the server of preset {self._name!r}: {self._reason}")

    @property
    def _name(self) -> str:
        return self.model.link.preset.name

    def _failed(self) -> DecodeError:
        remedy = self._advice or "see `sttctl doctor`"
        if self.model.fallback is None:
            remedy += f", and give the preset a `fallback` for when its server is away (presets.{self._name}.fallback)"
        return DecodeError(f"the server of preset {self._name!r} decoded nothing: {self._reason}; {remedy}")


def _within(patience_s: float) -> float:
    """What a call may take, for those who are so patient."""
    return max(patience_s / 2, min(patience_s * (1 - _MARGIN), patience_s - _MARGIN_S))
