"""Sessions that outlive their connections: who keeps them, and how a connection gets one (docs/reference/audio.md).

`wire/resuming.py` has the rules. Here is what acts on them:

    keeper (a task for each session, in the nursery of `Lasting.run`)
        opens the session; waits until it is over: its time asleep has passed, its client has everything, or somebody
        has ended it at once; leaves it, which ends it as a dropped connection does: finals go to subscribers
    seat (one for each connection)
        is the session's while its connection serves it; whoever resumes has it vacated first, so that no event is
        written by two

Sleeping sessions count as sessions of their user, against the same limits. Each keeps events of
`wire/resuming.py:KEPT_BYTES`, and its queues have the bounds that they have awake.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Any, Protocol

import attrs
import trio
from trio_websocket import CloseReason

from sttd.admission import Peer, Place
from sttd.errors import SttdError
from sttd.host import logs
from sttd.options import SAMPLE_BYTES, Endpointing, SessionOptions
from sttd.planes import live
from sttd.service import Service
from sttd.wire.messages import Audio, Stop
from sttd.wire.resuming import Resuming, State, digest, unknown_token
from sttd.wire.talk import Answer

log = logs.get(__name__)

_OPENING_S = 5.0  # for the connection that asked for the session to take it; it does so at once
_DOUBT_S = 2.0  # for a client to answer a ping, once somebody shows the token that it has used; chosen
_TOKEN_BYTES = 32
_NO_HANDSHAKE = 1006  # RFC 6455: the code of a connection that ended without a close frame
_LEFT = 1000  # RFC 6455: what the connection was for has been done


class Rest(Protocol):
    """What a session knows of its client's absence."""

    dismissed: trio.Event

    def sleep(self, *, kept_bytes: int) -> None: ...
    def wake(self, *, now: float) -> None: ...


class Session(live.Session, Protocol):
    """As the audio plane uses it."""

    id: str

    @property
    def options(self) -> SessionOptions: ...
    @property
    def rest(self) -> Rest: ...
    @property
    def calm(self) -> bool: ...
    async def wait_finished(self) -> None: ...


@attrs.define(eq=False, kw_only=True)
class Kept:
    """One session, beyond its connections.

    Args:
        uid: whose it is.
        endpointing: as of the last `configure`.
    """

    session: Session
    uid: int
    machine: Resuming
    endpointing: Endpointing | None
    stopped: bool = attrs.field(default=False, init=False)  # its client has said `stop`
    error: SttdError | None = attrs.field(default=None, init=False)  # the fatal one, on whichever connection
    digests: tuple[bytes, ...] = attrs.field(default=(), init=False)  # under which it is known
    turn: trio.Lock = attrs.field(factory=trio.Lock, init=False)  # of those who resume it
    seat: Seat | None = attrs.field(default=None, init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)

    def change(self) -> None:
        """Something that somebody waits for may have happened."""
        self._changed.set()
        self._changed = trio.Event()

    async def next_change(self) -> None:
        """Wait for the next one."""
        await self._changed.wait()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true."""
        while not true():
            await self.next_change()


@attrs.define(eq=False, kw_only=True)
class Seat:
    """The connection that has a session.

    Args:
        token: the next one for its client.
        leave: asks the connection to let go of the session, which it does by `vacate`.
        asleep_s: how long the session waits after that.
    """

    kept: Kept
    token: str
    leave: Callable[[], None]
    asleep_s: Callable[[], float]
    all_written: bool = attrs.field(default=False, init=False)  # the last event is on its way
    doubted: trio.Event = attrs.field(factory=trio.Event, init=False)  # whether the client got its token
    _ack_due: trio.Event = attrs.field(factory=trio.Event, init=False)
    _ack_taken: trio.Event = attrs.field(factory=trio.Event, init=False)

    @property
    def machine(self) -> Resuming:
        """What was told and taken."""
        return self.kept.machine

    def hear(self, message: str | bytes, answer: Answer | None) -> Answer | None:
        """What is to be done about a message of the client: it counts, and of audio the whole samples are heard."""
        self.prove()
        if isinstance(answer, Audio):
            answer = Audio(payload=self.machine.take(answer.payload))
            if self.machine.ack_due:
                self._ack_due.set()
        elif isinstance(message, str) and answer is not None:
            self.machine.take_op()
        if isinstance(answer, Stop):
            self.kept.stopped = True
        return answer

    async def next_ack(self) -> dict[str, Any]:
        """The fields of the next `ack`, once it is due."""
        await self._ack_due.wait()
        self._ack_due = trio.Event()
        fields = self.machine.ack()
        self._ack_taken.set()
        self._ack_taken = trio.Event()
        return fields

    async def acknowledged(self) -> None:
        """Wait until the `ack` that is due is on its way: none covers more than a second, however fast a client is."""
        while self.machine.ack_due:
            await self._ack_taken.wait()

    def prove(self) -> None:
        """The client has got what it was told when it attached."""
        if self.machine.unproved:
            self.machine.prove()
            self.kept.change()

    def closed(self, reason: CloseReason | None) -> None:
        """The client is gone. One that says so itself had its token, and after the last event everything.

        One that closes with 1000 has left: a lost line says nothing, a page that is closed or a proxy says 1001.
        """
        if reason is not None and reason.code != _NO_HANDSHAKE:
            self.prove()
            if self.all_written or reason.code == _LEFT:
                self.finish()

    def finish(self) -> None:
        """The client has everything."""
        if self.kept.seat is self:
            self.machine.finish()
            self.kept.change()

    def vacate(self) -> None:
        """The connection writes and takes nothing more of the session. Idempotent."""
        if self.kept.seat is self:
            self.kept.seat = None
            self.machine.detach(now=trio.current_time(), for_s=self.asleep_s())
            if self.machine.state is State.ASLEEP:
                self.kept.session.rest.sleep(kept_bytes=self.machine.kept_bytes)
            self.kept.change()


@attrs.define(eq=False)
class Lasting:
    """All of the daemon's resumable sessions. `run` owns their tasks, and outlives the planes."""

    service: Service
    _nursery: trio.Nursery | None = attrs.field(default=None, init=False)
    _by_digest: dict[bytes, Kept] = attrs.field(factory=dict, init=False)
    _all: set[Kept] = attrs.field(factory=set, init=False)
    _empty: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep sessions until cancelled, which ends those that are left at once."""
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await trio.sleep_forever()

    def __len__(self) -> int:
        return len(self._all)

    async def wait_until_empty(self) -> None:
        """Wait until nobody can resume anything."""
        await trio.lowlevel.checkpoint()
        while self._all:
            await self._empty.park()

    # ------------------------------------------------------------------ what a connection asks for

    async def open(
        self, options: SessionOptions, *, peer: Peer, place: Place | None = None, leave: Callable[[], None]
    ) -> Seat:
        """A new session, and the first seat of it. Raises what `Service.open_session` raises."""
        assert self._nursery is not None, "sessions are kept while `run` runs"
        kept: Kept = await self._nursery.start(self._keep, options, peer, place)
        return self._seat(kept, shown=None, leave=leave)

    async def resume(self, token: str, last_seq: int, *, peer: Peer, leave: Callable[[], None]) -> Seat:
        """The next seat of the session of this token; the connection that has it is asked to leave, and waited for.

        Raises:
            NotFoundError: the token opens nothing, or more was missed than is kept.
            ProtocolError: `bad_option`; there were not so many events.
        """
        kept = self._find(token, peer)
        async with kept.turn:
            if kept.seat is not None and kept.machine.doubts(token):
                kept.seat.doubted.set()
                with trio.move_on_after(_DOUBT_S):
                    await kept.until(lambda: not kept.machine.doubts(token))
            self._find(token, peer).machine.check(last_seq)
            if kept.seat is not None:
                kept.seat.leave()
                await kept.until(lambda: kept.seat is None)
            self._find(token, peer).machine.check(last_seq)  # it may have got more, or the last event, while it left
            return self._seat(kept, shown=token, leave=leave)

    def _find(self, token: str, peer: Peer) -> Kept:
        kept = self._by_digest.get(digest(token))
        if kept is None or not kept.machine.opens(token) or kept.uid != peer.uid:
            raise unknown_token()
        return kept

    def _seat(self, kept: Kept, *, shown: str | None, leave: Callable[[], None]) -> Seat:
        seat = Seat(
            kept=kept,
            token=secrets.token_urlsafe(_TOKEN_BYTES),
            leave=leave,
            asleep_s=lambda: self.service.settings.limits.resume_s,
        )
        kept.machine.attach(shown=shown, successor=seat.token)
        self._know(kept)
        kept.session.rest.wake(now=trio.current_time())
        kept.seat = seat
        kept.change()
        return seat

    # ------------------------------------------------------------------ the keeper of one session

    async def _keep(
        self, options: SessionOptions, peer: Peer, place: Place | None, *, task_status: trio.TaskStatus[Kept]
    ) -> None:
        kept: Kept | None = None
        try:
            async with self.service.open_session(options, peer=peer, place=place) as session:
                kept = self._new(session, peer)
                task_status.started(kept)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._heed_dismissal, kept)
                    await self._until_over(kept)
                    nursery.cancel_scope.cancel()
                self._forget(kept)
        except Exception:
            if kept is None:
                raise  # it was refused, and its connection says so
            log.error("a resumable session failed", exc_info=True, session=kept.session.id, uid=kept.uid)
        finally:
            if kept is not None:
                self._forget(kept)

    def _new(self, session: Session, peer: Peer) -> Kept:
        options = session.options
        machine = Resuming(
            sample_rate=options.sample_rate,
            sample_bytes=SAMPLE_BYTES[options.encoding] * options.channels,
            expires_at=trio.current_time() + _OPENING_S,
        )
        kept = Kept(session=session, uid=peer.uid, machine=machine, endpointing=options.endpointing)
        self._all.add(kept)
        return kept

    async def _until_over(self, kept: Kept) -> None:
        while not kept.machine.expire(now=trio.current_time()):
            with trio.move_on_at(kept.machine.expires_at):
                await kept.next_change()

    async def _heed_dismissal(self, kept: Kept) -> None:
        """Of a session that somebody has ended at once nothing is kept for a client that is away."""
        await kept.session.rest.dismissed.wait()
        await kept.session.wait_finished()
        await kept.until(lambda: kept.seat is None)
        kept.machine.finish()
        kept.change()

    def _know(self, kept: Kept) -> None:
        """By its tokens of now."""
        for known in kept.digests:
            del self._by_digest[known]
        kept.digests = kept.machine.digests
        self._by_digest.update(dict.fromkeys(kept.digests, kept))

    def _forget(self, kept: Kept) -> None:
        """What is over knows no token, though its last finals may take their time. Idempotent."""
        kept.machine.finish()
        kept.session.rest.wake(now=trio.current_time())
        self._know(kept)
        self._all.discard(kept)
        if not self._all:
            self._empty.unpark_all()
