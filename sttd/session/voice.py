"""What the utterances of one session share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import attrs

from sttd.core.options import SessionOptions
from sttd.core.types import SessionEvent
from sttd.engine.backend import Lease
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
class Detection:
    """The language that utterances were found to be in. Those from before a change of language keep their own."""

    language: str | None = None


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
    detection: Detection = attrs.field(factory=Detection)

    @property
    def detected(self) -> str | None:
        """The language that new utterances are in, once it is certain; the client's own word goes before it."""
        return self.detection.language
