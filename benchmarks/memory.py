"""Memory of a model's life: after load, after unload, and over cycles of load, decode and unload.

Everything runs through the real pool in a fresh process, which holds nothing else. Target: growth over 50 cycles at
most 30 MB, measured from the end of the first cycle, since the first one also loads libraries.
"""

from __future__ import annotations

import json
import subprocess
import sys

import attrs
import numpy as np
import trio

from benchmarks import report
from benchmarks.options import Model, Options
from benchmarks.sessions import script
from sttd.core.pooling import PoolLimits
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions
from sttd.engine import memory
from sttd.engine.contract import Preset
from sttd.engine.pool import ModelPool
from sttd.engine.whisper.backend import WhisperBackend

TARGET_GROWTH_MB = 30
UTTERANCE_S = 2
BATCH = 2
MB = 1e6


async def measure(preset: Preset, cycles: int) -> dict[str, float]:
    """RSS of this process, in MB, at the points of the table."""
    # Half a sentence may be decoded again with other temperatures: each cycle shall do the same.
    preset = attrs.evolve(preset, options={"temperatures": [0.0], "beam_size": 2})
    pool = ModelPool(
        presets={preset.name: preset},
        backends={"whisper": WhisperBackend()},
        limits=PoolLimits(max_loaded_models=1, idle_ttl_s=0),
    )
    speech = np.frombuffer(script().pcm, "<i2")[: UTTERANCE_S * SAMPLE_RATE]
    samples = speech.astype(np.float32) / 32768
    items = [DecodeItem(samples=samples, options=DecodeOptions(language="en"))] * BATCH
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


def run_child(model: Model, cycles: int) -> dict[str, float]:
    """Measure in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", model.name, str(model.path), str(cycles)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def main(options: Options) -> None:
    """Measure and report."""
    model = options.model
    figures = run_child(model, options.cycles)
    report.write(
        "memory",
        [{name: round(value, 1) for name, value in figures.items()}],
        {
            "each cycle": f"load, one batch of {BATCH} finals of {UTTERANCE_S} s, unload with trim",
            "target": f"growth_mb at most {TARGET_GROWTH_MB}",
            "met": figures["growth_mb"] <= TARGET_GROWTH_MB,
        },
        model=model.name,
    )


if __name__ == "__main__":
    name, path, cycles = sys.argv[1:]
    print(json.dumps(trio.run(measure, Preset(name=name, backend="whisper", model=path), int(cycles))))
