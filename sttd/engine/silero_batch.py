"""Silero for many sessions: those that are due in one turn of the event loop are asked in one run.

    detector.take(frames) ──▶ ask ──┐                       ┌──▶ answered
    detector.take(frames) ──▶ ask ──┼─▶ one turn later: run ┼──▶ answered
    detector.take(frames) ──▶ ask ──┘                       └──▶ answered

Nobody serves: whoever comes first waits for one turn, in which the others of this turn come, and runs what there is.
Of that at most `MAX_STEPS`; whoever is first then does the same with the rest. So a run has an owner, holds the loop
for a bounded time, and is put off by a turn and no more.
"""

from __future__ import annotations

from collections import deque

import attrs
import trio

from sttd.core.endpointer import Activity
from sttd.core.types import Samples
from sttd.engine.silero import SileroModel, Steps
from sttd.engine.vad import VoiceDetector
from sttd.errors import InternalError

MAX_STEPS = 64  # in one run: a millisecond. One session's are not parted: `session/inbox.py` bounds them


@attrs.define(eq=False)
class _Asking:
    """A session that waits. When it is woken and has neither, the next run is its own."""

    steps: Steps
    task: trio.lowlevel.Task
    answers: list[float] | None = None
    failed: bool = False  # somebody else's run


@attrs.define(eq=False)
class SharedSilero(SileroModel):
    """The network of a daemon, for the tasks of one event loop."""

    _waiting: deque[_Asking] = attrs.field(factory=deque, init=False)

    async def hear(self, detector: VoiceDetector, frames: Samples) -> Activity:
        """As `detector.push`, in a batch with others. When it is cancelled, the frames are lost to the detector."""
        question = detector.take(frames)
        if question.steps is None:
            return question.answered(())
        return question.answered(await self._ask(question.steps))

    async def _ask(self, steps: Steps) -> list[float]:
        asking = _Asking(steps, trio.lowlevel.current_task())
        self._waiting.append(asking)
        if len(self._waiting) == 1:
            await trio.lowlevel.cancel_shielded_checkpoint()
        else:
            await self._wait(asking)
        if asking.failed:
            raise InternalError("Silero failed when another session asked it")
        return asking.answers if asking.answers is not None else self._run()

    async def _wait(self, asking: _Asking) -> None:
        def leave(_: object) -> trio.lowlevel.Abort:
            self._waiting.remove(asking)
            return trio.lowlevel.Abort.SUCCEEDED

        await trio.lowlevel.wait_task_rescheduled(leave)

    def _run(self) -> list[float]:
        """Run the steps of the first who wait, and wake them; returns the answers of the very first, who calls."""
        batch = [self._waiting.popleft()]
        count = len(batch[0].steps.samples)
        while self._waiting and count + len(self._waiting[0].steps.samples) <= MAX_STEPS:
            batch.append(self._waiting.popleft())
            count += len(batch[-1].steps.samples)
        if self._waiting:
            trio.lowlevel.reschedule(self._waiting[0].task)
        try:
            answers = self.run([asking.steps for asking in batch])
        except Exception:
            for asking in batch[1:]:
                asking.failed = True
                trio.lowlevel.reschedule(asking.task)
            raise
        for asking, values in zip(batch[1:], answers[1:], strict=True):
            asking.answers = values
            trio.lowlevel.reschedule(asking.task)
        return answers[0]
