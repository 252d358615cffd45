"""The presets of a running daemon: the built-in ones, changed and added to by `[presets.NAME]` tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs

from sttd.engine.contract import Backend, Preset
from sttd.engine.presets import builtin_presets
from sttd.errors import ConfigError

# What a table may set of a preset itself; anything else is an option of its backend, which checks it.
_FIELDS: Final[Mapping[str, type]] = {
    "backend": str,
    "model": str,
    "revision": str,
    "device": str,
    "compute_type": str,
    "cpu_threads": int,
    "num_workers": int,
    "max_window_s": float,
    "smaller": str,
    "summary": str,
}
_RANGES: Final[Mapping[str, tuple[int, int]]] = {"cpu_threads": (0, 64), "num_workers": (0, 8), "max_window_s": (2, 29)}


def configured_presets(
    tables: Mapping[str, Mapping[str, Any]],
    *,
    backends: Mapping[str, Backend],
    device: str,
    compute_type: str,
    cpu_threads: int,
) -> dict[str, Preset]:
    """All presets by name; `device`, `compute_type` and `cpu_threads` are for those that do not say.

    Raises:
        ConfigError: a table does not hold.
    """
    presets = builtin_presets()
    for name, table in tables.items():
        presets[name] = _changed(presets.get(name) or Preset(name=name, backend="whisper", model=name), table)
    for name, preset in presets.items():
        if preset.backend not in backends:
            known = ", ".join(sorted(backends))
            raise ConfigError(f"preset {name!r} wants the backend {preset.backend!r}; there are: {known}")
        presets[name] = attrs.evolve(
            preset,
            device=device if preset.device == "auto" else preset.device,
            compute_type=compute_type if preset.compute_type == "auto" else preset.compute_type,
            cpu_threads=preset.cpu_threads or cpu_threads,
        )
    return presets


def _changed(preset: Preset, table: Mapping[str, Any]) -> Preset:
    fields: dict[str, Any] = {}
    options = dict(preset.options)
    for key, value in table.items():
        if key not in _FIELDS:
            options[key] = value
            continue
        kind = _FIELDS[key]
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            wanted = {int: "a whole number", float: "a number"}.get(kind, "text")
            raise ConfigError(f"`presets.{preset.name}.{key}` must be {wanted}, not {value!r}")
        low, high = _RANGES.get(key, (0, 0))
        if isinstance(value, int | float) and high and not low <= value <= high:
            raise ConfigError(f"`presets.{preset.name}.{key}` must be from {low} to {high}, not {value}")
        fields[key] = value
    return attrs.evolve(preset, options=options, **fields)
