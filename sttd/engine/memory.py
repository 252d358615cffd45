"""What the process may take of memory and cores, read from /proc, /sys and, where there is one, from the NVIDIA driver.

All functions are cheap (tens of microseconds), never raise for want of a GPU, and return bytes.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, Final

import attrs

from sttd.errors import SttdError

CGROUPS: Final = Path("/sys/fs/cgroup")
OWN_CGROUP: Final = Path("/proc/self/cgroup")
NO_LIMIT: Final = 1 << 62
KEPT_HEAP_BYTES: Final = 512 * 1024**2  # enough for a call of one item of small; what a large batch took goes back
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8  # of malloc.h


@attrs.frozen(kw_only=True)
class GpuMemory:
    """One GPU as its driver sees it."""

    total_bytes: int
    free_bytes: int


def process_rss_bytes(others: Iterable[int] = ()) -> int:
    """Resident memory of this process, and of those others that are there."""
    pages = int(_read("/proc/self/statm").split()[1])
    for pid in others:
        with contextlib.suppress(OSError, IndexError):  # it is gone, or no descriptor is left
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def available_bytes() -> int:
    """Main memory that can be taken without swapping: the kernel's estimate, or less where a cgroup allows less."""
    return min(_of_machine("MemAvailable"), _available_of_cgroup())


def total_bytes() -> int:
    """Main memory of the machine, or less where the service's `MemoryMax=` allows less."""
    return min(_of_machine("MemTotal"), _limit_of_cgroup())


def usable_cores() -> int:
    """Physical cores among the CPUs that this process may run on; hyper-threads share one and don't count.

    A cgroup's quota of CPU time counts as so many cores, rounded up: more threads use it up sooner, and then all of
    them stand still until the next period.
    """
    cpus = os.sched_getaffinity(0)
    siblings = {_siblings(cpu) for cpu in cpus}
    return max(1, math.ceil(min(len(siblings), _quota_cores())))


def keep_heap() -> bool:
    """Let the C library keep freed heap for the next call. False where it has no `mallopt`, or refuses.

    By default glibc maps every large buffer afresh and unmaps it when it is freed, so each decode has its attention
    scores zeroed page by page by the kernel: a third of the encoder's CPU time for base and tiny.en, half for the demo
    model (measured: 156,000 page faults an encoder run of base, then none). So no buffer is mapped by itself. To raise
    the size from which on one is would not do: older releases of glibc refuse more than 32 MiB. One arena, because the
    heaps of the others are too small for such buffers. `trim` gives back what was kept. To be called before other
    threads have allocated anything.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, KEPT_HEAP_BYTES))
    return all(mallopt(name, value) == 1 for name, value in settings)


def trim() -> bool:
    """Give freed heap back to the kernel. False where the C library has no `malloc_trim`."""
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is None:
        return False
    malloc_trim(0)
    return True


def gpu_memory(index: int) -> GpuMemory | None:
    """Total and free memory of a GPU; None without one or without the `gpu` extra (nvidia-ml-py)."""
    nvml = _nvml()
    if nvml is None:
        return None
    try:
        info = nvml.nvmlDeviceGetMemoryInfo(nvml.nvmlDeviceGetHandleByIndex(_nvml_index(index)))
    except nvml.NVMLError:
        return None
    return GpuMemory(total_bytes=int(info.total), free_bytes=int(info.free))


def process_vram_bytes(others: Iterable[int] = ()) -> int | None:
    """GPU memory that this process and those others hold on all GPUs; None where that cannot be known."""
    nvml = _nvml()
    if nvml is None:
        return None
    used, ours = 0, {os.getpid(), *others}
    try:
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            used += sum(int(process.usedGpuMemory or 0) for process in running if process.pid in ours)
    except nvml.NVMLError:
        return None
    return used


def _read(path: str) -> str:
    """A small file of /proc, by a descriptor that stays open: it can be read when no more can be opened."""
    return os.pread(_descriptor(path), 16 * 1024, 0).decode("ascii", "replace")


@functools.cache
def _descriptor(path: str) -> int:
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)


def _of_machine(name: str) -> int:
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux since 3.14 has MemTotal and MemAvailable")


def _own_cgroups(controller: str = "") -> Iterator[Path]:
    """The folders of this process's cgroup and of those above it, whose limits hold for it too.

    Args:
        controller: of the hierarchy of cgroups v1 that it has there; "" for v2. In a container both may begin at the
            container's own cgroup, while the kernel names that by its place on the host: the root is always among them.
    """
    try:
        lines = [line.split(":", 2) for line in OWN_CGROUP.read_text().splitlines()]
    except OSError:
        return
    for line in lines:
        if len(line) == 3 and controller in line[1].split(","):
            path = PurePosixPath(line[2].lstrip("/"))
            root = CGROUPS / controller if controller else CGROUPS
            places = (path, *path.parents) if ".." not in path.parts else (PurePosixPath(),)
            yield from dict.fromkeys(root / place for place in places)


def _quota_cores() -> float:
    """CPUs' worth of time that `CPUQuota=` or `docker --cpus` allows; infinite without."""
    v2 = (_quota(folder / "cpu.max") for folder in _own_cgroups())
    v1 = (_quota(folder / "cpu.cfs_quota_us", folder / "cpu.cfs_period_us") for folder in _own_cgroups("cpu"))
    return min((*v2, *v1), default=math.inf)


def _quota(*files: Path) -> float:
    """Time over period, which stand in one file or in two."""
    try:
        quota, period = (int(word) for word in " ".join(file.read_text() for file in files).split())
    except (OSError, ValueError):  # it says "max"
        return math.inf
    return quota / period if quota > 0 and period > 0 else math.inf


def _limit_of_cgroup() -> int:
    """`MemoryMax=` of the service, or of what it is part of."""
    return min((_memory_limit(folder) for folder in _own_cgroups()), default=NO_LIMIT)


def _memory_limit(folder: Path) -> int:
    try:
        return int((folder / "memory.max").read_text())
    except (OSError, ValueError):  # it says "max"
        return NO_LIMIT


def _available_of_cgroup() -> int:
    """What such limits leave; file cache counts as free, since the kernel reclaims it."""
    return min((_available_in(folder) for folder in _own_cgroups()), default=NO_LIMIT)


def _available_in(folder: Path) -> int:
    limit = _memory_limit(folder)
    if limit == NO_LIMIT:
        return NO_LIMIT
    try:
        used = int((folder / "memory.current").read_text())
        lines = (folder / "memory.stat").read_text().splitlines()
        cached = next(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
    except (OSError, StopIteration, ValueError):
        return NO_LIMIT
    return max(0, limit - used + cached)


def _siblings(cpu: int) -> str:
    try:
        return Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


@functools.cache
def _nvml() -> Any | None:
    """The NVML module, initialised once; it loads the driver's library, which takes some milliseconds."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _nvml_index(index: int) -> int:
    """NVML counts all GPUs; CUDA only those in CUDA_VISIBLE_DEVICES, where they are given by number."""
    visible = [item.strip() for item in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if item.strip()]
    return int(visible[index]) if index < len(visible) and visible[index].isdigit() else index


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of a backend is want of memory.

    CTranslate2 says so by text only: "CUDA failed with error out of memory", "... std::bad_alloc".
    """
    if isinstance(error, SttdError):
        return error.code == "out_of_memory"
    text = str(error).lower()
    return isinstance(error, MemoryError) or "out of memory" in text or "bad_alloc" in text
