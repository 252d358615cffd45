"""Loaded models and items for the tests of this folder."""

from __future__ import annotations

import math
from pathlib import Path

import attrs

from sttd.core.types import DecodeItem, DecodeOptions, Effort
from sttd.engine.presets import Machine, builtin_presets
from sttd.engine.whisper.backend import WhisperBackend
from sttd.errors import DecodeError

DATA = Path(__file__).parents[3] / "data"
DEMO = builtin_presets()["demo"]
CPU = Machine(cores=2)


def backend(**changes):
    return WhisperBackend(machine=lambda: CPU, **changes)


def load(preset=DEMO, **options):
    preset = attrs.evolve(preset, options=options)
    return backend().load(preset, cpu_threads=0, num_workers=1)


def item(samples, effort=Effort.FULL, **options):
    return DecodeItem(samples=samples, options=DecodeOptions(effort=effort, **options))


def hear(model, samples, effort=Effort.FULL, **options):
    [outcome] = model.decode([item(samples, effort, **options)])
    assert not isinstance(outcome, DecodeError), outcome
    return outcome


@attrs.define
class Waiters:
    """Remembers what it is told after how many calls; `left` are gone."""

    calls: list = attrs.field(factory=list)
    left: tuple = ()
    told: list = attrs.field(factory=list)
    rush: bool = False

    def tell(self, index, hypothesis):
        self.told.append((index, hypothesis, len(self.calls)))

    def gone(self, index):
        return index in self.left

    def hurry(self):
        return self.rush

    def patience_s(self):
        return math.inf

    def set_back(self, waits_for=None):
        self.calls.append("set back")
