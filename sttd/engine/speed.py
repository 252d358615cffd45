"""How long this machine takes for a model, and which model it should have.

Two times say it: that of an **interim** (the encoder on the window that interims get, and `INTERIM_TOKENS` tokens with
one beam: about 5 s of speech) and that of a **final** of a full window (`WINDOW_TOKENS` tokens with the beams of
finals: 30 s of quick speech). Both are measured at the first loads of a model, with work of a fixed amount: the
end of the text is forbidden, so nothing depends on what is said. The ledger remembers them.

Rules:

1. A machine runs a model **live** when one speaker can have an interim every second and all of his finals:
   `window_s / 30 + interim_s ≤ 1`. Above it the text falls behind, or interims become so few that nobody calls it live.
2. What was not measured is expected: the catalogue's time for a machine of `REFERENCE_THREADS` threads, divided by what
   more threads gain, and corrected by what this machine took for other models. A GPU is expected to run everything.
3. **auto** is the first of the catalogue's ladder that is on disk and runs live, as measured, or as expected where it
   was not; if none does, the smallest on disk, which is the best there is.
4. **Recommended** is the first of the ladder that is expected to run live and fits into half of the memory; on a GPU,
   into three quarters of its memory.
"""

from __future__ import annotations

import functools
import os
import platform
import statistics
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Final

from sttd.engine.contract import Preset
from sttd.engine.store.catalogue import LADDER, PUBLISHED, Published
from sttd.engine.store.ledger import Speed

INTERIM_TOKENS: Final = 20  # 5 s of speech: English has about 4 tokens a second
WINDOW_TOKENS: Final = 120
WINDOW_S: Final = 30.0
TAKES: Final = 3  # chosen: loads that measure; a machine that was busy at the first is not held to it for good
HOPELESS_S: Final = 5.0  # an interim that takes so long says it all; the window, many times as long, is not tried
REFERENCE_THREADS: Final = 2  # of the catalogue's times
_GAIN_LIMIT: Final = 4  # threads of one call beyond which more gain little (`presets.CORES_PER_WORKER`)
_BYTES_INT8: Final = 0.55  # of the published float16 file, with the buffers of a decode (base: 145 MB → 80 MB)


def best_of(known: Speed | None, found: Speed) -> Speed:
    """What is remembered after another measurement: nothing makes a model look quicker than it is."""
    if known is None:
        return found
    windows = [window_s for window_s in (known.window_s, found.window_s) if window_s is not None]
    return Speed(
        interim_s=min(known.interim_s, found.interim_s),
        window_s=min(windows, default=None),
        takes=known.takes + 1,
    )


def runs_live(speed: Speed | None) -> bool | None:
    """Rule 1; None where nothing was measured."""
    if speed is None:
        return None
    if speed.window_s is None:
        return False
    return speed.window_s / WINDOW_S + speed.interim_s <= 1.0


def expected(model: Published, *, threads: int, factor: float = 1.0) -> Speed:
    """Rule 2 for a CPU. `factor`: what this machine takes of what is expected of it."""
    scale = factor * REFERENCE_THREADS / min(threads, _GAIN_LIMIT)
    return Speed(interim_s=model.interim_s * model.interim_share * scale, window_s=model.window_s * scale)


def correction(measured: Mapping[str, Speed], *, threads: int) -> float:
    """What this machine took for the models that it was measured with, over what was expected; 1 without any."""
    ratios = [
        speed.interim_s / expected(PUBLISHED[name], threads=threads).interim_s
        for name, speed in measured.items()
        if name in PUBLISHED
    ]
    return statistics.median(ratios) if ratios else 1.0


def choose(on_disk: Iterable[str], live: Callable[[str], bool]) -> str | None:
    """Rule 3: what `auto` means. `live` says of a model whether it runs live, as measured or as expected."""
    there = set(on_disk)
    ladder = [name for name in LADDER if name in there]
    return next((name for name in ladder if live(name)), ladder[-1] if ladder else None)


def recommend(live: Callable[[str], bool], *, memory_bytes: int, on_gpu: bool) -> str:
    """Rule 4: which model to get for this machine; `memory_bytes` is what it has in all, of the kind that is used."""
    share, growth = (0.75, 1.0) if on_gpu else (0.5, _BYTES_INT8)
    fitting = [name for name in LADDER if PUBLISHED[name].size_bytes * growth <= memory_bytes * share]
    return next((name for name in fitting if live(name)), LADDER[-1])


def key_of(preset: Preset, folder: Path) -> str:
    """Everything that the time depends on: the weights, the way they are run, and the machine."""
    weights = (folder / "model.bin").stat()
    parts = (
        folder,
        weights.st_size,
        weights.st_mtime_ns,
        preset.device,
        preset.compute_type,
        f"threads={preset.cpu_threads}",
        f"options={sorted(preset.options.items())}",
        _processor(),
        f"ctranslate2={_library()}",
    )
    return "|".join(map(str, parts))


@functools.cache
def _library() -> str:
    return metadata.version("ctranslate2")


@functools.cache
def _processor() -> str:
    """The CPU's name, and how many of them this process may use."""
    name = platform.machine()
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
            name = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), name)
    except OSError:
        pass
    return f"{name} x{len(os.sched_getaffinity(0))}"


__all__ = ["INTERIM_TOKENS", "WINDOW_TOKENS", "choose", "correction", "expected", "key_of", "recommend", "runs_live"]
