"""Live speech beside a file: how much later finals come while a transcription of an hour of audio runs.

Two live sessions speak at real-time pace, again and again; in every second pass a `kind: file` session sends the same
speech repeated to an hour, as fast as the daemon takes it. Both kinds of pass alternate in
one daemon, so that whatever else the machine does falls on both. Latency counts from the true end of speech to the
final. A decode cannot be interrupted, so a final may find one file call in front of it: that is the bounded call.

Target: p95 beside the file at most 1.2 times the p95 alone, plus one bounded call. Interims are counted too, for each
second of speech: they go before files, and yield a tenth of the time to them.
"""

from __future__ import annotations

from pathlib import Path

import attrs
import trio

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.sessions import Session, session_for

LIVE_SESSIONS = 2
PASSES = 2  # of each kind, a minute each
CHUNK_MS = 20
FILE_CHUNK_MS = 500
FILE_S = 3600
TARGET = 1.2
# `fake` sleeps instead of computing: it shows the scheduling alone, with a decode as long as `base` takes.
FAKE = ("--model", "fake", "--set", "presets.fake.decode_ms=300")


@attrs.define
class Arm:
    """What was measured in the passes of one kind."""

    latencies: list[float] = attrs.field(factory=list)
    early_cuts: int = 0
    finals: int = 0
    interims: int = 0
    spoken_s: float = 0.0  # by all live sessions, pauses left out
    transcribed_s: float = 0.0  # of the file
    window_decodes_s: list[float] = attrs.field(factory=list)
    took_s: float = 0.0


def main(options: Options) -> None:
    """A model and the fake one; a table with a row for each."""
    rows = []
    model = options.model
    session = session_for(model)
    for name, preset, arguments in ((model.name, model.preset, model.serve), ("fake", "fake", FAKE)):
        with load.daemon(*arguments) as directory:
            bound_s = load.call(directory, "config")["values"]["scheduler.file_hold_s"]["value"]
            load.call(directory, "load", preset=preset, keep_alive_s=-1)
            rows.append({"model": name, **trio.run(_compare, directory, session, bound_s)})
    report.write(
        "beside_file",
        rows,
        {
            "latency": f"after the true end of speech, {LIVE_SESSIONS} live sessions, endpoint wait included",
            "target": f"p95 with the file at most {TARGET} times p95 alone plus one bounded call",
        },
        model=model.name,
    )


async def _compare(directory: Path, session: Session, bound_s: float) -> dict[str, object]:
    alone, beside = Arm(), Arm()
    for _ in range(PASSES):
        await _pass(directory, session, alone, with_file=False)
        await _pass(directory, session, beside, with_file=True)
    before_s, after_s = (load.percentile(arm.latencies, 0.95) or 0.0 for arm in (alone, beside))
    # The bound holds for calls of more than one window; a single window that takes longer is a call of its own.
    call_s = max(bound_s, load.percentile(beside.window_decodes_s, 0.95) or 0.0)
    return {
        "finals": f"{alone.finals}+{beside.finals}",
        "early_cuts": f"{alone.early_cuts}+{beside.early_cuts}",
        "alone_p50_ms": _ms(alone, 0.5),
        "alone_p95_ms": _ms(alone, 0.95),
        "file_p50_ms": _ms(beside, 0.5),
        "file_p95_ms": _ms(beside, 0.95),
        "p95_ratio": round(after_s / before_s, 2),
        "alone_interims_per_s": round(alone.interims / alone.spoken_s, 2),
        "file_interims_per_s": round(beside.interims / beside.spoken_s, 2),
        "file_call_p95_ms": round(1000 * (load.percentile(beside.window_decodes_s, 0.95) or 0.0)),
        "allowed_p95_ms": round(1000 * (TARGET * before_s + call_s)),
        "target": "met" if after_s <= TARGET * before_s + call_s else "missed",
        "file_times_real_time": round(beside.transcribed_s / beside.took_s, 1),
    }


async def _pass(directory: Path, session: Session, arm: Arm, *, with_file: bool) -> None:
    """All live sessions speak once."""
    frames = load.chunked(session.pcm, chunk_ms=CHUNK_MS)
    began = trio.current_time()
    async with trio.open_nursery() as outer:
        if with_file:
            await outer.start(_transcribe_file, directory, session.pcm, arm)
        async with trio.open_nursery() as nursery:
            for number in range(LIVE_SESSIONS):
                # Half a sentence apart, so that finals of one meet interims of the other.
                nursery.start_soon(_speak, directory, frames, session.truth, number * 0.7, arm)
        outer.cancel_scope.cancel()
    arm.took_s += trio.current_time() - began


async def _speak(directory: Path, frames: list[bytes], truth: load.Truth, delay_s: float, arm: Arm) -> None:
    talk = await load.talk(directory, frames, chunk_ms=CHUNK_MS, delay_s=delay_s, options={"lang": "en"})
    latencies, cuts, _ = load.final_latencies_s(talk, truth)
    arm.latencies += latencies
    arm.finals += len(latencies)
    arm.interims += len(talk.events("interim"))
    arm.spoken_s += sum(each["end_s"] - each["start_s"] for each in truth)
    arm.early_cuts += cuts


async def _transcribe_file(
    directory: Path, pcm: bytes, arm: Arm, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The file session, until it is cancelled. It has begun when its first window is done."""
    frames = load.chunked(pcm, chunk_ms=FILE_CHUNK_MS)
    repeats = -(-FILE_S * load.RATE * 2 // len(pcm))
    done_s = 0.0
    async with load.connect(directory, kind="file", lang="en") as session, trio.open_nursery() as nursery:
        nursery.start_soon(_send, session, frames, repeats)
        async for event in session.events():
            if event["type"] == "final":
                if not done_s:
                    task_status.started()
                else:
                    arm.transcribed_s += event["end_s"] - done_s
                done_s = event["end_s"]
                arm.window_decodes_s.append(event["timing"]["decode_ms"] / 1000)


async def _send(session: load.Session, frames: list[bytes], repeats: int) -> None:
    for _ in range(repeats):
        for data in frames:
            await session.stream.send_all(data)


def _ms(arm: Arm, share: float) -> int:
    return round(1000 * (load.percentile(arm.latencies, share) or 0.0))
