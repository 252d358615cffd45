"""Connections cut 200 times while people speak: are texts the same, how soon does a session go on, what is sent again?

Twenty speakers at real-time pace, each over a proxy of its own (`tests/cutting.py`) that cuts it ten times at random:
closed, reset, or half open, with nothing or 30 ms of bytes held back in both directions, which are lost then. The
client is the library's on Trio, as any program has it. The fake model, whose text depends on the audio alone.

Cut to resumed: from the moment of the cut until the client has the daemon's `resumed`. A cut that hits a connection
which is being made counts from the one before it. To compare with: how long new sessions take to start meanwhile.
"""

from __future__ import annotations

import random
import tempfile
from pathlib import Path

import attrs
import trio
from sttd_client import Event, Final, Resumed, open_session
from sttd_client.options import Endpointing

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.sessions import script
from tests.cutting import Cut, cutting

SPEAKERS = 20
CUTS = 10  # of each
CHUNK_MS = 40
LAG_S = 0.03
OPENED_BYTES = 400  # a session that was never opened is not resumed
STEADY: Endpointing = {"silence_ms_min": 500, "silence_ms_max": 500}  # else the time of decodes has a say in them
PROBE_S = 0.5  # between two starts of sessions that say nothing
SEED = 17


@attrs.define
class Arm:
    """What was seen of the cuts of one kind."""

    cuts: int = 0
    resumed_s: list[float] = attrs.field(factory=list)
    again_bytes: list[int] = attrs.field(factory=list)


def main(_: Options) -> None:
    """A row for each kind of cut, and one for all."""
    pcm = script().pcm
    with load.daemon("--model", "fake") as directory, tempfile.TemporaryDirectory(prefix="sttd-bench-") as name:
        arms, starts_s, same = trio.run(_compare, directory, Path(name), pcm)
    rows = [_row(kind, arm) for kind, arm in arms.items()]
    report.write(
        "resume",
        rows,
        {
            "load": f"{SPEAKERS} speakers at real-time pace in {CHUNK_MS} ms chunks, {len(pcm) / 32_000:.0f} s, fake",
            "a start": f"{_ms(starts_s, 0.5)} / {_ms(starts_s, 0.95)} ms p50 / p95, {len(starts_s)} of them",
            "texts": f"{same} of {SPEAKERS} sessions have the finals of the uninterrupted one",
        },
    )


async def _compare(directory: Path, proxies: Path, pcm: bytes) -> tuple[dict[str, Arm], list[float], int]:
    expected = _texts(await _speak(directory / "control.sock", pcm, pace=False))
    arms: dict[str, Arm] = {"fin": Arm(), "reset": Arm(), "half_open": Arm(), "all": Arm()}
    starts_s: list[float] = []
    same = 0

    async def start_now_and_then() -> None:
        async with cutting(directory / "audio.sock", proxies) as proxy:
            while True:
                await trio.sleep(PROBE_S)
                began = trio.current_time()
                async with open_session(socket_path=proxy.control):
                    starts_s.append(trio.current_time() - began)

    async def one(number: int) -> None:
        nonlocal same
        chance = random.Random(SEED + number)
        own = proxies / str(number)
        own.mkdir()
        await trio.sleep(CHUNK_MS / 1000 * number / SPEAKERS)
        async with cutting(directory / "audio.sock", own, _plan(chance, len(pcm))) as proxy:
            events = await _speak(proxy.control, pcm, pace=True)
        same += _texts(events) == expected
        resumed = [(event, at) for event, at in events if isinstance(event, Resumed)]
        before = 0.0
        for event, at in resumed:
            its = [(cut, cut_at) for cut, cut_at in proxy.made if before < cut_at <= at]
            first, first_at = its[0]
            before = at
            assert first is not None, "the proxy cuts by its plan alone"
            for arm in (arms[first.how], arms["all"]):
                arm.cuts += len(its)
                arm.resumed_s.append(at - first_at)
                arm.again_bytes.append(event.again_bytes)

    async with trio.open_nursery() as probing:
        probing.start_soon(start_now_and_then)
        async with trio.open_nursery() as nursery:
            for number in range(SPEAKERS):
                nursery.start_soon(one, number)
        probing.cancel_scope.cancel()
    return arms, starts_s, same


def _plan(chance: random.Random, audio_bytes: int) -> list[Cut]:
    """Cuts at random places of the speech."""
    places = sorted(chance.randrange(audio_bytes) for _ in range(CUTS))
    return [
        Cut(
            direction="up",
            after_bytes=1 + place - before + (0 if before else OPENED_BYTES),
            how=chance.choice(["fin", "reset", "half_open"]),
            lag_s=chance.choice([0.0, LAG_S]),
        )
        for before, place in zip([0, *places], places, strict=False)
    ]


async def _speak(control: Path, pcm: bytes, *, pace: bool) -> list[tuple[Event, float]]:
    """One speaker; the events, each with its time."""
    events: list[tuple[Event, float]] = []
    size = CHUNK_MS * 32
    async with open_session(socket_path=control, endpointing=STEADY) as session, trio.open_nursery() as nursery:

        async def listen() -> None:
            while (event := await session.receive()) is not None:
                events.append((event, trio.current_time()))

        nursery.start_soon(listen)
        began = trio.current_time()
        for at in range(0, len(pcm), size):
            if pace:
                await trio.sleep_until(began + (at + size) / 32_000)
            await session.send(pcm[at : at + size])
        await session.stop()
    return events


def _texts(events: list[tuple[Event, float]]) -> list[tuple[int, str, float, float]]:
    finals = [event for event, _ in events if isinstance(event, Final)]
    return [(final.utterance, final.text, final.start_s, final.end_s) for final in finals]


def _row(kind: str, arm: Arm) -> dict[str, object]:
    return {
        "cut": kind,
        "cuts": arm.cuts,
        "resumed": len(arm.resumed_s),
        "p50_ms": _ms(arm.resumed_s, 0.5),
        "p95_ms": _ms(arm.resumed_s, 0.95),
        "sent_again_p50_ms": _ms([count / 32_000 for count in arm.again_bytes], 0.5),
        "sent_again_bytes": sum(arm.again_bytes),
    }


def _ms(values: list[float], share: float) -> int:
    return round((load.percentile(values, share) or 0.0) * 1000)
