"""Past one machine: tail latency against replicas, load, batch window, live text and a killed replica, simulated.

`fleet_model.py` has the rules, `fleet_times.json` what was measured (`--measure` with `--model` measures it anew, two
minutes a model on a quiet machine). `fleet_check` compares the simulation with the daemon.

A *speaker* is an open session that speaks 40 % of the time. *Carried* is the most speakers of whom 95 % of the finals
come within 1.5 s after the end of speech, as `gpu` counts; with live text from replicas, also one interim a second.
Times of a GPU were not measured: they are an assumption, which is printed with them. `--document` writes the tables
and the picture into docs/explanation/scale.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import fleet_picture, fleet_times, report
from benchmarks.fleet_model import Outcome, Scenario, simulate
from benchmarks.fleet_times import Facts, Straight, Times
from benchmarks.options import Options
from sttd.core.types import Effort

PROMISE_S: Final = 1.5  # as `gpu.LATE_MS`
LATE_SHARE: Final = 0.05
LIVELY: Final = 1.0  # interims a second of speech, where replicas make them; as `engine/speed.py` has it
UTTERANCES: Final = 1500  # of a simulation, about
LEAST_S: Final = 100.0  # and as long at least
WARMUP_S: Final = 20.0
PER_EDGE: Final = 100  # speakers of an edge in a sweep; chosen
IN_FLIGHT: Final = 24  # as many as `max_in_flight` may be
WINDOWS_MS: Final = (0, 50, 200, 400)
LOADS: Final = (0.5, 0.75, 1.0, 1.25)  # of what is carried
REPLICAS: Final = (1, 4, 8)
LIVE: Final = (0.0, 0.5, 1.0)
KILLED_S: Final = 30.0
SIZES: Final = (100, 10_000, 1_000_000)
SESSION_CORE_SHARE: Final = 0.0042  # of a core; `density`, quiet: 236 sessions a core
EDGE_CORES: Final = 2
EDGE_LOAD: Final = 0.5  # chosen, so that a final finds the event loop free
GBIT_BYTES_PER_S: Final = 125e6
LIVE_MODEL: Final = "tiny.en"  # of edges that make live text
MOST: Final = 4096  # speakers of a search
DOCUMENT: Final = report.ROOT / "docs" / "explanation" / "scale.md"

Row = dict[str, Any]
Rows = Sequence[Mapping[str, Any]]


@attrs.frozen(kw_only=True)
class Hardware:
    """What replicas run on."""

    name: str
    times: Times
    max_batch: int
    replicas: int  # of a sweep


def main(options: Options) -> None:
    """Sweeps, then the sizes."""
    if options.measure:
        rows = fleet_times.measure(options.model)
        report.write("fleet_times", rows, {"what": "calls of the engine, all cores"}, model=options.model.name)
        return
    facts = fleet_times.read()
    kinds = hardware(facts)
    carried = {kind.name: most_speakers(scenario(facts, kind)) for kind in kinds}
    lively = {kind.name: most_speakers(scenario(facts, kind, live=1.0)) for kind in kinds}
    rows = [row for kind in kinds for row in sweeps(facts, kind, carried[kind.name])]
    meta = {
        "speaker": "an open session that speaks 40 % of the time",
        "carried": "; ".join(f"{kind.replicas} on {kind.name}: {carried[kind.name]} speakers" for kind in kinds),
        "carried with live text": "; ".join(f"{kind.name}: {lively[kind.name]} speakers" for kind in kinds),
        "assumed": "GPU: 60 ms a call and 20 ms an item, 16 a batch; not measured",
    }
    report.write("fleet", rows, meta)
    sizes = list(size_rows(facts, kinds, carried, lively, rows))
    report.write("fleet_sizes", sizes, meta)
    picture = fleet_picture.picture(rows, promise_ms=1000 * PROMISE_S)
    (report.OUTPUT / "fleet.svg").write_text(picture)
    if options.document:
        DOCUMENT.with_suffix(".svg").write_text(picture)
        document(
            DOCUMENT, {"made of": made_of(facts), "carried": carried_rows(kinds, carried, lively, rows), "sizes": sizes}
        )
        document(DOCUMENT, {"sweeps": beside_each_other(rows)})


def hardware(facts: Facts) -> list[Hardware]:
    """What was measured, and a GPU as it is assumed to be."""
    measured = [
        Hardware(name=f"{name}, {facts.machine[name]['cores']} cores", times=times, max_batch=8, replicas=4)
        for name, times in facts.models.items()
    ]
    return [
        *measured,
        Hardware(name="GPU, assumed", times=Straight(call_s=0.06, item_s=0.02), max_batch=16, replicas=1),
    ]


def scenario(facts: Facts, kind: Hardware, **changes: Any) -> Scenario:
    """The usual one: finals by the replicas, live text by the edges."""
    usual = Scenario(
        utterances=facts.utterances,
        times=kind.times,
        speakers=1,
        live=0.0,
        replicas=kind.replicas,
        max_batch=kind.max_batch,
        in_flight=IN_FLIGHT,
        request_bytes=facts.bytes["request"],
        promise_s=PROMISE_S,
    )
    return attrs.evolve(usual, **changes)


def with_speakers(asked: Scenario, speakers: int) -> Scenario:
    """So many speakers, on as many edges as they need, for long enough that the last per cent is one."""
    return attrs.evolve(
        asked,
        speakers=speakers,
        edges=math.ceil(speakers / PER_EDGE),
        duration_s=WARMUP_S + max(LEAST_S, UTTERANCES * asked.every_s / max(1, speakers)),
        warmup_s=WARMUP_S,
    )


def most_speakers(asked: Scenario) -> int:
    """The most whom it carries, within 5 %, at least one."""

    def holds(speakers: int) -> bool:
        whole = with_speakers(asked, speakers)
        expected = speakers * whole.duration_s / whole.every_s
        outcome = simulate(attrs.evolve(whole, give_up=2 * LATE_SHARE * expected))
        lively = not asked.live or outcome.interims >= LIVELY * outcome.speech_s
        return lively and outcome.late <= LATE_SHARE * len(outcome.finals_s)

    low, high = 0, 4
    while high < MOST and holds(high):
        low, high = high, 2 * high
    while high - low > max(1, 0.05 * low):
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return max(1, low)


def sweeps(facts: Facts, kind: Hardware, carried: int) -> Iterator[Row]:
    """A row for each setting of each sweep, one thing changed at a time."""
    usual = scenario(facts, kind)
    at_75 = round(0.75 * carried)

    def rows(name: str, settings: Sequence[Any], change: Callable[[Any], Scenario]) -> Iterator[Row]:
        for setting in settings:
            asked = change(setting)
            yield {"hardware": kind.name, "sweep": name, "setting": str(setting), **row(asked, simulate(asked))}

    yield from rows("load", LOADS, lambda share: with_speakers(usual, round(share * carried)))
    yield from rows(
        "replicas",
        REPLICAS,
        lambda count: attrs.evolve(with_speakers(usual, round(0.75 * carried * count / kind.replicas)), replicas=count),
    )
    yield from rows(
        "window_ms", WINDOWS_MS, lambda each: attrs.evolve(with_speakers(usual, at_75), window_s=each / 1000)
    )
    yield from rows("live", LIVE, lambda share: attrs.evolve(with_speakers(usual, at_75), live=share))
    yield from rows(
        "live, no priority",
        LIVE[1:],
        lambda share: attrs.evolve(with_speakers(usual, at_75), live=share, priority=False),
    )
    four = attrs.evolve(with_speakers(usual, round(0.75 * carried * 4 / kind.replicas)), replicas=4)
    yield from rows(
        "killed of 4",
        (0, 1, 2),
        lambda count: attrs.evolve(four, killed=(count, 0.4 * four.duration_s, KILLED_S)),
    )


def row(asked: Scenario, outcome: Outcome) -> Row:
    """What a table says of an outcome."""
    finals = len(outcome.finals_s)
    return {
        "speakers": asked.speakers,
        "replicas": asked.replicas,
        "final_p50_ms": round(1000 * outcome.final_s(0.50)),
        "final_p95_ms": round(1000 * outcome.final_s(0.95)),
        "final_p99_ms": round(1000 * outcome.final_s(0.99)),
        "late_pct": round(100 * outcome.late / max(1, finals), 1),
        "interims_per_s": round(outcome.interims / max(1e-9, outcome.speech_s), 2),
        "busy_pct": round(100 * outcome.utilisation),
        "batch_mean": round(outcome.items / max(1, outcome.calls), 1),
        "longest_queue": outcome.longest_queue,
        "asked_again": outcome.again,
        "under_way": round(outcome.under_way_s / asked.speakers / asked.duration_s, 4),
        "kbit_per_speaker": round(8e-3 * outcome.sent_bytes / asked.speakers / asked.duration_s, 1),
    }


# ---------------------------------------------------------------- tables of the page


def made_of(facts: Facts) -> Rows:
    """What was measured of calls, ms."""
    return [
        {
            "model": f"{name}, {facts.machine[name]['cores']} cores",
            **{
                f"{kind} of {length:g} s{', ' + str(items) + ' in a call' if items > 1 else ''}": round(
                    1000 * times(effort, [length] * items)
                )
                for kind, effort in (("final", Effort.FULL), ("interim", Effort.QUICK))
                for length, items in ((5.0, 1), (5.0, 8))
            },
            "final of 20 s": round(1000 * times(Effort.FULL, [20.0])),
            "load of the machine meanwhile": facts.machine[name]["load_1m"],
        }
        for name, times in facts.models.items()
    ]


def carried_rows(kinds: Sequence[Hardware], carried: Mapping[str, int], lively: Mapping[str, int], rows: Rows) -> Rows:
    """How many speakers a replica carries, and what they send."""
    usual = {row["hardware"]: row for row in rows if row["sweep"] == "load" and row["setting"] == "1.0"}
    return [
        {
            "replicas": f"{kind.replicas} on {kind.name}",
            "speakers": carried[kind.name],
            "a replica": round(carried[kind.name] / kind.replicas, 1),
            "final p50 / p95 / p99, ms": _points(usual[kind.name]),
            "busy, %": usual[kind.name]["busy_pct"],
            "kbit/s a speaker to replicas": usual[kind.name]["kbit_per_speaker"],
            "speakers with live text from there, too": lively[kind.name],
        }
        for kind in kinds
    ]


def beside_each_other(rows: Rows) -> Rows:
    """A row for each setting, a column for each hardware."""
    kinds = list(dict.fromkeys(row["hardware"] for row in rows))
    settings = list(dict.fromkeys((row["sweep"], row["setting"]) for row in rows))
    found = {(row["hardware"], row["sweep"], row["setting"]): row for row in rows}
    return [
        {
            "what is changed": sweep,
            "to": setting,
            **{f"{kind}: p50 / p95 / p99, ms": _points(found[kind, sweep, setting]) for kind in kinds},
            "interims a second of speech": " · ".join(
                str(found[kind, sweep, setting]["interims_per_s"]) for kind in kinds
            ),
        }
        for sweep, setting in settings
    ]


def _points(row: Mapping[str, Any]) -> str:
    return f"{row['final_p50_ms']} / {row['final_p95_ms']} / {row['final_p99_ms']}"


# ---------------------------------------------------------------- sizes


@attrs.frozen(kw_only=True)
class Edge:
    """What an edge carries, by each of what it has; speakers."""

    cpu: int
    link: int
    in_flight: int

    @property
    def speakers(self) -> int:
        """By the first that is used up."""
        return min(self.cpu, self.link, self.in_flight)


def edge(facts: Facts, usual: Mapping[str, Any]) -> Edge:
    """One edge in front of replicas that carry what they can; half of each of its means may be used."""
    bytes_per_s = facts.bytes["pcm_100ms"] + 125 * usual["kbit_per_speaker"]
    return Edge(
        cpu=math.floor(EDGE_LOAD * EDGE_CORES / SESSION_CORE_SHARE),
        link=math.floor(EDGE_LOAD * GBIT_BYTES_PER_S / bytes_per_s),
        in_flight=math.floor(EDGE_LOAD * IN_FLIGHT / usual["under_way"]),
    )


def live_edge(facts: Facts, asked: Scenario) -> int:
    """The speakers of an edge that makes their live text itself, an interim a second, four in a call."""
    interim_s = facts.models[LIVE_MODEL](Effort.QUICK, [5.0] * 4) / 4 * facts.machine[LIVE_MODEL]["cores"]
    return math.floor(EDGE_LOAD * EDGE_CORES / (SESSION_CORE_SHARE + asked.talk * LIVELY * interim_s))


def size_rows(
    facts: Facts, kinds: Sequence[Hardware], carried: Mapping[str, int], lively: Mapping[str, int], rows: Rows
) -> Iterator[Row]:
    """What so many speakers take, by what replicas run on: arithmetic over what was simulated and measured."""
    with_live_text = live_edge(facts, scenario(facts, kinds[0]))
    for kind in kinds:
        key = kind.name, "load", "1.0"
        usual = next(row for row in rows if (row["hardware"], row["sweep"], row["setting"]) == key)
        bytes_per_s = 125 * usual["kbit_per_speaker"]
        one = edge(facts, usual)
        for speakers in SIZES:
            yield {
                "speakers": speakers,
                "replicas on": kind.name,
                "replicas": math.ceil(speakers * kind.replicas / carried[kind.name]),
                "edges": math.ceil(speakers / one.speakers),
                "an edge's limits": ", ".join(f"{name} {value}" for name, value in ranked(one)),
                f"live text by edges, {LIVE_MODEL}: edges": math.ceil(speakers / with_live_text),
                "live text by replicas: replicas": math.ceil(speakers * kind.replicas / lively[kind.name]),
                "uplink PCM Gbit/s": round(8e-9 * speakers * facts.bytes["pcm_100ms"], 3),
                "uplink Opus Gbit/s": round(8e-9 * speakers * facts.bytes["opus_24kbit"], 3),
                "to replicas Gbit/s": round(8e-9 * speakers * bytes_per_s, 3),
            }


def ranked(one: Edge) -> list[tuple[str, int]]:
    """Its limits, the first first."""
    return sorted(attrs.asdict(one).items(), key=lambda each: each[1])


def document(path: Path, tables: Mapping[str, Rows]) -> None:
    """Put the tables between their marks in a page."""
    text = path.read_text()
    for name, rows in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"{path.name} has no place for {name}")
        heads = list(rows[0])
        lines = [
            heads,
            ["---"] * len(heads),
            *(["-" if value is None else str(value) for value in row.values()] for row in rows),
        ]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        text = f"{before}{begin}\n{table}\n\n{end}{after}"
    path.write_text(text)
