"""What do other systems' wires add to a push-to-talk upload, and what do fifty uploads do to a live speaker?

First: five seconds of speech, sent at once over a new TCP connection, through each wire in turn, many rounds in one
run; the time is from connecting to having the whole text. The fake model takes as long for each, so what differs is
the wire. Target: an adapter adds at most 5 ms to the native wire (p95).

Second: one person speaks live, alone and beside fifty uploads that come at once, again and again; passes of both kinds
alternate. Latency is from the true end of speech to the final. Target: p95 at most 1.2 times the p95 alone, plus
one bounded call.
"""

from __future__ import annotations

import random
import time
from functools import partial
from pathlib import Path

import trio

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.peer.environment import free_port
from benchmarks.sessions import session_for
from benchmarks.wires import WIRES, Places, upload

UPLOAD_S = 5.0
ROUNDS = 60
TARGET_MS = 5.0
UPLOADS = 50
PASSES = 2
TARGET_RATIO = 1.2
CHUNK_MS = 20
TIMEOUT_S = 120
# As long as tiny.en takes for a final of five seconds; it sleeps, so that the clients have the processor.
FAKE = ("--model", "fake", "--set", "presets.fake.decode_ms=100")


def main(options: Options) -> None:
    """Both tables."""
    places = Places(port=free_port(), wyoming=free_port())
    served = ("--tcp", f"127.0.0.1:{places.port}", "--set", f'server.wyoming=["127.0.0.1:{places.wyoming}"]')
    pcm = session_for(options.model).pcm[: int(UPLOAD_S * load.RATE) * 2]
    with load.daemon(*FAKE, *served) as directory:
        load.call(directory, "load", preset="fake", keep_alive_s=-1)
        report.write(
            "adapters",
            _compare(places, pcm),
            {"upload": f"{UPLOAD_S:g} s, {ROUNDS} rounds", "target": f"p95 at most {TARGET_MS:g} ms above sttd's"},
        )
    model = options.model
    with load.daemon(*model.serve, *served) as directory:
        load.call(directory, "load", preset=model.preset, keep_alive_s=-1)
        bound_s = load.call(directory, "config")["values"]["scheduler.final_hold_s"]["value"]
        rows = [trio.run(_beside_uploads, directory, options, places, pcm, bound_s)]
        report.write(
            "adapters_beside",
            rows,
            {"target": f"p95 beside {UPLOADS} uploads at most {TARGET_RATIO:g} times p95 alone plus one bounded call"},
            model=model.name,
        )


def _compare(places: Places, pcm: bytes) -> list[dict[str, object]]:
    names = list(WIRES)
    took: dict[str, list[float]] = {name: [] for name in names}
    texts: dict[str, set[str]] = {name: set() for name in names}
    for _ in range(ROUNDS):
        random.shuffle(names)
        for name in names:
            began = time.perf_counter()
            texts[name].add(upload(name, places, pcm))
            took[name].append((time.perf_counter() - began) * 1000)
    native = load.percentile(took["sttd"], 0.95) or 0.0
    rows = []
    for name, times in took.items():
        p95 = load.percentile(times, 0.95) or 0.0
        rows.append(
            {
                "wire": name,
                "p50_ms": round(load.percentile(times, 0.5) or 0.0, 1),
                "p95_ms": round(p95, 1),
                "added_p95_ms": round(p95 - native, 1),
                "target": "met" if p95 - native <= TARGET_MS else "missed",
                "same_text": texts[name] == texts["sttd"] and len(texts[name]) == 1,
            }
        )
    return rows


async def _beside_uploads(
    directory: Path, options: Options, places: Places, pcm: bytes, bound_s: float
) -> dict[str, object]:
    session = session_for(options.model)
    frames = load.chunked(session.pcm, chunk_ms=CHUNK_MS)
    alone: list[float] = []
    beside: list[float] = []
    uploaded = 0
    for _ in range(PASSES):
        for latencies in (alone, beside):
            async with trio.open_nursery() as nursery:
                if latencies is beside:
                    uploaded += UPLOADS
                    for _ in range(UPLOADS):
                        nursery.start_soon(trio.to_thread.run_sync, partial(upload, "openai", places, pcm))
                talk = await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en"})
                latencies += load.final_latencies_s(talk, session.truth)[0]
    before_s, after_s = (load.percentile(each, 0.95) or 0.0 for each in (alone, beside))
    return {
        "finals": f"{len(alone)}+{len(beside)}",
        "uploads": uploaded,
        "alone_p95_ms": round(before_s * 1000),
        "beside_p95_ms": round(after_s * 1000),
        "allowed_p95_ms": round((TARGET_RATIO * before_s + bound_s) * 1000),
        "target": "met" if after_s <= TARGET_RATIO * before_s + bound_s else "missed",
    }
