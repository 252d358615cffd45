"""How many real-time sessions one core carries when decoding costs nothing.

The load comes from this process, the daemon is another; its CPU time is read from the kernel and its event-loop lag
from `status`. All sessions speak the same real speech, each shifted by its own phase.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import trio

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.sessions import Session, script

STEPS = (50, 100, 150, 200)
CHUNK_MS = 100
SECONDS = 14.0  # the lag that `status` shows is that of the last 10 s


def main(_: Options) -> None:
    """More and more sessions, a daemon each time."""
    rows, speech = [], script()
    for sessions in STEPS:
        keep: dict[str, int] = {}
        limits = ["--set", "limits.sessions=1000", "--set", "limits.sessions_per_uid=1000"]
        with load.daemon("--model", "fake", *limits, keep=keep) as directory:
            rows.append(trio.run(step, directory, keep["pid"], sessions, speech))
    report.write(
        "density",
        rows,
        {
            "load": f"real speech at real-time pace in {CHUNK_MS} ms chunks, interims on, fake model",
            "target": "150 sessions a core at a lag p99 of at most 20 ms",
        },
    )


async def step(directory: Path, pid: int, sessions: int, speech: Session) -> dict[str, Any]:
    """One table row: so many sessions on a daemon, for `SECONDS`."""
    frames = load.chunked(speech.pcm * 2, chunk_ms=CHUNK_MS)
    talks: list[load.Talk] = []
    refused: list[int] = []

    async def one(number: int) -> None:
        phase = number * 37 % (len(frames) // 2)
        rotated = frames[phase:] + frames[:phase]
        delay_s = number / sessions * CHUNK_MS / 1000
        try:
            talks.append(await load.talk(directory, rotated, chunk_ms=CHUNK_MS, delay_s=delay_s))
        except RuntimeError:
            refused.append(number)  # `overloaded`: the daemon says so before it serves badly

    async with trio.open_nursery() as nursery:
        for number in range(sessions):
            nursery.start_soon(one, number)
        await trio.sleep(3)  # connecting is not what is measured
        before, at = load.tree_cpu_s(pid), trio.current_time()
        await trio.sleep(SECONDS)
        used = (load.tree_cpu_s(pid) - before) / (trio.current_time() - at)
        status = await trio.to_thread.run_sync(load.call, directory, "status")
        nursery.cancel_scope.cancel()
    return {
        "sessions": sessions,
        "served": status["sessions"]["active"],
        "refused": len(refused),
        "cpu_cores": round(used, 3),
        "sessions_per_core": round(sessions / used) if used else None,
        "loop_lag_p99_ms": status["health"]["event_loop_lag_ms_p99"],
        "final_p95_ms": status["latency_ms"]["final"]["p95"],
        "decodes": status["scheduler"]["batches"],
        "load_1m": round(os.getloadavg()[0], 1),
    }
