"""A file when nobody speaks: through the daemon, and through faster-whisper's own pipelines, in one run.

The file is the bundled sample, repeated; all three hear the same bytes with the same model, beam and threads.
faster-whisper runs in this process, one after the other, so that nothing shares the machine with what is measured.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import trio

from benchmarks import load, report
from sttd.engine.store import embedded_model

REPEATS = 12  # of 26 s
BATCH = 8
BEAM = 5


def main() -> None:
    """Three ways to the same text."""
    pcm, truth = load.sample()
    spoken = REPEATS * sum(len(utterance["text"].split()) for utterance in truth)
    audio_s = len(pcm) * REPEATS / 2 / load.RATE
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "file.wav"
        _write_wav(path, pcm * REPEATS)
        rows = [
            {"way": "sttd, kind: file", **_through_daemon(path)},
            {"way": f"faster-whisper, batched pipeline of {BATCH}", **_faster_whisper(path, batch=BATCH)},
            {"way": "faster-whisper, sequential", **_faster_whisper(path, batch=None)},
        ]
    for row in rows:
        row["times_real_time"] = round(audio_s / row["seconds"], 1)
        row["of_batched"] = round(rows[1]["seconds"] / row["seconds"], 2)
    report.write("files", rows, {"audio_s": round(audio_s), "spoken_words": spoken, "model": "demo", "beam": BEAM})


def _through_daemon(path: Path) -> dict[str, float]:
    with load.daemon("--model", "demo") as directory:
        load.call(directory, "load", preset="demo")
        began = time.perf_counter()
        texts = trio.run(_send, directory, path.read_bytes())
        return {"seconds": round(time.perf_counter() - began, 2), "words": len(" ".join(texts).split())}


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


def _faster_whisper(path: Path, *, batch: int | None) -> dict[str, float]:
    from faster_whisper import BatchedInferencePipeline, WhisperModel

    model = WhisperModel(str(embedded_model()), device="cpu", compute_type="int8")
    began = time.perf_counter()
    if batch is None:
        segments, _ = model.transcribe(str(path), language="en", beam_size=BEAM, vad_filter=True)
    else:
        pipeline = BatchedInferencePipeline(model)
        segments, _ = pipeline.transcribe(str(path), language="en", beam_size=BEAM, batch_size=batch)
    words = sum(len(segment.text.split()) for segment in segments)
    return {"seconds": round(time.perf_counter() - began, 2), "words": words}


def _write_wav(path: Path, pcm: bytes) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(load.RATE)
        file.writeframes(pcm)
