"""The quality gate of short encoder windows for interims: what they save and what they cost, for one preset.

An encoder of 30 s is most of an interim's cost on a CPU, and CTranslate2 accepts shorter windows; but the window's
length is part of what the model computes, so each model must show that it hears the same. Prefixes of utterances,
cut every 0.5 s, are decoded as interims with each window; a hypothesis is compared with the nearest prefix of what
was said. A window passes within 1 percentage point of word errors of the full one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import attrs
import numpy as np

from benchmarks import load, report
from benchmarks.options import Model, Options
from benchmarks.sessions import session_for
from benchmarks.words import words
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Effort, Samples
from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.whisper.backend import WhisperBackend

WINDOWS = (3000, 2000, 1500, 1000)
STEP_S = 0.5
PASS_POINTS = 1.0
CLIPS = Path(__file__).parents[1] / "tests" / "data"


def main(options: Options) -> None:
    """Decode all prefixes with each window."""
    chosen = options.model
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    prefixes = list(_prefixes(chosen))
    rows = []
    for window in WINDOWS:
        allowed = (window,) if window < 3000 else ()
        evolved = attrs.evolve(preset, options={**preset.options, "interim_windows": allowed})
        model = WhisperBackend().load(evolved, cpu_threads=1, num_workers=1)
        errors = counted = exact = 0
        began = time.process_time()
        for samples, said in prefixes:
            item = DecodeItem(samples=samples, options=DecodeOptions(effort=Effort.QUICK, language="en"))
            (hypothesis,) = model.decode([item])
            heard = words(hypothesis.text)  # type: ignore[union-attr]
            wrong = nearest_prefix_errors(heard, said)
            errors, counted, exact = errors + wrong, counted + len(heard), exact + (wrong == 0)
        spent = time.process_time() - began
        model.close()
        rows.append(
            {
                "window_frames": window,
                "prefixes": len(prefixes),
                "cpu_ms_per_interim": round(1000 * spent / len(prefixes), 1),
                "word_errors_pct": round(100 * errors / max(counted, 1), 2),
                "exactly_right_pct": round(100 * exact / len(prefixes), 1),
            }
        )
    full = rows[0]
    for row in rows:
        row["cpu_share"] = round(row["cpu_ms_per_interim"] / full["cpu_ms_per_interim"], 2)
        row["passes"] = "yes" if row["word_errors_pct"] <= full["word_errors_pct"] + PASS_POINTS else "no"
    report.write("interim_windows", rows, {"gate": f"{PASS_POINTS} point of word errors"}, model=chosen.name)


def _prefixes(model: Model) -> Iterator[tuple[Samples, list[str]]]:
    """Beginnings of utterances with what is said in all of the utterance."""
    session = session_for(model)
    yield from _cut(_floats(session.pcm), session.truth)
    if model.is_demo:
        for path in sorted(CLIPS.glob("*.json")):
            pcm, truth = load.clip(path.with_suffix(".flac"))
            yield from _cut(_floats(pcm), truth)


def _cut(audio: Samples, spoken: load.Truth) -> Iterator[tuple[Samples, list[str]]]:
    for utterance in spoken:
        start, end = utterance["start_s"] - 0.3, utterance["end_s"]
        for cut in np.arange(start + 0.3 + STEP_S, end + STEP_S, STEP_S):
            samples = audio[max(0, int(start * SAMPLE_RATE)) : int(min(cut, end + 0.2) * SAMPLE_RATE)]
            yield samples, words(utterance["text"])


def _floats(pcm: bytes) -> Samples:
    return np.frombuffer(pcm, "<i2").astype(np.float32) / 32768


def nearest_prefix_errors(heard: list[str], said: list[str]) -> int:
    """Edits from `heard` to the prefix of `said` that is nearest; a word cut in the middle counts as not said."""
    costs = list(range(len(said) + 1))
    for row, word in enumerate(heard, 1):
        diagonal, costs[0] = costs[0], row
        for column, other in enumerate(said, 1):
            diagonal, costs[column] = (
                costs[column],
                min(costs[column] + 1, costs[column - 1] + 1, diagonal + (word != other)),
            )
    return min(costs)
