"""The models as clients ask about them: which there are, load one, free one, download one."""

from __future__ import annotations

from collections.abc import Callable

import attrs
import trio

from sttd.admission import Admission, Peer
from sttd.answers import Models, PullResult
from sttd.engine.leases import LoadResult, UnloadResult
from sttd.engine.pool import ModelPool
from sttd.engine.stock import Stock
from sttd.engine.store.models import ModelStore, WantedSource

_reading = trio.CapacityLimiter(1)  # of vocabularies: who comes second finds them read


@attrs.define(eq=False, kw_only=True)
class ModelDesk:
    """What the planes call; `admission` says who may, by the configuration in effect."""

    admission: Admission
    pool: ModelPool
    store: ModelStore
    pulls: int = attrs.field(default=0, init=False)  # that run

    @property
    def stock(self) -> Stock:
        """What is in memory."""
        return self.pool.stock

    def missing(self) -> str | None:
        """Why the default preset could not serve a session now; None: it could."""
        models = self.admission.config.models
        for name in dict.fromkeys((models.model, models.interim_model or models.model)):
            if not self.stock.has(name) and not self.stock.shelf.is_local(name):
                return self.stock.shelf.absent(name, network=self.store.network).message
            if (reason := self.stock.shelf.away(name)) is not None:
                return reason
        return None

    def repositories(self) -> dict[str, str | None]:
        """The repository of each preset that has one of its own. Quick: it looks at no disk."""
        return self.stock.shelf.repositories()

    def models(self) -> Models:
        """All presets, and which of them is the right one here."""
        models = self.admission.config.models
        uses = {"final": models.model, "interim": models.interim_model or models.model}
        rows = self.stock.presets()
        auto = next((row for row in rows if row.preset == "auto"), None)
        return Models(
            presets=tuple(
                attrs.evolve(row, default_for=tuple(use for use, preset in uses.items() if preset == row.preset))
                for row in rows
            ),
            auto=auto.model if auto is not None and auto.local else None,
            recommended=self.stock.shelf.suggested("auto") if auto is not None else None,
            network=self.store.network,
        )

    def languages(self, preset: str) -> tuple[str, ...]:
        """The languages that a preset's model may know. Raises ModelError `model_not_found`."""
        return self.stock.shelf.languages(preset)

    async def read_languages(self) -> None:
        """Read what models on disk know, in a thread: 20 ms for each that is new, and then `languages` is quick.

        Cancellation: the thread is left to itself.
        """
        shelf = self.stock.shelf
        await trio.to_thread.run_sync(
            lambda: [shelf.languages(name) for name in shelf.presets], limiter=_reading, abandon_on_cancel=True
        )

    async def load(
        self,
        *,
        peer: Peer,
        preset: str,
        cpu_threads: int | None = None,
        num_workers: int | None = None,
        keep_alive_s: float | None = None,
    ) -> LoadResult:
        """Load a preset; see the pool. Raises AccessError too, by rule 6 of `admission`."""
        own_settings = cpu_threads is not None or num_workers is not None
        self.admission.check_load(preset, uid=peer.sees, own_settings=own_settings)
        return await self.pool.load(
            preset,
            cpu_threads=cpu_threads,
            num_workers=num_workers,
            keep_alive_s=keep_alive_s,
            shields=peer.privileged,
        )

    async def unload(self, *, peer: Peer, preset: str | None = None, wait: bool = True) -> UnloadResult:
        """Unload a preset, or all that this peer may; see the pool. Raises AccessError, by rule 7 of `admission`."""
        if preset is not None:
            self.admission.check_unload(preset, uid=peer.sees)
        return await self.pool.unload(preset, spare=self.admission.used_by_others(peer.sees), wait=wait)

    async def pull(
        self,
        *,
        model: str,
        revision: str | None = None,
        source: WantedSource = "auto",
        progress: Callable[[int, int | None, str], None],
    ) -> PullResult:
        """Download a model, or verify the one that is there; `model` may be a preset's name."""
        preset = self.admission.presets.get(model)
        name = self.stock.shelf.suggested(model) if preset is not None else model
        revision = revision or (preset.revision if preset is not None else None)
        self.pulls += 1
        try:
            pulled = await self.store.pull(name, revision=revision, source=source, progress=progress)
        finally:
            self.pulls -= 1
        self.pool.renew()
        return PullResult(path=str(pulled.path), model=name, source=pulled.source, verified=True)
