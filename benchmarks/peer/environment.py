"""An environment for each server, made from the package index, and its processes."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from benchmarks import report

PEERS = report.ROOT / "build" / "peers"
READY_S = 120
THREADS = len(os.sched_getaffinity(0))


def environment(name: str, *steps: Sequence[str]) -> str:
    """The Python of an environment, made if it is not there.

    Args:
        name: of its directory below `build/peers`.
        steps: arguments of `pip install`, one call after the other; other steps than last time are all taken.

    Raises:
        subprocess.CalledProcessError: the package index has not got them; pip has said why.
    """
    folder = PEERS / name
    python = folder / "bin" / "python"
    done = folder / "installed"
    wanted = "\n".join(" ".join(step) for step in steps)
    if not done.exists() or done.read_text() != wanted:
        print(f"  installing {name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        for step in steps:
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *step], check=True)
        done.write_text(wanted)
    return str(python)


def stub(name: str, text: str) -> str:
    """A directory for PYTHONPATH with one module in place of a package that is imported and not used."""
    folder = PEERS / "stubs" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.py").write_text(text)
    return str(folder)


@contextmanager
def process(name: str, command: Sequence[str], port: int, **environ: str) -> Iterator[int]:
    """A server process once it accepts connections; its output is in `build/peers/<name>.log`.

    Raises:
        RuntimeError: it ended before, or takes too long; with the last of its output.
    """
    log = PEERS / f"{name}.log"
    # All servers use the same number of threads; where there is no flag for it, libraries look at this.
    inherited = {**os.environ, "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1"}
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env={**inherited, **environ}, process_group=0)
    try:
        _wait_for(server, port)
        if server.poll() is not None or not _accepts(port):
            raise RuntimeError(f"{name} did not start: {log.read_text().strip()[-2000:]}")
        yield server.pid
    finally:
        _end(server)


def _wait_for(server: subprocess.Popen[bytes], port: int) -> None:
    until = time.monotonic() + READY_S
    while time.monotonic() < until and server.poll() is None and not _accepts(port):
        time.sleep(0.1)


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _end(server: subprocess.Popen[bytes]) -> None:
    """A server and what it has started: some leave their children behind."""
    server.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        server.wait(10)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, 9)
    server.wait()


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
