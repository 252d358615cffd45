"""How soon the text is there: finals after the true end of speech, first words, and the daemon's own part of it."""

from __future__ import annotations

from pathlib import Path

import trio

from benchmarks import load, report
from benchmarks.options import Model, Options
from benchmarks.sessions import session_for

REPEATS = 2  # of the session, a minute
CHUNK_MS = 20
FLUSHES = 300


def main(options: Options) -> None:
    """Speech with a model, then flushes with the fake one, whose decode takes no time."""
    model = options.model
    with load.daemon(*model.serve) as directory:
        rows = [trio.run(_speech, directory, model)]
    report.write(
        "latency",
        rows,
        {
            "latency": "after the true end of speech, endpoint wait included",
            "early_cuts": "finals that end more than 0.25 s before the utterance did",
        },
        model=model.name,
    )
    with load.daemon("--model", "fake") as directory:
        flushes = trio.run(_flushes, directory)
    report.write(
        "overhead_latency",
        [
            {
                "flushes": len(flushes),
                "p50_ms": load.percentile(flushes, 0.5),
                "p95_ms": load.percentile(flushes, 0.95),
                "p99_ms": load.percentile(flushes, 0.99),
            }
        ],
        {"measures": "finalize sent → final received, decode 0 ms", "target": "p99 at most 5 ms, idle"},
    )


async def _speech(directory: Path, model: Model) -> dict[str, object]:
    session = session_for(model)
    frames = load.chunked(session.pcm, chunk_ms=CHUNK_MS)
    load.call(directory, "load", preset=model.preset)
    latencies, cuts, first = [], 0, []
    for _ in range(REPEATS):
        talk = await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en"})
        found = load.final_latencies_s(talk, session.truth)
        latencies += found[0]
        cuts += found[1]
        first += found[2]
    return {
        "session": session.name,
        "utterances": REPEATS * len(session.truth),
        "finals": len(latencies),
        "early_cuts": cuts,
        "final_p50_ms": round(1000 * (load.percentile(latencies, 0.5) or 0)),
        "final_p95_ms": round(1000 * (load.percentile(latencies, 0.95) or 0)),
        "first_words_p50_ms": round(1000 * (load.percentile(first, 0.5) or 0)),
        "first_words_p95_ms": round(1000 * (load.percentile(first, 0.95) or 0)),
    }


async def _flushes(directory: Path) -> list[float]:
    second = load.frame(bytes(range(256)) * 125)
    took = []
    async with load.connect(directory, endpointing=False, interim=False) as session:
        events = session.events()
        for _ in range(FLUSHES):
            await session.stream.send_all(second)
            await trio.sleep(0.02)  # the audio is taken in meanwhile; what is measured is the flush
            began = trio.current_time()
            await session.say(op="finalize")
            async for event in events:
                if event["type"] == "final":
                    break
            took.append(1000 * (trio.current_time() - began))
    return took
