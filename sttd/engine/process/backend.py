"""A backend whose models decode in processes of their own. What is asked of the disk, the one within answers here."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import attrs

from sttd.engine.contract import IsolableBackend, Model, Place, Preset
from sttd.engine.process.crew import Crew
from sttd.engine.process.model import ProcessModel, Started
from sttd.engine.process.worker import DiedError
from sttd.errors import ModelError

Isolation = Literal["auto", "process"]


@attrs.frozen(eq=False, kw_only=True)
class IsolatedBackend:
    """A `Backend`.

    Args:
        inner: finds the models, and says how a process can load them.
        crew: its processes.
        isolation: `process`: every model; `auto`: those of which `inner` says so.
    """

    inner: IsolableBackend
    crew: Crew
    isolation: Isolation = "auto"

    @property
    def name(self) -> str:
        """What presets call it."""
        return self.inner.name

    def resolve(self, preset: Preset) -> Preset:
        """As in `Backend`."""
        return self.inner.resolve(preset)

    def locate(self, preset: Preset) -> Path | None:
        """As in `Backend`."""
        return self.inner.locate(preset)

    def describe(self, preset: Preset) -> Place:
        """As in `Backend`."""
        return self.inner.describe(preset)

    def languages(self, preset: Preset) -> frozenset[str] | None:
        """As in `Backend`."""
        return self.inner.languages(preset)

    def forget(self) -> None:
        """As in `Backend`."""
        self.inner.forget()

    def suggest(self, preset: Preset) -> str:
        """As in `Backend`."""
        return self.inner.suggest(preset)

    def load(self, preset: Preset, *, cpu_threads: int, num_workers: int) -> Model:
        """Load into a process. Blocks. Raises ModelError as `Backend.load`, also where the process dies of it."""
        if self.isolation == "auto" and not self.inner.isolates(preset):
            return self.inner.load(preset, cpu_threads=cpu_threads, num_workers=num_workers)
        start: Callable[[float], Started] = functools.partial(self._start, preset, cpu_threads, num_workers)
        try:
            worker, info = start(math.inf)
        except OSError as error:
            raise ModelError(f"preset {preset.name!r}: no process can be started: {error.strerror}") from error
        self.inner.forget()  # the first loads measure how quick a model is
        try:
            planner = self.inner.planner(info.facts)
        except (TypeError, ValueError) as error:
            worker.close()
            raise ModelError(f"preset {preset.name!r} does not load: {error}") from error
        return ProcessModel(preset=preset.name, worker=worker, info=info, start=start, planner=planner, crew=self.crew)

    def _start(self, preset: Preset, cpu_threads: int, num_workers: int, until: float) -> Started:
        worker = self.crew.hire(self.inner.recipe())
        try:
            info = worker.load(preset, cpu_threads=cpu_threads, num_workers=num_workers, until=until)
        except DiedError:
            worker.close()
            raise ModelError(f"preset {preset.name!r} does not load: its process died ({worker.reason})") from None
        except BaseException:
            worker.close()
            raise
        return worker, info
