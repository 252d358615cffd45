"""The presets that sttd knows without configuration, and what `auto` means on a given machine.

Rules of `auto`, in order:

1. device `auto` is the first GPU that CTranslate2 can use, else the CPU; a device asked for by name must exist.
2. model `auto` is the best one that is on disk and that this machine can run live (`engine/speed.py`): it is decided
   whenever a model is looked for, so that one that was just downloaded is taken.
3. compute type `auto` is `float16` on a GPU, `int8_float16` on one below `SMALL_GPU_BYTES`, `int8` on a CPU.
4. workers 0 (the default is 1) and threads 0 share out the cores that the process may use: one worker for every four
   cores, since a call gains little beyond four threads, and never more threads in all than cores.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from sttd.engine.contract import Preset
from sttd.engine.store.catalogue import EMBEDDED, PUBLISHED, live_text, pull_unit
from sttd.errors import ConfigError, ModelError
from sttd.options import MAX_WORKERS

CORES_PER_WORKER: Final = 4
# large-v3-turbo in float16 takes about 2.5 GB with its workspace, large-v3 4.5 GB (faster-whisper README).
SMALL_GPU_BYTES: Final = 6 * 1024**3

# What to try, in order, when the memory does not suffice for a compute type. Weights shrink with each step.
COMPUTE_LADDER: Final[Mapping[str, str]] = {
    "float32": "int8",
    "float16": "int8_float16",
    "bfloat16": "int8_bfloat16",
    "int16": "int8",
}


@attrs.frozen(kw_only=True)
class Machine:
    """What the process may compute on."""

    cores: int
    gpu_bytes: tuple[int, ...] = ()  # total memory of each usable GPU; 0 where it cannot be read


def builtin_presets() -> dict[str, Preset]:
    """The built-in table, name → preset, smallest first."""
    presets = [
        Preset(
            name="demo",
            backend="whisper",
            model=EMBEDDED,
            max_window_s=20.0,  # beyond, its errors are three times as many (its card)
            **attrs.asdict(live_text(EMBEDDED)),
            summary="the embedded demo voice model, English, 3 MB",
        ),
        Preset(
            name="fake", backend="fake", summary="no recogniser: counts words by time, for tests and client authors"
        ),
        Preset(
            name="auto",
            backend="whisper",
            model="auto",
            smaller="base",
            summary="the best model on disk that this machine can run live",
        ),
    ]
    presets += [
        Preset(
            name=model.name,
            backend="whisper",
            model=model.name,
            smaller=model.smaller,
            summary=f"Whisper {model.name}, {'English' if model.english else 'many languages'}",
            **attrs.asdict(model.live_text),
        )
        for model in PUBLISHED.values()
    ]
    return {preset.name: preset for preset in presets}


def resolve(preset: Preset, *, machine: Machine) -> Preset:
    """The same preset with every `auto` decided for this machine, but for the model: what is on disk changes.

    Raises:
        ConfigError: a GPU is asked for by name and is not there.
    """
    device = _device(preset, machine)
    on_gpu = device != "cpu"
    compute_type = preset.compute_type
    if compute_type == "auto":
        compute_type = _gpu_compute_type(machine.gpu_bytes[_index(device)]) if on_gpu else "int8"
    workers, threads = share_cores(
        machine.cores, num_workers=preset.num_workers, cpu_threads=preset.cpu_threads, on_gpu=on_gpu
    )
    return attrs.evolve(
        preset,
        device=device,
        compute_type=compute_type,
        num_workers=workers,
        cpu_threads=threads,
    )


def share_cores(cores: int, *, num_workers: int, cpu_threads: int, on_gpu: bool) -> tuple[int, int]:
    """Workers and threads of each, where 0 means: choose.

    On a GPU a second worker gains next to nothing and the threads only prepare input, so both stay at one.
    """
    workers = num_workers or (1 if on_gpu else min(MAX_WORKERS, max(1, cores // CORES_PER_WORKER)))
    threads = cpu_threads or (1 if on_gpu else max(1, cores // workers))
    return workers, threads


def smaller_presets(preset: Preset, presets: Mapping[str, Preset]) -> Sequence[Preset]:
    """What may stand in for a preset that does not fit, next largest first; follows `smaller` without looping."""
    chain: list[Preset] = []
    seen = {preset.name}
    name = preset.smaller
    while name is not None and name not in seen and name in presets:
        seen.add(name)
        chain.append(presets[name])
        name = presets[name].smaller
    return chain


def not_found(name: str, known: Sequence[str]) -> ModelError:
    """The error for a preset that nobody defined."""
    return ModelError(f"there is no preset {name!r}; there are: {', '.join(sorted(known))}", code="model_not_found")


def not_local(preset: Preset, *, wanted: str, network: bool = True) -> ModelError:
    """The error for a model that is not on disk, with the command that gets it.

    Args:
        preset: what was asked for.
        wanted: the model to get; for `auto` the one that suits this machine.
        network: the daemon may download it itself.
    """
    if "/" in preset.model and preset.model.startswith((".", "/", "~")):
        remedy = f"Put a CTranslate2 Whisper model (model.bin, config.json, tokenizer.json) into {preset.model}."
    else:
        name = wanted if preset.model == "auto" else preset.name
        remedy = f"Get it with: {f'sttctl pull {name}' if network else f'sudo systemctl start {pull_unit(name)}'}"
    if preset.model == "auto":
        message = f"No model for people's speech is on disk; {wanted} suits this machine. {remedy}"
    else:
        message = f"The model of preset {preset.name!r} is not on disk. {remedy}"
    return ModelError(
        message, code="model_not_local", data={"preset": preset.name, "model": wanted, "recommended": wanted}
    )


def _device(preset: Preset, machine: Machine) -> str:
    if preset.device == "cpu":
        return "cpu"
    if preset.device == "auto":
        return "cuda:0" if machine.gpu_bytes else "cpu"
    kind, _, index = preset.device.partition(":")
    if kind != "cuda" or not (index or "0").isdigit():
        raise ConfigError(f"preset {preset.name!r}: device {preset.device!r} is none of auto, cpu, cuda, cuda:N")
    number = int(index or "0")
    if number >= len(machine.gpu_bytes):
        found = f"only {len(machine.gpu_bytes)} GPU(s)" if machine.gpu_bytes else "no usable NVIDIA GPU"
        raise ConfigError(
            f"preset {preset.name!r} asks for {preset.device}, but this machine has {found}. "
            'Set device = "auto" or "cpu", or see `nvidia-smi` for what is wrong with the driver'
        )
    return f"cuda:{number}"


def _index(device: str) -> int:
    return int(device.partition(":")[2])


def _gpu_compute_type(total_bytes: int) -> str:
    return "int8_float16" if 0 < total_bytes < SMALL_GPU_BYTES else "float16"
