"""Presets with `backend = "remote"`: a server of OpenAI's transcription API decodes, and this machine while it is away.

Loading one opens no connection: the first decode does. What is known of a server outlives its models. Who has no such
preset imports this module alone: what it needs is imported where a preset is checked, loaded or described.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final

import attrs

from sttd.engine.contract import Backend, Model, Place, Preset, RemoteState, options_of
from sttd.errors import ConfigError, ModelError

if TYPE_CHECKING:
    from sttd.engine.remote.fallback import Fallback
    from sttd.engine.remote.link import Link
    from sttd.engine.remote.options import RemoteOptions

NAME: Final = "remote"


@attrs.define(eq=False, kw_only=True)
class RemoteBackend:
    """A `Backend`.

    Args:
        local: the backends that load fallbacks.
    """

    local: Mapping[str, Backend]
    _servers: dict[str, _Server] = attrs.field(factory=dict, init=False)  # by preset, as it was last loaded

    @property
    def name(self) -> str:
        """What presets call it."""
        return NAME

    def resolve(self, preset: Preset) -> Preset:
        """It runs elsewhere, with as many workers as requests may be under way. Raises ConfigError."""
        from sttd.engine.remote.link import tls_context

        options = _options(preset)
        try:
            options.token()
        except ValueError as error:
            raise ConfigError(f"preset {preset.name!r}: {error}") from None
        tls_context(options)
        return attrs.evolve(
            preset, device=NAME, compute_type=NAME, cpu_threads=1, num_workers=options.max_in_flight, smaller=None
        )

    def locate(self, preset: Preset) -> Path | None:
        """It needs no files here."""
        return Path()

    def describe(self, preset: Preset) -> Place:
        """What is known of its server."""
        return Place(model=preset.model, path=Path(), source=NAME, remote=self._state(preset))

    def languages(self, preset: Preset) -> frozenset[str] | None:
        """Nobody says."""
        return None

    def forget(self) -> None:
        """Nothing is remembered of a disk."""

    def suggest(self, preset: Preset) -> str:
        """Raises ModelError: there is nothing to get."""
        raise ModelError(f"the preset {preset.name!r} is decoded by a server: there is nothing to download")

    def load(self, preset: Preset, *, cpu_threads: int, num_workers: int) -> Model:
        """Ready at once; the server is asked by the first decode. Raises ModelError where an option is wrong."""
        from sttd.engine.remote.client import Client
        from sttd.engine.remote.fallback import Fallback
        from sttd.engine.remote.link import Link, tls_context
        from sttd.engine.remote.model import RemoteModel

        try:
            options = _options(preset)
            context = tls_context(options)
        except ConfigError as error:  # a file that was there when the configuration was read
            raise ModelError(error.message) from None
        known = self._servers.get(preset.name)
        link = known.link if known is not None and known.link.preset == preset else Link(preset=preset, options=options)
        fallback = None
        if preset.fallback is not None:
            fallback = Fallback(preset=preset.fallback.name, load=functools.partial(self._load_local, preset.fallback))
        self._servers[preset.name] = _Server(link=link, fallback=fallback)
        return RemoteModel(
            link=link, client=Client(options, context), workers=num_workers or options.max_in_flight, fallback=fallback
        )

    def _load_local(self, preset: Preset) -> Model:
        return self.local[preset.backend].load(preset, cpu_threads=preset.cpu_threads, num_workers=preset.num_workers)

    def _state(self, preset: Preset) -> RemoteState:
        known = self._servers.get(preset.name)
        link = known.link if known is not None and known.link.preset == preset else None
        return RemoteState(
            preset=preset.name,
            url=_options(preset).url,
            reachable=None if link is None else link.reachable,
            since_s=0.0 if link is None else round(link.since_s, 1),
            reason=None if link is None else link.reason,
            fallback=None if preset.fallback is None else preset.fallback.name,
            fallback_loaded=bool(link and known and known.fallback and known.fallback.model is not None),
        )


def _options(preset: Preset) -> RemoteOptions:
    """The preset's own. Raises ConfigError."""
    from sttd.engine.remote.options import RemoteOptions

    return options_of(preset, RemoteOptions)


@attrs.frozen(kw_only=True)
class _Server:
    link: Link
    fallback: Fallback | None


def with_fallbacks(presets: Mapping[str, Preset], backends: Mapping[str, Backend]) -> dict[str, Preset]:
    """The presets, each remote one with the preset that it names as its fallback.

    Raises:
        ConfigError: there is none of that name, or it is remote itself.
    """
    whole = dict(presets)
    for name, preset in presets.items():
        if preset.backend != NAME or not (wanted := _options(preset).fallback):
            continue
        if wanted not in presets:
            raise ConfigError(f"`presets.{name}.fallback` is {wanted!r}; there are: {', '.join(sorted(presets))}")
        if presets[wanted].backend == NAME:
            raise ConfigError(f"`presets.{name}.fallback` is {wanted!r}, which a server decodes, too")
        local = backends[presets[wanted].backend].resolve(presets[wanted])
        whole[name] = attrs.evolve(preset, fallback=local)
    return whole


def warnings(presets: Mapping[str, Preset]) -> tuple[str, ...]:
    """A sentence without its full stop for each remote preset whose audio can be read on its way."""
    remote = {name: _options(preset) for name, preset in presets.items() if preset.backend == NAME}
    return tuple(
        f"what is said to the preset {name!r} goes over the network in the clear, and a token with it: use https"
        for name, options in remote.items()
        if options.plain
    )
