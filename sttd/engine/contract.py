"""What a recogniser must offer to be served by sttd, and the presets that name recognisers.

A `Backend` finds and loads models of its kind; a `Model` decodes. Both are synchronous: the pool and the
dispatcher call them in worker threads, several at once. Nothing here may touch a Trio object.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import attrs

from sttd.core.types import DecodeItem, Hypothesis
from sttd.engine.remote.state import RemoteState
from sttd.engine.store.ledger import Source
from sttd.errors import ConfigError, DecodeError, ModelError
from sttd.fields import FieldError, integer, number, parse, rules_of, same, string
from sttd.live_text import LiveText
from sttd.options import COMPUTE_TYPES, MAX_CPU_THREADS, MAX_UTTERANCE_S, MAX_WORKERS

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class Preset:
    """A name for a model and the way to run it.

    What a `[presets.NAME]` table may set of it is declared as a field here; its other keys are `options`, which the
    backend declares (`options_of`).
    """

    name: str
    backend: str = string(
        "`whisper`; `remote`: a server decodes; or `fake`, which hears numbered words, for tests", required=True
    )
    model: str = string(
        "folder, name of a built-in model, or repository on the Hugging Face hub; `remote`: what the server calls it",
        default="",
    )
    revision: str | None = string("branch, tag or commit of the repository")
    device: str = string("as `models.device`", default="auto")
    compute_type: str = string("as `models.compute_type`", choices=COMPUTE_TYPES, default="auto")
    cpu_threads: int = integer(
        "threads of one worker; 0: from the machine", minimum=0, maximum=MAX_CPU_THREADS, default=0
    )
    num_workers: int = integer("decodes that run at the same time", minimum=0, maximum=MAX_WORKERS, default=1)
    max_window_s: float = number(
        "longest piece of audio that the model is given at once",
        minimum=2,
        maximum=MAX_UTTERANCE_S,
        default=MAX_UTTERANCE_S,
        unit="s",
    )
    commit: str = same(LiveText, "commit")
    show_from: float = same(LiveText, "show_from")
    change_from: float = same(LiveText, "change_from")
    show_after_s: float = same(LiveText, "show_after_s")
    keep_margin: float = same(LiveText, "keep_margin")
    has_live_text: bool = False  # it says one of these five itself; else those of its model hold (`Shelf.live_text`)
    smaller: str | None = string("the preset to fall back to out of memory, with `models.allow_smaller`")
    summary: str = string("what it is good for, in a line", one_line=True, default="")
    options: Mapping[str, Any] = attrs.field(factory=dict, hash=False)
    fallback: Preset | None = None  # decodes while the server of a remote one is away (`engine/remote`)

    @property
    def live_text(self) -> LiveText:
        """When words of its interims are shown and stable, if it says so itself."""
        return LiveText(**{field.name: getattr(self, field.name) for field in attrs.fields(LiveText)})


def options_of(preset: Preset, declared: type[T]) -> T:
    """The preset's own options, as its backend declares them. Raises ConfigError where one does not hold."""
    try:
        return parse(declared, preset.options, path=f"presets.{preset.name}.", beside=rules_of(Preset))
    except FieldError as error:
        raise ConfigError(error.message, data={"option": error.field}) from None


@attrs.frozen(kw_only=True)
class Place:
    """What a preset's model is on this machine, now. `model` is what `auto` means; times are None if not measured."""

    model: str
    path: Path | None = None  # None: not on disk
    source: Source | None = None
    verified: bool = False  # its files match known hashes
    size_bytes: int | None = None  # of the weights on disk, or to be downloaded
    interim_s: float | None = None
    window_s: float | None = None
    realtime: bool | None = None  # this machine can run it live; None: not measured
    remote: RemoteState | None = None  # None: it decodes here


@attrs.frozen(kw_only=True)
class ModelKey:
    """What a loaded model is cached by."""

    preset: str
    cpu_threads: int
    num_workers: int

    def __str__(self) -> str:
        return f"{self.preset}|threads={self.cpu_threads}|workers={self.num_workers}"


@attrs.frozen(eq=False)
class Unfinished:
    """What a call leaves of an item to a call of its own, so that others wait for one only: the rest, or a retry."""

    item: DecodeItem


class EngineLostError(DecodeError):
    """Not the audio is to blame: the model decodes nothing any more, and would in a new process."""


Result = Hypothesis | DecodeError | Unfinished


def is_sound(hypothesis: Hypothesis) -> bool:
    """Whether every number of it is one, and its text can be sent."""
    try:
        segments = hypothesis.segments
        numbers = [
            hypothesis.avg_logprob,
            hypothesis.no_speech_prob,
            hypothesis.compression_ratio,
            hypothesis.temperature,
            hypothesis.language_probability,
            *(value for segment in segments for value in (segment.start_s, segment.end_s, segment.avg_logprob)),
            *(value for word in hypothesis.words for value in (word.start_s, word.end_s, word.probability)),
            *(piece.least for piece in hypothesis.certainties or ()),
            hypothesis.ending or 0.0,
        ]
        "".join([hypothesis.text, *(word.word for word in hypothesis.words)]).encode()
        return all(math.isfinite(number) for number in numbers)
    except (AttributeError, TypeError, UnicodeEncodeError):  # a model may put anything there
        return False


class Waiters(Protocol):
    """Those who wait for the items of a call, as its thread sees them. `index` is the item's place in the batch."""

    def tell(self, index: int, hypothesis: Hypothesis) -> None:
        """The outcome of an item is known while others of the batch take longer. Returns at once."""

    def gone(self, index: int) -> bool:
        """Nobody waits for that item any more. May be late by a moment."""

    def hurry(self) -> bool:
        """Somebody speaks and waits for the worker: what can be a call of its own should be one."""

    def patience_s(self) -> float:
        """How much longer they wait; then the call is written off. Infinite where nobody looks at a clock."""

    def set_back(self, waits_for: str | None = None) -> None:
        """The engine failed under the call and goes on with it: what the call takes says nothing of its speed.

        `waits_for`: what it waits for from now on, in words for whoever speaks; None: it does not wait.
        """


@attrs.frozen
class Nobody:
    """Waiters of a call whose outcome is all that is wanted."""

    def tell(self, index: int, hypothesis: Hypothesis) -> None:
        """As in `Waiters`: they hear it with the rest."""

    def gone(self, index: int) -> bool:
        """As in `Waiters`: they stay."""
        return False

    def hurry(self) -> bool:
        """As in `Waiters`: there is time."""
        return False

    def patience_s(self) -> float:
        """As in `Waiters`: they wait."""
        return math.inf

    def set_back(self, waits_for: str | None = None) -> None:
        """As in `Waiters`: they do not count the time."""


NOBODY: Final = Nobody()


@attrs.frozen(eq=False)
class SomeWaiters:
    """Some of the waiters of a call, by their own numbers."""

    waiters: Waiters
    indices: tuple[int, ...]

    def tell(self, index: int, hypothesis: Hypothesis) -> None:
        """As in `Waiters`."""
        self.waiters.tell(self.indices[index], hypothesis)

    def gone(self, index: int) -> bool:
        """As in `Waiters`."""
        return self.waiters.gone(self.indices[index])

    def hurry(self) -> bool:
        """As in `Waiters`."""
        return self.waiters.hurry()

    def patience_s(self) -> float:
        """As in `Waiters`."""
        return self.waiters.patience_s()

    def set_back(self, waits_for: str | None = None) -> None:
        """As in `Waiters`."""
        self.waiters.set_back(waits_for)


class Model(Protocol):
    """A loaded model. `decode` is called from up to `workers` threads at once."""

    @property
    def device(self) -> str:
        """Where it really runs: "cpu", "cuda:0"."""

    @property
    def compute_type(self) -> str:
        """What it really computes in."""

    @property
    def workers(self) -> int:
        """How many calls make progress at the same time."""

    @property
    def ram_bytes(self) -> int:
        """Main memory that the weights take; an estimate is fine."""

    @property
    def vram_bytes(self) -> int:
        """GPU memory that the weights take; 0 on CPU."""

    @property
    def parkable(self) -> bool:
        """The weights are in memory of a device: they can be parked in main memory, and a suspend may lose them."""

    def batch_key(self, item: DecodeItem) -> Hashable:
        """Items with equal keys may share one `decode` call. Cheap, pure, called on the event loop."""

    def max_batch(self, key: Hashable) -> int:
        """How many items of that key one call may take, by the memory that is free now, if all workers made one."""

    def decode(self, batch: Sequence[DecodeItem], *, waiters: Waiters = NOBODY) -> list[Result]:
        """Decode a batch; one result an item, in order. One bad item fails alone. Blocks; cannot be cancelled.

        A backend that tries some items again tells `waiters` of those that are done, and asks for whom it still tries.
        Asked to hurry, it may return items of files as `Unfinished`. Items for which the memory does not suffice are
        returned with `out_of_memory`: the dispatcher tries them again, fewer at a time.
        """

    def park(self) -> bool:
        """Move the weights out of GPU memory, keeping them in RAM. False where that means nothing (CPU)."""

    def unpark(self) -> None:
        """Bring parked weights back. Raises ModelError."""

    def close(self) -> None:
        """Give everything back. Called once, with no decode running."""

    def abandon(self) -> None:
        """It is given up with a decode in it that does not end: give back what can be. On the event loop; quick."""


class Backend(Protocol):
    """A kind of recogniser."""

    @property
    def name(self) -> str:
        """What presets call it."""

    def resolve(self, preset: Preset) -> Preset:
        """The preset with every `auto` decided for this machine. Raises ConfigError where it cannot hold here."""

    def locate(self, preset: Preset) -> Path | None:
        """Where the model is on disk, or None. Touches no network. A backend without files returns Path()."""

    def describe(self, preset: Preset) -> Place:
        """What is known of the model here. As cheap as `locate`, and as silent."""

    def languages(self, preset: Preset) -> frozenset[str] | None:
        """Which languages the model knows, as far as its files say before it is loaded. No network."""

    def forget(self) -> None:
        """Models came or went: what was remembered of the disk is looked up anew."""

    def suggest(self, preset: Preset) -> str:
        """Which model to get for a preset: its own, or for `auto` the one that suits this machine."""

    def load(self, preset: Preset, *, cpu_threads: int, num_workers: int) -> Model:
        """Load. Blocks. Raises ModelError with `model_not_local`, `model_load_failed` or `out_of_memory`."""


# ---------------------------------------------------------------- models in a process of their own


@attrs.frozen(kw_only=True)
class Recipe:
    """How another process makes the same backend.

    Args:
        factory: `module:callable`.
        arguments: of the callable; plain values.
        libraries: modules that loading imports, and that a process may import before it is needed.
    """

    factory: str
    arguments: Mapping[str, Any] = attrs.field(factory=dict)
    libraries: tuple[str, ...] = ()


class Planner(Protocol):
    """The part of `Model` that the event loop asks, for a model in another process."""

    def batch_key(self, item: DecodeItem) -> Hashable:
        """As in `Model`."""

    def max_batch(self, key: Hashable) -> int:
        """As in `Model`."""


class IsolableModel(Model, Protocol):
    """A model that can be served from another process."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """Plain values from which `IsolableBackend.planner` answers for it."""


class IsolableBackend(Backend, Protocol):
    """A backend whose models can live in a process of their own (`engine/process`)."""

    def recipe(self) -> Recipe:
        """How that process makes a backend that finds the same models."""

    def isolates(self, preset: Preset) -> bool:
        """Whether `isolation = "auto"` gives the preset's model a process."""

    def planner(self, facts: Mapping[str, Any]) -> Planner:
        """Answers for a model with these facts. Raises TypeError, ValueError where they are none."""

    def load(self, preset: Preset, *, cpu_threads: int, num_workers: int) -> IsolableModel:
        """As in `Backend`."""


class Lease(Protocol):
    """The right to use a loaded model. While one lease lives, the model is neither evicted nor unloaded."""

    @property
    def key(self) -> ModelKey:
        """Which entry of the pool this is."""

    @property
    def preset(self) -> str:
        """The preset that was loaded; differs from the one asked for only after a fallback."""

    @property
    def model(self) -> Model:
        """The model itself."""

    def duplicate(self) -> Lease:
        """A second lease on the same model: whoever runs a decode holds one of his own. Never waits."""

    def release(self) -> None:
        """Give it back. Synchronous and idempotent, so that it may stand in any `finally`."""


__all__ = [
    "Backend",
    "DecodeError",
    "EngineLostError",
    "IsolableBackend",
    "IsolableModel",
    "Lease",
    "Model",
    "ModelError",
    "ModelKey",
    "Place",
    "Planner",
    "Preset",
    "Recipe",
    "RemoteState",
    "NOBODY",
    "Result",
    "SomeWaiters",
    "Unfinished",
    "Waiters",
]
