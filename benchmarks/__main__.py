"""`python -m benchmarks` runs all benchmarks, `python -m benchmarks ingest …` those named; `--help` shows them."""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from sttd.host import blas

blas.import_numpy()  # before anything else imports it, as the daemon does

from benchmarks import options, report  # noqa: E402

FOLDER = Path(__file__).parent


def benchmarks() -> dict[str, str]:
    """The modules here that define `main`, with the first line of what each says about itself."""
    found = {}
    for path in sorted(FOLDER.glob("*.py")):
        text = path.read_text()
        if not path.stem.startswith("_") and "\ndef main(" in text:
            found[path.stem] = (ast.get_docstring(ast.parse(text)) or "").partition("\n")[0]
    return found


def run(arguments: Sequence[str]) -> int:
    """Run the named benchmarks, or all; one that cannot run here says why and the next goes on.

    Returns:
        The exit status: 0, 1 when one did not run, 2 for a command line that makes no sense.
    """
    known = benchmarks()
    try:
        names, given = options.parse(arguments, known)
    except options.UsageError as error:
        print(error, file=sys.stderr)
        return 2
    failed = []
    for name in names or known:
        try:
            importlib.import_module(f"benchmarks.{name}").main(given)
        except Exception as exc:
            failed.append(name)
            print(f"\n{name}\n  did not run: {report.reason(exc)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
