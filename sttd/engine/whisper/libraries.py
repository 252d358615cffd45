"""The native libraries that CTranslate2 leans on: what must be so before it is imported, or called on a GPU.

**libgomp: how long the threads of a decode wait for each other before they sleep.** A decode is very many short
parallel steps, and between two of them CTranslate2's threads wait for each other, by libgomp's rules. As long as there
are no more threads than cores they spin, far longer than any step takes; else for so short a time that each step begins
by waking threads. And there are more than cores as soon as one more thread has ever computed anything: the thread that
loaded the model, or the worker of a second model. Then base's shape takes twice as long (`benchmarks throughput`, a row
of its own).

**cuBLAS where its wheel put it.** CTranslate2 opens `libcublas.so.12` by that name at the first call on a GPU. The
linker does not look into wheels; but a library that is loaded already is found by its name, wherever it lies.
"""

from __future__ import annotations

import ctypes
import importlib.util
from collections.abc import MutableMapping
from pathlib import Path
from typing import Final

from sttd.host import logs

log = logs.get(__name__)

LIBRARIES: Final = ("libcublasLt.so.12", "libcublas.so.12")  # the second needs the first

# Turns of a loop: what libgomp allows at most with more threads than cores. With fewer it turns 300,000 times by
# default, which is no faster and burns a tenth more (measured on two cores).
SPINS: Final = 1000


def spin_briefly(environ: MutableMapping[str, str]) -> None:
    """Have threads spin for `SPINS`, however many there are. Whoever has set `OMP_WAIT_POLICY` knows better.

    To be called with `os.environ` before CTranslate2 is imported, for libgomp reads it when it is loaded.
    """
    if "OMP_WAIT_POLICY" in environ:
        return
    environ["OMP_WAIT_POLICY"] = "active"  # lets GOMP_SPINCOUNT hold with more threads than cores
    environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    environ.setdefault("KMP_BLOCKTIME", "1")  # ms: LLVM's OpenMP, which some builds have, would never sleep


def preload_cublas() -> bool:
    """Load cuBLAS 12 from the wheel `nvidia-cublas-cu12` (the extra `gpu`). False without it: the linker must do."""
    try:
        spec = importlib.util.find_spec("nvidia.cublas")
    except ModuleNotFoundError:
        return False
    places = list(spec.submodule_search_locations or ()) if spec is not None else []
    for place in places:
        paths = [Path(place, "lib", name) for name in LIBRARIES]
        if all(path.is_file() for path in paths):
            try:
                for path in paths:
                    ctypes.CDLL(str(path), mode=ctypes.RTLD_GLOBAL)
            except OSError as error:
                log.warning("cuBLAS of the wheel does not load", reason=str(error))
                return False
            return True
    return False
