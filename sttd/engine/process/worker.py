"""One process for one model, as the daemon holds it: started, spoken to, ended. Blocking; several threads may call.

The process is a fresh interpreter (`subprocess`): a fork of a daemon with threads would inherit their locks. It gets
three things: the control socket, the read end of a pipe whose write end the daemon keeps, and the daemon's stderr. The
pipe is its lifeline: the kernel ends the process when the daemon is gone, whatever either of them is doing then.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final

import attrs

from sttd.engine.contract import Preset, Recipe
from sttd.engine.process.audio import Room
from sttd.engine.process.channel import Channel, ClosedError, channel_pair
from sttd.engine.process.wire import INFO, ModelInfo, WireError
from sttd.errors import ModelError, SttdError, from_map
from sttd.host import privacy

_REAP_S: Final = 5.0  # chosen: a killed process is gone in milliseconds, unless its driver holds it


class DiedError(Exception):
    """The process is gone."""


@attrs.frozen(eq=False)
class Line:
    """A channel for calls, and the memory for their audio. One call at a time."""

    channel: Channel
    room: Room


@attrs.define(eq=False)
class Worker:
    """A process. It has a model once `load` has returned."""

    recipe: Recipe
    process: subprocess.Popen[bytes]
    _control: Channel
    _lifeline: int
    # Those that are free; None behind the last one.
    _lines: queue.SimpleQueue[Line | None] = attrs.field(factory=queue.SimpleQueue, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _calls: set[object] = attrs.field(factory=set, init=False)  # in it now
    _victims: frozenset[object] | None = attrs.field(default=None, init=False)  # in it when it died
    _culprit: object | None = attrs.field(default=None, init=False)  # the call that it was ended for
    _dead: bool = attrs.field(default=False, init=False)
    _buried: bool = attrs.field(default=False, init=False)
    _ready: bool = attrs.field(default=False, init=False)
    _closed: bool = attrs.field(default=False, init=False)

    @property
    def pid(self) -> int:
        """Its process."""
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether the process is there, and nobody has seen or made it die. (A dying one is there for a moment.)"""
        return not self._dead and self.process.poll() is None

    @property
    def reason(self) -> str:
        """How it ended, for the log."""
        status = self.process.returncode
        if status is None:
            return "it does not end"
        if status < 0:
            with contextlib.suppress(ValueError):
                return signal.Signals(-status).name
        return f"status {status}"

    # ------------------------------------------------------------ control

    def load(self, preset: Preset, *, cpu_threads: int, num_workers: int, until: float = math.inf) -> ModelInfo:
        """Load a model. Once in its life.

        Raises:
            ModelError: as `Backend.load`.
            DiedError: the process died, or was ended: it said something else than an answer.
            TimeoutError: it was not done by then.
            OSError: the daemon has no descriptors left.
        """
        if not self._ready:
            self._answer("ready", until=until)
            self._ready = True
        wanted = json.dumps(attrs.asdict(preset, recurse=False))
        with contextlib.ExitStack() as given:  # what is the other side's is closed here once it has been sent
            descriptors = []
            for _ in range(num_workers):
                channel, theirs = channel_pair()
                given.enter_context(theirs)
                room, descriptor = Room.made()
                given.callback(os.close, descriptor)
                descriptors += [theirs.fileno(), descriptor]
                self._lines.put(Line(channel, room))
            self._say(["load", wanted, cpu_threads, num_workers], descriptors=descriptors)
        info: ModelInfo = self._answer("loaded", until=until)
        return info

    def ask(self, what: str) -> ModelInfo:
        """`park` or `unpark`; what the model is then. Raises ModelError, DiedError."""
        self._say([what])
        info: ModelInfo = self._answer("loaded")
        return info

    def _say(self, message: Sequence[Any], *, descriptors: Sequence[int] = ()) -> None:
        try:
            self._control.send(message, descriptors=descriptors)
        except ClosedError:
            raise DiedError from None

    def _answer(self, name: str, *, until: float = math.inf) -> Any:
        """What comes back: `ready` says nothing, `loaded` has a `ModelInfo`."""
        try:
            match self._control.receive(until=until):
                case ["ready"] if name == "ready":
                    return None
                case ["loaded", info] if name == "loaded":
                    return INFO.read(info)
                case ["failed", {"message": str(), "data": dict()} as error]:
                    failure: SttdError = from_map(error)
                    raise failure if isinstance(failure, ModelError) else ModelError(failure.message)
                case _:
                    raise WireError("not the answer")
        except (ClosedError, WireError):
            self.kill()
            raise DiedError from None

    # ------------------------------------------------------------ calls

    @contextlib.contextmanager
    def line(self, call: object, *, until: float) -> Iterator[Line]:
        """A line for a call. It is not used again where the block raises: the answer may still come.

        A block that finds the process gone asks for `victims` before it is left. Raises TimeoutError where no line was
        free by then, DiedError where none will be.
        """
        try:
            line = self._lines.get(timeout=None if until == math.inf else max(0.0, until - time.monotonic()))
        except queue.Empty:
            raise TimeoutError from None
        if line is None:
            self._lines.put(None)  # for the next who waits
            raise DiedError
        with self._lock:
            self._calls.add(call)
        try:
            yield line
        except BaseException:
            self._end(line, call, usable=False)
            raise
        self._end(line, call, usable=not self._dead)

    def _end(self, line: Line, call: object, *, usable: bool) -> None:
        """A call is over. Its line is closed by its own thread: whoever else closed it could meet it in use."""
        with self._lock:
            self._calls.discard(call)
            usable = usable and not self._closed
            if usable:
                self._lines.put(line)
        if not usable:
            line.channel.close()

    def victims(self) -> frozenset[object]:
        """The calls that were in it when it was first seen dead."""
        with self._lock:
            self._dead = True
            if self._victims is None:
                self._victims = frozenset(self._calls)
            return self._victims

    @property
    def culprit(self) -> object | None:
        """The call that it was ended for, because it did not answer."""
        return self._culprit

    # ------------------------------------------------------------ the end

    def kill(self, *, culprit: object | None = None) -> None:
        """End it, at once and without waiting. `culprit`: the call that did not answer."""
        with self._lock:
            if self._culprit is None and self._victims is None:
                self._culprit = culprit
            self._dead = True
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()

    def bury(self) -> bool:
        """It died: `close`, and whether this is the first to know."""
        self.close()
        with self._lock:
            buried, self._buried = self._buried, True
        return not buried

    def close(self) -> None:
        """End it, wait until it is gone, and give its descriptors back; those of calls when these end. Idempotent."""
        self.kill()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_REAP_S)
        with self._lock:
            closed, self._closed = self._closed, True
        if closed:
            return
        os.close(self._lifeline)
        self._control.close()
        with contextlib.suppress(queue.Empty):
            while (line := self._lines.get_nowait()) is not None:
                line.channel.close()
        self._lines.put(None)


def spawn(recipe: Recipe, *, log_format: str) -> Worker:
    """Start a process that gets ready to load. Blocks for some milliseconds. Raises OSError."""
    with contextlib.ExitStack() as theirs_here, contextlib.ExitStack() as undone:
        control, theirs = channel_pair()
        theirs_here.enter_context(theirs)
        undone.callback(control.close)
        reader, writer = os.pipe()
        theirs_here.callback(os.close, reader)
        undone.callback(os.close, writer)
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "sttd.engine.process", str(theirs.fileno()), str(reader)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), reader),
            # It imports what this process would import, wherever it was started and by whom.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        undone.pop_all()
    worker = Worker(recipe, process, control, writer)
    level = logging.getLevelName(logging.getLogger("sttd").getEffectiveLevel()).lower()
    with contextlib.suppress(DiedError):  # `load` will see it
        what = recipe.factory, dict(recipe.arguments), list(recipe.libraries)
        worker._say(["hello", *what, level, log_format, privacy.keeps_memory()])
    return worker
