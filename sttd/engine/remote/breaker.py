"""Whether a server is asked at all: a circuit breaker. No IO, no clock, no threads.

    CLOSED ── failures in a row, or one that says enough ──> OPEN ── its wait is over ──> HALF-OPEN
      ▲                                                        ▲                              │
      │                                                        └──── the probe failed ────────┤
      └──────────────────────────────── an answer ────────────────────────────────────────────┘

Rules:

1. Who wants to ask needs a `Pass`, and reports once what became of it: an answer, a failure, that the server is busy
   and says when to come again, or that it was given up.
2. **Closed**: everybody gets one. `FAILURES` failures in a row open it; so does a single one that is *decisive*: a
   server that did not answer in time makes everybody wait as long, and one that refuses us refuses the next call, too.
3. **Open**: nobody gets one before the wait is over. It is `FIRST_WAIT_S`, twice as long after each probe that failed,
   at most `MOST_WAIT_S`, less up to half of it by chance, so that many daemons do not come back at the same moment.
4. **Half-open**: one call gets one, the *probe*; nobody else does until it has reported. An answer closes the breaker,
   a failure opens it again. A probe that was given up says nothing: the next call is the probe.
5. Failures of calls that began before it opened, or before it last closed, are no news. An answer is, whenever its call
   began.
6. **Busy** (429) is no answer and no failure: the server is there, and whoever was told so comes again when it said.
   Who was told so until he could wait no longer reports that as a failure, too, under the pass that he had last:
   `FAILURES` finals in a row of that kind open it, as failures do. A probe that is told so has failed. A wait that
   begins with it is no shorter than the server said, but for `MOST_WAIT_S`.
7. An open one is **hopeless** once somebody waited for the server as long as he could; until an answer.
"""

from __future__ import annotations

from typing import Final, Literal

import attrs

FAILURES: Final = 3  # chosen: one may be a connection that was cut, two a server that is started again
FIRST_WAIT_S: Final = 1.0  # chosen: a server that is restarted is missed for no longer than it is away
MOST_WAIT_S: Final = 15.0  # chosen: so late at most is it noticed that a server is back

State = Literal["closed", "open", "half-open"]


@attrs.frozen
class Pass:
    """Leave to ask once."""

    era: int  # between two changes of the breaker
    probe: bool


@attrs.define(eq=False)
class Breaker:
    """The rules above. `now` is of any monotonic clock."""

    since: float  # when it came to be open, or closed
    reason: str | None = attrs.field(default=None, init=False)  # of the last failure that opened it; None: closed
    hopeless: bool = attrs.field(default=False, init=False)  # rule 7
    _era: int = attrs.field(default=0, init=False)
    _failures: int = attrs.field(default=0, init=False)  # in a row, while closed
    _openings: int = attrs.field(default=0, init=False)  # in a row, without an answer between them
    _until: float | None = attrs.field(default=None, init=False)  # the end of its wait; None: closed
    _probing: Pass | None = attrs.field(default=None, init=False)

    def state(self, now: float) -> State:
        """What it is now."""
        if self._until is None:
            return "closed"
        return "half-open" if self._probing is not None or now >= self._until else "open"

    def ask(self, now: float) -> Pass | None:
        """Leave to ask; None: the server counts as away."""
        match self.state(now):
            case "closed":
                return Pass(self._era, probe=False)
            case "half-open" if self._probing is None:
                self._probing = Pass(self._era, probe=True)
                return self._probing
        return None

    def wait_s(self, now: float) -> float:
        """How long nobody gets leave; 0 where somebody might now."""
        return 0.0 if self._until is None else max(0.0, self._until - now)

    def answered(self, now: float) -> bool:
        """The server answered somebody. True: it had counted as away."""
        opened = self._until is not None
        self._failures = self._openings = 0
        self.hopeless = False
        if opened:
            self._change(now, until=None, reason=None)
        return opened

    def failed(
        self, leave: Pass, *, now: float, reason: str, decisive: bool, chance: float, least_s: float = 0.0
    ) -> bool:
        """A call got no answer that was any use. True: it opened the breaker, which was closed.

        Args:
            leave: that it had.
            now: when it failed.
            reason: for whoever asks why the server counts as away.
            decisive: as in rule 2.
            chance: from 0 to 1, for rule 3.
            least_s: how long the server wants to be left alone (rule 6).
        """
        if leave.era != self._era:
            return False
        closed = self._until is None
        self._failures += 1
        if closed and not decisive and self._failures < FAILURES:
            return False
        wait_s = min(MOST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(self._openings, 16))
        self._openings += 1
        wait_s = max(wait_s * (1 - chance / 2), min(least_s, MOST_WAIT_S))
        self._change(now, until=now + wait_s, reason=reason)
        return closed

    def busy(self, leave: Pass, *, now: float, reason: str, chance: float, least_s: float) -> None:
        """The server says when to come again (rule 6). Arguments as of `failed`."""
        if leave.probe:
            self.failed(leave, now=now, reason=reason, decisive=False, chance=chance, least_s=least_s)

    def waited_in_vain(self) -> None:
        """Somebody's patience is over (rule 7)."""
        self.hopeless = self._until is not None

    def given_up(self, leave: Pass) -> None:
        """Whoever had it no longer wanted an answer."""
        if self._probing is leave:
            self._probing = None

    def _change(self, now: float, *, until: float | None, reason: str | None) -> None:
        if (until is None) != (self._until is None):
            self.since = now
        self._era += 1
        self._failures = 0
        self._until, self.reason, self._probing = until, reason, None
