"""`python -m benchmarks` runs all benchmarks, `python -m benchmarks ingest …` those named."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def benchmarks() -> list[str]:
    """The modules here that define `main()`."""
    return sorted(
        path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith("_") and "\ndef main(" in path.read_text()
    )


def run(names: list[str]) -> int:
    """Run the named benchmarks, or all; one that cannot run here says why and the next goes on."""
    known = benchmarks()
    unknown = [name for name in names if name not in known]
    if unknown:
        print(f"no benchmark {', '.join(unknown)}; there are {', '.join(known)}", file=sys.stderr)
        return 2
    failed = []
    for name in names or known:
        try:
            importlib.import_module(f"benchmarks.{name}").main()
        except Exception as exc:
            failed.append(name)
            print(f"\n{name}\n  did not run: {type(exc).__name__}: {exc}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
