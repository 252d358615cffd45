"""Finals of several sentences: what is lost of them without timestamps, and what timestamps cost.

Utterances are joined from two to five English recordings, half of them of one speaker, with pauses too short to end an
utterance; as many of each length. Each is decoded as a client's own utterance in three ways:

- `full`: in the full window, without timestamps;
- `short`: in the windows that the model may use, without timestamps;
- `now`: in these windows, with timestamps from `decoder.LONG_S` on, and on where the text ends before the speech.

`lost` are words that are gone. Joined readers are harder than one speaker who goes on, but they have what no single
recording of that length has: a text of which every word is known.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from itertools import pairwise

import attrs
import numpy as np

from benchmarks import report
from benchmarks.options import Options
from benchmarks.recordings import Recording, english, room_noise
from benchmarks.words import Errors, errors
from sttd.core.types import DecodeItem, DecodeOptions, Samples, seconds
from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.whisper import decoder
from sttd.engine.whisper.backend import LoadedWhisper, WhisperBackend

LENGTHS_S = (5.0, 8.0, 11.0, 14.0, 17.3, 22.0, 28.5)
EACH = 12  # utterances of a length; chosen
TRIES = 3000
LONGEST_CLIP_S = 12.7
PAUSES_S = (0.2, 0.35, 0.5)
SEED = 5
WAYS = ("full", "short", "now")


@attrs.frozen(kw_only=True, eq=False)
class Joined:
    """One utterance of several recordings."""

    samples: Samples
    text: str


def main(options: Options) -> None:
    """A row for each length and way."""
    chosen = options.model
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    full = attrs.evolve(preset, options={**preset.options, "final_windows": ()})
    models = {each: WhisperBackend().load(each, cpu_threads=1, num_workers=1) for each in (preset, full)}
    rows = []
    for (low_s, high_s), utterances in _utterances():
        found = {way: (Errors(), 0.0) for way in WAYS}
        for utterance in utterances:
            for way in WAYS:
                heard, cpu_s = _heard(models[full if way == "full" else preset], utterance, timestamps=way == "now")
                found[way] = found[way][0] + heard, found[way][1] + cpu_s
        rows += [
            {
                "length_s": f"{low_s:g}-{high_s:g}",
                "utterances": len(utterances),
                "way": way,
                "words": counted.said,
                "word_errors_pct": counted.rate_pct,
                "lost": counted.lost,
                "cpu_s": round(cpu_s, 1),
            }
            for way, (counted, cpu_s) in found.items()
        ]
    report.write("long_finals", rows, {"timestamps": f"from {decoder.LONG_S:g} s on"}, model=chosen.name)


def _heard(model: LoadedWhisper, utterance: Joined, *, timestamps: bool) -> tuple[Errors, float]:
    usual = decoder.LONG_S
    decoder.LONG_S = usual if timestamps else math.inf
    try:
        began_s = time.process_time()
        item = DecodeItem(samples=utterance.samples, options=DecodeOptions(language="en"), complete=True)
        (heard,) = model.decode([item])
        return errors(utterance.text, heard.text), time.process_time() - began_s
    finally:
        decoder.LONG_S = usual


def _utterances() -> Iterator[tuple[tuple[float, float], list[Joined]]]:
    """For each length, the same utterances in every run."""
    clips = english(longest_s=LONGEST_CLIP_S)
    readers: dict[str, list[Recording]] = {}
    for clip in clips:
        readers.setdefault(clip.name.partition("-")[0], []).append(clip)
    alone = [mine for mine in readers.values() if len(mine) > 1]
    chance, known = random.Random(SEED), set()
    for low_s, high_s in pairwise(LENGTHS_S):
        found: list[Joined] = []
        for number in range(TRIES):
            source = chance.choice(alone) if number % 2 == 0 else clips
            count = chance.randint(2, 5)
            if len(found) == EACH or count > len(source):
                continue
            parts, pause_s = chance.sample(source, count), chance.choice(PAUSES_S)
            joined = _joined(parts, pause_s=pause_s)
            names = frozenset(part.name for part in parts)
            if low_s <= seconds(len(joined.samples)) < high_s and names not in known:
                known.add(names)
                found.append(joined)
        yield (low_s, high_s), found


def _joined(parts: list[Recording], *, pause_s: float) -> Joined:
    pieces: list[Samples] = []
    for number, part in enumerate(parts):
        pieces += [room_noise(pause_s, seed=number)] * (number > 0) + [part.samples]
    return Joined(samples=np.concatenate(pieces), text=" ".join(part.text for part in parts))
