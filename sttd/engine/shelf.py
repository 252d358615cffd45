"""The presets that there are, and what their models are on this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import attrs

from sttd.engine.contract import Backend, Place, Preset, RemoteState
from sttd.engine.leases import Loaded, PresetRow, preset_row
from sttd.engine.presets import not_found, not_local
from sttd.engine.store import catalogue
from sttd.errors import ModelError
from sttd.live_text import LiveText
from sttd.options import LANGUAGES


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
        return catalogue.english_only(self._model(name)) or self._languages(name) == frozenset({"en"})

    def lacks(self, name: str, language: str) -> bool:
        """Whether the model of a preset is known not to know a language. Raises ModelError `model_not_found`."""
        known = self._languages(name)
        return catalogue.lacks(self._model(name), language) or (known is not None and language not in known)

    def languages(self, name: str) -> tuple[str, ...]:
        """All that the model of a preset is not known to lack. Raises ModelError `model_not_found`."""
        known, model = self._languages(name), self._model(name)
        return tuple(
            code for code in LANGUAGES if not catalogue.lacks(model, code) and (known is None or code in known)
        )

    def translates(self, name: str) -> bool:
        """Whether nothing is known that keeps a preset's model from it. Raises ModelError `model_not_found`."""
        return catalogue.translates(self._model(name)) and not self.english_only(name)

    def live_text(self, name: str) -> LiveText:
        """When words of a preset's interims are shown and stable; what it does not say is as its model, now, needs it.

        Raises ModelError `model_not_found`.
        """
        preset = self.preset(name)
        return preset.live_text if preset.has_live_text else catalogue.live_text(self._model(name))

    def instead(self, name: str, able: Callable[[str], bool], *, among: Collection[str]) -> str | None:
        """How to come by a model that is able to do what that of a preset is not, in words; None: nothing is known.

        Of those on disk the largest that this machine is not known to be too slow for; else the same model of many
        languages, or else the one that is quickly had.
        """
        kind = self.preset(name).backend
        others = [other for other in self.presets if other in among and self.presets[other].backend == kind]
        places = {other: self._place(other) for other in others if able(other)}
        local = [other for other, place in places.items() if place.path is not None]
        if local:

            def merit(other: str) -> tuple[bool, int, bool]:
                named = self.presets[other].model != "auto"  # what that means may change
                return places[other].realtime is not False, places[other].size_bytes or 0, named

            return f"use the preset {max(local, key=merit)!r}"
        many = name.removesuffix(".en")
        wanted = next((other for other in (many, "base", "large-v3") if other in places), None)
        return f"get one with `sttctl pull {wanted}`" if wanted is not None else None

    def remotes(self) -> tuple[RemoteState, ...]:
        """What is known of the servers of remote presets. Looks at no disk and asks nobody."""
        presets = (name for name, preset in self.presets.items() if preset.backend == "remote")
        return tuple(state for name in presets if (state := self._place(name).remote) is not None)

    def away(self, name: str) -> str | None:
        """Why nobody would decode for a preset now: its server is away, and it has no fallback that is on disk.

        None: somebody would. Raises ModelError `model_not_found`.
        """
        state = self._place(name).remote if self.preset(name).backend == "remote" else None
        if state is None or state.reachable is not False:
            return None
        if state.fallback is not None and self.is_local(state.fallback):
            return None
        return f"the server of preset {name!r} is away: {state.reason}"

    def _place(self, name: str) -> Place:
        found = self.preset(name)
        return self.backends[found.backend].describe(found)

    def _model(self, name: str) -> str:
        return self._place(name).model

    def _languages(self, name: str) -> frozenset[str] | None:
        found = self.preset(name)
        return self.backends[found.backend].languages(found)

    def suggested(self, name: str) -> str:
        """Which model to get for a preset; for `auto` the one that suits this machine."""
        found = self.preset(name)
        return self.backends[found.backend].suggest(found)

    def absent(self, name: str, *, network: bool = True) -> ModelError:
        """The error for a preset whose model is not on disk; `network`: the daemon itself may get it."""
        return not_local(self.preset(name), wanted=self.suggested(name), network=network)

    def repositories(self) -> dict[str, str | None]:
        """The repository of each preset's model, where it is a published one. Looks at no disk; `auto` may change."""
        return {name: catalogue.repository(preset.model) for name, preset in self.presets.items()}

    def rows(self, loaded: Mapping[str, Loaded]) -> list[PresetRow]:
        """A row for each preset; `loaded`: what is loaded, by the name of its preset."""
        rows = []
        for name, preset in self.presets.items():
            place = self.backends[preset.backend].describe(preset)
            row = preset_row(
                preset,
                loaded=loaded.get(name),
                place=place,
                repository=catalogue.repository(place.model),
                english=self.english_only(name),
            )
            rows.append(row)
        return rows
