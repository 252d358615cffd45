"""What becomes of an upload, decided from the events of its session. No IO.

Rules:

1. A final that has text is said as it comes.
2. An utterance of which nothing could be decoded fails the whole request, for the reason that was given before: half a
   text looks like a whole one. A failure that is followed by a text after all has done its work.
3. So does a fatal failure. A recording that breaks off in its last packets is none: what is there was heard.
4. Whoever ends the session before all of the recording is in it, or before all of it was decoded, is a daemon that
   stops: the request is refused, and can be repeated.
"""

from __future__ import annotations

from collections import deque

import attrs

from sttd.core.results import is_decoded
from sttd.core.types import Failure, Final, Progress, SessionEvent, Stopped
from sttd.errors import SessionError, SttdError, from_map


@attrs.frozen
class Done:
    """All of it was heard: seconds of audio."""

    duration_s: float


Step = Final | Progress | Done


@attrs.define(eq=False)
class Outcome:
    """The rules above for one session."""

    fed: bool = attrs.field(default=False, init=False)  # all of the recording is in the session
    unreadable: SttdError | None = attrs.field(default=None, init=False)  # why the rest never will be
    _failures: deque[Failure] = attrs.field(factory=deque, init=False)  # whose utterance has not come yet
    _heard_s: float = attrs.field(default=0.0, init=False)

    def take(self, event: SessionEvent) -> Step | None:
        """What follows from an event. Raises SttdError: the request has failed."""
        match event:
            case Final():
                return self._take_final(event)
            case Failure(fatal=False):
                self._failures.append(event)
            case Failure() if not (event.data or {}).get("breaks_off"):
                raise _error(event)
            case Progress():
                return event
            case Stopped():
                self._heard_s = event.audio_s
                return self.end()
        return None

    def end(self) -> Done:
        """The session has no more to say. Raises SttdError."""
        if not self.fed:
            raise self._broken_off()
        return Done(self._heard_s)

    def _take_final(self, final: Final) -> Final:
        self._heard_s = max(self._heard_s, final.end_s)
        if final.reason == "drain":
            raise self._broken_off()
        if not is_decoded(final) and self._failures:
            raise _error(self._failures.popleft())
        return final

    def _broken_off(self) -> SttdError:
        """Rule 4."""
        stopping = SessionError("the daemon stops before all was transcribed; send it again", code="shutting_down")
        return self.unreadable or stopping


def _error(failure: Failure) -> SttdError:
    return from_map(attrs.asdict(failure))
