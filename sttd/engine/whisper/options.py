"""The options of presets with `backend = "whisper"`."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import attrs

from sttd.engine.whisper.features import WINDOW_BUCKETS
from sttd.errors import ConfigError


def _option(default: Any, summary: str) -> Any:
    return attrs.field(default=default, metadata={"summary": summary})


@attrs.frozen(kw_only=True)
class Settings:
    """The options of a whisper preset."""

    beam_size: int = _option(5, "beams of finals and files")
    interim_beam_size: int = _option(1, "beams of interims")
    temperatures: tuple[float, ...] = _option((0.0, 0.4, 0.8), "tried in turn until a text is believed; interims: one")
    interim_windows: tuple[int, ...] = _option(
        (), "short encoder windows that interims may use, in frames of 10 ms; `benchmarks interim_windows` is the gate"
    )
    compression_ratio_threshold: float = _option(2.4, "a text that repeats itself more is not believed")
    log_prob_threshold: float = _option(-1.0, "a text less probable than that, a token, is not believed")
    no_speech_threshold: float = _option(0.6, "an improbable text is silence where silence is more probable than that")

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
