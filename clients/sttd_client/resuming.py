"""One session over several connections, sans IO: what is kept, what is said again, how long is tried.

    OPENING ── Started ──> OPEN ── the connection ends ──> AWAY ── no use, or no time left ──> OVER
                            ^                               │
                            └──── Resumed, Started anew ────┘

The blocking and the Trio session are shells round this machine: they dial, read and write, and ask it what to do.

Rules:

1. **One log.** What the program says, audio and ops, goes into one log, and `take` gives it out in order. A session
   that can be resumed keeps it until an `ack` says that it need not come again, others until it is with the kernel.
2. **Resume.** A connection that ends without `stopped` and without a fatal error is followed by another, which shows
   the newest token. The log is turned back to the sample and the op that `resumed` names, and goes on from there.
3. **Once.** An event whose `event_seq` was heard before is not heard again.
4. **Gone.** A daemon that refuses the token for good no longer has the session. With `reconnect_s` a new one is begun:
   it is told all that was changed by `configure`, and again what is owed a final (`owed.py`). `Reconnected` says how
   much that is, and what is lost. Without, the session ends with the error of the connection that it lost.
5. **Tries.** The first one at once, the next ones later and later, each by a chance of its own, so that a thousand
   clients of a proxy that comes back do not come together. They end `RESUME_S` after the connection went, or
   `reconnect_s` where that is longer. A connection that brought nothing and did not last does not begin the count
   again: who takes a client in and throws it out at once is not asked for ever.
6. **Bounds.** A program waits while there is no room for more audio (`has_room`). Beyond `KEPT_OPS` ops that nothing
   has acknowledged, a session cannot be resumed any longer.
7. **A program that does not take its events** is not resumed: the daemon ended a connection that nobody read, and would
   end the next.
8. **Older daemons** refuse the option `resumable` by name. Where the program did not insist on it, the same `start` is
   said again without, and the session cannot be resumed. Nor can one of a container: nobody knows where in its bytes
   a sample lies.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Callable, Iterable, Iterator

import attrs

from sttd.errors import ProtocolError, SttdError
from sttd.fields import FieldError
from sttd.wire import messages
from sttd.wire.messages import Ack, Configure, Failure, Finalize, Op, Resume, Start, Started, Stop
from sttd_client.addresses import ConnectionLostError
from sttd_client.connection import AudioConnection, failure_error, retry_delay_s
from sttd_client.events import Reconnected, Resumed
from sttd_client.inbox import Inbox
from sttd_client.owed import Owed, frame_bytes

RESUME_S = 30.0  # as long as a daemon keeps a session, unless `limits.resume_s` says otherwise
KEPT_BYTES = 4 << 20  # chosen: two minutes of 16 kHz and 16 bits; beyond what kernels hold between client and daemon
KEPT_S = 4.0  # at the least: a daemon acknowledges every second of audio, and must have the chance to
KEPT_OPS = 1024  # chosen: a program says a few in an utterance
_LASTED_S = 5.0  # chosen: as long as the longest pause between two tries


class Phase(enum.Enum):
    """Where a session is in its life."""

    OPENING = "opening"
    OPEN = "open"
    AWAY = "away"
    OVER = "over"


@attrs.frozen
class _Piece:
    """Audio, and the bytes of the session before it."""

    data: bytes
    at: int

    @property
    def end(self) -> int:
        return self.at + len(self.data)


@attrs.frozen
class _Said:
    """An op, the ops of the session before it, and the bytes."""

    op: Op
    number: int
    at: int


class Resuming:
    """The rules above for one session object. `now` is of a clock that does not go back; `chance` gives 0 to 1."""

    def __init__(self, start: Start, *, reconnect_s: float, chance: Callable[[], float]) -> None:
        self.inbox = Inbox()
        self.phase = Phase.OPENING
        self.error: Exception | None = None  # once it is over: why; None after a session in good order
        self._start = start
        self._frame_bytes = frame_bytes(start)
        self._rate = start.sample_rate or 16_000
        self._offers = start.resumable is None and self._frame_bytes > 0
        self._room = max(KEPT_BYTES, round(KEPT_S * self._rate * self._frame_bytes))
        self._reconnect_s = reconnect_s
        self._chance = chance
        self._owed = Owed(start, room_bytes=self._room if reconnect_s > 0 else 0)
        self._changes = Configure()  # all that was said
        self._written: deque[_Piece | _Said] = deque()  # given out, and perhaps wanted again
        self._unwritten: deque[_Piece | _Said] = deque()
        self._said_bytes = self._said_ops = 0  # in this session
        self._acked_bytes = self._acked_ops = 0  # of them
        self._stopping = False
        self._token: str | None = None
        self._last_seq = 0
        self._news = False  # this connection brought something
        self._opened_at = self._away_since = self._due_at = 0.0
        self._counts_from: float | None = None  # when the tries began that have brought nothing yet
        self._attempts = 0
        self._may_begin_anew = False
        self._cause: Exception | None = None  # of the loss

    # ---------------------------------------------------------------- what the program says

    @property
    def has_room(self) -> bool:
        """Whether more audio may be said now; with an old daemon that is once the kernel has taken the last."""
        return self._said_bytes - self._acked_bytes < self._room

    @property
    def keeps(self) -> bool:
        """Whether what is said while AWAY goes on in this session; otherwise it is owed (rule 4)."""
        return self._token is not None

    @property
    def unwritten(self) -> bool:
        """Whether something waits for `take`."""
        return bool(self._unwritten)

    def audio(self, data: bytes) -> None:
        """A piece of audio, no longer than one message."""
        self._owed.audio(data)
        if self.phase is not Phase.AWAY or self.keeps:
            self._log_audio(data)

    def say(self, op: Configure | Finalize | Stop) -> None:
        """An op."""
        if isinstance(op, Finalize):
            self._owed.finalize()
        elif isinstance(op, Configure):
            self._changes = _merged(self._changes, op)
        self._stopping = self._stopping or isinstance(op, Stop)
        self._log_op(op)
        if self._said_ops - self._acked_ops > KEPT_OPS:
            self._token = None
            if self.phase is Phase.AWAY and not self._may_begin_anew:
                self._end(self._cause)

    # ---------------------------------------------------------------- the connection

    def take(self) -> Op | bytes | None:
        """What is to be written next; None: nothing, or there is no connection."""
        if self.phase is not Phase.OPEN or not self._unwritten:
            return None
        entry = self._unwritten.popleft()
        self._written.append(entry)
        return entry.data if isinstance(entry, _Piece) else entry.op

    def written(self) -> None:
        """All that was taken is with the kernel."""
        if self._token is None and self._written:
            self._acked_bytes = self._unwritten[0].at if self._unwritten else self._said_bytes
            self._acked_ops = self._said_ops - sum(isinstance(entry, _Said) for entry in self._unwritten)
            self._written.clear()

    def greeting(self) -> Start | Resume:
        """The first op on a new connection."""
        if self._token is not None:
            return Resume(token=self._token, last_seq=self._last_seq)
        return attrs.evolve(self._start, resumable=True) if self._offers else self._start

    def answered(self, event: messages.Event, now: float) -> Start | None:
        """Take the answer to `greeting`: the session is open, unless this returns what is to be said instead.

        Raises:
            SttdError: the daemon refuses.
            ConnectionLostError: it says something else.
        """
        if isinstance(event, Failure):
            if self._offers and not self.keeps and not event.fatal and _is_about(event, "resumable"):
                self._offers = False
                return self._start
            raise failure_error(event)
        if isinstance(event, Started) and not self.keeps:
            self._begin(event)
        elif isinstance(event, messages.Resumed) and self.keeps:
            self._go_on(event, now)
        else:
            raise ConnectionLostError(f"the daemon said `{event.type}` where the answer to a start was due")
        self.phase, self._opened_at, self._news = Phase.OPEN, now, False
        return None

    def heard(self, event: messages.Event) -> None:
        """Take what the daemon says while the session is open; what the program is to know goes into the inbox."""
        if isinstance(event, Ack):
            self._news = True
            self._acknowledge(self._bytes_at(event.position_s), event.ops)
            return
        number = getattr(event, "event_seq", None)
        if number is not None and number <= self._last_seq:
            return
        self._news = True
        self._last_seq = number or self._last_seq
        self._owed.heard(event)
        self.inbox.put(event)

    def lost(self, connection: AudioConnection, now: float) -> None:
        """The connection ended: the session is AWAY, and `due_s` says when to try, or it is OVER."""
        if self.phase is not Phase.OPEN:
            return
        self._cause = connection.error()
        if not connection.broke_off or self.inbox.full:
            self._token = None
        is_wanted = connection.broke_off or not self._stopping  # who said `stop` still wants what is owed
        self._may_begin_anew = self._reconnect_s > 0 and is_wanted and connection.worth_retrying
        if not self.keeps and not self._may_begin_anew:
            self._end(self._cause)
            return
        self.phase, self._away_since = Phase.AWAY, now
        if self._counts_from is None or self._news or now - self._opened_at >= _LASTED_S:
            self._counts_from, self._attempts, self._due_at = now, 0, now
        else:
            self._try_later(None, now)

    def due_s(self, now: float) -> float:
        """How long to wait before the next try, while AWAY."""
        return max(self._due_at - now, 0.0)

    def failed(self, error: OSError | SttdError, now: float) -> None:
        """A try came to nothing: there is a next one, or the session is OVER."""
        if isinstance(error, SttdError) and not error.retryable:
            if not (self.keeps and self._may_begin_anew):
                self._give_up(error)
                return
            self._token, self._due_at = None, now  # rule 4
            return
        self._try_later(error, now)

    def abandon(self, error: Exception | None) -> None:
        """It is OVER, whatever it was doing."""
        if self.phase is not Phase.OVER:
            self._end(error)

    # ---------------------------------------------------------------- helpers

    def _log_audio(self, data: bytes) -> None:
        self._unwritten.append(_Piece(data, self._said_bytes))
        self._said_bytes += len(data)

    def _log_op(self, op: Op) -> None:
        self._unwritten.append(_Said(op, self._said_ops, self._said_bytes))
        self._said_ops += 1

    def _try_later(self, error: OSError | SttdError | None, now: float) -> None:
        resume_s = RESUME_S if self.keeps else 0.0
        reconnect_s = self._reconnect_s if self._may_begin_anew else 0.0
        self._due_at = now + retry_delay_s(self._attempts, error) * (1 + self._chance() / 2)
        self._attempts += 1
        assert self._counts_from is not None, "tries follow a loss"
        if self._due_at > self._counts_from + max(resume_s, reconnect_s):
            self._give_up(error)

    def _give_up(self, error: OSError | SttdError | None) -> None:
        """No more tries. Who asked for new sessions learns why there is none, others what it was that they lost."""
        told = error if self._may_begin_anew and error is not None else self._cause
        if told is not error and told is not None:
            told.__cause__ = error
        self._end(told)

    def _end(self, error: Exception | None) -> None:
        self.phase, self.error = Phase.OVER, error
        self._written.clear()
        self._unwritten.clear()

    def _begin(self, started: Started) -> None:
        """A session begins: the first one, or one in place of what was lost."""
        self._token = started.resume_token if self._offers or self._start.resumable else None
        self._last_seq = 0
        if self.phase is Phase.OPENING:
            return
        anew = self._owed.begin_anew()
        self._written.clear()
        self._unwritten.clear()
        self._said_bytes = self._said_ops = self._acked_bytes = self._acked_ops = 0
        changes = [self._changes] if self._changes != Configure() else []
        for said in [*changes, *anew.again, *([Stop()] if self._stopping else [])]:
            if isinstance(said, bytes):
                self._log_audio(said)
            else:
                self._log_op(said)
        self.inbox.put(Reconnected(session=started.session, lost_bytes=anew.lost_bytes, again_bytes=anew.again_bytes))

    def _go_on(self, resumed: messages.Resumed, now: float) -> None:
        """Turn the log back to where the daemon has got to."""
        position = self._bytes_at(resumed.position_s)
        if not self._acked_bytes <= position <= self._said_bytes:
            message = f"the daemon goes on from {resumed.position_s} s, where this session has nothing to say"
            raise ProtocolError(message, code="bad_request")
        self._token = resumed.resume_token
        again_bytes = sum(len(piece.data) for piece in _behind(self._written, position) if isinstance(piece, _Piece))
        self._unwritten = deque(_behind(self._log(), position, resumed.ops))
        self._written.clear()
        self._acked_bytes, self._acked_ops = position, max(self._acked_ops, resumed.ops)
        away_s = round(now - self._away_since, 3)
        self.inbox.put(Resumed(position_s=resumed.position_s, away_s=away_s, again_bytes=again_bytes))

    def _acknowledge(self, position: int, ops: int) -> None:
        self._acked_bytes = max(self._acked_bytes, min(position, self._said_bytes))
        self._acked_ops = max(self._acked_ops, min(ops, self._said_ops))
        while self._written and self._is_acknowledged(self._written[0]):
            self._written.popleft()

    def _is_acknowledged(self, entry: _Piece | _Said) -> bool:
        return entry.end <= self._acked_bytes if isinstance(entry, _Piece) else entry.number < self._acked_ops

    def _log(self) -> list[_Piece | _Said]:
        return [*self._written, *self._unwritten]

    def _bytes_at(self, position_s: float) -> int:
        return round(position_s * self._rate) * self._frame_bytes


def _behind(log: Iterable[_Piece | _Said], position: int, ops: int = 0) -> Iterator[_Piece | _Said]:
    """What of `log` was not taken by a daemon that took `position` bytes of audio and `ops` ops."""
    for entry in log:
        if isinstance(entry, _Said):
            if entry.number >= ops:
                yield entry
        elif entry.at >= position:
            yield entry
        elif entry.end > position:
            yield _Piece(entry.data[position - entry.at :], position)


def _merged(before: Configure, after: Configure) -> Configure:
    """One that changes what both do."""
    changes = {name: value for name, value in attrs.asdict(after, recurse=False).items() if value is not None}
    try:
        return attrs.evolve(before, **changes)
    except FieldError:  # `lang` and `languages` of the two do not go together: the later ones stand
        return attrs.evolve(before, **{"lang": None, "languages": None, **changes})


def _is_about(failure: Failure, option: str) -> bool:
    return failure.code == "bad_option" and failure.data is not None and failure.data.field == option
