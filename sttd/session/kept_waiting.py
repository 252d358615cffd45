"""When a client is told what its text waits for. No clock.

Rules:

1. A decode that waits for something, such as a server that does not answer, is spoken of once it has waited so for
   `PATIENT_S`: a server that is started again may be there by then.
2. A session says so every `EVERY_S` at most, whichever decode it is.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from sttd.core.actions import JobId
from sttd.core.types import Warn

PATIENT_S: Final = 3.0  # chosen: before somebody at a terminal wonders
EVERY_S: Final = 30.0  # chosen: it is said again, for whoever looks now


@attrs.define(eq=False)
class KeptWaiting:
    """The rules above, for one session."""

    _job: JobId | None = attrs.field(default=None, init=False)
    _since: float = attrs.field(default=0.0, init=False)
    _said_at: float = attrs.field(default=-math.inf, init=False)

    def look(self, kept: tuple[JobId, str] | None, *, now: float) -> Warn | None:
        """What to say; `kept` is the first decode that waits, with what it waits for."""
        job, words = kept or (None, "")
        if job != self._job:
            self._job, self._since = job, now
        if job is None or now < max(self._since + PATIENT_S, self._said_at + EVERY_S):
            return None
        self._said_at = now
        return Warn(code="kept_waiting", message=words)
