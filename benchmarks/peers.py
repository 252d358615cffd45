"""Beside two neighbours: WhisperLive and wyoming-faster-whisper, the same model, machine and clips, in one run.

Each server gets an environment of its own under `build/peers`, made here from the package index; each is spoken to
in its own protocol, by the small clients below (one `Heard` log for all). The clips are the utterances of the bundled
sample, spoken at real-time pace by 1, 4 and 8 clients, each beginning with another utterance. There are two ways to
know that an utterance is over, and a server is measured in those that it has:

- `told`: the client says so (sttd: `finalize`; Wyoming: `audio-stop`). Latency counts from there.
- `heard`: the server hears it. Audio goes on without a break; latency counts from the true end of speech.

A `final` is text that will not change: sttd's `final`, Wyoming's `transcript`, WhisperLive's completed segments.
Its latency is that of the last word of the utterance. `shown` is when the text on the screen reached its last form,
final or not. A word is lost if no word of the final text, right or wrong, stands in its place after alignment;
`lost_shown_pct` counts the text that was shown as well. `server_cpu_s` is CPU time for each second of speech.

WhisperLive runs with one shared model, its own suggestion for many clients, one row with its batching and one
without; it counts a segment as complete when it has repeated itself or another follows. The demo model knows
sentences of a few seconds, and WhisperLive decodes everything since the last completed segment in one piece: that is
harder for the demo model than for a published one. Set STTD_BENCH_MODEL to the directory of one to see that.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

import attrs
import trio

from benchmarks import load, peer_servers, report
from benchmarks.peer_script import Heard, Spoken, Talk, script_of_the_sample
from benchmarks.peer_servers import MODEL, THREADS
from benchmarks.words import align, words

CLIENTS = (1, 4, 8)
HANGS_S = 180


@attrs.frozen
class Scores:
    """What the logs of some clients say; latencies in seconds."""

    final_s: list[float] = attrs.field(factory=list)
    shown_s: list[float] = attrs.field(factory=list)
    said: int = 0
    lost: int = 0
    lost_shown: int = 0
    wrong: int = 0

    def __add__(self, other: Scores) -> Scores:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return Scores(*(mine + theirs for mine, theirs in pairs))


def main() -> None:
    """All servers and numbers of clients, one after the other."""
    rows: list[dict[str, object]] = []
    with peer_servers.sttd() as (directory, pid):
        rows += _measure("sttd", "told", pid, lambda script: peer_servers.sttd_told(directory, script))
        rows += _measure("sttd", "heard", pid, lambda script: peer_servers.sttd_heard(directory, script))
    with peer_servers.wyoming() as (port, pid):
        rows += _measure("wyoming-faster-whisper", "told", pid, lambda script: peer_servers.wyoming_told(port, script))
    for mode in ("serial", "batched"):
        with peer_servers.whisper_live(mode) as (port, pid):
            name = f"WhisperLive, {mode}"
            rows += _measure(name, "heard", pid, lambda script: peer_servers.whisper_live_heard(port, script))
    report.write(
        "peers",
        rows,
        {
            "model": f"{MODEL.name}, int8, {THREADS} threads, beam 5, the same directory for all",
            "versions": "whisper-live 0.10.0 (faster-whisper 1.2.0), wyoming-faster-whisper 3.8.1",
        },
    )


def _measure(server: str, mode: str, pid: int, talk: Talk) -> list[dict[str, object]]:
    rows = []
    script = script_of_the_sample()
    trio.run(talk, script[:1])  # the first call warms every server up
    for clients in CLIENTS:
        cpu = load.cpu_s(pid)
        scores = trio.run(_all_clients, talk, script, clients)
        speech_s = clients * sum(each.end_s - each.start_s for each in script)
        rows.append(
            {
                "server": server,
                "mode": mode,
                "clients": clients,
                "final_p50_ms": _ms(scores.final_s, 0.5),
                "final_p95_ms": _ms(scores.final_s, 0.95),
                "shown_p50_ms": _ms(scores.shown_s, 0.5),
                "shown_p95_ms": _ms(scores.shown_s, 0.95),
                "lost_pct": round(100 * scores.lost / scores.said, 1),
                "lost_shown_pct": round(100 * scores.lost_shown / scores.said, 1),
                "wrong_pct": round(100 * scores.wrong / scores.said, 1),
                "server_cpu_s": round((load.cpu_s(pid) - cpu) / speech_s, 2),
                "load_1m": round(os.getloadavg()[0], 1),
            }
        )
        print(f"  {server}, {mode}, {clients} client(s) done", file=sys.stderr)
    return rows


async def _all_clients(talk: Talk, script: list[Spoken], clients: int) -> Scores:
    total: list[Scores] = []

    async def one(number: int) -> None:
        await trio.sleep(number * 0.37)  # nobody begins together
        mine = script[number % len(script) :] + script[: number % len(script)]
        with trio.move_on_after(HANGS_S):
            logs = await talk(mine)
            parts = [mine] if len(logs) == 1 else [[each] for each in mine]
            total.extend(score(part, log) for part, log in zip(parts, logs, strict=True))
            return
        total.append(score(mine, Heard()))  # every word is lost

    async with trio.open_nursery() as nursery:
        for number in range(clients):
            nursery.start_soon(one, number)
    return sum(total, Scores())


def _ms(values: list[float], share: float) -> int | None:
    value = load.percentile(values, share)
    return None if value is None else round(1000 * value)


def score(script: list[Spoken], heard: Heard) -> Scores:
    """Latencies and lost words of one client. An utterance without any final word has no latency: its words are lost.

    Final text only grows, so a word is final when the text first has as many words as up to it in the end. Shown text
    changes: a word is settled when the text up to it has changed for the last time.
    """
    said = [words(each.text) for each in script]
    flat = [word for utterance in said for word in utterance]
    final = words(heard.log[-1][1]) if heard.log else []
    shown = words(heard.log[-1][2]) if heard.log else []
    places, shown_places = align(flat, final), align(flat, shown)
    final_s, shown_s = [], []
    at = 0
    for index, utterance in enumerate(said):
        mine = slice(at, at + len(utterance))
        at += len(utterance)
        if index >= len(heard.ends_s):
            break
        if found := [place for place in places[mine] if place is not None]:
            until = found[-1] + 1
            final_s.append(_first(heard, lambda log, until=until: len(words(log[1])) >= until) - heard.ends_s[index])
        if found := [place for place in shown_places[mine] if place is not None]:
            shown_s.append(_settled(heard, shown[: found[-1] + 1]) - heard.ends_s[index])
    wrong = sum(place is not None and final[place] != word for word, place in zip(flat, places, strict=True))
    return Scores(final_s, shown_s, len(flat), places.count(None), shown_places.count(None), wrong)


def _first(heard: Heard, holds: Callable[[tuple[float, str, str]], bool]) -> float:
    return next(log[0] for log in heard.log if holds(log))


def _settled(heard: Heard, beginning: list[str]) -> float:
    """When the shown text began so for good."""
    at_s = heard.log[-1][0]
    for log in reversed(heard.log):
        if words(log[2])[: len(beginning)] != beginning:
            break
        at_s = log[0]
    return at_s
