"""The quality gate of short encoder windows for finals: what they save and what they cost, for one preset.

Utterances of people in seven languages, cut as a session cuts them, are decoded as finals with each set of windows, as
the daemon does it: in the shortest that holds the audio with its slack, and once more in the full one where that is
doubted (`engine/whisper/doubt.py`). Each recording is heard as it is, 12 % faster, 12 % slower, and with noise at
10 dB. `commands` are the English ones of up to `COMMAND_S`. Sound without speech is decoded in pieces of 1 to 8 s, as
if a client had called them utterances; `texts` counts what the guard of finals lets through, there and elsewhere.

A set passes if it makes at most `PASS_POINTS` more word errors than the full window in all speech together, at most
`KIND_POINTS` more in any kind of it, and lets no more texts through where nobody speaks. `again_pct` is the share of
utterances that were decoded once more; `cpu_s` includes it.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np
import soxr

from benchmarks import report
from benchmarks.options import Options
from benchmarks.recordings import Ingest, Recording, as_bytes, load, room_noise
from benchmarks.words import Errors, errors
from sttd.core.text import guard
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Samples
from sttd.core.utterance import Closed
from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.whisper import decoder
from sttd.engine.whisper.backend import LoadedWhisper, WhisperBackend
from sttd.engine.whisper.knowledge import languages_on_disk

SETS = ((), (1500, 2000), (1000, 1500, 2000))
PASS_POINTS, KIND_POINTS = 0.3, 1.0
KINDS = ("English", "commands", "other languages", "no speech")
COMMAND_S = 3.6
TAIL_S = 1.5  # of room noise: longer than the longest wait for an endpoint, 1.2 s
PACE = {"fast": 1.12, "slow": 0.88}
VARIANTS = ("clean", *PACE, "noisy")
NOISES = ("ns-bike-b", "ns-dishes-a")
SNR_DB = 10.0
PIECES_S = (1, 2, 4, 8, 3)  # of sound without speech, in turn; chosen
LOUDER = np.float32(4)  # they are heard at this level, too: what a microphone with automatic gain makes of them; chosen

Windows = tuple[int, ...]


@attrs.frozen(kw_only=True, eq=False)
class Utterance:
    """What a session hands to the engine, with what its detector says; NaN where the client says what it is."""

    samples: Samples
    speech_s: float
    mean_probability: float


@attrs.frozen(kw_only=True, eq=False)
class Case:
    """The utterances of one recording, in one of its variants."""

    kind: str
    clip: Recording
    utterances: Sequence[Utterance]


@attrs.frozen(kw_only=True)
class Tally:
    """What one set of windows made of some cases."""

    errors: Errors = attrs.field(factory=Errors)
    utterances: int = 0
    texts: int = 0
    again: int = 0
    cpu_s: float = 0.0

    def __add__(self, other: Tally) -> Tally:
        return Tally(
            errors=self.errors + other.errors,
            utterances=self.utterances + other.utterances,
            texts=self.texts + other.texts,
            again=self.again + other.again,
            cpu_s=self.cpu_s + other.cpu_s,
        )

    @property
    def error_pct(self) -> float:
        return 100 * self.errors.count / max(1, self.errors.said)


@attrs.define(eq=False)
class Encodings:
    """Counts what the encoder is given: an utterance that is decoded again in another window is encoded again."""

    items: int = 0

    def __call__(self, whisper: Any, features: Any) -> Any:
        self.items += len(features)
        return self.encode(whisper, features)

    encode: Any = attrs.field(default=decoder.encode, init=False)


def main(options: Options) -> None:
    """Decode everything with each set."""
    chosen = options.model
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    models = {
        windows: WhisperBackend().load(
            attrs.evolve(preset, options={**preset.options, "final_windows": windows}), cpu_threads=1, num_workers=1
        )
        for windows in SETS
    }
    decoder.encode = encodings = Encodings()
    found: dict[tuple[Windows, str], Tally] = defaultdict(Tally)
    try:
        for case in _cases(english_only=languages_on_disk(chosen.path) == {"en"}):
            for windows, model in models.items():  # in turn, so that all have the machine as it is just then
                found[windows, case.kind] += _heard(model, case, encodings)
    finally:
        decoder.encode = encodings.encode
    gate = f"{PASS_POINTS} points of word errors in all, {KIND_POINTS} in a kind, no more texts of what nobody said"
    report.write("final_windows", list(_rows(found)), {"gate": gate}, model=chosen.name)


def _rows(found: Mapping[tuple[Windows, str], Tally]) -> Iterator[dict[str, Any]]:
    for windows in SETS:
        mine, full = ({kind: found[each, kind] for kind in KINDS if (each, kind) in found} for each in (windows, ()))
        points = {kind: mine[kind].error_pct - full[kind].error_pct for kind in mine}
        mine["all"], full["all"] = sum(mine.values(), Tally()), sum(full.values(), Tally())
        passes = (
            mine["all"].error_pct - full["all"].error_pct <= PASS_POINTS
            and max(points.values()) <= KIND_POINTS
            and mine["no speech"].texts <= full["no speech"].texts
        )
        for kind, tally in mine.items():
            yield {
                "windows": "+".join(map(str, windows)) or "full",
                "kind": kind,
                "utterances": tally.utterances,
                "words": tally.errors.said,
                "word_errors_pct": round(tally.error_pct, 2),
                "texts": tally.texts,
                "again_pct": round(100 * tally.again / tally.utterances, 1),
                "cpu_s": round(tally.cpu_s, 1),
                "cpu_share": round(tally.cpu_s / full[kind].cpu_s, 2),
                "passes": ("yes" if passes else "no") if kind == "all" else "",
            }


def _heard(model: LoadedWhisper, case: Case, encodings: Encodings) -> Tally:
    texts, again, began_s = [], 0, time.process_time()
    for utterance in case.utterances:
        before = encodings.items
        options = DecodeOptions(language=case.clip.language or "en")
        (heard,) = model.decode([DecodeItem(samples=utterance.samples, options=options)])
        again += encodings.items - before - 1
        speech_s, probability = utterance.speech_s, utterance.mean_probability
        texts.append(guard(heard, speech_s=speech_s, mean_probability=probability).text)
    cpu_s = time.process_time() - began_s
    wrong = errors(case.clip.text, " ".join(texts), language=case.clip.language) if case.clip.is_speech else Errors()
    return Tally(
        errors=wrong, utterances=len(texts), texts=len([text for text in texts if text]), again=again, cpu_s=cpu_s
    )


def _cases(*, english_only: bool) -> Iterator[Case]:
    clips = load()
    noises = [clips[name].samples for name in NOISES]
    for seed, clip in enumerate(clips.values()):
        if not clip.is_speech:
            yield Case(
                kind="no speech", clip=clip, utterances=[*_pieces(clip.samples), *_pieces(clip.samples * LOUDER)]
            )
        elif not clip.is_derived and (clip.language == "en" or not english_only):
            short = "commands" if clip.duration_s <= COMMAND_S else "English"
            for variant in VARIANTS:
                samples = _varied(clip.samples, variant, noise=noises[seed % len(noises)], seed=seed)
                kind = short if clip.language == "en" else "other languages"
                yield Case(kind=kind, clip=clip, utterances=list(_utterances(samples)))


def _varied(samples: Samples, variant: str, *, noise: Samples, seed: int) -> Samples:
    if variant in PACE:
        return soxr.resample(samples, SAMPLE_RATE * PACE[variant], SAMPLE_RATE)
    if variant == "clean":
        return samples
    bed = np.roll(np.resize(noise, len(samples)), 7919 * seed)  # a prime: another part of the noise for each
    gain = np.sqrt(np.mean(samples**2) / np.mean(bed**2)) * 10 ** (-SNR_DB / 20)
    return np.clip(samples + gain * bed, -1, 1).astype(np.float32)


def _utterances(samples: Samples) -> Iterator[Utterance]:
    for event in Ingest().run(as_bytes(np.concatenate([samples, room_noise(TAIL_S)]))):
        if isinstance(event, Closed):
            yield Utterance(samples=event.samples, speech_s=event.speech_s, mean_probability=event.mean_probability)


def _pieces(samples: Samples) -> Iterator[Utterance]:
    at, turn = 0, 0
    while at < len(samples):
        piece = np.clip(samples[at : at + PIECES_S[turn % len(PIECES_S)] * SAMPLE_RATE], -1, 1)
        yield Utterance(samples=piece, speech_s=len(piece) / SAMPLE_RATE, mean_probability=math.nan)
        at, turn = at + len(piece), turn + 1
