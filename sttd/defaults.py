"""What the configuration sets for sessions: the options that clients leave out, and the tuning that is not theirs."""

from __future__ import annotations

from typing import Literal

import attrs

from sttd.config.tree import Config
from sttd.engine.shelf import Shelf
from sttd.options import FILE_ENDPOINTING, Endpointing, SessionOptions, Tuning


def session_defaults(config: Config, *, kind: Literal["live", "file"]) -> SessionOptions:
    """The options of a session whose client says no more than its kind."""
    endpointing = Endpointing(
        silence_ms_min=config.endpointing.silence_ms_min,
        silence_ms_max=config.endpointing.silence_ms_max,
        max_utterance_s=config.endpointing.max_utterance_s,
        aggressiveness=config.vad.aggressiveness,
    )
    window_s = config.endpointing.max_utterance_s
    if kind == "file":
        endpointing = attrs.evolve(FILE_ENDPOINTING, max_utterance_s=window_s, aggressiveness=config.vad.aggressiveness)
    return SessionOptions(
        kind=kind,
        interim=kind == "live",
        endpointing=endpointing,
        max_utterance_s=window_s,
        model=config.models.model,
        interim_model=config.models.interim_model,
    )


def session_tuning(config: Config, shelf: Shelf, options: SessionOptions, *, whole: bool) -> Tuning:
    """What a session with these options keeps to until it ends; `whole`: all of its audio is there."""
    return Tuning(
        speculate_ms=0 if whole else config.endpointing.speculate_ms,
        pre_roll_ms=config.endpointing.pre_roll_ms,
        interim_min_ms=config.interim.interim_min_ms,
        hold_back_ms=config.interim.hold_back_ms,
        lag_warning_s=config.limits.lag_warning_s,
        max_window_s=shelf.preset(options.model).max_window_s,
        live_text=shelf.live_text(options.interim_model),
        keep_margin=shelf.live_text(options.model).keep_margin,
    )
