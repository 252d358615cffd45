"""The presets of a running daemon: the built-in ones, changed and added to by `[presets.NAME]` tables."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from sttd.engine.contract import Backend, Preset
from sttd.engine.presets import builtin_presets
from sttd.errors import ConfigError
from sttd.fields import FieldError, rules_of
from sttd.live_text import LiveText


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
    """The preset with what a table says of it. What is no field of a preset is an option of its backend."""
    fields: dict[str, Any] = {}
    options = dict(preset.options)
    rules = rules_of(Preset)
    for key, value in table.items():
        if key not in rules:
            options[key] = value
            continue
        try:
            fields[key] = rules[key].check(f"presets.{preset.name}.{key}", value)
        except FieldError as error:
            raise ConfigError(error.message, data={"option": error.field}) from None
    has_live_text = preset.has_live_text or not fields.keys().isdisjoint(attrs.fields_dict(LiveText))
    return attrs.evolve(preset, options=options, has_live_text=has_live_text, **fields)
