"""Whisper on CTranslate2: finds, loads and runs faster-whisper models.

This module and its `whisper_*` siblings are the only ones that import faster_whisper and ctranslate2, and only
inside functions: a daemon that serves `fake`, and every command line, starts without them. faster-whisper
loads the model and brings tokenizer and features; decoding drives CTranslate2 directly, because
`WhisperModel.transcribe` decodes one recording at a time while here many sessions share a call.

CTranslate2's own queue is first in, first out and blocks whoever submits to it when full. It stays empty:
calls are synchronous, and the dispatcher makes no more of them at a time than there are workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from sttd.core.types import DecodeItem
from sttd.engine import memory, speed
from sttd.engine.contract import NOBODY, Place, Preset, Recipe, Result, SomeWaiters, Waiters, options_of
from sttd.engine.presets import Machine, not_local, resolve
from sttd.engine.store.catalogue import EMBEDDED
from sttd.engine.store.ledger import Ledger, Speed
from sttd.engine.store.models import ModelStore, size_bytes
from sttd.engine.whisper import libraries
from sttd.engine.whisper.decoder import Decoder
from sttd.engine.whisper.failures import decode_error, first_line, is_lost, load_error, out_of_memory
from sttd.engine.whisper.features import encode
from sttd.engine.whisper.knowledge import languages_on_disk
from sttd.engine.whisper.measurement import measure
from sttd.engine.whisper.options import Settings
from sttd.engine.whisper.places import Places
from sttd.engine.whisper.sharing import Sharing
from sttd.engine.whisper.tokens import TextCodec, languages_of
from sttd.engine.whisper.windows import with_windows
from sttd.errors import ConfigError, ModelError
from sttd.host import logs
from sttd.options import COMPUTE_TYPES

log = logs.get(__name__)

FIXED_BYTES: Final = 64 * 1024**2  # buffers that any model takes beside its weights
# Published models are stored in float16: what a stored byte becomes in memory.
GROWTH: Final = {"float32": 2.0, "float16": 1.0, "bfloat16": 1.0, "int16": 1.0}
GROWTH_INT8: Final = 0.8  # int8 weights with their scales, embeddings and convolutions wider
WARM_UP_FRAMES: Final = 400
_ANYWHERE: Final = ("auto", "default")  # CTranslate2 makes of these what the device can


@functools.cache
def detect_machine() -> Machine:
    """What this machine offers. Imports CTranslate2 only where there is an NVIDIA device to ask it about."""
    gpus: list[int] = []
    if any(Path("/dev").glob("nvidia[0-9]*")) or Path("/dev/dxg").exists():
        import ctranslate2

        for index in range(ctranslate2.get_cuda_device_count()):
            known = memory.gpu_memory(index)
            gpus.append(known.total_bytes if known else 0)
    return Machine(cores=memory.usable_cores(), gpu_bytes=tuple(gpus))


@functools.cache
def supported_compute_types(device: str) -> frozenset[str]:
    """What CTranslate2 can compute in on a device. Imports it: to be asked only where somebody names a type."""
    import ctranslate2

    kind, _, index = device.partition(":")
    return frozenset(ctranslate2.get_supported_compute_types(kind, int(index or 0)))


class WhisperBackend:
    """Presets with `backend = "whisper"`."""

    def __init__(
        self,
        *,
        store: ModelStore | None = None,
        ledger: Ledger | None = None,
        machine: Callable[[], Machine] = detect_machine,
        compute_types: Callable[[str], Collection[str]] = supported_compute_types,
    ) -> None:
        """Without a `ledger` nothing is measured, and every model counts as unverified."""
        self._ledger = ledger
        self._machine = machine
        self._compute_types = compute_types
        self._places = Places(store=store if store is not None else ModelStore(), ledger=ledger, machine=machine)

    @property
    def name(self) -> str:
        """What presets call it."""
        return "whisper"

    def resolve(self, preset: Preset) -> Preset:
        """The preset with every `auto` but the model's decided, and its options checked.

        Raises:
            ConfigError: a GPU asked for by name is not there, or cannot compute in the type asked for, or an option is
                wrong.
        """
        options_of(preset, Settings)
        resolved = resolve(preset, machine=self._machine())
        if preset.compute_type not in _ANYWHERE:
            self._check_compute_type(resolved)
        return resolved

    def locate(self, preset: Preset) -> Path | None:
        """Where the model is on disk, or None. No network."""
        return self._places.locate(preset)

    def describe(self, preset: Preset) -> Place:
        """What is known of the model here."""
        return self._places.describe(preset)

    def languages(self, preset: Preset) -> frozenset[str] | None:
        """Which languages the model on disk knows."""
        folder = self.locate(preset)
        return None if folder is None else languages_on_disk(folder)

    def forget(self) -> None:
        """Models came or went."""
        self._places.forget()

    def suggest(self, preset: Preset) -> str:
        """Which model to get for a preset."""
        return self._places.suggest(preset)

    def load(self, preset: Preset, *, cpu_threads: int, num_workers: int) -> LoadedWhisper:
        """Load and warm up; the first times on this machine, also measure how quick it is. Blocks; reads no network.

        Raises:
            ModelError: `model_not_local`; `out_of_memory`, before anything is allocated when the estimate exceeds
                what is free, with `compute_type`, `needed_bytes` and `available_bytes` in its data;
                `model_load_failed` with the reason.
        """
        try:
            wanted = self.resolve(attrs.evolve(preset, cpu_threads=cpu_threads, num_workers=num_workers))
        except ConfigError as error:  # of a preset that nobody asked for when the configuration was read
            raise ModelError(error.message) from error
        wanted = with_windows(attrs.evolve(wanted, model=self._places.model_of(wanted)))
        path = self.locate(wanted)
        if path is None:
            raise not_local(preset, wanted=self.suggest(preset))
        needed = _estimate(path, wanted.compute_type)
        _refuse_if_too_large(wanted, needed)
        kind, _, index = wanted.device.partition(":")
        if kind == "cuda":
            libraries.preload_cublas()
        try:
            from faster_whisper import WhisperModel

            loaded = WhisperModel(
                str(path),
                device=kind,
                device_index=int(index or 0),
                compute_type=wanted.compute_type,
                cpu_threads=wanted.cpu_threads,
                num_workers=wanted.num_workers,
                local_files_only=True,
            )
            model = LoadedWhisper(loaded, preset=wanted, weight_bytes=needed)
            known = self._places.measured(wanted, model=wanted.model, folder=path)
            if self._ledger is not None and (known is None or known.takes < speed.TAKES):
                self._measure(self._ledger, model, wanted, path, known=known)
            return model
        except (RuntimeError, ValueError, OSError, MemoryError) as error:
            raise load_error(error, wanted) from error

    # ------------------------------------------------------------ in a process of its own (`engine/process`)

    def recipe(self) -> Recipe:
        """How a process makes a backend that finds the same models."""
        store = self._places.store
        folders = {"models_dir": store.models_dir, "own_dir": store.own_dir, "hub_dir": store.hub_dir}
        arguments = {name: str(folder) if folder is not None else None for name, folder in folders.items()}
        arguments["ledger"] = str(self._ledger.path) if self._ledger is not None else None
        return Recipe(
            factory="sttd.engine.whisper.backend:backend_of",
            arguments=arguments,
            libraries=("ctranslate2", "faster_whisper"),
        )

    def isolates(self, preset: Preset) -> bool:
        """All but the embedded model, which is quick, small and known to behave."""
        return preset.model != EMBEDDED

    def planner(self, facts: Mapping[str, Any]) -> Sharing:
        """Answers for a model in another process. Raises TypeError, ValueError where the facts are none."""
        return Sharing.of(facts)

    def _check_compute_type(self, preset: Preset) -> None:
        able = self._compute_types(preset.device)
        if preset.compute_type not in able:
            raise ConfigError(
                f"preset {preset.name!r}: {preset.device} does not compute in {preset.compute_type!r}; "
                f"compute_type may be: {', '.join(each for each in COMPUTE_TYPES if each in {*able, *_ANYWHERE})}"
            )

    def _measure(
        self, ledger: Ledger, model: LoadedWhisper, preset: Preset, path: Path, *, known: Speed | None
    ) -> None:
        found = model.speed(threads=preset.cpu_threads)
        if found is None:
            log.info("a model is not measured: other programs had the cores", preset=preset.name)
            return
        found = speed.best_of(known, found)
        ledger.note_speed(speed.key_of(preset, path), found)
        self._places.forget()
        if not speed.runs_live(found):
            log.warning(
                "a model is too slow to run live on this machine; `sttctl doctor` names one that is not",
                preset=preset.name,
                interim_s=round(found.interim_s, 1),
            )


def backend_of(*, models_dir: str | None, own_dir: str, hub_dir: str, ledger: str | None) -> WhisperBackend:
    """What `WhisperBackend.recipe` is a recipe for. It reads no network."""
    known = Ledger(Path(ledger)) if ledger is not None else None
    store = ModelStore(
        models_dir=Path(models_dir) if models_dir is not None else None,
        own_dir=Path(own_dir),
        hub_dir=Path(hub_dir),
        network=False,
        ledger=known,
    )
    return WhisperBackend(store=store, ledger=known)


class LoadedWhisper:
    """A loaded model. Everything but `park`, `unpark` and `close` may be called from several threads at once."""

    def __init__(self, loaded: Any, *, preset: Preset, weight_bytes: int) -> None:
        """`loaded` is a `faster_whisper.WhisperModel`; `preset` is resolved. Warms the model up."""
        self._whisper = loaded.model
        self._device = preset.device
        # Asked once: CTranslate2 answers under a lock that `unpark` holds, and `status` runs on the event loop.
        self._compute_type = str(loaded.model.compute_type)
        self._workers = int(loaded.model.num_workers)
        self._parked = False
        self._weight_bytes = weight_bytes
        multilingual = loaded.model.is_multilingual
        languages = languages_of(loaded.hf_tokenizer, multilingual=multilingual)
        self._codec = TextCodec(loaded.hf_tokenizer, multilingual=multilingual, languages=languages)
        self._settings = options_of(preset, Settings)
        self._decoder = Decoder(
            whisper=loaded.model,
            extractor=loaded.feature_extractor,
            codec=self._codec,
            settings=self._settings,
        )
        # The first call allocates, and finds out what the driver lacks: better now than in somebody's sentence.
        encoded = encode(self._whisper, np.zeros((1, self._whisper.n_mels, WARM_UP_FRAMES), np.float32))
        self._sharing = Sharing(
            device=preset.device,
            workers=self._workers,
            width=encoded.output.shape[-1],
            interim_windows=self._settings.interim_windows,
            final_windows=self._settings.final_windows,
        )

    @property
    def device(self) -> str:
        """Where it runs: "cpu", "cuda:0"."""
        return self._device

    @property
    def compute_type(self) -> str:
        """What CTranslate2 made of the compute type asked for, such as "int8_float32"."""
        return self._compute_type

    @property
    def workers(self) -> int:
        """Calls that make progress at the same time."""
        return self._workers

    @property
    def ram_bytes(self) -> int:
        """Main memory of the weights, estimated."""
        return self._weight_bytes if self._device == "cpu" or self._parked else 0

    @property
    def vram_bytes(self) -> int:
        """GPU memory of the weights, estimated."""
        return 0 if self._device == "cpu" or self._parked else self._weight_bytes

    @property
    def parkable(self) -> bool:
        """Whether the weights are in the memory of a GPU, or were."""
        return self._device != "cpu"

    def speed(self, *, threads: int) -> Speed | None:
        """Measure it; None on a busy machine. To be called before anybody else uses the model."""
        return measure(self._whisper, self._codec, self._settings, threads=threads)

    def batch_key(self, item: DecodeItem) -> Hashable:
        """Items with equal keys may share a call."""
        return self._decoder.batch_key(item)

    def max_batch(self, key: Hashable) -> int:
        """How many items the free memory holds, at least one."""
        return self._sharing.max_batch(key)

    def decode(self, batch: Sequence[DecodeItem], *, waiters: Waiters = NOBODY) -> list[Result]:
        """Decode a batch of one key; one result an item.

        CTranslate2 fails a whole batch for one bad item. Then the batch is halved until the bad one stands alone.
        """
        try:
            return list(self._decoder.decode(batch, waiters=waiters))
        except Exception as error:
            if len(batch) == 1 or memory.is_out_of_memory(error) or is_lost(error):
                return [decode_error(error) for _ in batch]
        results: list[Result] = []
        middle = len(batch) // 2
        for part in (range(middle), range(middle, len(batch))):
            some = SomeWaiters(waiters, tuple(part))
            results += self.decode([batch[index] for index in part], waiters=some)
        return results

    def park(self) -> bool:
        """Move the weights of a GPU model to main memory. False on a CPU, or while a decode runs."""
        if not self.parkable:
            return False
        self._whisper.unload_model(to_cpu=True)
        self._parked = not self._whisper.model_is_loaded  # CTranslate2 silently does nothing while a call is active
        return self._parked

    def unpark(self) -> None:
        """Bring them back. Raises ModelError; the model then stays parked and may be tried again."""
        try:
            self._whisper.load_model()
        except RuntimeError as error:
            raise ModelError(
                f"the parked model does not come back: {first_line(error)}",
                code="out_of_memory" if memory.is_out_of_memory(error) else "model_load_failed",
            ) from error
        self._parked = False

    def close(self) -> None:
        """Free the weights and the worker threads."""
        self._whisper.unload_model()
        del self._whisper, self._decoder

    def abandon(self) -> None:
        """No thread can be stopped: its memory comes back when the last call has ended, if ever."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What `WhisperBackend.planner` needs to know."""
        return attrs.asdict(self._sharing)


def _estimate(path: Path, compute_type: str) -> int:
    growth = GROWTH_INT8 if compute_type.startswith("int8") else GROWTH.get(compute_type, 1.0)
    return int(size_bytes(path) * growth) + FIXED_BYTES


def _refuse_if_too_large(preset: Preset, needed: int) -> None:
    if preset.device == "cpu":
        available: int | None = memory.available_bytes()
    else:
        known = memory.gpu_memory(int(preset.device.partition(":")[2]))
        available = known.free_bytes if known else None
    if available is not None and needed > available:
        raise out_of_memory(preset, needed_bytes=needed, available_bytes=available)
