"""Who holds the event loop, and how late everybody else is for it.

Everything in the daemon but the engine's threads shares one loop: a step of a task that computes for 100 ms delays each
session's text by as much. `LoopWatch` is a Trio instrument that names such a task, and a sampler whose percentile
`status` shows. A step ends where the next begins, or the loop waits, so that each costs one call.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any

import attrs
import trio

from sttd.host import logs

log = logs.get(__name__)

HOLD_S = 0.1  # five frames of audio; a listener notices about as much
SAMPLE_EVERY_S = 0.05
WINDOW_S = 10.0
QUIET_S = 60.0  # a task of the same name is reported once in this time


@attrs.define(eq=False)
class LoopWatch(trio.abc.Instrument):
    """Watches for as long as `run` runs.

    `holds` counts the steps that took longer than `hold_s`; each name is logged once a minute.
    """

    hold_s: float = HOLD_S
    clock: Callable[[], float] = time.perf_counter  # not Trio's, which tests stop
    holds: int = attrs.field(default=0, init=False)
    _step: trio.lowlevel.Task | None = attrs.field(default=None, init=False)  # whose it is; None: nobody's
    _step_began: float = attrs.field(default=0.0, init=False)
    _reported: dict[str, float] = attrs.field(factory=dict, init=False)  # task name -> when
    _lags_s: deque[float] = attrs.field(factory=lambda: deque(maxlen=int(WINDOW_S / SAMPLE_EVERY_S)), init=False)

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """Trio calls it before each step of each task."""
        now = self.clock()
        if self._step is not None and now - self._step_began >= self.hold_s:
            self._report(self._step, now - self._step_began)
        self._step, self._step_began = task, now

    def before_io_wait(self, timeout: float) -> None:
        """Trio calls it at the end of each turn."""
        if self._step is not None and (held_s := self.clock() - self._step_began) >= self.hold_s:
            self._report(self._step, held_s)
        self._step = None

    def _report(self, task: trio.lowlevel.Task, took_s: float) -> None:
        self.holds += 1
        now = self.clock()
        if now - self._reported.get(task.name, -QUIET_S) < QUIET_S:
            return
        self._reported = {name: when for name, when in self._reported.items() if now - when < QUIET_S}
        self._reported[task.name] = now
        log.warning("a task held the event loop", task=task.name, held_ms=round(took_s * 1000), where=_where(task))

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Watch all tasks, and measure how late a sleeping one wakes up, until cancelled."""
        trio.lowlevel.add_instrument(self)
        try:
            task_status.started()
            while True:
                due = trio.current_time() + SAMPLE_EVERY_S
                await trio.sleep_until(due)
                self._lags_s.append(trio.current_time() - due)
        finally:
            trio.lowlevel.remove_instrument(self)

    def lag_ms_p99(self) -> float | None:
        """99th percentile of the lateness of the last 10 s, in ms; None before the first sample."""
        if not self._lags_s:
            return None
        ordered = sorted(self._lags_s)
        return round(ordered[int(0.99 * (len(ordered) - 1))] * 1000, 3)


def _where(task: trio.lowlevel.Task) -> str:
    """The innermost place where the task waits now, just behind the step that took so long."""
    coroutine: Any = task.coro
    while getattr(coroutine, "cr_await", None) is not None and hasattr(coroutine.cr_await, "cr_frame"):
        coroutine = coroutine.cr_await
    frame = coroutine.cr_frame
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else "(ended)"
