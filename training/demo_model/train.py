"""Trains the demo model from nothing; resumes from its checkpoint when there is one.

The schedule is counted in updates, so that a run depends on its seed alone. A machine that cannot make them in
`limit_s` goes through the same schedule with fewer: progress is whichever of the two is further.
"""

from __future__ import annotations

import json
import math
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import torch
import torch.nn.functional as F
from torch import Tensor

from training.demo_model.batches import Batch, BatchSource, split_batch
from training.demo_model.model import DemoWhisper, Size, parameter_groups
from training.demo_model.phones import IGNORED
from training.demo_model.targets import IGNORE
from training.demo_model.tokens import case_pairs, load_tokenizer

#: Timestamps are trained towards their neighbours too: 20 ms is finer than anybody can say where a word begins.
_NEIGHBOURS: Final = torch.arange(-4, 5)
_NEIGHBOUR_WEIGHTS: Final = torch.softmax(-0.5 * (_NEIGHBOURS / 1.5) ** 2, 0)

_WARM_UP, _HOLD = 0.015, 0.6
_CHECKPOINT_S: Final = 120.0
_REPORT_UPDATES: Final = 50


@attrs.frozen(kw_only=True)
class Plan:
    """What to train, how long, and where to keep it."""

    work: Path
    seed: int
    updates: int
    limit_s: float
    width: int = 128
    encoder_layers: int = 4
    decoder_layers: int = 2
    learning_rate: float = 1.5e-3
    averaging: float = 0.9985
    workers: int = 1
    threads: int = 2
    device: str = "cpu"


@attrs.frozen(kw_only=True)
class Losses:
    """The parts of one step's loss, and the share of text tokens predicted right."""

    token: Tensor
    phone: Tensor
    guide: Tensor
    accuracy: Tensor


def token_loss(logits: Tensor, labels: Tensor, *, timestamp_0: int) -> tuple[Tensor, Tensor]:
    """Returns the cross-entropy over (count, tokens) logits, soft for timestamps, and the accuracy on text."""
    log_likelihood = logits.log_softmax(-1)
    is_time = labels >= timestamp_0
    loss = F.nll_loss(log_likelihood[~is_time], labels[~is_time], reduction="sum")
    if is_time.any():
        near = labels[is_time][:, None] + _NEIGHBOURS.to(labels.device)
        near = near.clamp(timestamp_0, logits.shape[-1] - 1)
        weights = _NEIGHBOUR_WEIGHTS.to(labels.device)
        loss = loss - (log_likelihood[is_time].gather(1, near) * weights).sum()
    right = (logits[~is_time].argmax(-1) == labels[~is_time]).float().mean()
    return loss / len(labels), right


def guide_loss(watched: list[Tensor], aims: Tensor, *, positions: int) -> Tensor:
    """Returns the mean negative log attention of the guided heads inside each word's span."""
    if not len(aims):
        return torch.zeros((), device=aims.device)
    clip, row, first, last = aims.unbind(1)
    total = torch.zeros((), device=aims.device)
    for attention in watched:
        for head in range(attention.shape[1]):
            sums = F.pad(attention[clip, head, row, :positions].cumsum(-1), (1, 0))
            inside = sums.gather(1, last[:, None]) - sums.gather(1, first[:, None])
            total = total - (inside.squeeze(1) / (last - first)).mean()
    return total / sum(attention.shape[1] for attention in watched)


def step_losses(model: DemoWhisper, batch: Batch) -> Losses:
    """Runs the model on a batch in bfloat16."""
    with torch.autocast(batch.mel.device.type, torch.bfloat16):
        encoded, bias = model.encode(batch.mel, offset=batch.offset)
        positions = batch.phones.shape[1]
        decoded, watched = model.decode(batch.tokens, encoded, bias=bias)
        counted = batch.labels != IGNORE
        logits = model.logits(decoded[counted])
        phones = model.phones(encoded[:, :positions])
    token, accuracy = token_loss(logits.float(), batch.labels[counted], timestamp_0=model.size.timestamp_0)
    phone = F.cross_entropy(phones.float().flatten(0, 1), batch.phones.flatten(), ignore_index=IGNORED)
    return Losses(
        token=token, phone=phone, guide=guide_loss(watched, batch.aims, positions=positions), accuracy=accuracy
    )


def rate_factor(progress: float) -> float:
    """Returns the learning rate's factor: a short warm-up, level, then a half cosine down to nothing."""
    if progress < _WARM_UP:
        return progress / _WARM_UP
    falling = max(0.0, (progress - _HOLD) / (1 - _HOLD))
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * falling))


@attrs.define(eq=False)
class Trainer:
    """A model, its optimisers, and the running average of its weights, which is what gets shipped."""

    plan: Plan
    model: DemoWhisper
    average: dict[str, Tensor] = attrs.field(init=False)
    update: int = attrs.field(default=0, init=False)
    elapsed_s: float = attrs.field(default=0.0, init=False)
    _optimizers: list[Any] = attrs.field(init=False)
    _base_rates: list[float] = attrs.field(init=False)
    _pool: ThreadPoolExecutor = attrs.field(init=False)

    @classmethod
    def create(cls, plan: Plan) -> Trainer:
        """Builds a fresh model, or continues from the checkpoint in `plan.work`."""
        torch.manual_seed(plan.seed)
        tokenizer, ids = load_tokenizer(plan.work / "tokenizer.json")
        size = Size(
            tokens=ids.total,
            timestamp_0=ids.timestamp_0,
            width=plan.width,
            encoder_layers=plan.encoder_layers,
            decoder_layers=plan.decoder_layers,
        )
        trainer = cls(plan=plan, model=DemoWhisper(size, capitals=case_pairs(tokenizer)).to(plan.device))
        if trainer._checkpoint.exists():
            trainer._resume()
        return trainer

    def __attrs_post_init__(self) -> None:
        self.average = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        matrices, others = parameter_groups(self.model)
        rate = self.plan.learning_rate
        shares = [matrices[index :: self.plan.threads] for index in range(self.plan.threads)]
        muon = partial(torch.optim.Muon, lr=rate, weight_decay=0.02, adjust_lr_fn="match_rms_adamw")
        adamw = torch.optim.AdamW(others, lr=rate, weight_decay=0.0, betas=(0.9, 0.98), fused=True)
        self._optimizers = [*(muon(share) for share in shares), adamw]
        self._base_rates = [optimizer.param_groups[0]["lr"] for optimizer in self._optimizers]
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(self.plan.threads, initializer=torch.set_num_threads, initargs=(1,))

    @property
    def _checkpoint(self) -> Path:
        return self.plan.work / "checkpoint.pt"

    @property
    def progress(self) -> float:
        """How far the schedule is, 0 .. 1."""
        return min(1.0, max(self.update / self.plan.updates, self.elapsed_s / self.plan.limit_s))

    def step(self, batch: Batch) -> Losses:
        """Makes one update; returns the losses of one thread's share of the batch.

        Each thread takes a share of the clips, then a share of the matrices: they meet twice in an update, where
        threads inside every operation would meet thousands of times and wait for each other on a busy machine.
        """
        factor = rate_factor(self.progress)
        for optimizer, rate in zip(self._optimizers, self._base_rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * factor
        parts = list(self._pool.map(self._gradients, split_batch(batch, parts=self.plan.threads)))
        for parameter, *gradients in zip(self.model.parameters(), *(gradients for _, gradients in parts), strict=True):
            parameter.grad = torch.stack(gradients).mean(0)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        list(self._pool.map(lambda optimizer: optimizer.step(), self._optimizers))
        self.model.zero_grad(set_to_none=True)
        self.update += 1
        if self.update % 8 == 0:
            self._move_average(updates=8)
        return parts[0][0]

    def _gradients(self, batch: Batch) -> tuple[Losses, tuple[Tensor, ...]]:
        losses = step_losses(self.model, batch)
        auxiliary = 1.0 if self.progress < 0.85 else 0.3
        loss = losses.token + auxiliary * losses.phone + 0.5 * auxiliary * losses.guide
        return losses, torch.autograd.grad(loss, list(self.model.parameters()), materialize_grads=True)

    @torch.no_grad()
    def _move_average(self, *, updates: int) -> None:
        keep = min(self.plan.averaging, (1 + self.update) / (10 + self.update)) ** updates
        for name, value in self.model.named_parameters():
            self.average[name].lerp_(value, 1 - keep)

    def save(self) -> None:
        """Writes the checkpoint, so that a killed run loses two minutes at most."""
        state = {
            "size": attrs.asdict(self.model.size),
            "average": self.average,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self._optimizers],
            "update": self.update,
            "elapsed_s": self.elapsed_s,
        }
        part = self._checkpoint.with_suffix(".part")
        torch.save(state, part)
        part.rename(self._checkpoint)

    def _resume(self) -> None:
        state = torch.load(self._checkpoint, map_location=self.plan.device)
        self.model.load_state_dict(state["model"])
        self.average = state["average"]
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.update, self.elapsed_s = state["update"], state["elapsed_s"]


def _to_device(batch: Batch, device: str) -> Batch:
    fields = attrs.asdict(batch, recurse=False)
    return Batch(**{name: value.to(device) if isinstance(value, Tensor) else value for name, value in fields.items()})


def train(plan: Plan) -> None:
    """Trains to the end of the plan, writing `checkpoint.pt` and a line of `curve.jsonl` every so often."""
    trainer = Trainer.create(plan)
    parameters = sum(parameter.numel() for parameter in trainer.model.parameters())
    print(f"train: {parameters} parameters, from update {trainer.update}", file=sys.stderr, flush=True)
    source = BatchSource(
        corpus=plan.work / "corpus",
        tokenizer=plan.work / "tokenizer.json",
        seed=plan.seed + trainer.update,  # a resumed run must not see the same clips again
        workers=plan.workers,
    )
    started = time.monotonic() - trainer.elapsed_s
    saved_s = trainer.elapsed_s
    sums: dict[str, float] = {}
    with source, (plan.work / "curve.jsonl").open("a") as curve:
        while trainer.progress < 1:
            waited = time.monotonic()
            batch = source.next(progress=trainer.progress)
            _add(sums, "waited_s", time.monotonic() - waited)
            losses = trainer.step(_to_device(batch, plan.device))
            for name, value in attrs.asdict(losses).items():
                _add(sums, name, value.item())
            _add(sums, "clips", float(len(batch.mel)))
            _add(sums, "updates", 1.0)
            trainer.elapsed_s = time.monotonic() - started
            if trainer.update % _REPORT_UPDATES == 0:
                _report(trainer, sums, curve=curve)
                sums = {}
            if trainer.elapsed_s > saved_s + _CHECKPOINT_S:
                trainer.save()
                saved_s = trainer.elapsed_s
    trainer.save()


def _add(sums: dict[str, float], name: str, value: float) -> None:
    sums[name] = sums.get(name, 0.0) + value


def _report(trainer: Trainer, sums: dict[str, float], *, curve: Any) -> None:
    mean = {name: sums[name] / sums["updates"] for name in ("token", "phone", "guide", "accuracy")}
    line: dict[str, float] = {
        "update": trainer.update,
        "elapsed_s": round(trainer.elapsed_s, 1),
        "progress": round(trainer.progress, 4),
        **{name: round(value, 4) for name, value in mean.items()},
        "clips": sums["clips"],
        "waited_s": round(sums["waited_s"], 2),
    }
    curve.write(json.dumps(line) + "\n")
    curve.flush()
    print("train: " + " ".join(f"{name}={value}" for name, value in line.items()), file=sys.stderr, flush=True)
