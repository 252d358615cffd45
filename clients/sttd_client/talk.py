"""The client's half of the audio protocol, sans IO, over all connections of a session: twin of `sttd/wire/talk.py`.

    talk = Talk(start, reconnect_s=0.0, chance=random.random)
    opening = talk.opening(AudioConnection())        # for each connection
    send(opening.begin())
    while not opening.done:
        send(opening.receive(data, now))
    talk.opened(opening, now)
    send(talk.message())                             # what the program said, until it is None
    talk.receive(data, now)                          # whatever arrived; b"" is the end of the stream
    send(talk.reply())

The sessions, blocking and not, are shells round this machine and the one inside it (`resuming.py`).

Rules:

1. **The opening** is asked and answered in turns, which nothing may overtake: the upgrade, the daemon's `hello`,
   `start` or `resume`, its answer. What the daemon has against it is raised. Events that come behind the answer are
   kept, and heard once the connection is the session's.
2. **What answers and breaks the protocol** ends the session: another connection would lead to the same one.
3. **Who waits to be told** is told every event before he is told why there are no more (`goes_on`). Who says something
   to a session that has ended is told at once (`check`).
"""

from __future__ import annotations

from collections.abc import Callable

from sttd.errors import SttdError
from sttd.wire import messages
from sttd.wire.messages import Start, Started
from sttd_client.addresses import ConnectionLostError
from sttd_client.connection import AudioConnection
from sttd_client.events import Hello
from sttd_client.resuming import Phase, Resuming


class Opening:
    """The first exchanges on a new connection; `Talk.opening` makes it."""

    def __init__(self, connection: AudioConnection, resuming: Resuming, cookies: bytes = b"") -> None:
        self.connection = connection
        self.done = False
        self.hello: Hello | None = None
        self.started: Started | None = None  # stays None where a session was resumed
        self.early: list[messages.Event] = []  # what came behind the answer
        self._resuming = resuming
        self._cookies = cookies  # of the connection before

    def begin(self) -> bytes:
        """The first bytes to send."""
        return self.connection.open(resume=self._resuming.keeps, cookies=self._cookies)

    def receive(self, data: bytes, now: float) -> bytes:
        """What to send next; nothing once it is done.

        Raises:
            SttdError: the daemon refuses, or is none.
            ConnectionLostError: the connection ended, or something else was said than was due.
        """
        said = b""
        for event in self.connection.receive(data):
            if self.done:
                self.early.append(event)
            else:
                said += self._take(event, now)
        if self.done:
            return b""
        if self.connection.closed:
            raise self.connection.error() or ConnectionLostError("the daemon ended the session at once")
        return self.connection.data_to_send() + said

    def _take(self, event: messages.Event, now: float) -> bytes:
        if self.hello is None:
            if not isinstance(event, Hello):
                raise ConnectionLostError(f"the daemon said `{event.type}` where `hello` was due")
            self.hello = event
            return self.connection.op(self._resuming.greeting())
        if (other := self._resuming.answered(event, now)) is not None:
            return self.connection.op(other)
        self.done = True
        self.started = event if isinstance(event, Started) else None
        return b""


class Talk:
    """The rules above for one session. `now` is of a clock that does not go back; `chance` gives 0 to 1."""

    hello: Hello  # of the newest connection
    started: Started  # of the newest session

    def __init__(self, start: Start, *, reconnect_s: float, chance: Callable[[], float]) -> None:
        self.resuming = Resuming(start, reconnect_s=reconnect_s, chance=chance)
        self._connection: AudioConnection  # as soon as one was opened
        self._cookies = b""  # of the newest one that set any

    # ---------------------------------------------------------------- the connection

    def opening(self, connection: AudioConnection) -> Opening:
        """Begin with a new connection; the former one is not touched before `opened`."""
        return Opening(connection, self.resuming, self._cookies)

    def opened(self, opening: Opening, now: float) -> None:
        """The new connection is the session's."""
        assert opening.hello is not None, "there is no answer without a hello before it"
        self.hello = opening.hello
        self.started = opening.started or self.started
        self._connection = opening.connection
        self._cookies = opening.connection.cookies or self._cookies
        self._hear(opening.early, now)

    def receive(self, data: bytes, now: float) -> None:
        """Take what arrived; `reply` says what is to be sent for it."""
        try:
            self._hear(self._connection.receive(data), now)
        except SttdError as error:  # rule 2
            self.resuming.abandon(error)

    def reply(self) -> bytes:
        """What the connection itself answers, to pings and to the daemon's close, also after the end. Taken out."""
        return self._connection.data_to_send()

    def message(self) -> bytes | None:
        """The next of what the program said; None: nothing, or there is no connection. `resuming.written` follows."""
        said = self.resuming.take()
        return None if said is None else self._connection.message(said)

    def farewell(self) -> bytes:
        """The close frame, where there is still something to close. The session is OVER, done or not."""
        self.resuming.abandon(None)
        return b"" if self._connection.closed else self._connection.close()

    @property
    def closed(self) -> bool:
        """Whether the connection has ended."""
        return self._connection.closed

    # ---------------------------------------------------------------- what the program's calls wait for

    def goes_on(self) -> bool:
        """Whether more may be told; False after a session in good order. Raises what else ended it."""
        if self.resuming.phase is not Phase.OVER:
            return True
        if self.resuming.error is not None:
            raise self.resuming.error
        return False

    def check(self) -> None:
        """Raise why nobody will hear what is said, if that is so."""
        if not self.goes_on():
            raise ConnectionLostError("the session has ended")

    def is_written(self) -> bool:
        """Whether all that was said was taken to be written, or is kept for the next connection; raises as `check`."""
        if not self.resuming.unwritten:
            return True
        self.check()
        return self.resuming.phase is not Phase.OPEN

    def _hear(self, events: list[messages.Event], now: float) -> None:
        for event in events:
            self.resuming.heard(event)
        if self._connection.closed:
            self.resuming.lost(self._connection, now)
