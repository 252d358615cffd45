"""Measures an exported model through the unmodified `faster_whisper.WhisperModel`, with confidence intervals.

    python -m training.demo_model.evaluate MODEL --work WORK [--sentences N] [--parts sentences,long,…]

Prints one line for each figure and writes them all as JSON. Intervals are 95 % bootstrap intervals over clips.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import re
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from training.demo_model.audio_file import read_flac
from training.demo_model.corpus import Item, Reader
from training.demo_model.noises import unit
from training.demo_model.speech import RATE

Samples = NDArray[np.float32]

#: Faint noise under every clip, so that pauses are not digital zero.
_FLOOR: Final = 1e-4
_RESAMPLES: Final = 1000


@attrs.frozen(kw_only=True)
class Score:
    """A rate in per cent (or a time in seconds) with its 95 % interval, over `clips` clips."""

    name: str
    value: float
    low: float
    high: float
    clips: int
    unit: str = "%"

    def __str__(self) -> str:
        return f"{self.name}: {self.value:.2f} {self.unit} ({self.low:.2f} to {self.high:.2f}, {self.clips} clips)"


def words_of(text: str) -> list[str]:
    """Returns the words that are compared: small letters and apostrophes only."""
    return re.sub(r"[^a-z' ]", "", text.lower()).split()


def edit_distance(reference: list[str], hypothesis: list[str]) -> int:
    """Returns the number of words to insert, delete or replace (Levenshtein)."""
    row = list(range(len(hypothesis) + 1))
    for i, wanted in enumerate(reference, start=1):
        diagonal, row[0] = row[0], i
        for j, got in enumerate(hypothesis, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (wanted != got))
    return row[-1]


def ratio_score(name: str, parts: list[tuple[float, float]]) -> Score:
    """Returns 100 times the sum of the first over the sum of the second of `parts`, one pair for each clip."""
    pairs = np.array(parts, float)
    picks = np.random.default_rng(0).integers(0, len(pairs), (_RESAMPLES, len(pairs)))
    sums = pairs[picks].sum(1)
    low, high = np.quantile(100 * sums[:, 0] / sums[:, 1], (0.025, 0.975))
    value = 100 * pairs[:, 0].sum() / pairs[:, 1].sum()
    return Score(name=name, value=value, low=low, high=high, clips=len(pairs))


def quantile_score(name: str, values: list[float], *, quantile: float) -> Score:
    """Returns a quantile of `values`, in seconds."""
    picks = np.random.default_rng(0).integers(0, len(values), (_RESAMPLES, len(values)))
    low, high = np.quantile(np.quantile(np.array(values)[picks], quantile, axis=1), (0.025, 0.975))
    value = float(np.quantile(values, quantile))
    return Score(name=name, value=value, low=float(low), high=float(high), clips=len(values), unit="s")


def padded(samples: Samples, *, before_s: float, after_s: float, rng: np.random.Generator) -> Samples:
    """Returns `samples` with quiet around and the noise floor under everything."""
    whole = np.pad(samples, (round(before_s * RATE), round(after_s * RATE)))
    return (whole + rng.standard_normal(len(whole)) * _FLOOR).astype(np.float32)


@attrs.define(eq=False)
class Evaluation:
    """One model and the sets it is measured on."""

    model: Any  # faster_whisper.WhisperModel
    corpus: Path
    sentences: int

    def _items(self, split: str) -> Iterator[Item]:
        reader = Reader.open(f"set-{split}", folder=self.corpus)
        for index in range(min(self.sentences, len(reader))):
            yield reader[index]

    def _text(self, samples: Samples, **options: Any) -> str:
        segments, _ = self.model.transcribe(samples, **{"beam_size": 1, "language": "en", **options})
        return "".join(segment.text for segment in segments)

    def sentence_set(self, split: str, *, beam: int, noise_db: float | None = None) -> list[Score]:
        """Word errors on single sentences, with a little quiet around them."""
        rng = np.random.default_rng(1)
        parts: list[tuple[float, float]] = []
        for item in self._items(split):
            samples = padded(item.samples, before_s=0.2, after_s=0.3, rng=rng)
            if noise_db is not None:
                level = np.sqrt(np.mean(item.samples**2)) * 10 ** (-noise_db / 20)
                samples = samples + level * unit(rng.standard_normal(len(samples)))
            reference = words_of(item.text)
            parts.append((edit_distance(reference, words_of(self._text(samples, beam_size=beam))), len(reference)))
        noise = "" if noise_db is None else f", white noise at {noise_db:.0f} dB"
        return [ratio_score(f"word errors, set {split}{noise}, beam {beam}", parts)]

    def joined(self, *, seconds: float, pause_s: float = 0.6) -> list[Score]:
        """Word errors on sentences of set A joined to clips of up to `seconds`."""
        rng = np.random.default_rng(2)
        parts: list[tuple[float, float]] = []
        clip: list[Samples] = []
        texts: list[str] = []
        for item in [*self._items("A"), None]:
            length = sum(map(len, clip)) + (0 if item is None else len(item.samples))
            if item is None or length > seconds * RATE:
                reference = words_of(" ".join(texts))
                text = self._text(padded(np.concatenate(clip), before_s=0.2, after_s=0.0, rng=rng))
                parts.append((edit_distance(reference, words_of(text)), len(reference)))
                clip, texts = [], []
            if item is not None:
                clip += [unit(item.samples) * np.float32(0.08), np.zeros(round(pause_s * RATE), np.float32)]
                texts.append(item.text)
        return [ratio_score(f"word errors, set A joined to {seconds:.0f} s, beam 1", parts)]

    def prefixes(self, *, step_s: float = 0.5) -> list[Score]:
        """How many beginnings of a sentence, cut every `step_s`, come out exactly as heard.

        A word that is cut may be there or not. The first 0.2 s of quiet belong to the clip.
        """
        rng = np.random.default_rng(3)
        exact: list[tuple[float, float]] = []
        errors: list[tuple[float, float]] = []
        for item in self._items("A"):
            if len(item.samples) < 2 * RATE:
                continue
            samples = padded(item.samples, before_s=0.2, after_s=0.0, rng=rng)
            ends = item.words[:, 1] / RATE + 0.2
            starts = item.words[:, 0] / RATE + 0.2
            reference = words_of(item.text)
            hits = wrong = total = count = 0
            for index in range(1, int(len(samples) / RATE / step_s) + 1):
                cut_s = index * step_s
                text = words_of(self._text(samples[: round(cut_s * RATE)], without_timestamps=True))
                heard = reference[: int((ends <= cut_s).sum())]
                begun = reference[: int((starts <= cut_s).sum())]
                error = min(edit_distance(heard, text), edit_distance(begun, text))
                hits, wrong = hits + (error == 0), wrong + error
                total, count = total + max(1, len(heard)), count + 1
            exact.append((hits, count))
            errors.append((wrong, total))
        return [ratio_score("prefixes exactly right", exact), ratio_score("word errors on prefixes", errors)]

    def word_times(self) -> list[Score]:
        """Errors of word starts after 0.2 to 1.5 s of leading quiet, on clips with the right text."""
        rng = np.random.default_rng(4)
        first: list[float] = []
        starts: list[float] = []
        for item in self._items("A"):
            before_s = float(rng.uniform(0.2, 1.5))
            samples = padded(item.samples, before_s=before_s, after_s=0.4, rng=rng)
            segments, _ = self.model.transcribe(samples, beam_size=1, language="en", word_timestamps=True)
            words = [word for segment in segments for word in segment.words]
            if [words_of(word.word) for word in words] != [words_of(word) for word in item.text.split()]:
                continue
            errors = [
                abs(word.start - before_s - start / RATE) for word, (start, _) in zip(words, item.words, strict=True)
            ]
            first.append(errors[0])
            starts += errors
        return [
            quantile_score("first-word start error, 90th percentile", first, quantile=0.9),
            quantile_score("first-word start error, median", first, quantile=0.5),
            quantile_score("word start error, median", starts, quantile=0.5),
            quantile_score("word start error, 90th percentile", starts, quantile=0.9),
        ]

    def no_speech(self, recordings: Path | None) -> list[Score]:
        """Share of clips without speech that give any text: synthetic ones, and the recordings of a folder."""
        scores = []
        parts = [(float(bool(self._text(samples).strip())), 1.0) for samples in synthetic_noises()]
        scores.append(ratio_score("texts on synthetic noise, tones and silence", parts))
        if recordings:
            parts = []
            for samples in recorded_noises(recordings):
                whole, start = self._text(samples), self._text(samples[: 5 * RATE])
                parts += [(float(bool(text.strip())), 1.0) for text in (whole, start)]
                if whole.strip() or start.strip():
                    print(f"  no speech, yet: {whole!r} {start!r}", file=sys.stderr)
            scores.append(ratio_score("texts on recorded noise and music", parts))
        return scores


def synthetic_noises() -> Iterator[Samples]:
    """Yields silence, dither, white, pink and uniform noise, a sine and a chirp, 0.5 to 10 s long."""
    rng = np.random.default_rng(5)
    count = 10 * RATE
    time_s = np.arange(count) / RATE
    pink = unit(
        np.fft.irfft(np.fft.rfft(rng.standard_normal(count)) / np.sqrt(np.maximum(np.arange(count // 2 + 1), 1)))
    )
    white = rng.standard_normal(count)
    kinds = [
        np.zeros(count),
        white * 1e-4,
        white * 0.01,
        white * 0.1,
        pink * 0.1,
        rng.random(count) - 0.5,
        0.3 * np.sin(2 * np.pi * 440 * time_s),
        0.3 * np.sin(2 * np.pi * (200 * time_s + 100 * time_s**2)),
    ]
    for samples in kinds:
        for seconds in (0.5, 2.0, 5.0, 10.0):
            yield samples[: round(seconds * RATE)].astype(np.float32)


def recorded_noises(folder: Path) -> Iterator[Samples]:
    """Yields the recordings without speech that `manifest.jsonl` in `folder` lists."""
    for line in (folder / "manifest.jsonl").read_text().splitlines():
        entry = json.loads(line)
        if entry["kind"] == "non-speech":
            yield read_flac(folder / entry["file"])


def parts(evaluation: Evaluation, *, recordings: Path | None) -> dict[str, Callable[[], list[Score]]]:
    """Returns every measurement by name, the long ones first: two processes then end at about the same time."""
    found: dict[str, Callable[[], list[Score]]] = {"prefixes": evaluation.prefixes}
    for beam in (5, 1):
        for split in "ABF":
            found[f"{split}{beam}"] = partial(evaluation.sentence_set, split, beam=beam)
        found[f"noise{beam}"] = partial(evaluation.sentence_set, "A", beam=beam, noise_db=10)
    found["words"] = evaluation.word_times
    for seconds in (12, 20, 28):
        found[f"long{seconds}"] = partial(evaluation.joined, seconds=seconds)
    found["silence"] = partial(evaluation.no_speech, recordings)
    return found


#: All measurements, in the order of `parts`.
NAMES: Final = [
    "prefixes",
    "A5",
    "B5",
    "F5",
    "noise5",
    "A1",
    "B1",
    "F1",
    "noise1",
    "words",
    "long12",
    "long20",
    "long28",
    "silence",
]


@attrs.frozen(kw_only=True)
class Measuring:
    """What is measured, on what; picklable, for the processes that share the work."""

    model_path: Path
    corpus: Path
    sentences: int
    recordings: Path | None = None
    threads: int = 1

    def run(self, name: str) -> list[Score]:
        """Makes one measurement, in a model of its own."""
        from faster_whisper import WhisperModel

        model = WhisperModel(str(self.model_path), device="cpu", compute_type="int8", cpu_threads=self.threads)
        evaluation = Evaluation(model=model, corpus=self.corpus, sentences=self.sentences)
        return parts(evaluation, recordings=self.recordings)[name]()


def evaluate(measuring: Measuring, *, names: list[str], processes: int) -> list[Score]:
    """Runs the measurements of `names` (all of them when empty), printing each score as it comes."""
    names = names or list(NAMES)
    scores: list[Score] = []
    with multiprocessing.get_context("spawn").Pool(processes, maxtasksperchild=1) as pool:
        for found in pool.imap(measuring.run, names):
            for score in found:
                print(score, flush=True)
                scores.append(score)
    return scores


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--work", type=Path, default=Path("build/demo-model"))
    parser.add_argument("--sentences", type=int, default=1000)
    parser.add_argument("--parts", default="", help="comma-separated, such as A1,B1,F1,noise1,long28,words,prefixes")
    parser.add_argument("--recordings", type=Path, help="folder with manifest.jsonl, for clips without speech")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="measurements made at the same time")
    parser.add_argument("--threads", type=int, default=1, help="of each process")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    measuring = Measuring(
        model_path=options.model,
        corpus=options.work / "corpus",
        sentences=options.sentences,
        recordings=options.recordings,
        threads=options.threads,
    )
    names = [name for name in options.parts.split(",") if name]
    scores = evaluate(measuring, names=names, processes=options.processes)
    if options.out:
        options.out.write_text(json.dumps([attrs.asdict(score) for score in scores], indent=1) + "\n")


if __name__ == "__main__":
    main()
