"""What the pool hands out: leases, and the values behind `status`, `load` and `unload`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import trio

from sttd.core.pooling import EntryView
from sttd.engine.contract import Model, ModelKey, Place, Preset, RemoteState
from sttd.errors import SttdError


@attrs.frozen(kw_only=True)
class PoolEntry:
    """One entry as `status` and events show it; the field names are the protocol's."""

    preset: str
    cpu_threads: int
    num_workers: int
    cache_key: str
    state: str
    loaded_for_seconds: float
    idle_for_seconds: float
    hits: int
    leases: int
    pinned: bool
    draining: bool
    expires_in_s: float | None
    device: str
    compute_type: str
    ram_bytes: int
    vram_bytes: int


@attrs.frozen(kw_only=True)
class LoadResult:
    """What `load` reports."""

    cache_hit: bool
    load_seconds: float
    entry: PoolEntry


@attrs.frozen(kw_only=True)
class UnloadResult:
    """What `unload` reports: `entries` are those asked for that still drain."""

    unloaded: int
    entries: tuple[PoolEntry, ...]
    native_trim_attempted: bool
    process_rss_bytes: int
    vram_bytes: int | None


@attrs.frozen(kw_only=True)
class ModelsStatus:
    """What is in memory: the `models` part of `status`."""

    loaded: int
    max_loaded: int
    entries: tuple[PoolEntry, ...]
    hits: int
    misses: int
    load_failures: int
    idle_ttl_seconds: float
    process_rss_bytes: int
    remotes: tuple[RemoteState, ...]  # the servers of remote presets


@attrs.define(kw_only=True, eq=False)
class Loaded:
    """A model that is there. All leases on it share this, so a model put in its place reaches every holder."""

    preset: Preset  # differs from the one asked for after a fallback
    model: Model
    load_seconds: float
    path: Path | None = None  # of its files


class PoolLease:
    """The right to use a loaded model (`engine.contract.Lease`).

    With `on_recall` it is a file's: that is called when speech needs its slot.
    """

    def __init__(
        self,
        key: ModelKey,
        *,
        loaded: Loaded,
        on_duplicate: Callable[[PoolLease], PoolLease],
        on_release: Callable[[PoolLease], None],
        file: bool = False,
        on_recall: Callable[[], object] | None = None,
    ) -> None:
        self._key = key
        self._loaded = loaded
        self._on_duplicate = on_duplicate
        self._on_release = on_release
        self._file = file
        self._on_recall = on_recall
        self._held = True

    @property
    def file(self) -> bool:
        """Whether it is for a file, which gives way to speech."""
        return self._file

    def recall(self) -> None:
        """Speech needs the slot."""
        if self._on_recall is not None:
            self._on_recall()

    @property
    def key(self) -> ModelKey:
        """Which entry this is."""
        return self._key

    @property
    def preset(self) -> str:
        """The preset that runs; differs from the one asked for after a fallback."""
        return self._loaded.preset.name

    @property
    def model(self) -> Model:
        """The model. Not to be used after `release`."""
        assert self._held
        return self._loaded.model

    @property
    def loaded(self) -> Loaded:
        """The model with what it was loaded from; another may be put in its place (`engine.revival`)."""
        return self._loaded

    def duplicate(self) -> PoolLease:
        """A second lease on the same model."""
        assert self._held
        return self._on_duplicate(self)

    def release(self) -> None:
        """Give it back; a second call does nothing."""
        if self._held:
            self._held = False
            self._on_release(self)


@attrs.define(eq=False, kw_only=True)
class Waiter:
    """Somebody who waits for a lease; `answered` is set together with one of the two."""

    number: int
    on_recall: Callable[[], object] | None = None
    answered: trio.Event = attrs.field(factory=trio.Event)
    lease: PoolLease | None = None
    error: SttdError | None = None


def entry_of(view: EntryView[ModelKey], *, loaded: Loaded | None, preset: Preset | None) -> PoolEntry:
    """The row of an entry; what only a loaded model knows is the preset's word until then."""
    return PoolEntry(
        preset=view.key.preset,
        cpu_threads=view.key.cpu_threads,
        num_workers=view.key.num_workers,
        cache_key=str(view.key),
        state=view.state.value,
        loaded_for_seconds=view.loaded_for_s,
        idle_for_seconds=view.idle_for_s,
        hits=view.hits,
        leases=view.leases,
        pinned=view.pinned,
        draining=view.draining,
        expires_in_s=view.expires_in_s,
        device=loaded.model.device if loaded else preset.device if preset else "",
        compute_type=loaded.model.compute_type if loaded else preset.compute_type if preset else "",
        ram_bytes=loaded.model.ram_bytes if loaded else 0,
        vram_bytes=loaded.model.vram_bytes if loaded else 0,
    )


@attrs.frozen(kw_only=True)
class PresetRow:
    """A row of `models`; the field names are the protocol's."""

    preset: str
    backend: str
    model: str
    repository: str | None  # of a published model
    english: bool  # it is known to know no other language
    device: str
    compute_type: str
    loaded: bool
    local: bool
    verified: bool
    source: str | None
    size_bytes: int | None
    realtime: bool | None
    interim_s: float | None
    window_s: float | None
    summary: str
    remote: RemoteState | None = None
    default_for: tuple[str, ...] = ()  # what the configuration uses it for; the service knows


def preset_row(
    preset: Preset, *, loaded: Loaded | None, place: Place, repository: str | None, english: bool
) -> PresetRow:
    """The row of a preset."""
    return PresetRow(
        preset=preset.name,
        backend=preset.backend,
        model=place.model,
        repository=repository,
        english=english,
        device=loaded.model.device if loaded else preset.device,
        compute_type=loaded.model.compute_type if loaded else preset.compute_type,
        loaded=loaded is not None,
        local=place.path is not None,
        verified=place.verified,
        source=place.source,
        size_bytes=place.size_bytes,
        realtime=place.realtime,
        interim_s=place.interim_s,
        window_s=place.window_s,
        summary=preset.summary,
        remote=place.remote,
    )
