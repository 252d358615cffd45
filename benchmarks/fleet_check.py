"""The simulated fleet beside the daemon: the same speech, the same times of decodes, both tables next to each other.

The daemon decodes with `fake`, which takes the same for every call; or it asks a server that this process is: one
replica with a batch window, which takes `CALL_S` and `ITEM_S` for an item. All speakers say the session of ten clips,
each from another place on. A latency is from the end of speech, as the final has it, to the final.

On a busy machine the daemon's latencies have the time in which it waited for a core; the simulation's have not.
`daemon_cpu_ms` is CPU time of the daemon for each second of one session.
"""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import h11
import trio

from benchmarks import load, report
from benchmarks.fleet import DOCUMENT, document
from benchmarks.fleet_model import Outcome, Scenario, simulate
from benchmarks.fleet_times import Spoken, Straight, spoken_in
from benchmarks.options import Options
from benchmarks.sessions import script

SECONDS: Final = 30.0  # of each run
WARMUP_S: Final = 5.0
CHUNK_MS: Final = 100
CALL_S, ITEM_S = 0.2, 0.1
MAX_BATCH: Final = 8
IN_FLIGHT: Final = 8


@attrs.frozen(kw_only=True)
class Arm:
    """One comparison. `window_s` None: the daemon decodes itself, and a call takes `CALL_S`, whatever is in it."""

    speakers: int
    live: bool
    window_s: float | None = None


ARMS: Final = (
    Arm(speakers=12, live=False),
    Arm(speakers=12, live=True),
    Arm(speakers=16, live=False, window_s=0.0),
    Arm(speakers=6, live=False, window_s=0.3),
    Arm(speakers=6, live=True, window_s=0.0),
)


def main(options: Options) -> None:
    """A row for the daemon and one for the simulation, for each arm."""
    pcm = script().pcm
    spoken = spoken_in(pcm, message_ms=CHUNK_MS)
    rows = []
    for arm in ARMS:
        rows += [{"who": "daemon", **trio.run(_daemon, arm, pcm)}, {"who": "simulation", **_simulated(arm, spoken)}]
    if options.document:
        document(DOCUMENT, {"check": rows})
    report.write(
        "fleet_check",
        rows,
        {"a call": f"local: {CALL_S} s; remote: {CALL_S} s and {ITEM_S} s an item, at most {MAX_BATCH} a batch"},
    )


def _row(arm: Arm, latencies_s: list[float], interims: float, speech_s: float, **more: object) -> dict[str, Any]:
    window = "-" if arm.window_s is None else f"{1000 * arm.window_s:.0f}"
    points = {
        f"final_p{point}_ms": round(1000 * (load.percentile(latencies_s, point / 100) or 0)) for point in (50, 95)
    }
    return {
        "decodes": "itself" if arm.window_s is None else "a server",
        "window_ms": window,
        "speakers": arm.speakers,
        "live": arm.live,
        "finals": len(latencies_s),
        **points,
        "interims_per_s": round(interims / max(speech_s, 1e-9), 2),
        **more,
    }


def _simulated(arm: Arm, spoken: list[Spoken]) -> dict[str, Any]:
    local = arm.window_s is None
    asked = Scenario(
        utterances=spoken,
        times=Straight(call_s=CALL_S, item_s=0.0 if local else ITEM_S),
        speakers=arm.speakers,
        in_turn=True,
        gap_s=sum(each.gap_s or 0.0 for each in spoken) / len(spoken),
        live=float(arm.live),
        replicas=0 if local else 1,
        in_flight=IN_FLIGHT,
        max_batch=MAX_BATCH,
        window_s=arm.window_s or 0.0,
        priority=False,
        rtt_s=0.002,
        link_bytes_per_s=math.inf,
        duration_s=600.0,  # costs nothing, and says more
        warmup_s=WARMUP_S,
    )
    outcome: Outcome = simulate(asked)
    return _row(
        arm,
        outcome.finals_s,
        outcome.interims,
        outcome.speech_s,
        batch_mean=round(outcome.items / outcome.calls, 2),
        daemon_cpu_ms=None,
    )


async def _daemon(arm: Arm, pcm: bytes) -> dict[str, Any]:
    keep: dict[str, int] = {}
    settings = [f"presets.fake.decode_ms={1000 * CALL_S:.0f}", "limits.sessions=1000", "limits.sessions_per_uid=1000"]
    async with _replica(arm.window_s or 0.0) as replica:
        if arm.window_s is None:
            model = "fake"
        else:
            model = "cluster"
            url = f"http://127.0.0.1:{replica.port}/v1"
            settings += [
                "presets.cluster.backend=remote",
                f"presets.cluster.url={url}",
                f"presets.cluster.max_in_flight={IN_FLIGHT}",
            ]
        arguments = [part for setting in settings for part in ("--set", setting)]
        manager = load.daemon("--model", model, *arguments, keep=keep)
        directory = await trio.to_thread.run_sync(manager.__enter__)
        try:
            talks, used = await _talk(arm, directory, keep["pid"], pcm)
            status = await trio.to_thread.run_sync(load.call, directory, "status")
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(manager.__exit__, None, None, None)
    latencies, interims, speech_s = [], 0, 0.0
    for talk in talks:
        for heard in talk.events("final"):
            if heard.event["end_s"] >= WARMUP_S and heard.event["text"] and heard.event["reason"] == "endpoint":
                latencies.append(heard.at_s - heard.event["end_s"])
                speech_s += heard.event["end_s"] - heard.event["start_s"]
                interims += sum(each.event["utterance"] == heard.event["utterance"] for each in talk.events("interim"))
    batch = replica.items / replica.calls if replica.calls else status["scheduler"]["batch_size_mean"]
    return _row(
        arm, latencies, interims, speech_s, batch_mean=round(batch, 2),
        daemon_cpu_ms=round(1000 * used / arm.speakers / SECONDS, 2),
    )  # fmt: skip


async def _talk(arm: Arm, directory: Path, pid: int, pcm: bytes) -> tuple[list[load.Talk], float]:
    frames = load.chunked(pcm, chunk_ms=CHUNK_MS)
    talks = [load.Talk() for _ in range(arm.speakers)]
    before = load.tree_cpu_s(pid)
    async with trio.open_nursery() as nursery:
        for number, talk in enumerate(talks):
            phase = number * 37 % len(frames)
            mine = (frames[phase:] + frames[:phase])[: round(SECONDS * 1000 / CHUNK_MS)]
            nursery.start_soon(_one, directory, mine, number, arm, talk)
    return talks, load.tree_cpu_s(pid) - before


async def _one(directory: Path, frames: list[bytes], number: int, arm: Arm, into: load.Talk) -> None:
    delay_s = number / arm.speakers * CHUNK_MS / 1000
    options = {"lang": "en", "interim": arm.live}
    await load.talk(directory, frames, chunk_ms=CHUNK_MS, delay_s=delay_s, options=options, into=into)


# ---------------------------------------------------------------- a replica


@attrs.define(eq=False, kw_only=True)
class Replica:
    """A server of the transcription API that hears nothing, and takes its time in batches."""

    window_s: float
    port: int = 0
    calls: int = 0
    items: int = 0
    _waiting: list[tuple[float, trio.Event]] = attrs.field(factory=list, init=False)
    _came: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def serve(self, stream: trio.SocketStream) -> None:
        """A connection."""
        state = h11.Connection(h11.SERVER)
        async with stream:
            while True:
                event = state.next_event()
                if event is h11.NEED_DATA:
                    try:
                        state.receive_data(await stream.receive_some(65536))
                    except trio.BrokenResourceError:
                        return
                elif isinstance(event, h11.EndOfMessage):
                    done = trio.Event()
                    self._waiting.append((trio.current_time(), done))
                    self._came.set()
                    await done.wait()
                    body = json.dumps({"text": "w1 w2 w3"}).encode()
                    head = h11.Response(status_code=200, headers=[("Content-Length", str(len(body)))])
                    data = state.send(head) + state.send(h11.Data(data=body)) + state.send(h11.EndOfMessage())
                    try:
                        await stream.send_all(data)
                    except trio.BrokenResourceError:
                        return
                    state.start_next_cycle()
                elif isinstance(event, h11.ConnectionClosed):
                    return

    async def decode(self) -> None:
        """One call after the other."""
        while True:
            while not self._waiting:
                self._came = trio.Event()
                await self._came.wait()
            until = self._waiting[0][0] + self.window_s
            while len(self._waiting) < MAX_BATCH and trio.current_time() < until:
                self._came = trio.Event()
                with trio.move_on_at(until):
                    await self._came.wait()
            batch, self._waiting = self._waiting[:MAX_BATCH], self._waiting[MAX_BATCH:]
            self.calls, self.items = self.calls + 1, self.items + len(batch)
            await trio.sleep(CALL_S + ITEM_S * len(batch))
            for _, done in batch:
                done.set()


@asynccontextmanager
async def _replica(window_s: float) -> AsyncIterator[Replica]:
    replica = Replica(window_s=window_s)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, replica.serve, 0, host="127.0.0.1"))
        replica.port = listener.socket.getsockname()[1]
        nursery.start_soon(replica.decode)
        yield replica
        nursery.cancel_scope.cancel()
