"""A model in a process of its own: what it costs, what it gives back, and what a crash costs those who speak.

- `cost`: one utterance, decoded in the daemon's process and in another, in turns; the CPU time is that of both.
- `load`: until the first decode, in the process itself, in a new one, and in the spare one.
- `crash`: from `kill -SEGV` of the idle engine, with the utterance sent at that moment, to its final.
- `memory`: of the daemon itself, of its engine, and of the spare process.
- `kills`: ten speakers at the pace of speech, while the engine is killed again and again. What each utterance was heard
  as in a pass before, without kills, is what no word of may be missing.

Targets: a decode costs at most 2 % and 1 ms more; the daemon is within 5 MB of its start after `unload`; no word is
lost. On a machine that does other things compare CPU times.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import trio

from benchmarks import load, report
from benchmarks.options import Model, Options
from benchmarks.sessions import Session, session_for
from benchmarks.words import vanished, words
from sttd.core.types import DecodeItem, DecodeOptions, Effort
from sttd.engine.contract import Preset
from sttd.engine.process.backend import IsolatedBackend
from sttd.engine.process.crew import Crew
from sttd.engine.whisper.backend import WhisperBackend

TURNS = 30  # of each kind
LOADS = 3
CRASHES = 8
SPEAKERS = 10
KILLS = 50
APART_S = (0.5, 2.5)  # from the return of an engine to its next end
CHUNK_MS = 100
MB = 1e6
FAKE = ("--model", "fake", "--set", "presets.fake.decode_ms=100", "--set", "presets.fake.num_workers=2")
ISOLATED = ("--set", "engine.isolation=process")
NO_SPARE = ("--set", "engine.spare_ttl_s=0")


def main(options: Options) -> None:
    """All tables."""
    model = options.model
    session = session_for(model)
    meta = {"targets": "2 % and 1 ms a decode; 5 MB of the daemon after unload; no word lost"}
    report.write("isolation-cost", _measured("cost", model), meta, model=model.name)
    report.write("isolation-load", _measured("load", model), model=model.name)
    spares = {"no": NO_SPARE, "yes": ()}
    rows = [{"spare": spare, **trio.run(_crashes, model, session, more)} for spare, more in spares.items()]
    report.write("isolation-crash", rows, model=model.name)
    report.write("isolation-memory", [trio.run(_memory, model, session)], model=model.name)
    rows = []
    for name, arguments in (("fake", FAKE), (model.name, model.serve)):
        rows.append({"model": name, **trio.run(_killed, arguments, session)})
    report.write("isolation-kills", rows, {"speakers": SPEAKERS}, model=model.name)


# ---------------------------------------------------------------- in a process that does nothing else

# The heap is set up as the daemon's, before numpy is imported, which begins threads.
_ALONE = """
import json, os, sys
from sttd.engine import memory
from sttd.engine.whisper import libraries
memory.keep_heap()
libraries.spin_briefly(os.environ)
from benchmarks.isolation import alone
print(json.dumps(alone(*sys.argv[1:])))
"""


def _measured(what: str, model: Model) -> list[dict[str, Any]]:
    command = [sys.executable, "-c", _ALONE, what, model.name, str(model.path)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


@attrs.frozen(eq=False)
class _Bench:
    preset: Preset
    crew: Crew = attrs.field(factory=lambda: Crew(spare_ttl_s=60.0))

    def load(self, *, isolated: bool) -> Any:
        backend: Any = WhisperBackend()
        if isolated:
            backend = IsolatedBackend(inner=backend, crew=self.crew, isolation="process")
        return backend.load(self.preset, cpu_threads=0, num_workers=1)


def _items(session: Session, effort: Effort) -> list[DecodeItem]:
    pieces = [np.frombuffer(pcm, "<i2").astype(np.float32) / 32768 for pcm in session.utterances()]
    return [DecodeItem(samples=piece, options=DecodeOptions(language="en", effort=effort)) for piece in pieces]


def _cost(bench: _Bench, session: Session) -> list[dict[str, Any]]:
    models = {"thread": bench.load(isolated=False), "process": bench.load(isolated=True)}
    pids = (os.getpid(), models["process"].pid())
    rows = []
    for effort in (Effort.QUICK, Effort.FULL):
        items = _items(session, effort)
        wall: dict[str, list[float]] = {kind: [] for kind in models}
        cpu = dict.fromkeys(models, 0.0)
        for turn in range(TURNS + 1):
            for kind in models if turn % 2 else reversed(models):
                used, began = sum(map(_cpu_s, pids)), time.perf_counter()
                models[kind].decode([items[turn % len(items)]])
                if turn:  # the first allocates
                    wall[kind].append(time.perf_counter() - began)
                    cpu[kind] += sum(map(_cpu_s, pids)) - used
        pairs = [1000 * (there - here) for here, there in zip(wall["thread"], wall["process"], strict=True)]
        rows += [
            {
                "decode": effort.value,
                "where": kind,
                "median_ms": round(1000 * statistics.median(wall[kind]), 2),
                "cpu_ms": round(1000 * cpu[kind] / TURNS, 2),
                "cpu_more_%": round(100 * (cpu[kind] / cpu["thread"] - 1), 1),
                "median_of_pairs_ms": round(statistics.median(pairs), 2) if kind == "process" else 0.0,
            }
            for kind in models
        ]
    # Without a decode: what goes over the wire alone, at the length of a long utterance.
    rows.append(_wire_cost())
    return rows


def _wire_cost() -> dict[str, Any]:
    from sttd.engine.fake import FakeBackend

    preset = Preset(name="fake", backend="fake")
    here = FakeBackend().load(preset, cpu_threads=1, num_workers=1)
    there = IsolatedBackend(inner=FakeBackend(), crew=Crew(), isolation="process").load(
        preset, cpu_threads=1, num_workers=1
    )
    batch = [DecodeItem(samples=np.zeros(15 * 16_000, np.float32), options=DecodeOptions())]
    took: dict[str, list[float]] = {"here": [], "there": []}
    for _ in range(300):
        for kind, model in (("here", here), ("there", there)):
            began = time.perf_counter()
            model.decode(batch)
            took[kind].append(time.perf_counter() - began)
    there.close()
    more_ms = 1000 * (statistics.median(took["there"]) - statistics.median(took["here"]))
    return {
        "decode": "none (fake, 15 s)",
        "where": "process",
        "median_ms": round(1000 * statistics.median(took["there"]), 2),
        "cpu_ms": 0.0,
        "cpu_more_%": 0.0,
        "median_of_pairs_ms": round(more_ms, 2),
    }


def _loads(bench: _Bench, session: Session) -> list[dict[str, Any]]:
    item = _items(session, Effort.QUICK)[0]
    rows = []

    def timed(how: str, *, isolated: bool) -> None:
        began = time.perf_counter()
        model = bench.load(isolated=isolated)
        loaded_s = time.perf_counter() - began
        model.decode([item])
        rows.append({"load": how, "load_s": round(loaded_s, 2), "first_s": round(time.perf_counter() - began, 2)})
        model.close()

    for _ in range(LOADS):
        timed("a new process", isolated=True)
    for _ in range(LOADS):
        bench.crew._see_to_spare()
        time.sleep(5)  # it imports
        timed("the spare process", isolated=True)
    timed("a thread, the first time", isolated=False)
    for _ in range(LOADS):
        timed("a thread, later", isolated=False)
    names = dict.fromkeys(row["load"] for row in rows)
    return [
        {
            "load": name,
            "load_s": min(row["load_s"] for row in rows if row["load"] == name),
            "first_s": min(row["first_s"] for row in rows if row["load"] == name),
        }
        for name in names
    ]


def _cpu_s(pid: int) -> float:
    """CPU time of all threads of a process that live, to the nanosecond."""
    used_ns = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError):  # a thread has ended
            used_ns += int(path.read_text().split()[0])
    return used_ns / 1e9


# ---------------------------------------------------------------- with a daemon


def _engines(pid: int) -> list[int]:
    """The processes that a daemon has started, the one with the model first."""
    found: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += map(int, children.read_text().split())
    return sorted(found, key=_resident_mb, reverse=True)


def _resident_mb(pid: int) -> float:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / MB
    return 0.0


async def _utter(session: load.Session, pcm: bytes, *, paced: bool = False) -> tuple[str, float]:
    """One utterance; its final, and how long after its end that came."""
    for data in load.chunked(pcm, chunk_ms=CHUNK_MS):
        if paced:
            await trio.sleep(CHUNK_MS / 1000)
        await session.stream.send_all(data)
    await session.say(op="finalize")
    ended = trio.current_time()
    async for event in session.events():
        if event["type"] == "error":
            raise RuntimeError(event["message"])
        if event["type"] == "final":
            return event["text"], trio.current_time() - ended
    raise RuntimeError("the daemon closed")


async def _crashes(model: Model, session: Session, more: tuple[str, ...]) -> dict[str, Any]:
    keep: dict[str, Any] = {}
    pcm = session.utterances()[0]
    usual, after = [], []
    with load.daemon(*model.serve, *ISOLATED, *more, keep=keep) as directory:
        await trio.to_thread.run_sync(lambda: load.call(directory, "load", preset=model.preset, keep_alive_s=-1))
        async with load.connect(directory, endpointing=False, interim=False, lang="en") as speaker:
            for turn in range(CRASHES + 1):
                await trio.sleep(5)  # until the spare is there, if there is one
                _, quiet_s = await _utter(speaker, pcm)
                os.kill(_engines(keep["pid"])[0], signal.SIGSEGV)
                _, late_s = await _utter(speaker, pcm)
                if turn:
                    usual.append(quiet_s)
                    after.append(late_s)
    return {
        "usual_s": round(statistics.median(usual), 2),
        "after_a_crash_s": round(statistics.median(after), 2),
        "at_best_s": round(min(after), 2),
        "at_worst_s": round(max(after), 2),
    }


async def _memory(model: Model, session: Session) -> dict[str, Any]:
    keep: dict[str, Any] = {}
    with load.daemon(*model.serve, *ISOLATED, keep=keep) as directory:

        async def call(method: str, **params: object) -> None:
            await trio.to_thread.run_sync(lambda: load.call(directory, method, **params))

        async def speak() -> None:
            async with load.connect(directory, endpointing=False, lang="en") as speaker:
                for pcm in session.utterances():
                    await _utter(speaker, pcm)

        await trio.sleep(2)  # Silero is loaded
        figures = {"start_mb": _resident_mb(keep["pid"])}
        await call("load", preset=model.preset)
        await call("unload")
        figures["loaded_and_unloaded_mb"] = _resident_mb(keep["pid"])
        await speak()
        figures["speaking_mb"] = _resident_mb(keep["pid"])
        figures["engine_mb"] = _resident_mb(_engines(keep["pid"])[0])
        await call("unload")
        figures["unloaded_mb"] = _resident_mb(keep["pid"])
        await speak()
        await call("unload")
        figures["again_mb"] = _resident_mb(keep["pid"])
        await trio.sleep(5)
        figures["spare_mb"] = sum(map(_resident_mb, _engines(keep["pid"])))
    return {name: round(value, 1) for name, value in figures.items()}


@attrs.define
class _Heard:
    """What the utterances of one pass were heard as, by their number, and how late."""

    texts: dict[int, set[str]] = attrs.field(factory=dict)
    late_s: list[float] = attrs.field(factory=list)
    lost: int = 0


async def _killed(arguments: tuple[str, ...], session: Session) -> dict[str, Any]:
    keep: dict[str, Any] = {}
    utterances = session.utterances()
    with load.daemon(*arguments, *ISOLATED, *NO_SPARE, keep=keep) as directory:

        async def health() -> dict[str, Any]:
            status = await trio.to_thread.run_sync(load.call, directory, "status")
            return status["health"]  # type: ignore[no-any-return]

        async def speak(number: int, heard: _Heard, before: _Heard | None, done: trio.Event, least: int) -> None:
            async with load.connect(directory, endpointing=False, lang="en") as speaker:
                spoken = 0
                while not done.is_set() or spoken < least:
                    which = (number + spoken) % len(utterances)
                    text, late_s = await _utter(speaker, utterances[which], paced=True)
                    heard.late_s.append(late_s)
                    heard.texts.setdefault(which, set()).add(text)
                    if before is not None:
                        heard.lost += min(
                            vanished(words(known), words(text)) for known in before.texts.get(which, {text})
                        )
                    spoken += 1

        async def kill(heard: _Heard, done: trio.Event) -> None:
            for count in range(1, KILLS + 1):
                finals = len(heard.late_s)
                await trio.sleep(random.uniform(*APART_S))
                while len(heard.late_s) == finals:  # noqa: ASYNC110  # each engine has heard something
                    await trio.sleep(0.05)
                os.kill(_engines(keep["pid"])[0], signal.SIGSEGV)
                while (await health())["engine_restarts"] < count or not _engines(keep["pid"]):  # noqa: ASYNC110
                    await trio.sleep(0.05)
            done.set()

        quiet, killed = _Heard(), _Heard()
        for heard, before in ((quiet, None), (killed, quiet)):
            done = trio.Event()
            async with trio.open_nursery() as nursery:
                for number in range(SPEAKERS):
                    nursery.start_soon(speak, number, heard, before, done, len(utterances))
                if before is None:
                    done.set()
                else:
                    nursery.start_soon(kill, heard, done)
        restarts = (await health())["engine_restarts"]
    return {
        "kills": restarts,
        "finals": len(killed.late_s),
        "words_lost": killed.lost,
        "usual_p50_s": round(statistics.median(quiet.late_s), 2),
        "usual_p95_s": round(load.percentile(quiet.late_s, 0.95) or 0.0, 2),
        "p50_s": round(statistics.median(killed.late_s), 2),
        "p95_s": round(load.percentile(killed.late_s, 0.95) or 0.0, 2),
        "worst_s": round(max(killed.late_s), 2),
    }


def alone(what: str, name: str, path: str) -> list[dict[str, Any]]:
    """The rows of a table, in this process."""
    model = Model(name=name, path=Path(path), preset=name, serve=())
    bench = _Bench(Preset(name=name, backend="whisper", model=name if model.is_demo else path))
    return {"cost": _cost, "load": _loads}[what](bench, session_for(model))
