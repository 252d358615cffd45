"""Sentences spoken with a pause inside, through the daemon: what does the text of real hypotheses do for the endpoint?

`endpointing` replays texts; here the embedded model hears them. The sentences of the sample and the held-out ones,
each twice, get a pause at the quietest place of their middle, 0.3 to 0.6 s long, and a gap behind them; faint noise
lies under it all. One session for each way to endpoint, all at the same time, in real time, interims on.

Columns. `cut_pct`: sentences with more than one final, `missed_pct`: without any. `answer_*_ms`: from the true end of a
sentence to its final.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trio

from benchmarks import load, report

CHUNK_MS = 40
PAUSES_S = (0.3, 0.4, 0.5, 0.6)
GAP_S = 1.5
NOISE = 10 ** (-66 / 20)
WAYS: dict[str, dict[str, Any]] = {
    "fixed 400": {"endpointing": {"silence_ms_min": 400, "silence_ms_max": 400}},
    "adaptive, no text": {"interim": False},
    "adaptive": {},
    "fixed 700": {"endpointing": {"silence_ms_min": 700, "silence_ms_max": 700}},
}


def main() -> None:
    """A row for each way."""
    rows = []
    with load.daemon("--model", "demo") as directory:
        load.call(directory, "load", preset="demo", keep_alive_s=-1)
        pcm, truth = compose()
        talks = trio.run(_all, directory, load.chunked(pcm, chunk_ms=CHUNK_MS))
    for way, talk in talks.items():
        finals = talk.events("final")
        parts = [
            [heard for heard in finals if heard.event["start_s"] < end_s and start_s < heard.event["end_s"]]
            for start_s, end_s in truth
        ]
        missed = sum(not mine for mine in parts)
        answers = [1000 * (mine[-1].at_s - end_s) for mine, (_, end_s) in zip(parts, truth, strict=True) if mine]
        rows.append(
            {
                "way": way,
                "sentences": len(truth),
                "cut_pct": round(100 * sum(len(mine) > 1 for mine in parts) / len(truth), 1),
                "missed_pct": round(100 * missed / len(truth), 1),
                "answer_mean_ms": round(sum(answers) / len(answers)),
                "answer_p50_ms": round(load.percentile(answers, 0.5) or 0),
                "answer_p95_ms": round(load.percentile(answers, 0.95) or 0),
            }
        )
    report.write("pauses", rows, {"pauses_s": "0.3 to 0.6 in every sentence", "model": "demo"})


def compose() -> tuple[bytes, list[tuple[float, float]]]:
    """The session, and where each sentence begins and ends in it, seconds."""
    pieces, truth, at = [np.zeros(load.RATE // 2, np.float32)], [], load.RATE // 2
    for path in 2 * (load.ASSETS / "sample.flac", load.ROOT / "tests" / "data" / "held-out.flac"):
        pcm, utterances = load.clip(path)
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        for said in utterances:
            start, end = round(load.RATE * said["start_s"]), round(load.RATE * said["end_s"])
            sentence = samples[start:end]
            split = _quietest(sentence)
            pause = np.zeros(round(load.RATE * PAUSES_S[len(truth) % len(PAUSES_S)]), np.float32)
            gap = np.zeros(round(load.RATE * GAP_S), np.float32)
            pieces += [sentence[:split], pause, sentence[split:], gap]
            length = len(sentence) + len(pause)
            truth.append((at / load.RATE, (at + length) / load.RATE))
            at += length + len(gap)
    audio = np.concatenate(pieces)
    audio += NOISE * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
    return (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes(), truth


def _quietest(samples: np.ndarray) -> int:
    """The middle of the quietest 40 ms between a third and three quarters."""
    width = load.RATE // 25
    first, last = len(samples) // 3, 3 * len(samples) // 4
    energy = np.convolve(np.square(samples[first:last]), np.ones(width), "valid")
    return first + int(energy.argmin()) + width // 2


async def _all(directory: Path, frames: list[bytes]) -> dict[str, load.Talk]:
    talks: dict[str, load.Talk] = {}

    async def one(way: str, options: dict[str, Any]) -> None:
        talks[way] = await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en", **options})

    async with trio.open_nursery() as nursery:
        for way, options in WAYS.items():
            nursery.start_soon(one, way, options)
    return {way: talks[way] for way in WAYS}
