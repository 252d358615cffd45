"""The control plane: MessagePack-RPC on a Unix socket (docs/reference/control.md).

One task reads a connection; every request runs in a task of its own and is answered when it is done, so that a slow
`load` holds up nobody, not even a `ping` on the same connection. What bounds a connection:

    reading     a message that was begun must be complete within `message_s`
    turns       a user's connections take turns at reading and at beginning a request (`_User`)
    requests    `in_flight` of them, until the answer is being written; one more is refused unexecuted, by the reader,
                who so waits for a slow peer
    writing     one message at a time; a peer that takes nothing for `write_s` is dropped
    events      the hub's queue of this subscriber: while a write waits it fills, loses its oldest, and says so

A peer that goes, or breaks the protocol, has what is in flight cancelled. On a drain the connection takes no more
requests, finishes those in flight, sends the events that are queued, and closes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import attrs
import trio

from sttd.admission import Peer
from sttd.errors import AccessError, InternalError, ProtocolError, SttdError
from sttd.host import logs
from sttd.host.sockets import Listener
from sttd.hub import QUEUE, Subscription
from sttd.planes.drain import Drain, serve_connections
from sttd.planes.methods import METHODS, Call
from sttd.planes.peers import unix_peer
from sttd.planes.streams import linger
from sttd.planes.supervise import Supervisor
from sttd.service import Service
from sttd.wire import rpc, verbs

log = logs.get(__name__)

_READ_BYTES = 8 * 1024  # a hostile 8 KiB takes 3 ms to look at; then the others get their turn
_GRACE_S = 0.5  # for the answers to what a peer asked before it closed its sending side, or broke the protocol
_LINGER_S = 2.0  # for a peer to read why it is being closed, while it may still be writing


@attrs.frozen(kw_only=True)
class ControlLimits:
    """What one peer may take of the plane. Times in seconds."""

    in_flight: int = 32  # kitty's remote control allows as many
    connections: int = 512
    connections_per_uid: int = 64
    requests_per_uid: int = 512  # in flight, of all of a user's connections; chosen: 16 that ask all they may
    message_s: float = 10.0
    write_s: float = 10.0
    event_write_s: float = 30.0  # a subscriber may be looked away from for longer; its queue says what it missed


async def serve_control(
    listeners: Sequence[Listener],
    service: Service,
    *,
    drain: Drain,
    limits: ControlLimits | None = None,
    task_status: trio.TaskStatus[list[Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve the control plane on Unix listeners until it is drained; closes them.

    Args:
        limits: None takes those of the configuration.

    No peer can end it or disturb another: whatever a connection raises is logged and counted, and ends that
    connection alone. Cancellation cuts all connections at once. Stop this plane after the others: subscribers hear
    of finals that are made while sessions drain.
    """
    plane = _Plane(
        service=service,
        limits=limits or ControlLimits(connections=service.settings.limits.connections),
        drain=drain,
        supervisor=Supervisor("control", partial(service.meters.count_failure, "control")),
    )
    service.quotas.declare(
        "connections_control",
        lambda: {uid: user.connections for uid, user in plane.users.items()},
        limit=lambda: plane.limits.connections,
        per_user=lambda: plane.limits.connections_per_uid,
    )
    service.quotas.declare(
        "requests",
        lambda: {uid: user.requests for uid, user in plane.users.items()},
        per_user=lambda: plane.limits.requests_per_uid,
    )
    await serve_connections(listeners, plane.handle, drain=drain, task_status=task_status)


@attrs.define(eq=False, kw_only=True)
class _Plane:
    """What the connections share."""

    service: Service
    limits: ControlLimits
    drain: Drain
    supervisor: Supervisor
    users: dict[int, _User] = attrs.field(factory=dict, init=False)

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close. Raises nothing but Cancelled."""
        with self.service.meters.connected("control"):
            await self.supervisor.run(partial(self._serve, stream))

    async def _serve(self, stream: trio.SocketStream) -> None:
        try:
            if self.supervisor.active > self.limits.connections:
                log.warning("control connection refused", connections=self.limits.connections)
                return
            peer = unix_peer(stream)
            with self._counted(peer.uid) as user:
                if user.connections > 2 * self.limits.connections_per_uid:
                    return
                connection = _Connection(
                    stream=stream,
                    peer=peer,
                    service=self.service,
                    limits=self.limits,
                    drain=self.drain,
                    user=user,
                    refused=user.connections > self.limits.connections_per_uid,
                )
                try:
                    await connection.run()
                finally:
                    connection.forget_requests()
        finally:
            await trio.aclose_forcefully(stream)

    @contextmanager
    def _counted(self, uid: int) -> Iterator[_User]:
        user = self.users.setdefault(uid, _User())
        user.connections += 1
        try:
            yield user
        finally:
            user.connections -= 1
            if not user.connections:
                del self.users[uid]


@attrs.define(eq=False)
class _User:
    """All connections of a user. One of them has the turn, to read a few requests or to begin one: however many there
    are, a turn of the event loop has one step of theirs at most."""

    connections: int = 0
    requests: int = 0  # in flight
    turn: trio.Lock = attrs.field(factory=trio.Lock)


@attrs.define(eq=False, kw_only=True)
class _Connection:
    """One peer. `refused`: its user has too many connections; the first request is told so, and that is all."""

    stream: trio.SocketStream
    peer: Peer
    service: Service
    limits: ControlLimits
    drain: Drain
    user: _User
    refused: bool
    _in_flight: int = attrs.field(default=0, init=False)
    _writing: trio.Lock = attrs.field(factory=trio.Lock, init=False)
    _subscription: Subscription | None = attrs.field(default=None, init=False)

    # ------------------------------------------------------------------ its life

    async def run(self) -> None:
        """Serve until the peer goes, breaks the protocol, or the plane drains."""
        try:
            async with trio.open_nursery() as watcher:
                peer_goes = await self._serve_requests(watcher)
                watcher.cancel_scope.cancel()
        finally:
            self.replace_subscription(None)
        if not peer_goes:
            await linger(self.stream, timeout_s=_LINGER_S)

    async def _serve_requests(self, watcher: trio.Nursery) -> bool:
        peer_goes = True
        async with trio.open_nursery() as requests:
            with trio.CancelScope() as reading:
                watcher.start_soon(self._stop_reading, reading)
                peer_goes = await self._read(requests)
                requests.cancel_scope.deadline = trio.current_time() + _GRACE_S
            if self._subscription is not None:
                self._subscription.close()  # what is queued is still sent
        return peer_goes

    async def _stop_reading(self, reading: trio.CancelScope) -> None:
        await self.drain.started.wait()
        reading.cancel()

    async def _read(self, requests: trio.Nursery) -> bool:
        """Start a task for each request. Returns whether the peer closed; False: it is to be closed."""
        decoder = rpc.RpcDecoder()
        # Who has too many connections may ask one question, soon: an idle one would take somebody else's place.
        deadline = trio.current_time() + self.limits.message_s if self.refused else math.inf
        while True:
            data = b""
            with trio.CancelScope(deadline=deadline) as patience:
                data = bytes(await self.stream.receive_some(_READ_BYTES))
            if patience.cancelled_caught:
                late = ProtocolError(f"a message must be complete in {self.limits.message_s:g} s", code="bad_request")
                await self._take(decoder.give_up(late), requests)
                return False
            if not data:
                return True
            async with self.user.turn:
                messages = decoder.receive_data(data)
            for message in messages:
                if not await self._take(message, requests):
                    return False
            if self.refused:
                continue
            if not decoder.pending:
                deadline = math.inf
            elif messages or deadline == math.inf:  # another message has begun
                deadline = trio.current_time() + self.limits.message_s

    async def _take(self, message: rpc.Message | rpc.Malformed, requests: trio.Nursery) -> bool:
        """Act on one message; False where the connection is to be closed after it."""
        match message:
            case rpc.Request(msgid=msgid) if self.refused:
                await self._send_error(msgid, self._too_many(f"{self.limits.connections_per_uid} connections a user"))
                return False
            case rpc.Request(msgid=msgid) if self._in_flight >= self.limits.in_flight:
                await self._send_error(msgid, self._too_many(f"{self.limits.in_flight} requests in flight"))
            case rpc.Request(msgid=msgid) if self.user.requests >= self.limits.requests_per_uid:
                own = f"{self.limits.requests_per_uid} requests in flight on all connections of a user"
                await self._send_error(msgid, self._too_many(own))
            case rpc.Request():
                self._count(1)
                requests.start_soon(self._answer, message)
            case rpc.Notification():
                pass  # the protocol has none from a client, and asks for patience with those of the future
            case rpc.Response():
                return False  # the daemon asked nothing
            case rpc.Malformed(error=error, msgid=msgid):
                if msgid is not None:
                    await self._send_error(msgid, error)
                return False
        return True

    def _count(self, change: int) -> None:
        self._in_flight += change
        self.user.requests += change

    def forget_requests(self) -> None:
        """The connection has ended: what was in flight is no more."""
        self._count(-self._in_flight)

    def _too_many(self, limit: str) -> ProtocolError:
        return ProtocolError(f"{limit} are all that there may be", code="too_many_requests")

    # ------------------------------------------------------------------ answering

    async def _answer(self, request: rpc.Request) -> None:
        call = Call(connection=self, service=self.service, peer=self.peer, msgid=request.msgid)
        async with self.user.turn:
            pass  # it begins now; what waits for a model or a download waits beside others
        try:
            result = await self._execute(request, call)
            reply = rpc.encode_response(request.msgid, result=result)
        except SttdError as refusal:
            call.after = None
            reply = rpc.encode_response(request.msgid, error=refusal.as_map())
        except Exception:
            # The failure boundary of a request: a bug ends neither the connection nor the daemon.
            log.exception("request failed", method=request.method, uid=self.peer.uid)
            call.after = None
            bug = InternalError("a bug in sttd; its log has the traceback")
            reply = rpc.encode_response(request.msgid, error=bug.as_map())
        async with self._writing:
            # Before it is written, not after: who has read an answer may ask again at once. While a slow peer is waited
            # for, one answer alone is neither counted nor gone.
            self._count(-1)
            await self._write(reply, patience_s=self.limits.write_s)
        if call.after is not None:
            await call.after()

    async def _execute(self, request: rpc.Request, call: Call) -> Mapping[str, Any]:
        verb = verbs.verb_named(request.method)
        if verb.permission == "privileged" and not self.peer.privileged:
            raise AccessError(f"`{verb.name}` is for root and for the user that the daemon runs as")
        return await METHODS[verb.name](call, verbs.parse_params(verb.name, request.params))

    def limits_map(self) -> dict[str, Any]:
        """The limits as `hello` names them."""
        own = attrs.asdict(self.limits)
        return {"request_bytes": rpc.MAX_REQUEST_BYTES, "depth": rpc.MAX_DEPTH, "event_queue": QUEUE, **own}

    async def _send_error(self, msgid: int, error: SttdError) -> None:
        await self.send(rpc.encode_response(msgid, error=error.as_map()))

    async def send(self, data: bytes, *, patience_s: float | None = None) -> None:
        """Write one whole message. Must not be cancelled but with the connection: half a message would be left.

        Raises:
            trio.BrokenResourceError: the peer is gone, or takes nothing.
        """
        async with self._writing:
            await self._write(data, patience_s=patience_s or self.limits.write_s)

    async def _write(self, data: bytes, *, patience_s: float) -> None:
        with trio.move_on_after(patience_s) as patience:
            await self.stream.send_all(data)
        if patience.cancelled_caught:
            raise trio.BrokenResourceError("the peer does not read")

    # ------------------------------------------------------------------ events

    def replace_subscription(self, subscription: Subscription | None) -> None:
        """One subscription a connection; the one before ends."""
        if self._subscription is not None:
            self._subscription.close()
        self._subscription = subscription

    async def forward_events(self, subscription: Subscription) -> None:
        """Send what the subscription brings until it is closed; nothing more once another took its place."""
        while True:
            try:
                event = await subscription.receive()
            except trio.EndOfChannel:
                return
            if subscription is not self._subscription:
                return
            await self.send(rpc.encode_notification("event", params=event), patience_s=self.limits.event_write_s)
