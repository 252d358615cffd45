"""Memory of a model's life: after load, after unload, and over cycles of load, decode and unload.

    python -m benchmarks memory [--cycles 50] [--shape demo|base]

Everything runs through the real pool in one fresh process a model, so that figures do not mix. `demo` is the
embedded model; `base` has the shape of Whisper base and random weights, made on the spot, so that nothing is
downloaded. Target: growth over 50 cycles at most 30 MB, measured from the end of the first cycle, since the
first one also loads libraries.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import attrs
import numpy as np
import trio

from benchmarks import report
from sttd.core.pool_policy import PoolLimits
from sttd.core.types import DecodeItem, DecodeOptions, JobClass
from sttd.engine import memory
from sttd.engine.backend import Preset
from sttd.engine.pool import ModelPool
from sttd.engine.presets import builtin_presets
from sttd.engine.whisper import WhisperBackend

TARGET_GROWTH_MB = 30
UTTERANCE_S = 2
BATCH = 2
MB = 1e6


async def measure(preset: Preset, cycles: int) -> dict[str, float]:
    """RSS of this process, in MB, at the points of the table."""
    # A random model never finds an end: without this it would babble through the whole temperature ladder.
    preset = attrs.evolve(preset, options={"temperatures": [0.0], "beam_size": 2})
    pool = ModelPool(
        presets={preset.name: preset},
        backends={"whisper": WhisperBackend()},
        limits=PoolLimits(max_loaded_models=1, idle_ttl_s=0),
    )
    random = np.random.default_rng(0)
    samples = (random.standard_normal(UTTERANCE_S * 16_000) * 0.05).astype(np.float32)
    items = [DecodeItem(samples=samples, options=DecodeOptions(language="en"), job_class=JobClass.FINAL)] * BATCH
    marks = {"start_mb": memory.process_rss_bytes() / MB}
    after = []
    load_s = []
    async with trio.open_nursery() as nursery:
        await nursery.start(pool.run)
        for cycle in range(cycles):
            result = await pool.load(preset.name)
            load_s.append(result.load_seconds)
            marks.setdefault("loaded_mb", memory.process_rss_bytes() / MB)
            lease = await pool.lease(preset.name)
            await trio.to_thread.run_sync(lease.model.decode, items)
            marks.setdefault("decoded_mb", memory.process_rss_bytes() / MB)
            lease.release()
            del lease
            unloaded = await pool.unload()
            after.append(unloaded.process_rss_bytes / MB)
            print(f"{preset.name}: cycle {cycle + 1}, {after[-1]:.0f} MB", file=sys.stderr)
        nursery.cancel_scope.cancel()
    return {
        **marks,
        "unloaded_mb": after[0],
        "cycles": cycles,
        "last_mb": after[-1],
        "highest_mb": max(after),
        "growth_mb": after[-1] - after[0],
        "load_ms": 1000 * float(np.median(load_s)),
    }


def run_child(preset: Preset, cycles: int) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--child", preset.name, preset.model, str(cycles)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def presets(directory: Path) -> dict[str, Preset]:
    """The models to measure, by shape."""
    from tests.unit.engine import random_whisper

    base = random_whisper.build(directory / "base", random_whisper.BASE, quantization="int8")
    return {
        "demo": builtin_presets()["demo"],
        "base": Preset(name="base, random weights", backend="whisper", model=str(base)),
    }


def main(arguments: Sequence[str] = ()) -> None:
    """Measure and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=50)
    parser.add_argument("--shape", choices=["demo", "base"], action="append")
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        name, model, cycles = options.child
        figures = trio.run(measure, Preset(name=name, backend="whisper", model=model), int(cycles))
        print(json.dumps(figures))
        return
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        for shape, preset in presets(Path(directory)).items():
            if shape in (options.shape or ["demo", "base"]):
                figures = run_child(preset, options.cycles)
                rows.append({"model": preset.name} | {name: round(value, 1) for name, value in figures.items()})
    report.write(
        "memory",
        rows,
        {
            "each cycle": f"load, one batch of {BATCH} finals of {UTTERANCE_S} s, unload with trim",
            "target": f"growth_mb at most {TARGET_GROWTH_MB}",
            "met": all(row["growth_mb"] <= TARGET_GROWTH_MB for row in rows),
        },
    )


if __name__ == "__main__":
    main(sys.argv[1:])
