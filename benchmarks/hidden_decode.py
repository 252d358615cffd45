"""What the speculative final buys: the same speech, endpointing and model, with and without it.

The gain should be near min(decode time, silence wait - 180 ms): what was decoded inside the pause need not be
decoded after it.
"""

from __future__ import annotations

import statistics

import trio

from benchmarks import load, report

REPEATS = 1  # of the sample, which has nine utterances
CHUNK_MS = 20
CASES = (("fake", 100), ("fake", 300), ("fake", 600), ("demo", None))


def main() -> None:
    """Run every case twice and compare."""
    rows = []
    for model, decode_ms in CASES:
        medians, decodes = {}, []
        for speculate_ms in (180, 0):
            arguments = ["--model", model, "--set", f"endpointing.speculate_ms={speculate_ms}"]
            if decode_ms is not None:
                arguments += ["--set", f"presets.fake.decode_ms={decode_ms}"]
            with load.daemon(*arguments) as directory:
                latencies, waits, spent = trio.run(_measure, directory)
            medians[speculate_ms] = statistics.median(latencies)
            if not speculate_ms:
                decodes = spent
        decode_s = statistics.median(decodes)
        rows.append(
            {
                "model": model,
                "decode_ms": round(decode_s * 1000),
                "silence_wait_ms": round(statistics.median(waits)),
                "with_ms": round(medians[180] * 1000),
                "without_ms": round(medians[0] * 1000),
                "gain_ms": round((medians[0] - medians[180]) * 1000),
                "expected_gain_ms": round(min(decode_s * 1000, statistics.median(waits) - 180)),
            }
        )
    report.write("hidden_decode", rows, {"latency": "median, after the true end of speech", "repeats": REPEATS})


async def _measure(directory) -> tuple[list[float], list[float], list[float]]:
    pcm, truth = load.sample()
    frames = load.chunked(pcm, chunk_ms=CHUNK_MS)
    latencies, waits, spent = [], [], []
    load.call(directory, "load", preset=load.call(directory, "config")["values"]["models.model"]["value"])
    for _ in range(REPEATS):
        talk = await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en", "interim": False})
        latencies += load.final_latencies_s(talk, truth)[0]
        for heard in talk.events("final"):
            if heard.event["reason"] == "endpoint":
                waits.append(heard.event["timing"]["endpoint_ms"])
                spent.append(heard.event["timing"]["decode_ms"] / 1000)
    return latencies, waits, spent
