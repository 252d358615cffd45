"""The picture of the simulated fleet: the 99th percentile of finals against what is changed, an SVG."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.sax.saxutils import escape

_PANELS: Final = (
    ("load", "load, share of what is carried"),
    ("window_ms", "batch window, ms"),
    ("live", "share of speakers whose live text replicas make"),
    ("live, no priority", "the same, first come first served"),
)
_MOST_MS: Final = 4000.0  # what is above stands at the rim
_COLOURS: Final = ("#36c", "#c60", "#393", "#939")
_WIDTH, _HEIGHT, _LEFT, _GAP, _TOP, _BOTTOM = 300, 150, 46, 30, 40, 50


def picture(rows: Sequence[Mapping[str, Any]], *, promise_ms: float) -> str:
    """Two panels by two, a line for each hardware, a dashed one for the promise."""
    kinds = list(dict.fromkeys(row["hardware"] for row in rows))
    panels = []
    for number, (sweep, title) in enumerate(_PANELS):
        left = _LEFT + number % 2 * (_WIDTH + _LEFT + _GAP)
        top = _TOP + number // 2 * (_HEIGHT + _BOTTOM)
        mine = [row for row in rows if row["sweep"] == sweep]
        panels.append(_panel(mine, kinds, title, left=left, top=top, promise_ms=promise_ms))
    legend = "".join(
        f'<text x="{_LEFT + 200 * index}" y="14" fill="{_COLOURS[index % len(_COLOURS)]}">{escape(kind)}</text>'
        for index, kind in enumerate(kinds)
    )
    width, height = 2 * (_WIDTH + _LEFT) + 2 * _GAP, _TOP + 2 * (_HEIGHT + _BOTTOM)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif"'
        f' font-size="11"><rect width="100%" height="100%" fill="#fff"/>{legend}{"".join(panels)}</svg>\n'
    )


def _panel(
    rows: Sequence[Mapping[str, Any]], kinds: Sequence[str], title: str, *, left: int, top: int, promise_ms: float
) -> str:
    places = sorted({float(row["setting"]) for row in rows})
    span = places[-1] - places[0] or 1.0

    def x(setting: str | float) -> float:
        return round(left + _WIDTH * (float(setting) - places[0]) / span, 1)

    def y(value_ms: float) -> float:
        return round(top + _HEIGHT * (1 - min(value_ms, _MOST_MS) / _MOST_MS), 1)

    lines = []
    for index, kind in enumerate(kinds):
        points = " ".join(f"{x(row['setting'])},{y(row['final_p99_ms'])}" for row in rows if row["hardware"] == kind)
        lines.append(f'<polyline points="{points}" fill="none" stroke="{_COLOURS[index % len(_COLOURS)]}"/>')
    ends = "".join(
        f'<text x="{x(place)}" y="{top + _HEIGHT + 13}" text-anchor="middle">{place:g}</text>'
        for place in (places[0], places[-1])
    )
    return (
        f'<text x="{left}" y="{top - 6}">{escape(title)}</text>'
        f'<path d="M{left} {top}v{_HEIGHT}h{_WIDTH}" fill="none" stroke="#999"/>'
        f'<path d="M{left} {y(promise_ms)}h{_WIDTH}" stroke="#c33" stroke-dasharray="4 3"/>'
        f'<text x="{left - 4}" y="{top + 9}" text-anchor="end">{_MOST_MS / 1000:g} s</text>'
        f'<text x="{left - 4}" y="{y(promise_ms) + 4}" text-anchor="end">{promise_ms / 1000:g} s</text>'
        f'<text x="{left - 4}" y="{top + _HEIGHT}" text-anchor="end">0</text>{ends}{"".join(lines)}'
    )
