"""A file when nobody speaks: through the daemon, and through faster-whisper's own pipelines, in one run.

The file is the usual session, repeated; all three hear the same bytes with the same model, beam and threads.
faster-whisper runs in this process, one after the other, so that nothing shares the machine with what is measured.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import trio

from benchmarks import load, report
from benchmarks.options import Model, Options
from benchmarks.sessions import repeated, session_for
from benchmarks.words import errors

FILE_S = 300
BATCH = 8
BEAM = 5


def main(options: Options) -> None:
    """Three ways to the same text."""
    model = options.model
    session = repeated(session_for(model), at_least_s=FILE_S)
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file.wav"
        _write_wav(path, session.pcm)
        rows = [
            {"way": "sttd, kind: file", **_through_daemon(model, path)},
            {"way": f"faster-whisper, batched pipeline of {BATCH}", **_faster_whisper(model, path, batch=BATCH)},
            {"way": "faster-whisper, sequential", **_faster_whisper(model, path, batch=None)},
        ]
    for row in rows:
        found = errors(session.text, row.pop("text"))
        row["word_errors_pct"], row["lost_pct"] = found.rate_pct, round(100 * found.lost / found.said, 1)
        row["times_real_time"] = round(session.audio_s / row["seconds"], 1)
        row["of_batched"] = round(rows[1]["seconds"] / row["seconds"], 2)
    report.write("files", rows, {"audio_s": round(session.audio_s), "beam": BEAM}, model=model.name)


def _through_daemon(model: Model, path: Path) -> dict[str, Any]:
    with load.daemon(*model.serve) as directory:
        load.call(directory, "load", preset=model.preset)
        began = time.perf_counter()
        texts = trio.run(_send, directory, path.read_bytes())
        return {"seconds": round(time.perf_counter() - began, 2), "text": " ".join(texts)}


async def _send(directory: Path, data: bytes) -> list[str]:
    texts: list[str] = []
    options = {"kind": "file", "encoding": "container", "lang": "en"}
    async with load.connect(directory, **options) as session, trio.open_nursery() as nursery:

        async def listen() -> None:
            texts.extend([event["text"] async for event in session.events() if event["type"] == "final"])

        nursery.start_soon(listen)
        for at in range(0, len(data), 65536):
            await session.stream.send_all(load.frame(data[at : at + 65536]))
        await session.say(op="stop")
    return texts


def _faster_whisper(model: Model, path: Path, *, batch: int | None) -> dict[str, Any]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    whisper = WhisperModel(str(model.path), device="cpu", compute_type="int8")
    began = time.perf_counter()
    if batch is None:
        segments, _ = whisper.transcribe(str(path), language="en", beam_size=BEAM, vad_filter=True)
    else:
        pipeline = BatchedInferencePipeline(whisper)
        segments, _ = pipeline.transcribe(str(path), language="en", beam_size=BEAM, batch_size=batch)
    text = " ".join(segment.text for segment in segments)
    return {"seconds": round(time.perf_counter() - began, 2), "text": text}


def _write_wav(path: Path, pcm: bytes) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(load.RATE)
        file.writeframes(pcm)
