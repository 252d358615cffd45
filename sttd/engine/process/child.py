"""What runs in the process of a model: one thread for control, and one for each line.

It computes, and decides nothing. It ends when the daemon does: the kernel kills it when the lifeline is cut, even in
the middle of a native call; and a thread that finds its channel closed ends all of it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib
import json
import os
import pickle
import select
import signal
import socket
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NoReturn

import attrs

from sttd.core.types import DecodeItem, Hypothesis
from sttd.engine import memory
from sttd.engine.boundary import decode_items
from sttd.engine.contract import EngineLostError, IsolableBackend, IsolableModel, Preset, Result
from sttd.engine.process.audio import Room
from sttd.engine.process.channel import Channel, ClosedError
from sttd.engine.process.wire import HYPOTHESIS, INFO, PLACED, ModelInfo, Placed, WireError, write_result
from sttd.errors import ModelError, SttdError
from sttd.host import logs, privacy
from sttd.options import MAX_WORKERS

log = logs.get(__name__)

# Where memory runs out the kernel ends this process, which costs a restart, and not the daemon, which costs everybody.
_OOM_SCORE: Final = 500  # chosen: of 1000
_ODD: Final = "the engine returned nothing that could be used for this audio"


def main(arguments: Sequence[str]) -> NoReturn:
    """Serve one daemon. `arguments`: the descriptors of the control socket and of the lifeline."""
    control_fd, lifeline = map(int, arguments)
    _hang_on(lifeline)
    _settle_in()
    control = Channel(socket.socket(fileno=control_fd))
    try:
        _serve(control)
    except ClosedError:
        _leave(0)
    except BaseException:
        log.exception("the process of a model failed")
        _leave(1)


def _hang_on(lifeline: int) -> None:
    """End with the daemon: when it is gone, its end of the pipe closes, and the kernel sends SIGIO, which kills.

    `PR_SET_PDEATHSIG` would not do: it means the thread that started this process, and the daemon's come and go.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it went before anybody listened
        _leave(0)


def _settle_in() -> None:
    """Signals of the process, and its place where memory runs out."""
    # The daemon is asked to stop by these, and some ways to send them reach everything that it has started: what is
    # being said then still gets its final.
    for ignored in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        signal.signal(ignored, signal.SIG_IGN)
    score = Path("/proc/self/oom_score_adj")
    with contextlib.suppress(OSError):  # not where /proc may not be written
        score.write_text(str(max(_OOM_SCORE, int(score.read_text()))))
    faulthandler.enable()


def _leave(status: int) -> NoReturn:
    """End at once: native threads crash an interpreter that takes itself apart around them."""
    sys.stderr.flush()
    os._exit(status)


# ---------------------------------------------------------------- control


def _serve(control: Channel) -> NoReturn:
    backend: IsolableBackend | None = None
    model: IsolableModel | None = None
    while True:
        message, descriptors = control.receive_with_descriptors(2 * MAX_WORKERS)
        match message:
            case ["hello", factory, arguments, modules, level, log_format, private]:
                logs.configure(level=level, format=log_format)
                if private:  # as the daemon is
                    privacy.keep_memory()
                backend = _backend(factory, arguments)
                for name in modules:
                    # What is missing, `load` says better.
                    with contextlib.suppress(ImportError, OSError):
                        importlib.import_module(name)
                control.send(["ready"])
            case ["load", preset, threads, workers] if backend is not None and model is None:
                model = _load(control, backend, preset, threads=threads, workers=workers, descriptors=descriptors)
            case ["park"] if model is not None:
                model.park()
                control.send(["loaded", INFO.write(_info(model))])
            case ["unpark"] if model is not None:
                try:
                    model.unpark()
                except ModelError as error:
                    control.send(["failed", error.as_map()])
                else:
                    control.send(["loaded", INFO.write(_info(model))])
            case _:
                raise WireError("nothing that makes sense now")


def _backend(factory: str, arguments: dict[str, Any]) -> IsolableBackend:
    module, _, name = factory.partition(":")
    backend: IsolableBackend = getattr(importlib.import_module(module), name)(**arguments)
    return backend


def _load(
    control: Channel,
    backend: IsolableBackend,
    preset: str,
    *,
    threads: int,
    workers: int,
    descriptors: Sequence[int],
) -> IsolableModel | None:
    try:
        model = backend.load(Preset(**json.loads(preset)), cpu_threads=threads, num_workers=workers)
    except SttdError as error:
        control.send(["failed", error.as_map()])
        return None
    except Exception as error:  # as in `loading.load_failure`
        log.exception("a model does not load")
        code = "out_of_memory" if memory.is_out_of_memory(error) else "model_load_failed"
        control.send(["failed", ModelError(f"the model does not load: {type(error).__name__}", code=code).as_map()])
        return None
    for line, room in zip(descriptors[::2], descriptors[1::2], strict=True):
        served = _Line(Channel(socket.socket(fileno=line)), Room.seen(room), model)
        threading.Thread(target=served.serve, name="line", daemon=True).start()
    control.send(["loaded", INFO.write(_info(model))])
    return model


def _info(model: IsolableModel) -> ModelInfo:
    return ModelInfo(
        device=model.device,
        compute_type=model.compute_type,
        workers=model.workers,
        ram_bytes=model.ram_bytes,
        vram_bytes=model.vram_bytes,
        parkable=model.parkable,
        facts=model.facts,
    )


# ---------------------------------------------------------------- calls


@attrs.frozen(eq=False)
class _Line:
    """Serves the calls of one line. Also those who wait for a call, as its model sees them."""

    channel: Channel
    room: Room
    model: IsolableModel

    def serve(self) -> NoReturn:
        """For as long as the daemon is there."""
        try:
            while True:
                match self.channel.receive():
                    case ["decode", list(plain)]:
                        self._decode(plain)
                    case _:
                        raise WireError("not a call")
        except ClosedError:
            _leave(0)
        except BaseException:
            log.exception("the process of a model failed")
            _leave(1)

    def _decode(self, plain: list[Any]) -> None:
        items = [self._item(PLACED.read(each)) for each in plain]
        results = decode_items(self.model, items, self)
        if any(isinstance(result, EngineLostError) for result in results):
            log.error("the engine decodes nothing any more, and ends")
            _leave(1)
        self.channel.send(["results", [_written(*each) for each in zip(results, items, strict=True)]])

    def _item(self, placed: Placed) -> DecodeItem:
        # Only what a process of this daemon has pickled comes back here (wire.py, rule 4).
        known = pickle.loads(placed.known) if placed.known is not None else None
        return placed.item(self.room.part(placed.at, placed.count), known)

    # ------------------------------------------------------------ Waiters

    def tell(self, index: int, hypothesis: Hypothesis) -> None:
        """As in `Waiters`."""
        self._say(["tell", index, HYPOTHESIS.write(hypothesis)])

    def gone(self, index: int) -> bool:
        """As in `Waiters`."""
        return self._ask(["gone", index])

    def hurry(self) -> bool:
        """As in `Waiters`."""
        return self._ask(["hurry"])

    def patience_s(self) -> float:
        """As in `Waiters`: the daemon looks at the clock."""
        return float("inf")

    def set_back(self, waits_for: str | None = None) -> None:
        """As in `Waiters`: the daemon knows."""

    def _say(self, message: Sequence[Any]) -> None:
        try:
            self.channel.send(message)
        except ClosedError:  # not to be caught by whoever tries things once more
            _leave(0)

    def _ask(self, message: Sequence[Any]) -> bool:
        self._say(message)
        try:
            match self.channel.receive():
                case ["answer", bool(answer)]:
                    return answer
        except ClosedError:
            _leave(0)
        log.error("no answer to a question")
        _leave(1)


def _written(result: Result, item: DecodeItem) -> list[Any]:
    try:
        return write_result(result, item, seal=pickle.dumps)
    except Exception:  # a model may put anything into a hypothesis; that must not cost the others of the call
        log.exception("the engine returned something that is no result")
        return ["error", "decode_failed", _ODD]
