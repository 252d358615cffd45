"""Which short encoder windows each model may use: what the gates have let through.

An encoder run on 30 s is most of the work of an utterance of 4 s, and three quarters of it are padding. CTranslate2
takes shorter windows, but Whisper was trained on full ones alone: what it makes of a shorter one no rule says, and each
model must show that it hears the same. `benchmarks interim_windows` and `benchmarks final_windows` are the gates, over
recordings of people; `docs/explanation/figures.md` has what they said. What is not in the table has not been through.

On a GPU the encoder costs little, and windows of several lengths cannot share a call: there all are full.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from sttd.engine.contract import Preset
from sttd.engine.store.catalogue import EMBEDDED


@attrs.frozen(kw_only=True)
class Passed:
    """Windows in frames of 10 ms. The names are those of the options that may say otherwise."""

    interim_windows: tuple[int, ...] = ()
    final_windows: tuple[int, ...] = ()


PASSED: Final[Mapping[str, Passed]] = {
    EMBEDDED: Passed(interim_windows=(1000, 1500, 2000)),
    # In 15 and 20 s its finals have 13.7 % word errors for 13.3 in all of the gate, its commands 11.1 for 9.9.
    "tiny.en": Passed(interim_windows=(1000, 1500, 2000)),
    "base": Passed(interim_windows=(1000, 1500), final_windows=(1500, 2000)),
}


def with_windows(preset: Preset) -> Preset:
    """A preset whose device and model are decided, with the windows that these may use, unless it says itself which."""
    passed = PASSED.get(preset.model)
    if passed is None or preset.device != "cpu":
        return preset
    return attrs.evolve(preset, options={**attrs.asdict(passed), **preset.options})
