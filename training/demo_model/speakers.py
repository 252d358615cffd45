# ruff: noqa: SIM905 (word lists read better as text)
"""Who speaks: the voices of training, and those kept for the evaluation sets A, B and F alone.

Half of the training speakers of espeak-ng are its own accents and voice variants, half are invented: random voice files
that move formants, pitch, timing and vowels, so that the model meets more ways to speak than espeak-ng ships.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from training.demo_model.espeak import Voice

#: Variants of espeak-ng 1.51 that sound like a voice (not the robots and whispers), as installed by Debian.
VARIANTS: Final = (
    "Alex Alicia Andrea Andy Denis Diogo Gene Gene2 Henrique Hugo Jacky Lee Marco Mario Mike Nguyen "
    "RicishayMax RicishayMax2 Storm adam anika announcer antonio aunty belinda benjamin boris caleb david ed "
    "edward edward2 f1 f2 f3 f5 gustave iven iven2 iven3 john kaukovalta klatt klatt2 klatt4 linda m1 m2 m3 m4 "
    "m5 m7 m8 marcelo max michel miguel norbert pablo paul quincy rob robert sandro shelby steph steph3 travis "
    "victor zac"
).split()
HELD_VARIANTS: Final = "Annie Michael f4 m6 pedro steph2 klatt3 RicishayMax3 iven4 grandpa".split()

#: Accents, the commoner ones several times.
ACCENTS: Final = (
    "en-us en-us en-us en-us en en en en-gb-x-rp en-gb-x-rp en-us-nyc en-us-nyc en-gb-scotland en-gb-x-gbclan en-029"
).split()
HELD_ACCENT: Final = "en-gb-x-gbcwmd"

#: flite voices by share; `rms` is kept for set F. Festival's `kal` is flite's, and `slt` is the same person as flite's.
FLITE_VOICES: Final = {"slt": 0.42, "awb": 0.42, "kal16": 0.11, "kal": 0.05}
HELD_FLITE: Final = "rms"
FESTIVAL_VOICES: Final = ("ked", "slt")

#: Phoneme tables and dictionary rules of invented speakers; the held accent's table (en-wm) is not among them.
_TABLES: Final = (
    ("en-us", "3 6"), ("en-us", "3 6"), ("en-us", "3 6"), ("en", ""), ("en", ""), ("en-rp", ""), ("en-us-nyc", "3 6"),
    ("en-sc", "2 5 6 7"), ("en-n", ""), ("en-wi", "8"),
)  # fmt: skip

#: Sound changes of English accents, as espeak-ng `replace` rules.
_CHANGES: Final = (
    "00 V U", "00 V a", "00 V @", "00 eI aI", "00 eI E", "00 aI OI", "00 aI a", "00 oU O:", "00 oU 0", "00 a E",
    "00 a aa", "00 E I", "00 I i", "03 I i", "03 I2 i", "03 @ V", "03 @ a#", "00 0 A:", "00 0 O:", "00 A: a",
    "00 O: A:", "00 O: 0", "00 u: U", "00 U u:", "00 T t", "00 T f", "00 D d", "03 N n", "00 h NULL", "00 3: E",
    "00 aU u:", "00 i: I", "00 i: eI",
)  # fmt: skip


def invented_voice_file(rng: random.Random, *, path: Path) -> Path:
    """Writes a random espeak-ng voice file (its `docs/voices.md` describes the lines) and returns its path."""
    table, rules = rng.choice(_TABLES)
    low = rng.randint(60, 170)
    tract = rng.uniform(85, 125)  # vocal tract length: all formants move together
    lines = [
        "name invented",
        "language en-us",
        f"phonemes {table}",
        f"pitch {low} {round(low * rng.uniform(1.2, 1.9))}",
    ]
    if rules:
        lines.append(f"dictrules {rules}")
    for formant in range(9):
        frequency = tract * rng.uniform(0.94, 1.06)
        lines.append(f"formant {formant} {frequency:.0f} {rng.uniform(60, 130):.0f} {rng.uniform(70, 150):.0f}")
    lines += [f"replace {change}" for change in _CHANGES if rng.random() < 0.06]
    maybe = (
        (0.2, f"klatt {rng.randint(1, 4)}"),
        (0.3, f"roughness {rng.randint(0, 5)}"),
        (0.4, f"flutter {rng.randint(0, 8)}"),
        (0.3, f"voicing {rng.randint(50, 140)}"),
        (0.5, f"consonants {rng.randint(60, 140)} {rng.randint(60, 140)}"),
        (0.2, "breath " + " ".join(str(rng.randint(0, 6)) for _ in range(8))),
        (0.1, f"echo {rng.randint(20, 140)} {rng.randint(5, 20)}"),
        (0.3, f"intonation {rng.randint(1, 4)}"),
        (0.5, "stressLength " + " ".join(str(round(base * rng.uniform(0.85, 1.15))) for base in _STRESS_LENGTH)),
    )
    lines += [line for share, line in maybe if rng.random() < share]
    path.write_text("\n".join(lines) + "\n")
    return path


_STRESS_LENGTH: Final = (160, 130, 190, 175, 220, 220, 255, 295)


def training_voice(rng: random.Random, *, invented: list[Path]) -> Voice:
    """Returns a random training speaker: one of `invented` half of the time."""
    name: str | Path
    if rng.random() < 0.5:
        name = rng.choice(invented)
    else:
        accent = rng.choice(ACCENTS)
        name = accent if rng.random() < 0.08 else f"{accent}+{rng.choice(VARIANTS)}"
    return Voice(
        name=name,
        words_per_minute=rng.randint(112, 216),
        pitch=rng.randint(20, 80),
        pitch_range=rng.randint(15, 85),
        word_gap=rng.choice((0, 0, 0, 1, 3)),
        stretch=rng.uniform(0.87, 1.15) if rng.random() < 0.6 else 1.0,
    )


def held_voice(rng: random.Random, *, unseen_accent: bool) -> Voice:
    """Returns a speaker of set A; with `unseen_accent` of set B: the held accent at extreme speeds as well."""
    accent = HELD_ACCENT if unseen_accent else rng.choice(ACCENTS)
    extreme = rng.choice((rng.randint(98, 108), rng.randint(222, 240)))
    return Voice(
        name=f"{accent}+{rng.choice(HELD_VARIANTS)}",
        words_per_minute=extreme if unseen_accent else rng.randint(120, 210),
        pitch=rng.randint(25, 75),
        pitch_range=rng.randint(20, 80),
        word_gap=rng.choice((0, 0, 0, 1, 3)),
    )
