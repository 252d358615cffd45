"""A model that decodes in a process of its own, and goes on when that dies.

    decode ──► Trial: what to try ──► Turnstile: together or alone ──► a Worker that lives ──► a Line: samples,
      ▲                                                                       │ died           questions, results
      └─────────────────────────── what is left to try ◄──────────────────────┘

`decode` blocks the thread of its call, as with any model; that thread writes the request, answers the questions of the
process and reads the results, so there is nobody between. What is tried again after a process died is decided in
`trial.py`.

Who finds the process gone starts one and loads, while the others wait. After a start that was no use (nothing was
decoded before the process died again) the next one waits, twice as long each time. No call waits longer than those who
wait for it.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import attrs

from sttd.core.types import DecodeItem
from sttd.engine.contract import NOBODY, Planner, Result, SomeWaiters, Waiters
from sttd.engine.process.audio import CAPACITY_SAMPLES
from sttd.engine.process.channel import ClosedError
from sttd.engine.process.crew import Crew
from sttd.engine.process.trial import Fate, Trial, Try
from sttd.engine.process.turnstile import Turnstile
from sttd.engine.process.wire import HYPOTHESIS, PLACED, ModelInfo, Placed, WireError, read_result
from sttd.engine.process.worker import DiedError, Line, Worker
from sttd.errors import DecodeError, ModelError, SttdError
from sttd.host import logs

log = logs.get(__name__)

FIRST_WAIT_S: Final = 0.5  # chosen: before the second start in a row that was no use
MOST_WAIT_S: Final = 30.0  # chosen
STARTS: Final = 4  # chosen: that may fail before a call does; they take 3.5 s, and what has no model is told soon
_MEND_S: Final = 120.0  # chosen: for a start that nobody waits for; large-v3 from a slow disk takes about a minute
# Of the patience of those who wait, so that they hear it before they give up; chosen.
_MARGIN: Final = 0.05
_MARGIN_S: Final = 1.0

Started = tuple[Worker, ModelInfo]


@attrs.define(eq=False, kw_only=True)
class ProcessModel:
    """A `Model`.

    Args:
        preset: its name, for the log.
        worker: the process that it was loaded into.
        info: what it is there.
        start: loads it into another one, until a time on the monotonic clock. Raises ModelError, TimeoutError, OSError.
        planner: answers what the event loop asks.
        crew: counts.
    """

    preset: str
    _worker: Worker
    _info: ModelInfo
    _start: Callable[[float], Started]
    _planner: Planner
    _crew: Crew
    _turnstile: Turnstile = attrs.field(factory=Turnstile, init=False)
    _mending: threading.Lock = attrs.field(factory=threading.Lock, init=False)  # held by who starts a process
    _useless: int = attrs.field(default=0, init=False)  # starts in a row after which nothing was decoded
    _next_start: float = attrs.field(default=-math.inf, init=False)
    _parked: bool = attrs.field(default=False, init=False)
    _closed: threading.Event = attrs.field(factory=threading.Event, init=False)

    def __attrs_post_init__(self) -> None:
        self._crew.add(self)

    # ------------------------------------------------------------ what it is

    @property
    def device(self) -> str:
        """Where it runs."""
        return self._info.device

    @property
    def compute_type(self) -> str:
        """What it computes in."""
        return self._info.compute_type

    @property
    def workers(self) -> int:
        """Calls that make progress at the same time."""
        return self._info.workers

    @property
    def ram_bytes(self) -> int:
        """Main memory of the weights, in the process."""
        return self._info.ram_bytes

    @property
    def vram_bytes(self) -> int:
        """GPU memory of the weights."""
        return self._info.vram_bytes

    @property
    def parkable(self) -> bool:
        """Whether the weights are in the memory of a device."""
        return self._info.parkable

    def batch_key(self, item: DecodeItem) -> Hashable:
        """As in `Model`; nothing is asked of the process."""
        return self._planner.batch_key(item)

    def max_batch(self, key: Hashable) -> int:
        """As in `Model`; nothing is asked of the process."""
        return self._planner.max_batch(key)

    def pid(self) -> int | None:
        """Its process; None where it has none now."""
        return self._worker.pid if self._worker.alive else None

    # ------------------------------------------------------------ decoding

    def decode(self, batch: Sequence[DecodeItem], *, waiters: Waiters = NOBODY) -> list[Result]:
        """As in `Model`. A process that dies under it costs time; `decode_failed` is for what kills it twice."""
        if sum(len(item.samples) for item in batch) > CAPACITY_SAMPLES:
            raise ValueError("more audio than a call may have")
        trial = Trial(len(batch))
        results: dict[int, Result] = {}
        until, starts = time.monotonic() + _within(waiters.patience_s()), 0
        while (tried := trial.next_try()) is not None:
            try:
                fate = self._try(tried, batch, results, waiters=waiters, until=until)
            except (TimeoutError, ModelError, OSError) as error:  # there is no process
                starts += 1
                if starts < STARTS and not isinstance(error, TimeoutError):
                    continue  # memory or descriptors may be there again
                return [results.get(index) or self._lost(error) for index in range(len(batch))]
            trial.answered(results)
            if fate is not None:
                trial.died(tried, fate)
                waiters.set_back()
        for index in trial.failed:
            log.error("audio that the engine dies of is given up", preset=self.preset)
            results[index] = DecodeError("the engine died twice of this audio")
        return [results[index] for index in range(len(batch))]

    def _try(
        self, tried: Try, batch: Sequence[DecodeItem], results: dict[int, Result], *, waiters: Waiters, until: float
    ) -> Fate | None:
        """One call into the process; what is known goes into `results`. None: it answered. Raises as `_living`."""
        with self._turnstile.turn(alone=tried.alone, until=until):
            if not self._worker.alive:
                waiters.set_back()
            worker = self._living(until)
            now = time.monotonic()
            call = _Call(
                items=[batch[index] for index in tried.items],
                numbers=tried.items,
                waiters=SomeWaiters(waiters, tried.items),
                results=results,
                until=now + (until - now) * tried.share,
            )
            try:
                with worker.line(call, until=until) as line:
                    fate = self._run(call, worker, line)
            except DiedError:  # before the call was in it
                fate = Fate.BYSTANDER
            if fate is None:
                self._useless = 0
            else:
                self._bury(worker)
            return fate

    def _run(self, call: _Call, worker: Worker, line: Line) -> Fate | None:
        """Make a call; how the process died of it, or under it."""
        try:
            call.run(line)
        except TimeoutError:
            log.error("a decode hangs and its process is ended", preset=self.preset, items=len(call.items))
            worker.kill(culprit=call)
        except ClosedError:
            worker.kill()
        except WireError as error:
            log.error("the engine talks rubbish and is ended", preset=self.preset, reason=str(error))
            worker.kill()
        except BaseException:  # of those who wait; the answer may still come, and nobody will read it
            worker.kill()
            raise
        else:
            return None
        victims = worker.victims()
        if worker.culprit is not None:
            return Fate.HUNG if worker.culprit is call else Fate.BYSTANDER
        return Fate.ALONE if victims == {call} and len(call.items) == 1 else Fate.TOGETHER

    def _lost(self, error: Exception) -> DecodeError:
        log.error("no process to decode in", preset=self.preset, reason=str(error) or type(error).__name__)
        return DecodeError("the engine died and did not come back in time")

    # ------------------------------------------------------------ starting it again

    def wants_mending(self) -> bool:
        """Whether its process is gone while nobody decodes, and may be started again now."""
        idle = not (self._closed.is_set() or self._parked or self._mending.locked())
        return idle and not self._worker.alive and time.monotonic() >= self._next_start

    def mend(self) -> None:
        """Start it again. Blocks. Where that fails the next call tries it once more."""
        try:
            self._living(time.monotonic() + _MEND_S)
        except (TimeoutError, SttdError, OSError) as error:
            if not self._closed.is_set():
                log.error(
                    "the engine does not come back", preset=self.preset, reason=str(error) or type(error).__name__
                )

    def _living(self, until: float) -> Worker:
        """A process with the model; a new one where it died. Raises ModelError, TimeoutError, OSError."""
        if not self._mending.acquire(timeout=-1 if until == math.inf else max(0.0, until - time.monotonic())):
            raise TimeoutError
        try:
            if self._closed.is_set():
                raise ModelError("the model was given up")
            if self._worker.alive:
                return self._worker
            self._bury(self._worker)
            wait_s = max(0.0, self._next_start - time.monotonic())
            if time.monotonic() + wait_s >= until:
                raise TimeoutError
            if self._closed.wait(wait_s):
                raise ModelError("the model was given up")
            self._useless += 1
            again_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2 ** (self._useless - 1))
            self._next_start = time.monotonic() + again_s
            self._worker, self._info = self._start(until)
            if self._closed.is_set():  # meanwhile
                self._worker.close()
                raise ModelError("the model was given up")
            log.info("the engine is back", preset=self.preset, pid=self._worker.pid)
            return self._worker
        finally:
            self._mending.release()

    def _bury(self, worker: Worker) -> None:
        """A process died: the first who sees it waits until it is gone, counts it and says why."""
        if not worker.bury() or self._closed.is_set():
            return
        reason = worker.reason if worker.culprit is None else "it did not answer"
        log.warning("the engine died and is started again", preset=self.preset, reason=reason, pid=worker.pid)
        self._crew.note_restart(self.preset, reason)

    # ------------------------------------------------------------ moving and ending

    def park(self) -> bool:
        """Move the weights to main memory, in the process. False where that means nothing, or the process is gone."""
        if not self.parkable or not self._worker.alive:
            return False
        try:
            self._info = self._worker.ask("park")
        except (DiedError, ModelError):
            return False
        self._parked = self._info.vram_bytes == 0
        return self._parked

    def unpark(self) -> None:
        """Bring them back; from disk, where the process has died meanwhile. Raises ModelError."""
        try:
            self._info = self._worker.ask("unpark")
        except DiedError:
            try:
                self._living(math.inf)
            except (TimeoutError, OSError) as error:
                raise ModelError(f"the parked model does not come back: {error}") from error
        self._parked = False

    def close(self) -> None:
        """End the process; the kernel takes all of its memory back. Waits for a start under way."""
        self._closed.set()
        with self._mending:
            self._worker.close()
        self._crew.remove(self)

    def abandon(self) -> None:
        """End the process, also with decodes in it, and without waiting."""
        self._closed.set()
        self._worker.kill()
        self._crew.remove(self)


@attrs.frozen(eq=False, kw_only=True)
class _Call:
    """One call into a process. What is known of an item goes into `results` under its number, as soon as it is."""

    items: Sequence[DecodeItem]
    numbers: Sequence[int]
    waiters: Waiters
    results: dict[int, Result]
    until: float  # on the monotonic clock

    def run(self, line: Line) -> None:
        """Make it. Raises TimeoutError, ClosedError, WireError; then the line is not to be used again."""
        places = line.room.put([item.samples for item in self.items])
        placed = [Placed.of(item, at=at) for item, at in zip(self.items, places, strict=True)]
        line.channel.send(["decode", [PLACED.write(each) for each in placed]])
        plain = self._answered(line)
        line.room.shrink(sum(len(item.samples) for item in self.items))
        for number, item, result in zip(self.numbers, self.items, plain, strict=True):
            self.results[number] = _read(result, item)

    def _answered(self, line: Line) -> list[Any]:
        """Answer questions until the results come."""
        while True:
            match line.channel.receive(until=self.until):
                case ["tell", int(index), plain] if 0 <= index < len(self.items):
                    hypothesis = HYPOTHESIS.read(plain)
                    self.results[self.numbers[index]] = hypothesis
                    self.waiters.tell(index, hypothesis)
                case ["gone", int(index)] if 0 <= index < len(self.items):
                    line.channel.send(["answer", self.waiters.gone(index)])
                case ["hurry"]:
                    line.channel.send(["answer", self.waiters.hurry()])
                case ["results", list(results)] if len(results) == len(self.items):
                    return results
                case _:
                    raise WireError("not an answer to a call")


def _within(patience_s: float) -> float:
    """What a call may take, for those who are so patient."""
    return max(patience_s / 2, min(patience_s * (1 - _MARGIN), patience_s - _MARGIN_S))


def _read(plain: Any, item: DecodeItem) -> Result:
    try:
        return read_result(plain, item)
    except WireError as error:
        log.error("the engine returned something that is no result", reason=str(error))
        return DecodeError("the engine returned nothing that could be used for this audio")
