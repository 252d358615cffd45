"""Backends that a process of its own makes, for the tests: what a native library may do, on demand."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import time

import attrs

from sttd.core.types import Hypothesis
from sttd.engine.contract import NOBODY, EngineLostError, Recipe, Unfinished
from sttd.engine.fake import FakeBackend, FakeModel, FakeOptions
from sttd.errors import ModelError
from sttd.host import privacy

LIBC = ctypes.PyDLL(None)  # its calls keep the interpreter's lock, as the worst of libraries do


@attrs.frozen(kw_only=True)
class DoubleModel(FakeModel):
    """Does what the prompt of the first item says."""

    def decode(self, batch, *, waiters=NOBODY):
        match batch[0].options.prompt.split():
            case ["hang"]:
                LIBC.sleep(3600)
            case ["sleep", seconds]:
                time.sleep(float(seconds))
            case ["crash"] if len(batch) == 1:
                signal.raise_signal(signal.SIGSEGV)
            case ["pid"]:
                return [Hypothesis(text=str(os.getpid())) for _ in batch]
            case ["core"]:
                limits = resource.getrlimit(resource.RLIMIT_CORE)
                return [Hypothesis(text=f"{privacy.keeps_memory()} {limits}") for _ in batch]
            case ["odd"]:
                return [Hypothesis(text="odd", segments="no segments"), 3, *super().decode(batch[2:])]
            case ["lose", path] if os.path.exists(path):
                os.unlink(path)
                return [EngineLostError("the GPU failed") for _ in batch]
            case ["fail"]:
                raise MemoryError
            case ["ask"]:
                answers = [waiters.gone(index) for index in range(len(batch))], waiters.hurry()
                waiters.tell(0, Hypothesis(text=repr(answers)))
            case ["leave"]:
                known = batch[0].known or ()
                if len(known) < 2:
                    rest = attrs.evolve(batch[0], samples=batch[0].samples[4800:], known=(*known, "tried"), step=1)
                    return [Unfinished(rest)]
                return [Hypothesis(text=f"{len(known)} {batch[0].step} {len(batch[0].samples)}")]
            case ["tell-and-crash"]:
                if len(batch) > 1:
                    waiters.tell(0, Hypothesis(text="told"))
                    signal.raise_signal(signal.SIGSEGV)
        return super().decode(batch)


@attrs.frozen(kw_only=True)
class OnDevice(FakeModel):
    """A model whose weights are in the memory of a device, or parked."""

    device: str = "cuda:0"
    vram_bytes: int = 1000
    parkable: bool = True

    def park(self):
        self._move(ram_bytes=self.vram_bytes, vram_bytes=0)
        return True

    def unpark(self):
        if self.options.fault == "raise":
            raise ModelError("no room", code="out_of_memory")
        self._move(ram_bytes=0, vram_bytes=self.ram_bytes)

    def _move(self, **bytes_):
        for name, value in bytes_.items():
            object.__setattr__(self, name, value)


class DoubleBackend(FakeBackend):
    """Its presets say by their model how they load."""

    __slots__ = ()

    def recipe(self):
        return Recipe(factory="tests.unit.engine.process.doubles:DoubleBackend", libraries=("no_such_library",))

    def load(self, preset, *, cpu_threads, num_workers):
        match preset.model.split():
            case ["crash"]:
                os._exit(3)
            case ["refuse"]:
                raise ModelError("too large", code="out_of_memory", data={"compute_type": "float32"})
            case ["raise"]:
                raise ZeroDivisionError
            case ["hang"]:
                time.sleep(3600)
            case ["once", path]:
                os.unlink(path)
            case ["device"]:
                return OnDevice(options=FakeOptions())
            case ["device", "that", "is", "full"]:
                return OnDevice(options=FakeOptions(fault="raise"))
        return DoubleModel(options=FakeOptions(), workers=num_workers)
