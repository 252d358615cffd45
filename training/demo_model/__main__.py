"""Makes the demo model from nothing: synthesises, trains, exports, evaluates.

    python -m training.demo_model [--quick]

Everything intermediate lies under `--work` and is used again when it is there: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Final

import attrs

from training.demo_model.allocator import run_under_jemalloc
from training.demo_model.corpus import evaluation_shards, make_corpus, training_shards
from training.demo_model.evaluate import Measuring, evaluate
from training.demo_model.export import export, load_average
from training.demo_model.plot import plot_curve
from training.demo_model.tokens import build_tokenizer
from training.demo_model.train import Plan, train

_ASSETS: Final = Path(__file__).resolve().parents[2] / "sttd/assets/demo-model"


@attrs.frozen(kw_only=True)
class Scale:
    """How much of everything: a run that ships, or one that only shows that the pipeline works."""

    espeak: int
    flite: int
    festival: int
    updates: int
    width: int
    held_sentences: int
    measurements: list[str]


FULL: Final = Scale(
    espeak=70_000, flite=24_000, festival=4_000, updates=28_000, width=128, held_sentences=1000, measurements=[]
)
QUICK: Final = Scale(espeak=300, flite=60, festival=20, updates=8, width=64, held_sentences=2, measurements=["A1"])


def run(scale: Scale, *, work: Path, model: Path, seed: int, limit_s: float, device: str) -> None:
    """Goes through all stages; each leaves its result in `work` or `model`."""
    work.mkdir(parents=True, exist_ok=True)
    tokenizer = work / "tokenizer.json"
    build_tokenizer(tokenizer)
    shards = evaluation_shards(sentences=scale.held_sentences)
    shards += training_shards(espeak=scale.espeak, flite=scale.flite, festival=scale.festival, size=2000)
    make_corpus(shards, folder=work / "corpus", seed=seed)
    workers = 1 if device == "cpu" else max(1, (os.cpu_count() or 2) - 2)
    train(
        Plan(
            work=work,
            seed=seed,
            updates=scale.updates,
            limit_s=limit_s,
            width=scale.width,
            workers=workers,
            threads=2 if device == "cpu" else 1,
            device=device,
        )
    )
    plot_curve(work / "curve.jsonl", image=work / "curve.png")
    export(load_average(work / "checkpoint.pt", tokenizer=tokenizer), tokenizer=tokenizer, folder=model)
    measuring = Measuring(model_path=model, corpus=work / "corpus", sentences=scale.held_sentences)
    scores = evaluate(measuring, names=scale.measurements, processes=os.cpu_count() or 1)
    (work / "scores.json").write_text(json.dumps([attrs.asdict(score) for score in scores], indent=1) + "\n")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="a minute's run that only shows that every stage works")
    parser.add_argument("--work", type=Path, help="default: build/demo-model, or build/demo-model-quick")
    parser.add_argument("--out", type=Path, help="where the model goes; default: the assets, or WORK/model when quick")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--minutes", type=float, default=78.0, help="the training takes no longer, on any machine")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    options = parser.parse_args()
    run_under_jemalloc()
    work = options.work or Path("build/demo-model-quick" if options.quick else "build/demo-model")
    model = options.out or (work / "model" if options.quick else _ASSETS)
    run(
        QUICK if options.quick else FULL,
        work=work,
        model=model,
        seed=options.seed,
        limit_s=60 * options.minutes,
        device=options.device,
    )
    size = sum(path.stat().st_size for path in model.iterdir())
    print(f"model: {model}, {size / 1e6:.2f} MB", file=sys.stderr)


if __name__ == "__main__":
    main()
