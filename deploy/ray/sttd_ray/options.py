"""The options of the application: what stands below `args` in a configuration of Ray Serve.

How many replicas there are, where they run and how many requests wait for them is Ray Serve's, below `deployments`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from sttd.engine.contract import Backend, Preset
from sttd.engine.preset_config import configured_presets
from sttd.errors import ConfigError
from sttd.fields import FieldError, integer, number, parse, rules_of, string

TOKEN_VARIABLE: Final = "STTD_RAY_TOKEN"
MAX_AUDIO_S: Final = 30.0  # Whisper's window: what is longer, an edge cuts
_PRESET: Final = "preset"


@attrs.frozen(kw_only=True)
class AppOptions:
    """What `args` may say besides `preset`, whose keys are those of a `[presets.NAME]` table of sttd."""

    model: str = string("name that requests give; a preset of sttd, unless `preset` says more", default="base")
    token_file: str = string(
        f"file with the token that requests show; empty: ${TOKEN_VARIABLE}, and without that none is asked for",
        default="",
    )
    body_bytes: int = integer(
        "longest body of a request", minimum=1024, maximum=256 * 1024**2, default=6 * 1024**2, unit="bytes"
    )  # chosen: 30 s of 48 kHz in two channels have 5.8 MB; what a daemon sends has 1 MB
    audio_s: float = number(
        "longest recording that is taken", minimum=0.1, maximum=MAX_AUDIO_S, default=MAX_AUDIO_S, unit="s"
    )
    patience_s: float = number(
        "how long a request waits whose client does not say", minimum=0.1, maximum=3600, default=60.0, unit="s"
    )
    tries: int = integer(
        "how often a piece is given to a replica, where replicas die with it", minimum=1, maximum=10, default=3
    )
    files: int = integer(
        "requests of files that an ingress has at a time; beyond, 429: live text has the same replicas",
        minimum=1,
        maximum=10_000,
        default=32,
    )  # chosen: half of what may wait there (`max_queued_requests`)
    decode_timeout_s: float = number(
        "a decode that takes longer hangs: its replica is replaced", minimum=1, maximum=3600, default=120.0, unit="s"
    )
    models_dir: str = string("folder with models, as `models.models_dir` of sttd", default="")
    preset: Mapping[str, Any] = attrs.field(factory=dict)


def read_options(args: Mapping[str, Any]) -> AppOptions:
    """The options as they were written. Raises ConfigError, which names the one that is wrong."""
    table = args.get(_PRESET) or {}
    if not isinstance(table, Mapping):
        raise ConfigError("`preset` is a table, as a `[presets.NAME]` of sttd")
    try:
        others = {name: value for name, value in args.items() if name != _PRESET}
        options = parse(AppOptions, others, beside=(*rules_of(AppOptions), _PRESET))
    except FieldError as error:
        raise ConfigError(error.message, data={"option": error.field}) from None
    return attrs.evolve(options, preset=dict(table))


def read_preset(options: AppOptions, backends: Mapping[str, Backend]) -> Preset:
    """The preset of the model, with every `auto` still in it: where it will be loaded, nobody knows yet.

    Raises ConfigError.
    """
    presets = configured_presets(
        {options.model: options.preset}, backends=backends, device="auto", compute_type="auto", cpu_threads=0
    )
    return presets[options.model]


def settle_preset(preset: Preset, backends: Mapping[str, Backend], *, cpus: float) -> Preset:
    """The same for the machine that this runs on. Raises ConfigError.

    Args:
        preset: what `read_preset` gave.
        backends: name → backend.
        cpus: what Ray has set aside for the replica: the threads of a preset that does not say how many it has.
    """
    threads = preset.cpu_threads or max(1, int(cpus))
    return backends[preset.backend].resolve(attrs.evolve(preset, cpu_threads=threads))


def read_token(options: AppOptions, environ: Mapping[str, str]) -> str:
    """The token that requests show, or "". Raises ConfigError, which does not say what is in the file."""
    if not options.token_file:
        token = environ.get(TOKEN_VARIABLE)
        if token is not None and not token.strip():  # `"$(cat FILE)"` of a file that cannot be read
            raise ConfigError(f"${TOKEN_VARIABLE} is empty: unset it if no token is to be asked for")
        return (token or "").strip()
    try:
        token = Path(os.path.expanduser(options.token_file)).read_text(encoding="utf-8-sig").strip()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"`token_file`: {options.token_file}: {reason}") from None
    if not token:
        raise ConfigError(f"`token_file`: {options.token_file} is empty")
    return token
