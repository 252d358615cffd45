"""`python -m tests.fuzz`: look for inputs that do harm, led by coverage. Needs atheris (`pip install '.[fuzz]'`).

Every target runs in a process of its own for a stated time, from its seeds and its corpus; what reached further is
reduced to what is needed for that and kept in `tests/fuzz/corpus`. What does harm is left in `build/fuzz/TARGET`, its
traceback beside it, and the exit status is 1. Properties of machines (`targets.PROPERTIES`) are drawn from bytes by
hypothesis, whose drawing changes with its version: nothing of them is kept.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

from tests.fuzz.seeds import corpus, keep, seeds
from tests.fuzz.targets import TARGETS, WIRE

ROOT = Path(__file__).parents[2]
MOST_KEPT = 200  # inputs of a target, the shortest; chosen: some hundred kilobytes in all

_LONGEST = {"container": 16_384}  # bytes of an input; others have `_LENGTH`
_LENGTH = 2048
_INPUT_S = 20  # that an input may take


def main() -> int:
    """Run the targets that are named, or all."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Coverage-guided fuzzing.")
    parser.add_argument("targets", nargs="*", choices=[*TARGETS, []], help="which (default: all)")
    parser.add_argument("--seconds", type=int, default=120, help="for each target (default: 120)")
    arguments = parser.parse_args()
    harmed = [target for target in arguments.targets or TARGETS if not _fuzz(target, arguments.seconds)]
    return 1 if harmed else 0


def _fuzz(target: str, seconds: int) -> bool:
    """One target: False where something does harm."""
    folder = ROOT / "build" / "fuzz" / target
    shutil.rmtree(folder, ignore_errors=True)
    inputs, reduced = folder / "inputs", folder / "reduced"
    for made in (inputs, reduced):
        made.mkdir(parents=True)
    for data in (*seeds(target), *corpus(target)):
        (inputs / sha256(data).hexdigest()).write_bytes(data)
    itself = folder / "run"
    itself.write_text(f'#!/bin/sh\nexec {sys.executable} -m tests.fuzz.one {itself} {target} "$@"\n')
    itself.chmod(0o755)
    limits = (f"-max_len={_LONGEST.get(target, _LENGTH)}", f"-timeout={_INPUT_S}", "-rss_limit_mb=4096")
    done = _process(itself, f"-max_total_time={seconds}", "-print_final_stats=1", *limits, str(inputs))
    well = done.returncode == 0
    print(f"{target:17} {_figures(done.stderr)}{'' if well else f'  HARM: see {folder}'}", flush=True)
    (folder / "log").write_text(done.stdout + done.stderr)
    if well and target in WIRE:
        _process(itself, "-merge=1", *limits, str(reduced), str(inputs))
        known = set(seeds(target))
        found = sorted((path.read_bytes() for path in reduced.iterdir()), key=len)
        keep(target, [data for data in found if data not in known][:MOST_KEPT])
    return well


def _process(itself: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(itself), f"-artifact_prefix={itself.parent}/", *arguments]
    environ = {**os.environ, "PYTHONWARNINGS": "ignore"}
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, errors="replace")


def _figures(log: str) -> str:
    """How many inputs were tried, and how far coverage got from where the seeds and the corpus reach."""
    coverage = [int(number) for number in re.findall(r"cov: (\d+)", log)]
    features = [int(number) for number in re.findall(r"ft: (\d+)", log)]
    tried = re.search(r"number_of_executed_units: (\d+)", log)
    inited = re.search(r"INITED cov: (\d+) ft: (\d+)", log)
    if not coverage or tried is None:
        return "did not run"
    began = (int(inited[1]), int(inited[2])) if inited else (coverage[0], features[0])
    return f"{tried[1]:>9} tried, coverage {began[0]} to {coverage[-1]}, features {began[1]} to {features[-1]}"


if __name__ == "__main__":
    sys.exit(main())
