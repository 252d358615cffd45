"""The calls of one control connection, sans IO: requests out, answers, progress and events in.

    calls = Calls()
    msgid = calls.begin(on_progress=None)
    send(request_of(msgid, "status", {}))
    while not calls.is_over(msgid):
        calls.receive(data)                      # b"" is the end of the stream
    calls.result(msgid)
    calls.end(msgid)

Rules:

1. **An answer belongs to the call whose msgid it shows**; one that nobody waits for any more is skipped.
2. **Events wait in order** until they are taken. When `EVENTS` of them do (`full`), nothing more should be read: then
   the daemon counts what it cannot send as lagged.
3. **A stream that ended, or makes no sense any more, ends every call**, and those to come, with the same error. Events
   that came before it may still be taken.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs

from sttd.errors import SttdError, from_map
from sttd.wire.rpc import MAX_REPLY_BYTES, Malformed, Notification, Response, RpcDecoder, encode_request
from sttd_client.addresses import lost_error
from sttd_client.inert import inert

ProgressCallback = Callable[[dict[str, Any]], None]

EVENTS = 256  # as many as a daemon keeps for a subscriber


@attrs.define(eq=False)
class _Call:
    """A request that waits for its answer."""

    on_progress: ProgressCallback | None
    response: Response | None = None


class Calls:
    """The rules above for one connection."""

    def __init__(self) -> None:
        self.lost: Exception | None = None  # once the connection is of no more use: why
        self._decoder = RpcDecoder(max_message_bytes=MAX_REPLY_BYTES)
        self._calls: dict[int, _Call] = {}
        self._last_msgid = 0
        self._events: deque[dict[str, Any]] = deque()
        self._subscribers = 0

    # ---------------------------------------------------------------- calls

    def begin(self, *, on_progress: ProgressCallback | None) -> int:
        """A call begins; returns its msgid. Raises what has become of the connection."""
        if self.lost is not None:
            raise self.lost
        self._last_msgid += 1
        self._calls[self._last_msgid] = _Call(on_progress)
        return self._last_msgid

    def is_over(self, msgid: int) -> bool:
        """Whether its answer came, or none will come."""
        return self._calls[msgid].response is not None or self.lost is not None

    def result(self, msgid: int) -> dict[str, Any]:
        """The result of a call that is over; raises the daemon's error, or what has become of the connection."""
        if (response := self._calls[msgid].response) is not None:
            return result_of(response)
        raise self.lost or lost_error()

    def end(self, msgid: int) -> None:
        """Nobody waits for it any more."""
        del self._calls[msgid]

    # ---------------------------------------------------------------- events

    def subscribed(self, change: int) -> None:
        """One more subscriber, or one less. Without any, events are nobody's, and hold up no answer."""
        self._subscribers += change
        if not self._subscribers:
            self._events.clear()

    @property
    def full(self) -> bool:
        """Whether nothing more should be read for now."""
        return len(self._events) >= EVENTS

    def has_event(self) -> bool:
        """Whether `next_event` has something to say."""
        return bool(self._events) or self.lost is not None

    def next_event(self) -> dict[str, Any] | None:
        """The oldest event, taken out; None when there is none."""
        return self._events.popleft() if self._events else None

    # ---------------------------------------------------------------- the connection

    def receive(self, data: bytes) -> None:
        """Take what arrived."""
        try:
            for message in sorted_out(self._decoder.receive_data(data)):
                self._take(message)
        except Exception as error:  # of a callback, too
            self.lost = error
        if not data:
            self.lost = self.lost or lost_error()

    def _take(self, message: Response | Notification) -> None:
        if isinstance(message, Response):
            if call := self._calls.get(message.msgid):
                call.response = message
            return
        fields = fields_of(message)
        if message.method == "event":
            if self._subscribers:
                self._events.append(fields)
        elif (call := self._calls.get(fields.get("msgid", 0))) and call.on_progress:
            call.on_progress(fields)


# ---------------------------------------------------------------- what the blocking connection uses, too


def request_of(msgid: int, method: str, params: Mapping[str, Any]) -> bytes:
    """A request; a parameter that is None is omitted."""
    given = {name: value for name, value in params.items() if value is not None}
    return encode_request(msgid, method, params=given or None)


def sorted_out(messages: Sequence[Any]) -> list[Response | Notification]:
    """What a daemon may say; a stream that makes no sense any more is an error."""
    found: list[Response | Notification] = []
    for message in messages:
        if isinstance(message, Malformed):
            raise message.error
        if isinstance(message, Response | Notification):
            found.append(message)
    return found


def result_of(response: Response) -> dict[str, Any]:
    """The result of a call, or its error raised."""
    error, result = inert(response.error), inert(response.result)
    if error is not None:
        raise from_map(error) if isinstance(error, dict) else SttdError(str(error))
    return result if isinstance(result, dict) else {}


def fields_of(notification: Notification) -> dict[str, Any]:
    """The named fields of a notification."""
    params = inert(notification.params)
    return params[0] if isinstance(params, list) and params and isinstance(params[0], dict) else {}
