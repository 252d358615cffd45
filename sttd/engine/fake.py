"""A recogniser that hears as many words as the audio is long. For tests, load runs and authors of clients.

An utterance of `n` seconds is heard as `floor(1000 * n / word_ms)` words, "w1 w2 w3 ...", each `word_ms` long; a
call takes `decode_ms`, whatever its batch. Nothing is random and nothing is kept: equal audio gives equal text.
It hears English, or the first of the languages that the client allows where English is none of them.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from sttd.core.languages import Heard
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Hypothesis, Segment, Word
from sttd.engine.contract import NOBODY, Place, Preset, Recipe, Result, Waiters, options_of
from sttd.fields import number, string
from sttd.options import MAX_UTTERANCE_S

FAULTS: Final = ("none", "crash", "hang", "raise")
_MAX_BATCH: Final = 16
_LOGPROB: Final = -0.1  # a confidence of 0.9


@attrs.frozen(kw_only=True)
class FakeOptions:
    """The options of a preset with `backend = "fake"`."""

    decode_ms: float = number("time that a call takes", minimum=0, maximum=3_600_000, default=0.0, unit="ms")
    word_ms: float = number("time that a word takes", minimum=1, maximum=60_000, default=300.0, unit="ms")
    fault: str = string("what longer audio than `fault_s` does to the engine", choices=FAULTS, default="none")
    fault_s: float = number("see `fault`", minimum=0, maximum=MAX_UTTERANCE_S, default=10.0, unit="s")


@attrs.frozen
class FakePlanner:
    """All fakes share alike."""

    def batch_key(self, item: DecodeItem) -> Hashable:
        """What is decoded with the same effort shares a call."""
        return item.options.effort

    def max_batch(self, key: Hashable) -> int:
        """The same for every key."""
        return _MAX_BATCH


@attrs.frozen(kw_only=True)
class FakeModel(FakePlanner):
    """A loaded fake: a `Model` without weights."""

    options: FakeOptions
    workers: int = 1
    device: str = "cpu"
    compute_type: str = "fake"
    ram_bytes: int = 0
    vram_bytes: int = 0
    parkable: bool = False

    @property
    def facts(self) -> Mapping[str, Any]:
        """There are none to know."""
        return {}

    def decode(self, batch: Sequence[DecodeItem], *, waiters: Waiters = NOBODY) -> list[Result]:
        """Sleep `decode_ms`, then hear every item; or have the fault that one of them asks for."""
        if any(len(item.samples) > self.options.fault_s * SAMPLE_RATE for item in batch):
            self._fail()
        if self.options.decode_ms:
            time.sleep(self.options.decode_ms / 1000)
        return [self._hear(item) for item in batch]

    def park(self) -> bool:
        """There is nothing to move."""
        return False

    def unpark(self) -> None:
        """There is nothing to bring back."""

    def close(self) -> None:
        """There is nothing to give back."""

    def abandon(self) -> None:
        """There is nothing to give back."""

    def _fail(self) -> None:
        match self.options.fault:
            case "crash":
                signal.raise_signal(signal.SIGSEGV)  # as of a native library; it ends the process that decodes
            case "hang":
                while True:
                    time.sleep(3600)
            case "raise":
                raise RuntimeError("a fault that was asked for")

    def _hear(self, item: DecodeItem) -> Hypothesis:
        item = item.alone()
        word_s = self.options.word_ms / 1000
        count = int(1000 * len(item.samples) / SAMPLE_RATE // self.options.word_ms)
        spoken = item.options.prefix.split()
        spoken += [f"w{number}" for number in range(len(spoken) + 1, count + 1)]
        words = tuple(
            Word(word=word, start_s=index * word_s, end_s=(index + 1) * word_s, probability=0.9)
            for index, word in enumerate(spoken)
        )
        text = " ".join(spoken)
        language, heard = _language(item.options)
        segment = Segment(text=text, start_s=0.0, end_s=len(words) * word_s, avg_logprob=_LOGPROB, words=words)
        return Hypothesis(
            text=text,
            segments=(segment,) if words else (),
            language=language,
            language_probability=1.0,
            languages=heard,
            avg_logprob=_LOGPROB,
        )


@attrs.frozen
class FakeBackend:
    """Loads `FakeModel`s; always has them at hand."""

    name: str = "fake"

    def resolve(self, preset: Preset) -> Preset:
        """A fake runs on the CPU, everywhere. Raises ConfigError where an option is wrong."""
        options_of(preset, FakeOptions)
        return attrs.evolve(
            preset,
            device="cpu",
            compute_type="none",
            cpu_threads=preset.cpu_threads or 1,
            num_workers=preset.num_workers or 1,
        )

    def locate(self, preset: Preset) -> Path | None:
        """A fake needs no files."""
        return Path()

    def describe(self, preset: Preset) -> Place:
        """It is always there, and as quick as its options say."""
        return Place(model=preset.model, path=Path(), source="embedded", verified=True, realtime=True)

    def languages(self, preset: Preset) -> frozenset[str] | None:
        """Whatever is asked for, unless the name of the model says otherwise."""
        return None

    def forget(self) -> None:
        """Nothing is remembered."""

    def suggest(self, preset: Preset) -> str:
        """There is nothing to get."""
        return preset.model

    def recipe(self) -> Recipe:
        """A fake is made of nothing."""
        return Recipe(factory="sttd.engine.fake:FakeBackend")

    def isolates(self, preset: Preset) -> bool:
        """Nothing in it can crash but by its options."""
        return False

    def planner(self, facts: Mapping[str, Any]) -> FakePlanner:
        """As for any fake."""
        return FakePlanner()

    def load(self, preset: Preset, *, cpu_threads: int, num_workers: int) -> FakeModel:
        """Ready at once. Raises ConfigError where an option is wrong."""
        return FakeModel(options=options_of(preset, FakeOptions), workers=num_workers)


def _language(options: DecodeOptions) -> tuple[str, Heard]:
    """The language of a hypothesis, and what the sound said of it where that was asked for."""
    allowed = options.languages.allowed if options.languages is not None else ()
    spoken = "en" if "en" in allowed or not allowed else allowed[0]
    heard = () if options.language is not None and options.languages is None else ((spoken, 1.0),)
    return options.language or spoken, heard
