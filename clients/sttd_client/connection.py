"""One connection to the audio plane, sans IO: bytes in, events out; ops in, bytes out.

    connection = AudioConnection()
    send(connection.open())                      # the HTTP upgrade
    for event in connection.receive(data): ...   # whatever arrived; b"" is the end of the stream
    send(connection.data_to_send())              # answers to pings and to the close, after every receive
    send(connection.audio(pcm))                  # or op(Finalize()), op(Stop())

Rules:

- Where several daemons stand behind one address, only one of them has the session that is to be resumed. Proxies tell
  which by a cookie in their answer: it goes back with a `resume`, which the URL names too, and with nothing else.
- Nothing but `open` is sent before the daemon's `Hello`; `receive` raises the daemon's refusal as the error it is.
- After the end (`closed`) nothing is sent, and `receive` returns nothing more. How it ended stays readable:
  `close_code` (1006: the stream ended without a close frame), `failure` (the fatal error), `stopped`.
- `error()` is what whoever reads to the end has to raise: None after a session in good order.

What becomes of the session when its connection ends is decided in `resuming.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping

from wsproto import ConnectionType, WSConnection
from wsproto import events as ws
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from sttd.errors import SttdError, from_map
from sttd.wire.messages import Event, Failure, Op, Stopped, encode_op, parse_event
from sttd.wire.schema import dump
from sttd_client.addresses import ConnectionLostError
from sttd_client.inert import inert, inert_json

AUDIO_MESSAGE_BYTES = 1 << 16  # a daemon that is behind holds a client back by the message: small ones let it
LOST = 1006  # RFC 6455: the code of a connection that ended without a close frame
_SHUTTING_DOWN = 1001
_COOKIE_BYTES = 4096  # as much as browsers keep of one; a daemon reads a head of 16 KiB
_COOKIE = re.compile(rb"([!-<>-~]+)=[ -~]+")
_RETRYABLE_CLOSES = (_SHUTTING_DOWN, LOST, 1011, 1012, 1013)
_RETRY_DELAYS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # a restarted daemon listens again within about a second


def retry_delay_s(attempt: int, error: Exception | None = None) -> float:
    """How long to wait after an attempt (0, 1, ...) at a connection: as long as the daemon asked for, or longer."""
    asked_s = error.data.get("retry_after_s", 0.0) if isinstance(error, SttdError) else 0.0
    return max(float(asked_s), _RETRY_DELAYS_S[min(attempt, len(_RETRY_DELAYS_S) - 1)])


def pieces(data: bytes | bytearray | memoryview) -> Iterator[bytes]:
    """Audio of any length in pieces that are fit for a message."""
    view = memoryview(data).cast("B")
    return (bytes(view[at : at + AUDIO_MESSAGE_BYTES]) for at in range(0, len(view), AUDIO_MESSAGE_BYTES))


class AudioConnection:
    """The client's end of one WebSocket."""

    def __init__(self, *, host: str = "localhost", token: str | None = None) -> None:
        self._ws = WSConnection(ConnectionType.CLIENT)
        self._host = host
        self._headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        self.cookies = b""  # those that the answer to the upgrade set, as they are shown
        self._out = b""
        self._text: list[str] = []
        self._refused_with = 0
        self._refusal = b""
        self.closed = False
        self.close_code: int | None = None
        self.failure: Failure | None = None
        self.stopped: Stopped | None = None

    # ---------------------------------------------------------------- out

    def open(self, *, resume: bool = False, cookies: bytes = b"") -> bytes:
        """The upgrade request; to `resume`, with the `cookies` of the connection before."""
        if not resume:
            return self._ws.send(ws.Request(host=self._host, target="/ws", extra_headers=self._headers))
        shown = [*self._headers, (b"cookie", cookies)] if cookies else self._headers
        return self._ws.send(ws.Request(host=self._host, target="/ws?resume", extra_headers=shown))

    def op(self, op: Op) -> bytes:
        """One op as a text message."""
        if self.closed:
            return b""
        return self._ws.send(ws.TextMessage(data=encode_op(op)))

    def audio(self, data: bytes | bytearray | memoryview) -> bytes:
        """A piece of audio of any length, in messages of `AUDIO_MESSAGE_BYTES` at the most."""
        if self.closed:
            return b""
        return b"".join(self._ws.send(ws.BytesMessage(data=piece)) for piece in pieces(data))

    def message(self, said: Op | bytes) -> bytes:
        """What a program says, op or audio."""
        return self.audio(said) if isinstance(said, bytes) else self.op(said)

    def close(self, code: int = 1000) -> bytes:
        """The close frame that ends the connection from this side; b"" when there is nothing left to close."""
        try:
            return self._ws.send(ws.CloseConnection(code=code))
        except LocalProtocolError:
            return b""

    def data_to_send(self) -> bytes:
        """What the last `receive` wants answered; taken out."""
        data, self._out = self._out, b""
        return data

    # ---------------------------------------------------------------- in

    def receive(self, data: bytes) -> list[Event]:
        """The events in `data`; b"" means that the stream ended.

        Raises:
            SttdError: the daemon refused the upgrade (`forbidden`, `unauthorized`, `overloaded`), or it broke the
                protocol (`bad_request`).
        """
        if self.closed:
            return []
        try:
            self._ws.receive_data(data or None)
            events = self._collect()
        except RemoteProtocolError as error:
            self._end(LOST)
            if not data:  # it ended in the middle of the handshake
                return []
            raise from_map({"code": "bad_request", "message": f"what answers is no sttd: {error}"}) from error
        if not data:
            self._end(LOST)
        return events

    def error(self) -> Exception | None:
        """Why the session did not end in good order; None if it did, or has not ended."""
        if not self.closed or self.stopped is not None:
            return None
        if self.failure is not None:
            return failure_error(self.failure)
        return ConnectionLostError(f"the connection to the daemon was lost (close code {self.close_code})")

    @property
    def broke_off(self) -> bool:
        """Whether the connection ended before the session did."""
        return self.closed and self.stopped is None and self.failure is None

    @property
    def worth_retrying(self) -> bool:
        """Whether the same `start` may work on a new connection: also after a daemon that stopped in good order."""
        if not self.closed or (self.stopped is not None and self.close_code != _SHUTTING_DOWN):
            return False
        return self.failure.retryable if self.failure is not None else self.close_code in _RETRYABLE_CLOSES

    def _collect(self) -> list[Event]:
        found: list[Event] = []
        for event in self._ws.events():
            if isinstance(event, ws.TextMessage):
                self._text.append(event.data)
                if event.message_finished:
                    found += self._message()
            elif isinstance(event, ws.Ping):
                self._out += self._ws.send(event.response())
            elif isinstance(event, ws.CloseConnection):
                if event.code != LOST:  # wsproto makes a 1006 of a bare end of stream, which nobody can answer
                    self._out += self.close(event.code)
                self._end(event.code)
            elif isinstance(event, ws.AcceptConnection):
                self.cookies = _cookies(event.extra_headers)
            elif isinstance(event, ws.RejectConnection):
                self._refused_with = event.status_code
            elif isinstance(event, ws.RejectData):
                self._refusal += event.data
                if event.body_finished:
                    self._end(LOST)
                    raise _refusal_error(self._refused_with, self._refusal)
        return found

    def _message(self) -> list[Event]:
        event = parse_event(inert_json("".join(self._text)))
        self._text.clear()
        if isinstance(event, Failure) and event.fatal:
            self.failure = event
        elif isinstance(event, Stopped):
            self.stopped = event
        return [event] if event is not None else []

    def _end(self, code: int) -> None:
        if not self.closed:
            self.closed = True
            self.close_code = code


def _cookies(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """What the `Set-Cookie` among them set, as a `Cookie` shows it; nothing where that is too much to be the place.

    The last one of a name counts, as in browsers. One without a value, which takes it back, and what is no cookie are
    left out.
    """
    told = [value.partition(b";")[0].strip() for name, value in headers if name.lower() == b"set-cookie"]
    shown = b"; ".join({found[1]: found[0] for found in map(_COOKIE.fullmatch, told) if found}.values())
    return shown if len(shown) <= _COOKIE_BYTES else b""


def failure_error(failure: Failure) -> SttdError:
    """An error event as the exception of its code."""
    data = dump(failure.data) if failure.data else {}
    return from_map({"code": failure.code, "message": failure.message, "retryable": failure.retryable, "data": data})


_REFUSALS: Mapping[int, str] = {401: "unauthorized", 403: "forbidden", 404: "not_found", 503: "overloaded"}


def _refusal_error(status: int, body: bytes) -> SttdError:
    """The daemon's refusal: its body is the error as JSON, unless something else answered in its place."""
    try:
        answer = inert(json.loads(body))
        error = answer.get("error", answer)
        return from_map({**error, "code": error["code"], "message": error["message"]})
    except (ValueError, KeyError, TypeError, AttributeError):
        code = _REFUSALS.get(status, "bad_request")
        return from_map({"code": code, "message": f"the daemon refused the connection with HTTP status {status}"})
