"""What lets a session outlive its connection, sans IO: the numbers of its events, its position, its tokens.

               ┌────────────── resume ───────────────┐
               v                                     │
    start ──> attached ── the connection drops ──> asleep ── `resume_s` are over ──> over
               │  ^ │                                                                 ^
               │  └─┘ resume, while the old connection seems to live                  │
               └─────── the client has everything, the last event too ────────────────┘

Rules:

1. **Events** are numbered from 1 when they are written for the first time, and kept as they were written. A client that
   resumes gets those behind its `last_seq`, word for word. While the session is asleep nothing is numbered: what is new
   waits where a newer interim may still take the place of an older one.
2. **Kept** are the newest `KEPT_EVENTS`, of `KEPT_BYTES` together; one is kept in any case. A client that lacks an
   older one is refused, and starts anew.
3. **Position.** Audio counts by whole samples of all channels, in the client's encoding. The start of a sample waits
   for its rest in the next message and does not count; when the connection drops it is forgotten, for the client goes
   on with the whole sample.
4. **Ops.** A `finalize` at the very position of a cut may have arrived or not. So the messages that are no audio are
   counted too, refused ones as well, and a client sends again what it said behind the count.
5. **An acknowledgement is due** whenever `ACK_S` of audio were taken since the last one.
6. **Tokens.** Each `started` and `resumed` tells a new one, and a `resume` uses it up. But a `resumed` may be lost on
   its way, and the new token with it. So the one that was shown is good until the client has proved that it got an
   answer to it: by whatever it says on the new connection, a close frame too. Where somebody shows it while a
   connection has the session, its client is pinged first, and an answer proves the same. A `resume` with such a token
   voids the one that was told and not received. Of tokens only the SHA-256 is kept.
7. **Asleep** it is for so long as was said when the connection dropped. Then it is over, as it is once the client has
   everything. What is over knows no token.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import math
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

import attrs

from sttd.errors import NotFoundError, ProtocolError
from sttd.wire.jsontext import size_bytes
from sttd.wire.messages import encode_event

ACK_S: Final = 0.5  # the protocol says once a second at least; a message of half a second must not make it more
KEPT_EVENTS: Final = 4096  # chosen, as the next one: some minutes of interims, hours of finals
KEPT_BYTES: Final = 512 * 1024

_LOST = "start anew: no session can be resumed with this token; it was used, its time is over, or it is not yours"


class State(enum.Enum):
    """Whether a connection has the session."""

    ATTACHED = "attached"
    ASLEEP = "asleep"
    OVER = "over"


def digest(token: str) -> bytes:
    """By which a token is looked up."""
    return hashlib.sha256(token.encode()).digest()


def unknown_token() -> NotFoundError:
    """The one answer to every token that opens nothing, whatever the reason."""
    return NotFoundError(_LOST)


@attrs.define(eq=False, kw_only=True)
class Resuming:
    """The rules above for one session. It begins asleep: the connection that opened it attaches first.

    Args:
        sample_rate: samples per second and channel.
        sample_bytes: of one sample, all channels together.
        expires_at: when it is over if nobody attaches, on the clock of `now` below.
    """

    sample_rate: int
    sample_bytes: int
    expires_at: float
    state: State = attrs.field(default=State.ASLEEP, init=False)
    ops: int = attrs.field(default=0, init=False)  # rule 4
    told: int = attrs.field(default=0, init=False)  # number of the last event
    kept_bytes: int = attrs.field(default=0, init=False)
    _samples: int = attrs.field(default=0, init=False)
    _acknowledged: int = attrs.field(default=0, init=False)  # samples
    _torn: bytes = attrs.field(default=b"", init=False)  # the start of a sample
    _kept: deque[str] = attrs.field(factory=deque, init=False)
    _current: bytes | None = attrs.field(default=None, init=False)  # digest of the token that was told last
    _shown: bytes | None = attrs.field(default=None, init=False)  # of the one that was shown for it, until proof

    # ---------------------------------------------------------------- audio and ops

    @property
    def position_s(self) -> float:
        """The audio that was taken."""
        return self._samples / self.sample_rate

    def take(self, data: bytes) -> bytes:
        """Audio has come: the whole samples of it."""
        data = self._torn + data if self._torn else data
        whole = len(data) - len(data) % self.sample_bytes
        self._torn = data[whole:]
        self._samples += whole // self.sample_bytes
        return data[:whole] if self._torn else data

    def take_op(self) -> None:
        """A message that is no audio has come."""
        self.ops += 1

    @property
    def ack_due(self) -> bool:
        """Whether the client should be told how far its audio was taken."""
        return self._samples - self._acknowledged >= ACK_S * self.sample_rate

    def ack(self) -> dict[str, Any]:
        """The fields of `ack`, which is no longer due."""
        self._acknowledged = self._samples
        return {"position_s": self.position_s, "ops": self.ops}

    # ---------------------------------------------------------------- events

    def number(self, name: str, fields: Mapping[str, Any]) -> str:
        """The text of the next event; it is kept."""
        self.told += 1
        text = encode_event(name, {**fields, "event_seq": self.told})
        self._kept.append(text)
        self.kept_bytes += size_bytes(text)
        while len(self._kept) > KEPT_EVENTS or (self.kept_bytes > KEPT_BYTES and len(self._kept) > 1):
            self.kept_bytes -= size_bytes(self._kept.popleft())
        return text

    def check(self, last_seq: int) -> None:
        """Whether a client that has seen events up to this number can be told all others.

        Raises:
            ProtocolError: `bad_option`; there was no such event yet.
            NotFoundError: one that it lacks is not kept any more.
        """
        if last_seq > self.told:
            message = f"`last_seq` is {last_seq}, and the session's last event has number {self.told}"
            raise ProtocolError(message, code="bad_option", data={"field": "last_seq"})
        if last_seq < self.told - len(self._kept):
            oldest = self.told - len(self._kept) + 1
            raise NotFoundError(f"start anew: events before number {oldest} are not kept any more")

    def missed(self, last_seq: int) -> tuple[str, ...]:
        """The texts of the events behind this number, after `check`."""
        return tuple(self._kept)[len(self._kept) - (self.told - last_seq) :] if last_seq < self.told else ()

    # ---------------------------------------------------------------- tokens

    @property
    def digests(self) -> tuple[bytes, ...]:
        """Of the tokens that open it."""
        return tuple(known for known in (self._current, self._shown) if known is not None)

    def opens(self, token: str) -> bool:
        """Whether the session can be resumed with this token. Takes the same time whatever the token is."""
        shown = digest(token)
        return sum(hmac.compare_digest(shown, known) for known in self.digests) > 0

    def doubts(self, token: str) -> bool:
        """Whether it was used already, and it is not known yet that the next one arrived."""
        return self._shown is not None and hmac.compare_digest(digest(token), self._shown)

    @property
    def unproved(self) -> bool:
        """Whether a proof is of use."""
        return self._shown is not None

    def prove(self) -> None:
        """The client has got what it was told when it attached."""
        self._shown = None

    # ---------------------------------------------------------------- states

    def attach(self, *, shown: str | None, successor: str) -> None:
        """A connection has it from here on.

        Args:
            shown: the token that it showed; None for the one that opened the session.
            successor: the next token.
        """
        assert self.state is not State.OVER, "what is over knows no token"
        self._shown = None if shown is None else digest(shown)
        self._current = digest(successor)
        self._torn = b""
        self.state, self.expires_at = State.ATTACHED, math.inf

    def detach(self, *, now: float, for_s: float) -> None:
        """No connection has it any more, for so long at most."""
        if self.state is State.ATTACHED:
            self._torn = b""
            self.state, self.expires_at = State.ASLEEP, now + for_s

    def finish(self) -> None:
        """The client has everything, or will never ask."""
        self.state, self.expires_at = State.OVER, -math.inf
        self._current = self._shown = None
        self._kept.clear()
        self.kept_bytes = 0

    def expire(self, *, now: float) -> bool:
        """Whether it is over by now."""
        if self.state is State.ASLEEP and now >= self.expires_at:
            self.finish()
        return self.state is State.OVER
