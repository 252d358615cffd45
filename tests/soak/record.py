"""What was measured in a soak, what is made of it, and its picture."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs

from tests.census import MEMORY_SLACK_BYTES, Census
from tests.soak.world import Tally

# Of the resident memory at rest, from the first third of the rests to the last: chosen, a leak of 1 KiB for each of
# the sessions of half an hour would be more.
GROWTH_SHARE = 0.05
GROWTH_BYTES = 4 << 20
POINTS = 300  # of a curve in the picture


@attrs.define(kw_only=True)
class Record:
    """One soak. Of `samples` (under load), `rests` (nobody is connected) and `faults` each has its seconds."""

    samples: list[tuple[float, Census]] = attrs.field(factory=list)
    rests: list[tuple[float, Census]] = attrs.field(factory=list)
    faults: list[tuple[float, str]] = attrs.field(factory=list)

    def failures(self, tally: Tally) -> list[str]:
        """What speaks against it; nothing, if it was well.

        1. No promise was broken, in any session.
        2. At every rest sessions, connections, held bytes, tasks and descriptors are at most what they were at the
           first one, and no connection has ended in a bug.
        3. Resident memory at rest does not grow: the median of the last third of the rests is at most 5 % and 4 MiB
           above that of the first third, the very first one left out: until then no model was loaded, and nothing
           went on at the same time. Of less than six rests the last may be 24 MiB above the first.
        """
        found = list(tally.broken)
        base = self.rests[0][1]
        for at_s, rest in self.rests[1:]:
            found += [
                f"at rest after {at_s:.0f} s: {name} {now}, {then} before"
                for name, (now, then) in rest.over(base).items()
            ]
        memory = [rest.rss_bytes for _, rest in self.rests]
        if len(memory) < 6:
            before, after, allowed = memory[0], memory[-1], MEMORY_SLACK_BYTES
        else:
            third = len(memory) // 3
            before, after = statistics.median(memory[1 : third + 1]), statistics.median(memory[-third:])
            allowed = GROWTH_SHARE * before + GROWTH_BYTES
        if after > before + allowed:
            found.append(f"memory at rest grew from {before / 2**20:.1f} to {after / 2**20:.1f} MiB")
        return found

    def as_map(self, tally: Tally, **more: Any) -> dict[str, Any]:
        """All of it, for JSON."""
        counts = {name: dict(getattr(tally, name)) for name in ("done", "left", "refused", "told", "faults")}
        return {
            **more,
            **counts,
            "utterances": tally.utterances,
            "failures": self.failures(tally),
            "rests": [{"at_s": round(at_s, 1), **attrs.asdict(census)} for at_s, census in self.rests],
            "samples": [{"at_s": round(at_s, 1), **attrs.asdict(census)} for at_s, census in self.samples],
            "faults_at": [[round(at_s, 1), name] for at_s, name in self.faults],
        }

    def write(self, path: Path, tally: Tally, **more: Any) -> None:
        """JSON at `path`, and the picture beside it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(self.as_map(tally, **more), indent=1))
        path.with_suffix(".svg").write_text(self.picture())

    # ---------------------------------------------------------------- the picture

    def picture(self) -> str:
        """An SVG: curves under load, dots at rest, a tick for every fault."""
        end_s = max(at_s for at_s, _ in (*self.samples, *self.rests))
        panels = [
            self._panel(number, end_s, title, of)
            for number, (title, of) in enumerate(
                (
                    ("resident memory, MiB", lambda census: census.rss_bytes / 2**20),
                    ("descriptors", lambda census: census.descriptors),
                    ("tasks", lambda census: census.tasks),
                    ("sessions", lambda census: census.sessions),
                )
            )
        ]
        ticks = "".join(f'<path d="M{_x(at_s, end_s)} 4v8"/>' for at_s, _ in self.faults)
        height = _TOP + len(panels) * _STEP
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height + 20}" font-family="sans-serif"'
            f' font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
            f'<g stroke="#c33" stroke-width=".7">{ticks}</g><text x="2" y="12">faults</text>{"".join(panels)}'
            f'<text x="{_LEFT}" y="{height + 12}">0</text>'
            f'<text x="{_WIDTH - 8}" y="{height + 12}" text-anchor="end">{end_s / 60:.0f} min</text></svg>\n'
        )

    def _panel(self, number: int, end_s: float, title: str, of: Callable[[Census], float]) -> str:
        top = _TOP + number * _STEP
        most = max([of(census) for _, census in (*self.samples, *self.rests)]) or 1

        def y(value: float) -> float:
            return round(top + _HEIGHT * (1 - value / most), 1)

        every = max(1, len(self.samples) // POINTS)
        line = " ".join(f"{_x(at_s, end_s)},{y(of(census))}" for at_s, census in self.samples[::every])
        dots = "".join(f'<circle cx="{_x(at_s, end_s)}" cy="{y(of(census))}" r="2.5"/>' for at_s, census in self.rests)
        return (
            f'<text x="{_LEFT}" y="{top - 4}">{title}</text>'
            f'<text x="{_LEFT - 4}" y="{top + 10}" text-anchor="end">{most:.0f}</text>'
            f'<text x="{_LEFT - 4}" y="{top + _HEIGHT}" text-anchor="end">0</text>'
            f'<path d="M{_LEFT} {top}v{_HEIGHT}H{_WIDTH - 8}" fill="none" stroke="#999"/>'
            f'<polyline points="{line}" fill="none" stroke="#36c"/><g fill="#c60">{dots}</g>'
        )


_WIDTH, _LEFT, _TOP, _STEP, _HEIGHT = 760, 46, 34, 104, 80


def _x(at_s: float, end_s: float) -> float:
    return round(_LEFT + (_WIDTH - _LEFT - 8) * at_s / end_s, 1)


def summary(record: Record, tally: Tally, failures: Sequence[str]) -> str:
    """What a person wants to know, in a few lines."""
    first, last = record.rests[0][1], record.rests[-1][1]
    return "\n".join(
        [
            f"{tally.done.total()} sessions heard to their end, {tally.left.total()} left by their clients, "
            f"{tally.refused.total()} refused; {tally.utterances} finals checked",
            f"faults: {dict(tally.faults)}; told: {dict(tally.told)}",
            f"at rest, first and last: memory {first.rss_bytes / 2**20:.1f} and {last.rss_bytes / 2**20:.1f} MiB, "
            f"descriptors {first.descriptors} and {last.descriptors}, tasks {first.tasks} and {last.tasks}, "
            f"threads {first.threads} and {last.threads}",
            *(f"FAILED: {failure}" for failure in failures[:20]),
            f"{len(failures)} broken promises" if failures else "0 broken promises, memory and descriptors flat",
        ]
    )
