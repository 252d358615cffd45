"""Word errors: faster-whisper over whole clips, and the same clips through the daemon, as one utterance and live.

All ways hear the same English recordings (`recordings.english`) with the same weights, in int8 with 5 beams.

- `offline`: faster-whisper's own `transcribe`, which has the whole clip before it begins;
- `told`: a session without endpointing, `finalize` after the clip: what the daemon's decoding does to the text;
- `live`: a session with endpointing and interims, spoken at real-time pace, a few at once: what a user sees. The pace
  matters, or it would be sent faster: at a pause the text of the last interim helps to decide whether the sentence is
  over, so where utterances end depends on which interims are there by then.

Each text is compared after the normaliser of `words`. `offline_clips` has the errors of each clip.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from benchmarks import load, report
from benchmarks.options import Model, Options
from benchmarks.recordings import Recording, as_bytes, english, room_noise
from benchmarks.words import Errors, errors

BEAM = 5
CHUNK_MS = 40
TAIL_S = 1.5  # of room noise behind a clip: longer than the longest wait for an endpoint, 1.2 s
SPEAKERS = 3  # at once; chosen: about what two cores decode with `base`
RETRY_S = 1.0


def main(options: Options) -> None:
    """A row for each way."""
    model = options.model
    clips = english()
    texts, took_s = {}, {}
    began = time.perf_counter()
    texts["offline"] = _offline(model, clips)
    took_s["offline"] = time.perf_counter() - began
    with load.daemon(*model.serve) as directory:
        load.call(directory, "load", preset=model.preset, keep_alive_s=-1)
        for way, talk in (("told", _told), ("live", _live)):
            began = time.perf_counter()
            texts[way] = trio.run(_all, directory, clips, talk)
            took_s[way] = time.perf_counter() - began
    found = {
        way: [errors(clip.text, text) for clip, text in zip(clips, heard, strict=True)] for way, heard in texts.items()
    }
    rows = [{"way": way, **_row(sum(each, Errors())), "seconds": round(took_s[way], 1)} for way, each in found.items()]
    about = {
        "clips": len(clips),
        "audio_s": round(sum(clip.duration_s for clip in clips)),
        "decoding": f"int8, {BEAM} beams, language given",
    }
    report.write("offline", rows, about, model=model.name)
    each_clip = [
        {"clip": clip.name, "words": found["offline"][at].said}
        | {f"{way}_errors": counted[at].count for way, counted in found.items()}
        for at, clip in enumerate(clips)
    ]
    report.write("offline_clips", each_clip, model=model.name)


def _row(total: Errors) -> dict[str, object]:
    return {
        "words": total.said,
        "word_errors_pct": total.rate_pct,
        "lost": total.lost,
        "replaced": total.replaced,
        "added": total.added,
    }


def _offline(model: Model, clips: list[Recording]) -> list[str]:
    from faster_whisper import WhisperModel

    whisper = WhisperModel(str(model.path), device="cpu", compute_type="int8")
    found = []
    for clip in clips:
        segments, _ = whisper.transcribe(clip.samples, language="en", beam_size=BEAM)
        found.append(" ".join(segment.text for segment in segments))
    return found


async def _all(directory: Path, clips: list[Recording], talk: Callable[[Path, bytes], Awaitable[str]]) -> list[str]:
    """A few clips at a time, each in a session of its own."""
    texts = [""] * len(clips)
    todo = iter(enumerate(clips))

    async def speaker() -> None:
        for number, clip in todo:
            texts[number] = await _patiently(talk, directory, as_bytes(clip.samples))

    async with trio.open_nursery() as nursery:
        for _ in range(SPEAKERS):
            nursery.start_soon(speaker)
    return texts


async def _patiently(talk: Callable[[Path, bytes], Awaitable[str]], directory: Path, pcm: bytes) -> str:
    """The text of a clip, after coming again as often as the daemon wishes."""
    while True:
        try:
            return await talk(directory, pcm)
        except load.OverloadedError:
            await trio.sleep(RETRY_S)


async def _told(directory: Path, pcm: bytes) -> str:
    async with load.connect(directory, lang="en", endpointing=False, interim=False) as session:
        for data in load.chunked(pcm, chunk_ms=1000):
            await session.stream.send_all(data)
        await session.say(op="finalize")
        await session.say(op="stop")
        return " ".join([event["text"] async for event in session.events() if event["type"] == "final"])


async def _live(directory: Path, pcm: bytes) -> str:
    frames = load.chunked(pcm + as_bytes(room_noise(TAIL_S)), chunk_ms=CHUNK_MS)
    talk = await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en"})
    return " ".join(heard.event["text"] for heard in talk.events("final"))
