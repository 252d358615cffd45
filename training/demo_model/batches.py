"""Batches of clips of about the same length, made in processes of their own beside the training."""

from __future__ import annotations

import math
import multiprocessing as mp
import os
import queue
import random
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
import torch
from torch import Tensor

from training.demo_model.allocator import ALLOCATOR_VARIABLES
from training.demo_model.clips import ClipMaker, Style
from training.demo_model.corpus import Reader
from training.demo_model.features import MELS, log_mel
from training.demo_model.model import WINDOW
from training.demo_model.noises import Noises
from training.demo_model.phones import IGNORED
from training.demo_model.targets import IGNORE, Target, TargetMaker
from training.demo_model.tokens import load_tokenizer

#: Share of the sentences drawn from each synthesiser.
SHARES: Final = {"espeak": 0.68, "flite": 0.25, "festival": 0.07}

_SILENT_SHARE: Final = 0.1

#: A batch holds at most this many frames (10 ms), padding included, so that a step costs about the same at any length.
BATCH_FRAMES: Final = 8_000

#: So many batches are drawn at once, in every style: clips of a batch are then of about the same length.
_POOL_BATCHES: Final = 4

#: Ready batches waiting for the training; workers block when it is full.
_QUEUE_CAPACITY: Final = 24


@attrs.frozen(kw_only=True, eq=False)
class Batch:
    """One training step's input.

    Shapes: `mel` (batch, 80, frames), `tokens` and `labels` (batch, length), `phones` (batch, frames // 2), `aims`
    (count, 4): clip, row, first and last position + 1. `offset` is where in the window the clips stand, in positions.
    """

    mel: Tensor
    tokens: Tensor
    labels: Tensor
    phones: Tensor
    aims: Tensor
    offset: int


def styles(progress: float) -> list[tuple[float, Style]]:
    """Returns the kinds of clips at a point (0 .. 1) of the training, with their shares of the batches.

    Short and clean first; noise, cut-off ends and long clips come in as the model can use them, and stay to the end.
    """
    hardness = min(1.0, max(0.0, (progress - 0.1) / 0.7))
    cut = 0.0 if progress < 0.2 else 0.25
    short = Style(longest_s=5.0, fill_s=None, hardness=hardness, cut_share=cut)
    some = Style(longest_s=10.0, fill_s=(2.0, 8.0), hardness=hardness, cut_share=cut)
    long = Style(longest_s=20.0, fill_s=(8.0, 16.0), hardness=hardness, cut_share=0.15)
    full = Style(longest_s=36.0, fill_s=(16.0, 31.0), hardness=hardness, cut_share=0.15)
    # Full windows come in while the learning rate is still high: in the last 15 % alone they were not learned any more.
    if progress < 0.2:
        return [(1.0, short)]
    if progress < 0.35:
        return [(0.8, short), (0.2, some)]
    if progress < 0.5:
        return [(0.65, short), (0.2, some), (0.1, long), (0.05, full)]
    return [(0.53, short), (0.19, some), (0.14, long), (0.14, full)]


@attrs.define(eq=False)
class BatchMaker:
    """Draws clips of one style at a time and groups them by length."""

    clips: ClipMaker
    targets: TargetMaker
    rng: random.Random

    @classmethod
    def open(cls, *, corpus: Path, tokenizer: Path, seed: int) -> BatchMaker:
        """Opens the training shards under `corpus`."""
        rng = random.Random(seed)
        readers: list[Reader] = []
        shares: list[float] = []
        for kind, share in SHARES.items():
            found = [Reader.open(path.stem, folder=corpus) for path in sorted(corpus.glob(f"{kind}-*.npz"))]
            readers += found
            shares += [share / len(found) for _ in found]
        clips = ClipMaker(readers=readers, shares=shares, rng=rng, noises=Noises(rng=rng))
        return cls(clips=clips, targets=TargetMaker(*load_tokenizer(tokenizer), rng=rng), rng=rng)

    def batches(self, *, progress: float) -> Iterator[Batch]:
        """Yields the batches of one pool of clips, all of one style."""
        shares, kinds = zip(*styles(progress), strict=True)
        style = self.rng.choices(kinds, shares)[0]
        typical = 250 if style.fill_s is None else 100 * (sum(style.fill_s) / 2 + 1)
        pool = []
        for _ in range(round(_POOL_BATCHES * BATCH_FRAMES / typical)):
            if self.rng.random() < _SILENT_SHARE:
                clip = self.clips.silent(longest_s=min(style.longest_s, 10.0) if style.fill_s is None else 30.0)
            else:
                clip = self.clips.speech(style)
            pool.append((clip, self._features(clip.samples)))
        pool.sort(key=lambda pair: pair[1].shape[1])
        groups: list[list[Any]] = [[]]
        for pair in pool:
            if (len(groups[-1]) + 1) * max(pair[1].shape[1], 80) > BATCH_FRAMES:
                groups.append([])
            groups[-1].append(pair)
        self.rng.shuffle(groups)
        for group in filter(None, groups):
            longest = max(mel.shape[1] for _, mel in group) // 2 + 8
            offset = self.rng.randrange(WINDOW - longest) if longest < 600 and self.rng.random() < 0.3 else 0
            made = [(mel, self.targets.target(clip, offset_s=offset * 0.02), clip.phones) for clip, mel in group]
            yield collate(made, end=self.targets.ids.end, offset=offset)

    def _features(self, samples: np.ndarray[Any, np.dtype[np.float32]]) -> Tensor:
        equalizer = None
        if self.rng.random() < 0.6:
            knots_db = [self.rng.uniform(-7, 7) for _ in range(5)]
            levels_db = np.interp(np.arange(MELS), np.linspace(0, MELS - 1, 5), knots_db)
            equalizer = torch.from_numpy((10 ** (levels_db / 10)).astype(np.float32))
            if self.rng.random() < 0.12:
                equalizer[self.rng.randint(50, 70) :] *= 1e-3  # a telephone
        mel = log_mel(samples, equalizer=equalizer)
        if self.rng.random() < 0.3:
            band = self.rng.randrange(MELS - 10)
            mel[band : band + self.rng.randint(2, 10)] = mel.mean()
        return mel


def collate(group: list[tuple[Tensor, Target, Any]], *, end: int, offset: int) -> Batch:
    """Pads clips and targets to a common length (frames to a multiple of 16)."""
    frames = min(2 * WINDOW, math.ceil(max(mel.shape[1] for mel, _, _ in group) / 16) * 16)
    length = max(len(target.inputs) for _, target, _ in group)
    mel = torch.zeros(len(group), MELS, frames)
    tokens = torch.full((len(group), length), end)
    labels = torch.full((len(group), length), IGNORE)
    phones = torch.full((len(group), frames // 2), IGNORED)
    aims = []
    for index, (features, target, classes) in enumerate(group):
        kept = min(features.shape[1], frames)
        mel[index, :, :kept] = features[:, :kept]
        tokens[index, : len(target.inputs)] = torch.tensor(target.inputs)
        labels[index, : len(target.labels)] = torch.tensor(target.labels)
        count = min(len(classes), frames // 2)
        phones[index, :count] = torch.from_numpy(classes[:count])
        for aim in target.aims:
            first = min(int(aim.start_s * 50), frames // 2 - 1)
            aims.append((index, aim.row, first, min(max(math.ceil(aim.end_s * 50), first + 1), frames // 2)))
    return Batch(
        mel=mel, tokens=tokens, labels=labels, phones=phones, aims=torch.tensor(aims).view(-1, 4), offset=offset
    )


def split_batch(batch: Batch, *, parts: int) -> list[Batch]:
    """Returns the clips of a batch dealt out to `parts` batches of the same shape; a small batch makes fewer."""
    shares = []
    for part in range(min(parts, len(batch.mel))):
        aims = batch.aims[batch.aims[:, 0] % parts == part].clone()
        aims[:, 0] //= parts
        shares.append(
            Batch(
                mel=batch.mel[part::parts],
                tokens=batch.tokens[part::parts],
                labels=batch.labels[part::parts],
                phones=batch.phones[part::parts],
                aims=aims,
                offset=batch.offset,
            )
        )
    return shares


def _work(corpus: Path, tokenizer: Path, seed: int, ready: Any, progress: Synchronized[float]) -> None:
    torch.set_num_threads(1)
    maker = BatchMaker.open(corpus=corpus, tokenizer=tokenizer, seed=seed)
    parent = mp.parent_process()
    while True:
        for batch in maker.batches(progress=progress.value):
            while True:
                try:
                    ready.put(batch, timeout=5)
                    break
                except queue.Full:
                    if parent is None or not parent.is_alive():
                        return  # a killed training must not leave its workers behind


@attrs.define(eq=False)
class BatchSource:
    """Worker processes and the queue between; use as a context manager, which ends them."""

    corpus: Path
    tokenizer: Path
    seed: int
    workers: int
    _processes: list[Any] = attrs.field(factory=list, init=False)
    _progress: Any = attrs.field(init=False)
    _ready: Any = attrs.field(init=False)

    def __enter__(self) -> BatchSource:
        context = mp.get_context("spawn")
        # jemalloc as the training has it, which returns nothing, grows without end on clips of every length.
        preloaded = {name: os.environ.pop(name) for name in ALLOCATOR_VARIABLES if name in os.environ}
        self._ready = context.Queue(_QUEUE_CAPACITY)
        self._progress = context.Value("d", 0.0)
        for index in range(self.workers):
            seed = self.seed * 1000 + index
            arguments = (self.corpus, self.tokenizer, seed, self._ready, self._progress)
            self._processes.append(context.Process(target=_work, args=arguments, daemon=True))
            self._processes[-1].start()
        os.environ.update(preloaded)
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes:
            process.terminate()
            process.join()

    def next(self, *, progress: float) -> Batch:
        """Waits for a batch, and tells the workers how far the training is.

        Raises:
            RuntimeError: a worker has died.
        """
        self._progress.value = progress
        while True:
            try:
                batch: Batch = self._ready.get(timeout=5)
                return batch
            except queue.Empty:
                if not all(process.is_alive() for process in self._processes):
                    raise RuntimeError("a data worker has died; its error is printed above") from None
