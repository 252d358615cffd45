"""Finals per second through the daemon beside a bare CTranslate2 loop over the same utterances and options.

The bare loop is the least program that does the work: features, `encode`, `generate`, text, one utterance after
another or eight in a call, in one process with the daemon's threads. The daemon gets the utterances over its
socket, interims off, each ended by `finalize`; a session sends the next one while the last is decoded, so that one
session is never batched and eight are. Arms alternate, and ratios are medians of the ratios within a round, for the
machine may be twice as fast in the next. Temperatures above 0 are off: whether a
text is decoded again may hang on the last bit.

Three things that sttd does, the bare loop (`bare.py`) does as well, or the daemon would seem to be faster than its own
work; a row each says what a program gets that does not know of them. Its threads spin before they sleep
(`openmp.spin_briefly`). It keeps freed heap (`memory.keep_heap`), set up before anything else in a process of its own.
And it computes features in blocks (`whisper_audio.log_mel`): in faster-whisper's own way OpenBLAS wakes threads for
them that go on spinning beside those of CTranslate2. The last row knows of none of them.

Columns: `ratio` is finals per second over those of the bare loop of the same model, one utterance a call; `cpu_s`
is CPU time of the process that decodes, for each final; `same_text_pct` of the texts are those of the bare loop
(what is far from sure hangs on the last bit).

Targets: one session at least 0.95; eight sessions with `base` above 1.3.
"""

from __future__ import annotations

import os
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import trio

from benchmarks import load, report
from benchmarks.bare import BareProcess, Run
from benchmarks.options import Model, Options
from benchmarks.sessions import session_for

ROUNDS = 3
BATCH = 8
SESSIONS = 8
OUTSTANDING = 2  # of a session: one is decoded, the next is there
UTTERANCES = 32  # an arm decodes so many, those of the session again and again: four batches


def main(options: Options) -> None:
    """A row for each arm."""
    model = options.model
    report.write(
        "throughput",
        _measure(model),
        {
            "targets": "daemon, 1 session: ratio at least 0.95; daemon, 8 sessions, base: above 1.3",
            "arms": f"medians of {ROUNDS} alternating rounds",
        },
        model=model.name,
    )


def _measure(model: Model) -> list[dict[str, object]]:
    mine = session_for(model).utterances()
    utterances = [mine[index % len(mine)] for index in range(UTTERANCES)]
    settings = ["--set", f"presets.bench.model={model.path}", "--set", "presets.bench.temperatures=[0.0]"]
    keep: dict[str, Any] = {}
    runs: dict[str, list[Run]] = {}
    with ExitStack() as stack:
        directory = stack.enter_context(load.daemon("--model", "bench", *settings, keep=keep))
        entry = load.call(directory, "load", preset="bench", keep_alive_s=-1)["entry"]
        threads = entry["cpu_threads"]
        bare = stack.enter_context(BareProcess(model.path, threads=threads))
        asleep = stack.enter_context(BareProcess(model.path, threads=threads, spin=False))
        glibc_heap = stack.enter_context(BareProcess(model.path, threads=threads, keep_heap=False))
        plain = stack.enter_context(BareProcess(model.path, threads=threads, keep_heap=False, spin=False))
        for loop in (bare, asleep, glibc_heap, plain):
            loop.run(utterances[:1], batch=1)  # loads the model, and warms it up
        arms: dict[str, Callable[[], Run]] = {
            "bare loop": lambda: bare.run(utterances, batch=1),
            "daemon, 1 session": lambda: trio.run(_through_daemon, directory, keep["pid"], utterances, 1),
            f"bare loop, {BATCH} a call": lambda: bare.run(utterances, batch=BATCH),
            f"daemon, {SESSIONS} sessions": lambda: trio.run(
                _through_daemon, directory, keep["pid"], utterances, SESSIONS
            ),
            "bare loop, faster-whisper's features": lambda: bare.run(utterances, batch=1, blocks=False),
            "bare loop, threads as libgomp has them": lambda: asleep.run(utterances, batch=1),
            "bare loop, heap as glibc has it": lambda: glibc_heap.run(utterances, batch=1),
            "bare loop, none of the three": lambda: plain.run(utterances, batch=1, blocks=False),
        }
        for _ in range(ROUNDS):
            for name, arm in arms.items():
                before = load.call(directory, "status")["scheduler"]
                run = arm()
                print(f"  {name}: {run.took_s:.1f} s", file=sys.stderr, flush=True)
                after = load.call(directory, "status")["scheduler"]
                run.calls = run.calls or after["batches"] - before["batches"]
                runs.setdefault(name, []).append(run)
    reference = runs["bare loop"]
    return [
        {
            "arm": name,
            "finals_per_s": round(len(utterances) / statistics.median(run.took_s for run in mine), 2),
            "ratio": round(
                statistics.median(other.took_s / run.took_s for run, other in zip(mine, reference, strict=True)),
                2,
            ),
            "cpu_s": round(statistics.median(run.cpu_s for run in mine) / len(utterances), 3),
            "batch_mean": round(len(utterances) / statistics.median(run.calls for run in mine), 1),
            "same_text_pct": round(
                100 * np.mean([a == b for a, b in zip(mine[0].texts, reference[0].texts, strict=True)])
            ),
            "load_1m": round(os.getloadavg()[0], 1),
        }
        for name, mine in runs.items()
    ]


# ------------------------------------------------------------------------------------------------ the daemon


async def _through_daemon(directory: Path, pid: int, utterances: list[bytes], sessions: int) -> Run:
    """All utterances, shared out to the sessions as these get done with them."""
    texts = [""] * len(utterances)
    todo = iter(enumerate(utterances))
    frames = [load.frame(data) for data in utterances]
    async with trio.open_nursery() as nursery:
        opened: list[load.Session] = []
        closing = trio.Event()
        for _ in range(sessions):
            await nursery.start(_hold_open, directory, opened, closing)
        cpu, began = load.tree_cpu_s(pid), trio.current_time()
        async with trio.open_nursery() as work:
            for session in opened:
                work.start_soon(_feed, session, todo, frames, texts)
        run = Run(trio.current_time() - began, load.tree_cpu_s(pid) - cpu, texts, calls=0)
        closing.set()
    return run


async def _hold_open(
    directory: Path, opened: list[load.Session], closing: trio.Event, *, task_status: trio.TaskStatus[None]
) -> None:
    """Connecting is not what is measured."""
    async with load.connect(directory, endpointing=False, interim=False, lang="en") as session:
        opened.append(session)
        task_status.started()
        await closing.wait()


async def _feed(
    session: load.Session, todo: Iterator[tuple[int, bytes]], frames: list[bytes], texts: list[str]
) -> None:
    """Send utterances, at most `OUTSTANDING` of them without their final."""
    waiting: list[int] = []
    events = session.events()
    while True:
        while len(waiting) < OUTSTANDING and (item := next(todo, None)) is not None:
            await session.stream.send_all(frames[item[0]])
            await session.say(op="finalize")
            waiting.append(item[0])
        if not waiting:
            return
        async for event in events:
            if event["type"] == "final":
                texts[waiting.pop(0)] = event["text"]
                break
