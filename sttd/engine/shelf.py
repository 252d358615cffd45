"""The presets that there are, and what their models are on this machine."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import attrs

from sttd.engine.contract import Backend, Preset
from sttd.engine.leases import Loaded, PresetRow, preset_row
from sttd.engine.presets import not_found, not_local
from sttd.engine.store.catalogue import english_only, lacks
from sttd.errors import ModelError


@attrs.frozen(eq=False)
class Shelf:
    """Presets by name, and the backends that know their models. Nothing is remembered: every call looks at the disk."""

    presets: Mapping[str, Preset]
    backends: Mapping[str, Backend]

    def preset(self, name: str) -> Preset:
        """A preset. Raises ModelError `model_not_found`."""
        if name not in self.presets:
            raise not_found(name, list(self.presets))
        return self.presets[name]

    def locate(self, preset: Preset) -> Path | None:
        """Where its model is, or None. Some `stat` calls."""
        return self.backends[preset.backend].locate(preset)

    def is_local(self, name: str) -> bool:
        """Whether the model of a preset is on disk. Raises ModelError `model_not_found`."""
        return self.locate(self.preset(name)) is not None

    def english_only(self, name: str) -> bool:
        """Whether the model of a preset is known to know English alone. Raises ModelError `model_not_found`."""
        found = self.preset(name)
        return english_only(self.backends[found.backend].describe(found).model)

    def lacks(self, name: str, language: str) -> bool:
        """Whether the model of a preset is known not to know a language. Raises ModelError `model_not_found`."""
        found = self.preset(name)
        return lacks(self.backends[found.backend].describe(found).model, language)

    def suggested(self, name: str) -> str:
        """Which model to get for a preset; for `auto` the one that suits this machine."""
        found = self.preset(name)
        return self.backends[found.backend].suggest(found)

    def absent(self, name: str, *, network: bool = True) -> ModelError:
        """The error for a preset whose model is not on disk; `network`: the daemon itself may get it."""
        return not_local(self.preset(name), wanted=self.suggested(name), network=network)

    def rows(self, loaded: Mapping[str, Loaded]) -> list[PresetRow]:
        """A row for each preset; `loaded`: what is loaded, by the name of its preset."""
        return [
            preset_row(preset, loaded=loaded.get(name), place=self.backends[preset.backend].describe(preset))
            for name, preset in self.presets.items()
        ]
