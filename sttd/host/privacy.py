"""What is spoken stays in this process: nothing reports home, and nobody reads its memory.

Rules:

1. No library sends statistics: their switches are set before they are imported, since some read them at import alone.
2. No core is written. A limit of 0 does not hold for cores that are piped to a program (core(5)), so the process is
   made one that has none. That also keeps other programs of the same user from reading its memory, or attaching to it.
"""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Mapping, MutableMapping
from typing import Final

from sttd.host import logs

log = logs.get(__name__)

SWITCHES: Final[Mapping[str, str]] = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, read at import
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime, read at import; 1.29 and later phone home otherwise
    "DO_NOT_TRACK": "1",  # a convention that others follow
}
_PR_GET_DUMPABLE: Final = 3  # prctl(2)
_PR_SET_DUMPABLE: Final = 4


def silence(environ: MutableMapping[str, str]) -> None:
    """Rule 1, for this process and those that it starts."""
    environ.update(SWITCHES)


def keep_memory() -> None:
    """Rule 2, for this process; a program that it executes has to do so for itself. Where it fails, the log says so."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0):
        log.warning("cores cannot be forbidden", reason=os.strerror(ctypes.get_errno()))


def keeps_memory() -> bool:
    """Whether this process can have no core."""
    return not ctypes.CDLL(None).prctl(_PR_GET_DUMPABLE, 0, 0, 0, 0)
