"""The options of presets with `backend = "whisper"`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import attrs

from sttd.engine.whisper_audio import WINDOW_BUCKETS
from sttd.errors import ConfigError


@attrs.frozen(kw_only=True)
class Settings:
    """The options of a whisper preset."""

    beam_size: int = 5
    interim_beam_size: int = 1
    temperatures: tuple[float, ...] = (0.0, 0.4, 0.8)
    interim_windows: tuple[int, ...] = ()  # short encoder windows allowed for interims; each needs its quality checked
    compression_ratio_threshold: float = 2.4
    log_prob_threshold: float = -1.0
    no_speech_threshold: float = 0.6

    @classmethod
    def parse(cls, options: Mapping[str, Any]) -> Settings:
        """The settings in a preset's options.

        Raises:
            ConfigError: an option is unknown or of a wrong value.
        """
        known = [field.name for field in attrs.fields(cls)]
        for name, value in options.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"; did you mean {near[0]!r}?" if near else f"; there are: {', '.join(known)}."
                raise ConfigError(f"A whisper preset has no option {name!r}{hint}")
            many = name in ("temperatures", "interim_windows")
            numbers = value if many and isinstance(value, (list, tuple)) else [value]
            if not all(isinstance(number, (int, float)) and not isinstance(number, bool) for number in numbers):
                raise ConfigError(f"Option {name!r} takes {'numbers' if many else 'a number'}, not {value!r}.")
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, (list, tuple)) else value for name, value in options.items()
        }
        settings = cls(**values)
        if wrong := set(settings.interim_windows) - set(WINDOW_BUCKETS):
            raise ConfigError(f"Option 'interim_windows' takes some of {WINDOW_BUCKETS}, not {sorted(wrong)}.")
        if not settings.temperatures or settings.beam_size < 1 or settings.interim_beam_size < 1:
            raise ConfigError("A whisper preset needs at least one temperature and beams of at least 1.")
        return settings
