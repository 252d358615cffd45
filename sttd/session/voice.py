"""What the utterances of one session share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from sttd.core.languages import SessionLanguages
from sttd.core.options import SessionOptions
from sttd.core.types import SessionEvent
from sttd.engine.contract import Lease
from sttd.engine.dispatcher import Dispatcher


class Leasing(Protocol):
    """The part of the model pool that sessions use."""

    async def lease(self, preset: str) -> Lease:
        """Wait for a loaded model. Raises ModelError, OverloadedError."""


@attrs.frozen(kw_only=True)
class Tuning:
    """Settings of the configuration that shape a session; fixed when it starts."""

    speculate_ms: int = 180
    pre_roll_ms: int = 400
    interim_min_ms: int = 350
    hold_back_s: float = 0.4
    silero: bool = True
    lag_warning_s: float = 2.0
    max_window_s: float = 29.0  # what the model takes in one call


@attrs.define(eq=False)
class Voice:
    """What the utterances of one session share."""

    session: str
    uid: int
    options: SessionOptions
    tuning: Tuning
    models: Leasing
    dispatcher: Dispatcher
    emit: Callable[[SessionEvent], None]
    clock: Callable[[], float]
    client_left: bool = False  # nobody reads any more; finals are still decoded
    languages: SessionLanguages = attrs.field()

    @languages.default
    def _languages_of_options(self) -> SessionLanguages:
        return SessionLanguages(given=self.options.lang, allowed=self.options.languages)

    def change(self, options: SessionOptions, *, anew: bool) -> None:
        """Other options for the next utterance; `anew`: what was found out about the language is void.

        Utterances that have begun keep the languages that they began with.
        """
        self.options = options
        if anew:
            self.languages = self._languages_of_options()
