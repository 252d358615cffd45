"""How many real-time sessions one core carries when decoding costs nothing; of them some where nobody speaks.

The load comes from this process, the daemon is another; its CPU time is read from the kernel, its event-loop lag from
`status`, and its memory is what it has beyond that without sessions. All sessions speak the same real speech, each
shifted by its own phase, in messages of 20 ms (as browsers and telephones send them) or 100 ms. Who is silent sends a
quiet room, and is measured once Silero sleeps.

With `--against DIRECTORY`, another checkout, each row is measured `PAIRS` times with either, in turn, and has the
medians of both and the ratio: on a busy machine the only comparison that means something.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import trio

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.sessions import script

SECONDS = 14.0  # the lag that `status` shows is that of the last 10 s
SETTLE_S = 3.0  # connecting is not what is measured
ASLEEP_S = 8.0  # in silence
PAIRS = 3
QUIET = 10  # of 32768, -70 dB
ROOM_S = 60  # longer than a measurement


@attrs.frozen(kw_only=True)
class Load:
    """What the daemon is asked to do."""

    sessions: int
    message_ms: int
    silent: bool = False


STEPS = (
    Load(sessions=25, message_ms=20),
    Load(sessions=50, message_ms=20),
    *(Load(sessions=sessions, message_ms=100) for sessions in (50, 100, 150, 200)),
    Load(sessions=50, message_ms=20, silent=True),
    Load(sessions=50, message_ms=100, silent=True),
)
COMPARED = (STEPS[0], STEPS[2], *STEPS[-2:])  # the others take the same work in other amounts


def main(options: Options) -> None:
    """More and more sessions, a daemon each time; or those of two checkouts in turn."""
    speech = script().pcm
    if options.against is None:
        rows = [once(step, speech, tree=load.ROOT) for step in STEPS]
    else:
        rows = [row for step in COMPARED for row in pairs(step, speech, other=options.against)]
    report.write(
        "density",
        rows,
        {
            "load": "at real-time pace, interims on, fake model",
            "target": "150 sessions a core at a lag p99 of at most 20 ms; a silent one at most 0.1 % of a core",
        },
    )


def pairs(step: Load, speech: bytes, *, other: Path) -> Iterator[dict[str, Any]]:
    """The rows of both checkouts for one load."""
    runs: dict[str, list[dict[str, Any]]] = {"this": [], "other": []}
    for _ in range(PAIRS):
        runs["other"].append(once(step, speech, tree=other))
        runs["this"].append(once(step, speech, tree=load.ROOT))
    medians = {tree: statistics.median(row["session %"] for row in rows) for tree, rows in runs.items()}
    for tree, rows in runs.items():
        row = min(rows, key=lambda row: abs(row["session %"] - medians[tree]))
        yield {"tree": tree, **row, "times as many": round(medians["other"] / medians[tree], 2)}


def once(step: Load, speech: bytes, *, tree: Path) -> dict[str, Any]:
    """One table row, with a daemon of its own."""
    keep: dict[str, int] = {}
    limits = ["--set", "limits.sessions=1000", "--set", "limits.sessions_per_uid=1000"]
    with load.daemon("--model", "fake", *limits, keep=keep, tree=tree) as directory:
        return trio.run(measure, directory, keep["pid"], step, speech)


async def measure(directory: Path, pid: int, step: Load, speech: bytes) -> dict[str, Any]:
    """So many sessions on a daemon, for `SECONDS`."""
    pcm = room() if step.silent else speech * 2
    frames = load.chunked(pcm, chunk_ms=step.message_ms)
    refused: list[int] = []
    resident = load.resident_bytes(pid)

    async def one(number: int) -> None:
        phase = number * 37 * 100 // step.message_ms % (len(frames) // 2)
        delay_s = number / step.sessions * step.message_ms / 1000
        try:
            await load.talk(directory, frames[phase:] + frames[:phase], chunk_ms=step.message_ms, delay_s=delay_s)
        except RuntimeError:
            refused.append(number)  # `overloaded`: the daemon says so before it serves badly

    async with trio.open_nursery() as nursery:
        for number in range(step.sessions):
            nursery.start_soon(one, number)
        await trio.sleep(ASLEEP_S if step.silent else SETTLE_S)
        before, at = load.tree_cpu_s(pid), trio.current_time()
        await trio.sleep(SECONDS)
        used = (load.tree_cpu_s(pid) - before) / (trio.current_time() - at)
        status = await trio.to_thread.run_sync(load.call, directory, "status")
        resident = load.resident_bytes(pid) - resident
        nursery.cancel_scope.cancel()
    return {
        "speech": "none" if step.silent else "real",
        "message_ms": step.message_ms,
        "sessions": step.sessions,
        "served": status["sessions"]["active"],
        "refused": len(refused),
        "cpu_cores": round(used, 3),
        "session %": round(100 * used / step.sessions, 3),
        "session_kb": round(resident / step.sessions / 1000),
        "sessions_per_core": round(step.sessions / used) if used else None,
        "loop_lag_p99_ms": status["health"]["event_loop_lag_ms_p99"],
        "final_p95_ms": status["latency_ms"]["final"]["p95"],
        "decodes": status["scheduler"]["batches"],
        "load_1m": round(os.getloadavg()[0], 1),
    }


def room() -> bytes:
    """A quiet room."""
    samples = np.random.default_rng(0).normal(0, QUIET, load.RATE * ROOM_S)
    return samples.astype("<i2").tobytes()
