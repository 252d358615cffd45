"""What comes from both sides of a Realtime connection, as its machine takes it: messages, and events of a session."""

from __future__ import annotations

from collections.abc import Sequence

import trio

from sttd.core import types as core
from sttd.core.results import is_decoded
from sttd.errors import SttdError
from sttd.wire.realtime import Act, RealtimeTalk
from sttd.wire.realtime_messages import ClientEvent, LargeMessage, is_large, read_message


async def read(message: str | bytes) -> ClientEvent:
    """What a message says; a large one takes a few turns of the event loop. Raises RefusedError."""
    if not is_large(message):
        return read_message(message)
    large = LargeMessage(message)
    for _ in large:
        await trio.lowlevel.checkpoint()
    return large.event


def hear(talk: RealtimeTalk, event: core.SessionEvent) -> Sequence[Act]:
    """What follows from an event of the session. Some have no counterpart: `gap`, `warning`."""
    match event:
        case core.SpeechStart(utterance=utterance, at_s=at_s):
            return talk.speech_started(utterance, at_s=at_s)
        case core.Interim(utterance=utterance, text=text, stable_chars=stable_chars):
            return talk.interim(utterance, text=text, stable_chars=stable_chars)
        case core.SpeechEnd(utterance=utterance, at_s=at_s, silence_ms=silence_ms, reason=reason):
            return talk.speech_ended(utterance, at_s=at_s, silence_ms=silence_ms, reason=reason)
        case core.Final(utterance=utterance):
            return talk.final(utterance, event, decoded=is_decoded(event))
        case core.Failure(fatal=fatal):
            error = SttdError(event.message, code=event.code)
            talk.troubled(error)
            return talk.fail(error) if fatal else []
        case _:
            return []
