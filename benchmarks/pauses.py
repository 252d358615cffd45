"""Sentences with a pause inside, through the daemon: what does the text of real hypotheses do for the endpoint?

`endpointing` replays texts; here a model hears them. Each sentence gets a pause at the quietest place of its middle,
0.3 to 0.6 s long, and a gap behind it; faint noise lies under it all. One session for each way to endpoint, in real
time, interims on, one after another: how soon a hypothesis is there decides what it can say about a pause.

Columns. `cut_pct`: sentences with more than one final, `missed_pct`: without any. `answer_*_ms`: from the true end of a
sentence to its final.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import trio

from benchmarks import load, recordings, report
from benchmarks.endpointing import usable
from benchmarks.options import Model, Options
from benchmarks.sessions import trimmed
from sttd.core.types import Samples

CHUNK_MS = 40
PAUSES_S = (0.3, 0.4, 0.5, 0.6)
GAP_S = 1.5
SENTENCES = 16
SHORTEST_S = 2.0  # a pause inside a shorter one leaves single words
NOISE = 10 ** (-66 / 20)
WAYS: dict[str, dict[str, Any]] = {
    "fixed 400": {"endpointing": {"silence_ms_min": 400, "silence_ms_max": 400}},
    "adaptive, no text": {"interim": False},
    "adaptive": {},
    "fixed 700": {"endpointing": {"silence_ms_min": 700, "silence_ms_max": 700}},
}


def main(options: Options) -> None:
    """A row for each way."""
    rows = []
    model = options.model
    pcm, truth = compose(sentences(model))
    with load.daemon(*model.serve) as directory:
        load.call(directory, "load", preset=model.preset, keep_alive_s=-1)
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
    report.write("pauses", rows, {"pauses_s": "0.3 to 0.6 in every sentence"}, model=model.name)


def sentences(model: Model) -> list[Samples]:
    """From the first sound of each to its last. The demo model's are those of the sample and the held-out ones."""
    if not model.is_demo:
        clips = [clip for clip in usable(recordings.load()) if clip.language == "en" and clip.duration_s > SHORTEST_S]
        return [_speech(clip) for clip in clips[:SENTENCES]]
    found = []
    for path in (load.ASSETS / "sample.flac", load.ROOT / "tests" / "data" / "held-out.flac"):
        pcm, utterances = load.clip(path)
        samples = np.frombuffer(pcm, "<i2").astype(np.float32) / 32768
        found += [samples[round(load.RATE * u["start_s"]) : round(load.RATE * u["end_s"])] for u in utterances]
    return found


def _speech(clip: recordings.Recording) -> Samples:
    samples, start_s, end_s = trimmed(clip)
    return samples[round(load.RATE * start_s) : round(load.RATE * end_s)]


def compose(spoken: list[Samples]) -> tuple[bytes, list[tuple[float, float]]]:
    """The session, and where each sentence begins and ends in it, seconds."""
    pieces, truth, at = [np.zeros(load.RATE // 2, np.float32)], [], load.RATE // 2
    for sentence in spoken:
        split = quietest(sentence)
        pause = np.zeros(round(load.RATE * PAUSES_S[len(truth) % len(PAUSES_S)]), np.float32)
        gap = np.zeros(round(load.RATE * GAP_S), np.float32)
        pieces += [sentence[:split], pause, sentence[split:], gap]
        length = len(sentence) + len(pause)
        truth.append((at / load.RATE, (at + length) / load.RATE))
        at += length + len(gap)
    audio = np.concatenate(pieces)
    audio += NOISE * np.random.default_rng(0).standard_normal(len(audio)).astype(np.float32)
    return (np.clip(audio, -1, 1) * 32767).astype("<i2").tobytes(), truth


def quietest(samples: Samples) -> int:
    """The middle of the quietest 40 ms between a third and three quarters."""
    width = load.RATE // 25
    first, last = len(samples) // 3, 3 * len(samples) // 4
    energy = np.convolve(np.square(samples[first:last]), np.ones(width), "valid")
    return first + int(energy.argmin()) + width // 2


async def _all(directory: Path, frames: list[bytes]) -> dict[str, load.Talk]:
    return {
        way: await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en", **options})
        for way, options in WAYS.items()
    }
