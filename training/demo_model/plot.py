"""Draws the training curve that `train` logged."""

from __future__ import annotations

import json
from pathlib import Path


def plot_curve(curve: Path, *, image: Path) -> None:
    """Draws the losses and the token accuracy of `curve.jsonl` over the minutes of training."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in curve.read_text().splitlines()]
    minutes = [line["elapsed_s"] / 60 for line in lines]
    figure, left = pyplot.subplots(figsize=(9, 5))
    for name, label in (("token", "tokens"), ("phone", "phones (auxiliary)"), ("guide", "attention (auxiliary)")):
        left.plot(minutes, [line[name] for line in lines], label=label)
    left.set(xlabel="minutes", ylabel="loss", yscale="log", title="Training of the demo model")
    right = left.twinx()
    right.plot(minutes, [100 * line["accuracy"] for line in lines], color="black", linestyle=":", label="accuracy")
    right.set(ylabel="text tokens predicted right, %", ylim=(0, 100))
    left.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(image)
    pyplot.close(figure)
