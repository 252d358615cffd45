"""What `sttctl doctor` can see of the machine: the GPU, CUDA's libraries, the daemon's process. Reads files only."""

from __future__ import annotations

import ctypes.util
import importlib.util
import re
from pathlib import Path

import attrs

_IDENTITY_MAP = ["0", "0", "4294967295"]  # /proc/PID/uid_map of a process that sees all users as they are


@attrs.frozen(kw_only=True)
class Gpu:
    """The first NVIDIA GPU."""

    present: bool
    name: str = ""
    driver: str = ""


@attrs.frozen(kw_only=True)
class CudaLibraries:
    """What CTranslate2 opens at run time and does not bring along."""

    missing: tuple[str, ...]


@attrs.frozen(kw_only=True)
class Process:
    """A process as its files in /proc show it."""

    readable: bool
    no_new_privileges: bool = False
    seccomp: bool = False
    private_users: bool = False
    gpu_hidden: bool = False
    rss_bytes: int | None = None


def look_at_gpu(root: Path = Path("/")) -> Gpu:
    """The GPU as its driver shows it."""
    cards = sorted(root.glob("proc/driver/nvidia/gpus/*/information"))
    if not cards:
        return Gpu(present=False)
    fields = dict(_fields(_read(cards[0])))
    version = re.search(r"\d+\.[\d.]+", _read(root / "proc/driver/nvidia/version"))
    return Gpu(present=True, name=fields.get("Model", "NVIDIA GPU"), driver=version.group() if version else "unknown")


def look_at_libraries() -> CudaLibraries:
    """Whether cuBLAS is there: with the system's linker, or as a wheel beside this program."""
    wanted = {"cuBLAS 12": ("cublas", "nvidia.cublas")}
    missing = [
        name
        for name, (library, package) in wanted.items()
        if ctypes.util.find_library(library) is None and not _has_package(package)
    ]
    return CudaLibraries(missing=tuple(missing))


def look_at_process(pid: int, root: Path = Path("/")) -> Process:
    """The daemon's process. Its status is public, its mounts are for its own user and root."""
    proc = root / "proc" / str(pid)
    status = dict(_fields(_read(proc / "status")))
    if not status:
        return Process(readable=False)
    uid_map = _read(proc / "uid_map").split()
    return Process(
        readable=True,
        no_new_privileges=status.get("NoNewPrivs") == "1",
        seccomp=status.get("Seccomp", "0") != "0",
        private_users=bool(uid_map) and uid_map != _IDENTITY_MAP,
        gpu_hidden=_gpu_hidden(proc, root),
        rss_bytes=int(status["VmRSS"].split()[0]) * 1024 if "VmRSS" in status else None,
    )


def _gpu_hidden(proc: Path, root: Path) -> bool:
    if not (root / "dev/nvidiactl").exists():
        return False
    try:
        return (proc / "root/dev").is_dir() and not (proc / "root/dev/nvidiactl").exists()
    except OSError:  # somebody else's process: not to be known
        return False


def _has_package(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _fields(text: str) -> list[tuple[str, str]]:
    """The `Name: value` lines of a file."""
    pairs = (line.partition(":") for line in text.splitlines())
    return [(name.strip(), value.strip()) for name, colon, value in pairs if colon]


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
