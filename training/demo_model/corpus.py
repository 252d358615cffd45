"""Synthesised sentences on disk, in shards that are made once, in parallel, and read through a memory map.

A shard is `NAME.i16` (all samples one after another) and `NAME.npz` (texts, and the times of words and phones in
samples). What a shard holds depends on the seed and its name alone, so that any number of processes make the same.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs
import numpy as np
import soxr
from numpy.typing import NDArray

from training.demo_model import festival, grammar, speakers
from training.demo_model.espeak import Espeak
from training.demo_model.flite import Flite
from training.demo_model.phones import phone_class
from training.demo_model.speech import RATE, Speech

#: Evaluation texts are drawn from this seed; training skips every one of them.
EVALUATION_SEED: Final = 20_240
EVALUATION_SENTENCES: Final = 1000

#: More lists of random words than the evaluation has: they are where the rare words are heard.
_TRAINING_RANDOM_SHARE: Final = 0.4


@attrs.frozen(kw_only=True)
class Shard:
    """What one shard holds: `count` sentences of a synthesiser, spoken by the voices of `split`."""

    name: str
    synthesiser: str  # espeak, flite or festival
    split: str  # train, A, B or F
    count: int
    index: int = 0


@attrs.frozen(kw_only=True, eq=False)
class Item:
    """One sentence read back: samples in -1 .. 1, word spans (start, end), phones (class, start, end), in samples."""

    samples: NDArray[np.float32]
    text: str
    words: NDArray[np.int32]
    phones: NDArray[np.int32]

    def at_speed(self, factor: float) -> Item:
        """Returns the sentence `factor` times as fast, with pitch and formants moved along: one more speaker."""
        times = self.phones[:, 1:] / factor
        return Item(
            samples=soxr.resample(self.samples, RATE * factor, RATE, quality="LQ"),
            text=self.text,
            words=(self.words / factor).astype(np.int32),
            phones=np.column_stack([self.phones[:, 0], times.astype(np.int32)]),
        )


def training_shards(*, espeak: int, flite: int, festival: int, size: int = 2500) -> list[Shard]:
    """Returns the shards of the training corpus, by number of sentences of each synthesiser."""
    counts = {"espeak": espeak, "flite": flite, "festival": festival}
    return [
        Shard(name=f"{kind}-{index:02d}", synthesiser=kind, split="train", count=min(size, count - start), index=index)
        for kind, count in counts.items()
        for index, start in enumerate(range(0, count, size))
    ]


def evaluation_shards(*, sentences: int = EVALUATION_SENTENCES) -> list[Shard]:
    """Returns the three evaluation sets, or the first `sentences` of each."""
    return [
        Shard(name=f"set-{split}", synthesiser=kind, split=split, count=sentences, index=index)
        for index, (split, kind) in enumerate({"A": "espeak", "B": "espeak", "F": "flite"}.items())
    ]


def evaluation_texts() -> list[list[str]]:
    """Returns the texts of sets A, B and F: different from each other and never trained on."""
    rng = random.Random(EVALUATION_SEED)
    texts = grammar.unique_sentences(rng, count=3 * EVALUATION_SENTENCES)
    return [texts[i : i + EVALUATION_SENTENCES] for i in range(0, len(texts), EVALUATION_SENTENCES)]


def _training_texts(rng: random.Random) -> Iterator[str]:
    held = {text for texts in evaluation_texts() for text in texts}
    while True:
        text = grammar.sentence(rng, random_share=_TRAINING_RANDOM_SHARE)
        if text not in held:
            yield text


def _speak(shard: Shard, *, seed: int) -> Iterator[Speech]:
    rng = random.Random(f"{seed} {shard.name}")
    texts = iter(evaluation_texts()[shard.index]) if shard.split != "train" else _training_texts(rng)
    if shard.synthesiser == "espeak":
        yield from _speak_espeak(shard, rng=rng, texts=texts)
    elif shard.synthesiser == "flite":
        yield from _speak_flite(shard, rng=rng, texts=texts)
    else:
        yield from _speak_festival(shard, rng=rng, texts=texts)


def _speak_espeak(shard: Shard, *, rng: random.Random, texts: Iterator[str]) -> Iterator[Speech]:
    espeak = Espeak()
    with tempfile.TemporaryDirectory() as folder:
        training = shard.split == "train"
        names = [Path(folder, f"invented-{shard.index}-{index}") for index in range(shard.count // 10 + 1)]
        invented = [speakers.invented_voice_file(rng, path=name) for name in names] if training else []
        for text in texts:
            if training:
                voice = speakers.training_voice(rng, invented=invented)
            else:
                voice = speakers.held_voice(rng, unseen_accent=shard.split == "B")
            speech = espeak.say(text, voice=voice)
            if speech:
                yield speech


def _speak_flite(shard: Shard, *, rng: random.Random, texts: Iterator[str]) -> Iterator[Speech]:
    flite = Flite()
    names, shares = list(speakers.FLITE_VOICES), list(speakers.FLITE_VOICES.values())
    for text in texts:
        if shard.split == "train":
            voice, duration = rng.choices(names, shares)[0], rng.uniform(0.75, 1.3)
            stretches = [rng.uniform(0.82, 0.99), rng.uniform(0.99, 1.2)]
        else:
            voice, duration, stretches = speakers.HELD_FLITE, rng.uniform(0.9, 1.15), [1.0]
        for stretch in stretches:
            speech = flite.say(text, voice=voice, duration=duration, stretch=stretch)
            if speech:
                yield speech


def _speak_festival(shard: Shard, *, rng: random.Random, texts: Iterator[str]) -> Iterator[Speech]:
    while True:
        voice = rng.choice(speakers.FESTIVAL_VOICES)
        some = [next(texts) for _ in range(50)]
        stretches = [rng.uniform(0.82, 0.99), rng.uniform(0.99, 1.2)]
        yield from festival.say_all(some, voice=voice, duration=rng.uniform(0.8, 1.25), stretches=stretches)


def make_shard(shard: Shard, *, folder: Path, seed: int) -> None:
    """Synthesises and writes one shard, unless it is there already."""
    index_path = folder / f"{shard.name}.npz"
    if index_path.exists():
        return
    texts: list[str] = []
    lengths: list[int] = []
    words: list[tuple[int, int]] = []
    phones: list[tuple[int, int, int]] = []
    phone_counts: list[int] = []
    with (folder / f"{shard.name}.i16").open("wb") as file:
        for speech in _speak(shard, seed=seed):
            file.write(speech.samples.tobytes())
            texts.append(speech.text)
            lengths.append(len(speech.samples))
            words += [(round(span.start_s * RATE), round(span.end_s * RATE)) for span in speech.words]
            synthesiser = speech.speaker.partition(":")[0]
            phones += [
                (phone_class(span.label, synthesiser=synthesiser), round(span.start_s * RATE), round(span.end_s * RATE))
                for span in speech.phones
            ]
            phone_counts.append(len(speech.phones))
            if len(texts) == shard.count:
                break
    np.savez(
        folder / f"{shard.name}.part.npz",
        texts=json.dumps(texts),
        lengths=np.array(lengths),
        words=np.array(words, np.int32),
        phones=np.array(phones, np.int32),
        phone_counts=np.array(phone_counts),
    )
    (folder / f"{shard.name}.part.npz").rename(index_path)


def _make(job: tuple[Shard, Path, int]) -> str:
    shard, folder, seed = job
    make_shard(shard, folder=folder, seed=seed)
    return shard.name


def make_corpus(shards: list[Shard], *, folder: Path, seed: int, processes: int | None = None) -> None:
    """Makes all shards that are missing, with progress on standard error.

    Raises:
        OSError: a synthesiser's library is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    jobs = [(shard, folder, seed) for shard in shards]
    with multiprocessing.get_context("spawn").Pool(processes or os.cpu_count()) as pool:
        for done, name in enumerate(pool.imap_unordered(_make, jobs), start=1):
            print(f"corpus: {done}/{len(jobs)} {name}", file=sys.stderr, flush=True)


@attrs.define(eq=False)
class Reader:
    """One shard, opened for random access."""

    texts: list[str]
    _samples: NDArray[np.int16]
    _offsets: NDArray[np.int64]
    _words: NDArray[np.int32]
    _word_offsets: NDArray[np.int64]
    _phones: NDArray[np.int32]
    _phone_offsets: NDArray[np.int64]

    @classmethod
    def open(cls, name: str, *, folder: Path) -> Reader:
        """Opens `NAME.i16` and `NAME.npz`."""
        with np.load(folder / f"{name}.npz") as index:
            texts = json.loads(str(index["texts"]))
            return cls(
                texts=texts,
                samples=np.memmap(folder / f"{name}.i16", dtype=np.int16, mode="r"),
                offsets=_offsets(index["lengths"]),
                words=index["words"],
                word_offsets=_offsets(np.array([len(text.split()) for text in texts])),
                phones=index["phones"],
                phone_offsets=_offsets(index["phone_counts"]),
            )

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Item:
        return Item(
            samples=self._samples[self._offsets[index] : self._offsets[index + 1]] / np.float32(32768),
            text=self.texts[index],
            words=self._words[self._word_offsets[index] : self._word_offsets[index + 1]],
            phones=self._phones[self._phone_offsets[index] : self._phone_offsets[index + 1]],
        )


def _offsets(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)])
