"""cuBLAS where its wheel put it.

CTranslate2 opens `libcublas.so.12` by that name at the first call on a GPU. The linker does not look into wheels; but
a library that is loaded already is found by its name, wherever it lies.
"""

from __future__ import annotations

import ctypes
import importlib.util
import logging
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

LIBRARIES: Final = ("libcublasLt.so.12", "libcublas.so.12")  # the second needs the first


def preload() -> bool:
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
                log.warning("cuBLAS of the wheel does not load: %s", error)
                return False
            return True
    return False
