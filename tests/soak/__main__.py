"""`python -m tests.soak`: see tests/soak/soak.py. Exit status 1 where a promise was broken or something grew."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.soak import record as records
from tests.soak.soak import Options, run


def main() -> int:
    """Run one and say what came of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description="A soak of a real daemon.")
    parser.add_argument("--minutes", type=float, default=30.0, help="of churn; rests come on top (default: 30)")
    parser.add_argument("--clients", type=int, default=20, help="sessions at the same time (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="of everything that is random (default: 1)")
    parser.add_argument("--isolation", choices=("process", "thread"), default="", help="of the models")
    parser.add_argument(
        "--out", type=Path, default=Path("build/soak/soak.json"), help="JSON; the picture lies beside it"
    )
    arguments = parser.parse_args()
    options = Options(
        seconds=arguments.minutes * 60, clients=arguments.clients, seed=arguments.seed, isolation=arguments.isolation
    )
    with tempfile.TemporaryDirectory(prefix="sttd-soak-") as directory:
        record, tally = run(options, Path(directory))
    failures = record.failures(tally)
    record.write(arguments.out, tally, minutes=arguments.minutes, clients=arguments.clients, seed=arguments.seed)
    print(records.summary(record, tally, failures))
    print(f"{arguments.out} and {arguments.out.with_suffix('.svg')} written")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
