"""CPU time of a session's ingest path, per stage: bytes → frames → WebRTC and Silero → endpointer and assembler.

Recordings run through it as messages of 20 ms and of 100 ms, and from other rates; the time of each stage is CPU time
of this thread, and the figure is that time per second of audio. A session in real time costs just that share of a
core. Target: at most 0.5 %. A busy neighbour on the same physical core makes CPU time longer too: short passes, many
of them, find quiet moments.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

from benchmarks import report
from benchmarks.options import Options
from benchmarks.recordings import SILERO, Ingest, as_bytes, load
from sttd.core.types import SAMPLE_RATE

T = TypeVar("T")

TARGET_PERCENT = 0.5
CLIP = "session-a"  # one minute, two thirds of it speech
PASSES = 20  # of each stage the fastest counts: the others were disturbed


def cpu_seconds(action: Callable[[], T]) -> tuple[float, T]:
    """CPU time of this thread, and the result."""
    before = time.thread_time()
    result = action()
    return time.thread_time() - before, result


def measure(data: bytes, *, rate: int, channels: int, message_ms: int) -> dict[str, float]:
    """CPU seconds of each stage over `data`; one stage after the other, so that no clock is read in between."""
    ingest = Ingest(rate=rate, channels=channels, message_ms=message_ms)
    webrtc = Ingest(silero=None).detector
    messages = list(ingest.messages(data))
    decode, frames = cpu_seconds(lambda: [ingest.decoder.push(message) for message in messages])
    alone, _ = cpu_seconds(lambda: [webrtc.push(block) for block in frames])
    both, activities = cpu_seconds(lambda: [ingest.detector.push(block) for block in frames])
    assembler = ingest.assembler
    assemble, _ = cpu_seconds(lambda: [assembler.push(*pair) for pair in zip(frames, activities, strict=True)])
    return {"decode, resample": decode, "WebRTC": alone, "Silero": both - alone, "endpointer, assembler": assemble}


def main(_: Options) -> None:
    """Measure and report."""
    samples = load()[CLIP].samples
    audio_s = len(samples) / SAMPLE_RATE
    SILERO.load()
    rows = []
    for rate, channels, message_ms in ((16_000, 1, 20), (16_000, 1, 100), (8_000, 1, 20), (48_000, 2, 20)):
        data = as_bytes(samples, rate=rate, channels=channels)
        passes = [measure(data, rate=rate, channels=channels, message_ms=message_ms) for _ in range(PASSES)]
        best = {stage: min(seconds[stage] for seconds in passes) for stage in passes[0]}
        percent = {stage: 100 * seconds / audio_s for stage, seconds in best.items()}
        rows.append(
            {"input": f"{rate / 1000:g} kHz, {channels} ch", "message_ms": message_ms}
            | {f"{stage} %": value for stage, value in percent.items()}
            | {"sum %": sum(percent.values())}
        )
    worst = max(row["sum %"] for row in rows)
    report.write(
        "ingest",
        rows,
        {
            "unit": "CPU time in % of one core per session in real time",
            "audio_s": round(audio_s),
            "target": f"at most {TARGET_PERCENT} %: {'met' if worst <= TARGET_PERCENT else 'missed'}",
        },
    )
