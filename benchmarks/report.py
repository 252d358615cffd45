"""How every benchmark reports: a table on the terminal, JSON in `build/bench`."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sttd import __version__

ROOT = Path(__file__).parents[1]
OUTPUT = ROOT / "build" / "bench"


def write(
    name: str, rows: Sequence[Mapping[str, Any]], meta: Mapping[str, Any] | None = None, *, model: str | None = None
) -> Path:
    """Print `rows` as a table and keep them as JSON.

    Args:
        name: of the benchmark and its file.
        rows: one mapping per line, all with the same keys; units belong in the keys.
        meta: settings and remarks that hold for all rows, such as a target.
        model: what decoded, where one did; each model has a file of its own.

    Returns:
        The JSON file, `<name>.json` or `<name>-<model>.json`:
        `{"name", "model", "command", "machine", "meta", "rows"}`.
    """
    print(f"\n{name}{'' if model is None else f', {model}'}")
    for key, value in (meta or {}).items():
        print(f"  {key}: {value}")
    print(_table(rows))
    OUTPUT.mkdir(parents=True, exist_ok=True)
    path = OUTPUT / (f"{name}.json" if model is None else f"{name}-{model}.json")
    content = {
        "name": name,
        "model": model,
        "command": _command(),
        "machine": machine(),
        "meta": dict(meta or {}),
        "rows": [dict(row) for row in rows],
    }
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False, default=float) + "\n")
    print(f"  → {path.relative_to(ROOT)}", flush=True)
    return path


def reason(error: BaseException) -> str:
    """An error in one line, of a group the first."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {(str(error).strip() or '-').splitlines()[-1][:200]}"


def _command() -> str:
    """How to run it again: `python -m benchmarks ingest`, not the path of a script."""
    module = sys.modules["__main__"].__spec__
    program = f"python -m {module.name.removesuffix('.__main__')}" if module else Path(sys.argv[0]).name
    return " ".join([program, *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """What figures depend on besides the code."""
    commit = subprocess.run(
        ["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "cpu": _cpu_name(),
        "cores": len(os.sched_getaffinity(0)),
        "load_1m": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "sttd": __version__,
        "commit": commit.stdout.strip() or None,
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Columns as wide as they need, numbers to the right."""
    if not rows:
        return "  (no rows)"
    cells = [[str(key) for key in rows[0]], *([_cell(value) for value in row.values()] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    numeric = [isinstance(value, int | float) for value in rows[0].values()]
    lines = [
        "  "
        + "  ".join(
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in cells
    ]
    return "\n".join([lines[0], "  " + "  ".join("-" * width for width in widths), *lines[1:]])


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:,.1f}"
    return str(value)
