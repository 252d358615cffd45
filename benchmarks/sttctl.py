"""How long does `sttctl status` take from the shell, and how much of that is the daemon?

    python -m benchmarks sttctl

Programs are started one after another, in turns, so that a busy moment of the machine falls on all of them. CPU time
is the child's own, user and system: it travels better between machines than wall time does. Targets: `sttctl status`
below 100 ms, and below 150 ms with an answer of a daemon.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import attrs
from sttd_client.control import open_control

from benchmarks import report
from benchmarks.options import Options
from sttd.wire.rpc import encode_request, encode_response
from tests.running import RunningDaemon

ROUNDS = 40
CALLS = 2000
TARGET_MS = 100


@attrs.frozen
class Start:
    """One start of a program."""

    wall_ms: float
    cpu_ms: float


def start(command: list[str]) -> Start:
    """Run a program to its end, its output thrown away."""
    began = time.perf_counter()
    nowhere = [(os.POSIX_SPAWN_OPEN, descriptor, os.devnull, os.O_WRONLY, 0) for descriptor in (1, 2)]
    pid = os.posix_spawn(command[0], command, os.environ, file_actions=nowhere)
    _, _, usage = os.wait4(pid, 0)
    return Start((time.perf_counter() - began) * 1000, (usage.ru_utime + usage.ru_stime) * 1000)


def percentiles(values: list[float]) -> tuple[float, float]:
    """The median and the 95th percentile."""
    return statistics.median(values), statistics.quantiles(values, n=20)[-1]


def starts(daemon: RunningDaemon) -> list[dict[str, object]]:
    """Rows of start times."""
    sttctl = [str(Path(sys.executable).with_name("sttctl")), "--socket", str(daemon.control)]
    commands = {
        "python -c pass": [sys.executable, "-c", "pass"],
        "sttctl --version": [*sttctl, "--version"],
        "sttctl status": [*sttctl, "status"],
        "sttctl status --json": [*sttctl, "status", "--json"],
        "sttctl models": [*sttctl, "models"],
        "python -c 'import trio'": [sys.executable, "-c", "import trio"],
    }
    for command in commands.values():
        start(command)  # reads the files into the page cache, and compiles what is not compiled yet
    found: dict[str, list[Start]] = {name: [] for name in commands}
    for _ in range(ROUNDS):
        for name, command in commands.items():
            found[name].append(start(command))
    rows: list[dict[str, object]] = []
    for name, runs in found.items():
        p50, p95 = percentiles([run.wall_ms for run in runs])
        cpu = statistics.median(run.cpu_ms for run in runs)
        rows.append(
            {"what": name, "p50_ms": round(p50, 1), "p95_ms": round(p95, 1), "cpu_p50_ms": round(cpu, 1), "bytes": None}
        )
    return rows


def calls(daemon: RunningDaemon) -> list[dict[str, object]]:
    """Rows of one `status` call over a connection that is open, and of one with its own connection."""
    open_ms, own_ms = [], []
    with open_control(daemon.control) as control:
        result = control.call("status")
        for _ in range(CALLS):
            began = time.perf_counter()
            control.call("status")
            open_ms.append((time.perf_counter() - began) * 1000)
    for _ in range(CALLS // 10):
        began = time.perf_counter()
        with open_control(daemon.control) as control:
            control.call("status")
        own_ms.append((time.perf_counter() - began) * 1000)
    size = len(encode_request(1, "status")) + len(encode_response(1, result=result))
    rows: list[dict[str, object]] = []
    for name, values in (("status, open connection", open_ms), ("status, own connection", own_ms)):
        p50, p95 = percentiles(values)
        rows.append({"what": name, "p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "cpu_p50_ms": None, "bytes": size})
    return rows


def main(_: Options) -> None:
    """Measure and report."""
    with tempfile.TemporaryDirectory() as directory:
        daemon = RunningDaemon.start(Path(directory), "--tcp", "off", "--model", "fake")
        try:
            rows = starts(daemon) + calls(daemon)
        finally:
            daemon.stop()
    report.write("sttctl", rows, {"rounds": ROUNDS, "calls": CALLS, "target_ms": TARGET_MS})
