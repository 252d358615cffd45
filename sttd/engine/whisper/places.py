"""Where the models of whisper presets are, how quick they are here, and what `auto` means right now."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import attrs

from sttd.engine import memory, speed
from sttd.engine.contract import Place, Preset
from sttd.engine.presets import Machine, resolve
from sttd.engine.store.catalogue import EMBEDDED, LADDER, PUBLISHED
from sttd.engine.store.ledger import Ledger, Source, Speed
from sttd.engine.store.models import ModelStore, embedded_model, is_path, size_bytes
from sttd.engine.whisper.windows import with_windows

RECALL_S: Final = 1.0  # chosen: nobody sees a list that is a second old

T = TypeVar("T")


@attrs.frozen(kw_only=True, eq=False)
class Places:
    """The rules of `engine/speed.py` over the files of the store and the memory of the ledger. Reads no network.

    `auto` and the list of models cost some hundred `stat` calls, and whoever may connect may ask for them in a loop: so
    what was found is good for `RECALL_S`, unless `forget` says that something has changed. That nothing was found is
    not remembered.
    """

    store: ModelStore
    ledger: Ledger | None
    machine: Callable[[], Machine]
    clock: Callable[[], float] = time.monotonic
    _known: dict[tuple[str, Preset], tuple[float, Any]] = attrs.field(factory=dict, init=False)

    def model_of(self, preset: Preset) -> str:
        """The model that a preset means: for `auto` the best one here, or without any the one to get. Never fails."""
        if preset.model != "auto":
            return preset.model
        return self._recalled("auto", preset, self._choose) or self.suggest(preset)

    def forget(self) -> None:
        """Something changed on disk."""
        self._known.clear()

    def locate(self, preset: Preset) -> Path | None:
        """Its directory, or None."""
        return self.store.locate(self.model_of(preset), revision=preset.revision)

    def suggest(self, preset: Preset) -> str:
        """Which model to get for a preset: its own, or for `auto` the best that this machine should run live."""
        if preset.model != "auto":
            return preset.model
        gpu = self._gpu_bytes(preset)
        folders = {name: folder for name in LADDER if (folder := self.store.locate(name)) is not None}
        return speed.recommend(
            self._live(preset, folders),
            memory_bytes=memory.total_bytes() if gpu is None else gpu,
            on_gpu=gpu is not None,
        )

    def describe(self, preset: Preset) -> Place:
        """Everything that the list of models says of it."""
        return self._recalled("row", preset, self._describe)

    def _recalled(self, kind: str, preset: Preset, look: Callable[[Preset], T]) -> T:
        at, found = self._known.get((kind, preset), (-math.inf, None))
        if self.clock() - at < RECALL_S:
            return cast("T", found)
        fresh = look(preset)
        if fresh:
            self._known[kind, preset] = (self.clock(), fresh)
        return fresh

    def _choose(self, preset: Preset) -> str | None:
        folders = {name: folder for name in LADDER if (folder := self.store.locate(name)) is not None}
        return speed.choose(folders, self._live(preset, folders))

    def _describe(self, preset: Preset) -> Place:
        model = self.model_of(preset)
        folder = self.store.locate(model, revision=preset.revision)
        if folder is None:
            known = PUBLISHED.get(model)
            return Place(model=model, size_bytes=known.size_bytes if known else None)
        receipt = None if self.ledger is None else self.ledger.receipt(folder)
        measured = self.measured(preset, model=model, folder=folder)
        return Place(
            model=model,
            path=folder,
            source=self._source(model, folder, receipt.source if receipt else None),
            verified=receipt is not None or folder == embedded_model(),
            size_bytes=size_bytes(folder),
            interim_s=measured.interim_s if measured else None,
            window_s=measured.window_s if measured else None,
            realtime=speed.runs_live(measured),
        )

    def measured(self, preset: Preset, *, model: str, folder: Path) -> Speed | None:
        """What the ledger has of that preset on that model."""
        if self.ledger is None:
            return None
        fitted = with_windows(attrs.evolve(resolve(preset, machine=self.machine()), model=model))
        try:
            return self.ledger.speed(speed.key_of(fitted, folder))
        except OSError:  # it went away meanwhile
            return None

    def _live(self, preset: Preset, folders: dict[str, Path]) -> Callable[[str], bool]:
        """Whether a model runs live: as measured, else as expected of this machine."""
        if self._gpu_bytes(preset) is not None:
            known = {name: self.measured(preset, model=name, folder=folder) for name, folder in folders.items()}
            return lambda name: speed.runs_live(known.get(name)) is not False
        threads = resolve(preset, machine=self.machine()).cpu_threads
        measured = {
            name: found
            for name, folder in folders.items()
            if (found := self.measured(preset, model=name, folder=folder))
        }
        factor = speed.correction(measured, threads=threads)

        def live(name: str) -> bool:
            found = measured.get(name) or speed.expected(PUBLISHED[name], threads=threads, factor=factor)
            return bool(speed.runs_live(found))

        return live

    def _gpu_bytes(self, preset: Preset) -> int | None:
        """The memory of the GPU that a preset runs on; None on a CPU."""
        gpus = self.machine().gpu_bytes
        if preset.device == "cpu" or not gpus:
            return None
        index = preset.device.partition(":")[2]
        return gpus[int(index)] if index.isdigit() and int(index) < len(gpus) else gpus[0]

    def _source(self, model: str, folder: Path, noted: Source | None) -> Source:
        if folder == embedded_model() or model == EMBEDDED:
            return "embedded"
        if noted is not None:
            return noted
        if is_path(model) or not folder.is_relative_to(self.store.hub_dir):
            return "directory"
        return "hub"
