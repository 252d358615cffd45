"""What a session receives: the wire's own events, and two that only a client can know.

Times are seconds on the audio clock, from the first sample of the session. A field or a type that this version does
not know is skipped: a newer daemon may say more within the same protocol version.
"""

from __future__ import annotations

from typing import Any, ClassVar, TypeAlias

import attrs

from sttd.wire import messages
from sttd.wire.messages import (
    Failure,
    Final,
    Gap,
    Hello,
    Interim,
    InterimWordFields,
    Progress,
    SpeechEnd,
    SpeechStart,
    Started,
    Stopped,
    TimingFields,
    Warn,
    WordFields,
    parse_event,
)
from sttd.wire.schema import dump

__all__ = [
    "Event",
    "Failure",
    "Final",
    "Gap",
    "Hello",
    "Interim",
    "InterimWordFields",
    "Progress",
    "Reconnected",
    "Resumed",
    "SpeechEnd",
    "SpeechStart",
    "Started",
    "Stopped",
    "TimingFields",
    "Warn",
    "WordFields",
    "as_message",
    "parse_event",
    "stable_and_tail",
]


@attrs.frozen(kw_only=True)
class Reconnected:
    """The connection was lost and a new session began; its utterances count from 1 again, and its audio from 0.

    It begins with the last `again_bytes` of the audio given to `send` before, which no final covers: an utterance that
    was open is heard once more, from its beginning. `lost_bytes` before those are gone, and nothing will cover them.
    A `finalize` that nothing had answered is said again at its place, and gets its final from the new session.
    """

    type: ClassVar[str] = "reconnected"

    session: str
    lost_bytes: int
    again_bytes: int = 0


@attrs.frozen(kw_only=True)
class Resumed:
    """The connection was lost, and the session went on over another one. Nothing is missing; no event comes twice.

    The daemon went on from `position_s`; `again_bytes` of audio were sent a second time for that. For `away_s` there
    was no connection; what the daemon said meanwhile comes now.
    """

    type: ClassVar[str] = "resumed"

    position_s: float
    away_s: float
    again_bytes: int


Event: TypeAlias = messages.Event | Reconnected | Resumed


def stable_and_tail(interim: Interim) -> tuple[str, str]:
    """The part of an interim that later interims keep, and the part that may still change."""
    return interim.text[: interim.stable_chars], interim.text[interim.stable_chars :]


def as_message(event: Event) -> dict[str, Any]:
    """The event as the object that it was on the wire, for programs that print JSON."""
    fields = attrs.asdict(event) if isinstance(event, Reconnected | Resumed) else dump(event)
    return {"type": event.type, **fields}
