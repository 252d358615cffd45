"""The server's half of the audio protocol, sans IO: a message in, what it asks for out. Twin of the client library's.

    GREETING ── start, resume ──> OPENING ── opened ──> OPEN ── stop, a fatal error ──> ENDING
        ^                            │
        └────── not opened ──────────┘

Rules:

1. Before `start` or `resume` nothing else is obeyed: it is refused (`not_started`) and the connection goes on. One that
   cannot be served as it stands may be repeated; when the reason lies with the daemon, the connection ends.
2. A client that says `stop` after a refusal did not look whether its `start` was taken, and waits for the close: that
   refusal is fatal.
3. A message that is none is refused by name, and changes nothing. One above `MAX_MESSAGE_BYTES` ends the connection.
4. After `stop`, or a fatal error, what the client says is of no more use.
5. `stopped` is for sessions that ended well: after a fatal error of the connection it is not said.
6. The connection closes with the code of the fatal error, else with that of the session.
7. A session that was resumed is where it was: after `stop`, or a fatal error on its former connection, it is ending. A
   connection whose session another one took over closes with 1008, and says nothing more.
"""

from __future__ import annotations

import enum

import attrs

from sttd.errors import ProtocolError, SttdError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES, size_bytes
from sttd.wire.messages import Audio, Op, Resume, Start, Stop, parse_client


class Phase(enum.Enum):
    """Where a connection is in its life."""

    GREETING = "greeting"
    OPENING = "opening"
    OPEN = "open"
    ENDING = "ending"


@attrs.frozen
class Refuse:
    """Tell the client that its message was refused; the connection goes on."""

    error: SttdError


@attrs.frozen
class Fail:
    """Tell the client, and end the connection once what it is owed is written."""

    error: SttdError


Answer = Op | Refuse | Fail


@attrs.define(eq=False)
class Talk:
    """The rules above for one connection."""

    phase: Phase = attrs.field(default=Phase.GREETING, init=False)
    error: SttdError | None = attrs.field(default=None, init=False)  # the fatal one
    superseded: bool = attrs.field(default=False, init=False)  # another connection has the session
    _refused: bool = attrs.field(default=False, init=False)

    def receive(self, message: str | bytes) -> Answer | None:
        """What is to be done about a message; None: nothing. Not to be called while a `start` is looked into."""
        assert self.phase is not Phase.OPENING, "the next message waits until it is known what became of the start"
        if self.phase is Phase.ENDING:
            return None
        if size_bytes(message) > MAX_MESSAGE_BYTES:
            return self.fail(ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes at most", code="too_large"))
        if isinstance(message, bytes):
            op: Op = Audio(payload=message)
        else:
            try:
                op = parse_client(message)
            except ProtocolError as error:
                return self.fail(error) if error.code == "too_large" else self._refuse(error)
        return self._before_start(op) if self.phase is Phase.GREETING else self._in_session(op)

    def opened(self, *, stopped: bool = False, error: SttdError | None = None) -> None:
        """There is a session; of no more use where the connection was to end meanwhile.

        Of one that is resumed: its client had said `stop`, or it was to end for this reason.
        """
        if self.error is None:
            self.phase, self.error = Phase.ENDING if stopped or error else Phase.OPEN, error

    def not_opened(self, error: SttdError) -> Refuse | Fail:
        """The `start` has opened none, or nothing can be resumed."""
        self.phase = Phase.GREETING
        return self._refuse(error) if isinstance(error, ProtocolError) else self.fail(error)

    def fail(self, error: SttdError) -> Fail:
        """The connection ends for this reason. The first one counts."""
        self.phase = Phase.ENDING
        if self.error is None:
            self.error = error
        return Fail(self.error)

    def overrule(self, error: SttdError) -> SttdError:
        """The connection ends for this reason, whatever was said before: a bug, or a client that does not read."""
        self.phase, self.error = Phase.ENDING, error
        return error

    def supersede(self) -> None:
        """Another connection has resumed the session."""
        self.phase, self.superseded = Phase.ENDING, True

    def close_with(self, session_code: int | None) -> tuple[int, str | None]:
        """Code and reason of the close frame."""
        if self.superseded:
            return 1008, "resumed"
        if self.error is not None:
            return self.error.close_code, self.error.code
        return session_code or 1000, None

    def _before_start(self, op: Op) -> Answer:
        if isinstance(op, Start | Resume):
            self.phase = Phase.OPENING
            return op
        error = ProtocolError(f"`{op.op}` before `start`", code="not_started")
        return self.fail(error) if isinstance(op, Stop) and self._refused else self._refuse(error)

    def _in_session(self, op: Op) -> Answer:
        if isinstance(op, Start | Resume):
            return self._refuse(ProtocolError("the session has started already", code="already_started"))
        if isinstance(op, Stop):
            self.phase = Phase.ENDING
        return op

    def _refuse(self, error: SttdError) -> Refuse:
        self._refused = True
        return Refuse(error)
