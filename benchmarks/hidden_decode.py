"""What the speculative final buys: the same speech, endpointing and model, with and without it.

The gain should be near min(decode time, silence wait - 180 ms): what was decoded inside the pause need not be
decoded after it.
"""

from __future__ import annotations

import statistics
from pathlib import Path

import trio

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.sessions import Session, session_for

CHUNK_MS = 20
FAKE_MS = (100, 300, 600)


def main(options: Options) -> None:
    """Run every case twice and compare."""
    rows = []
    model = options.model
    session = session_for(model)
    cases: list[tuple[str, str, tuple[str, ...]]] = [
        ("fake", "fake", ("--model", "fake", "--set", f"presets.fake.decode_ms={decode_ms}")) for decode_ms in FAKE_MS
    ]
    for name, preset, arguments in [*cases, (model.name, model.preset, model.serve)]:
        medians, decodes = {}, []
        for speculate_ms in (180, 0):
            with load.daemon(*arguments, "--set", f"endpointing.speculate_ms={speculate_ms}") as directory:
                load.call(directory, "load", preset=preset)
                latencies, waits, spent = trio.run(_measure, directory, session)
            medians[speculate_ms] = statistics.median(latencies)
            if not speculate_ms:
                decodes = spent
        decode_s = statistics.median(decodes)
        rows.append(
            {
                "model": name,
                "decode_ms": round(decode_s * 1000),
                "silence_wait_ms": round(statistics.median(waits)),
                "with_ms": round(medians[180] * 1000),
                "without_ms": round(medians[0] * 1000),
                "gain_ms": round((medians[0] - medians[180]) * 1000),
                "expected_gain_ms": round(min(decode_s * 1000, statistics.median(waits) - 180)),
            }
        )
    report.write("hidden_decode", rows, {"latency": "median, after the true end of speech"}, model=model.name)


async def _measure(directory: Path, session: Session) -> tuple[list[float], list[float], list[float]]:
    """Latencies from the true end of speech, silence waits in ms, and decodes, of the finals of one session."""
    frames = load.chunked(session.pcm, chunk_ms=CHUNK_MS)
    talk = await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en", "interim": False})
    latencies = load.final_latencies_s(talk, session.truth)[0]
    timings = [heard.event["timing"] for heard in talk.events("final") if heard.event["reason"] == "endpoint"]
    return (
        latencies,
        [timing["endpoint_ms"] for timing in timings],
        [timing["decode_ms"] / 1000 for timing in timings],
    )
