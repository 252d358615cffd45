"""The Wyoming plane: Home Assistant and its satellites, over TCP and Unix sockets (`wire/wyoming.py`).

A connection is one nursery. It has a session in an utterance alone, in a task of its own:

    socket ──▶ listen ──▶ the session's inbox … the session … its outbox ──▶ transcribe ──▶ socket

- **listen** reads events at the speed that the inbox allows. `wire/wyoming_talk.py` says what one asks for. Where an
  utterance begins while the transcript of the last one is still to come, it waits for that, and reads a little ahead.
- **transcribe** holds the session and tells its text, until the transcript.

How a connection ends:

    the client is gone           an utterance of which it has text is a dropped connection; any other is not decoded
    it says what it may not      `error`, in place of a transcript; then the end of the stream
    the text cannot be had       the same: half a text would be taken for a whole one
    it does not read             the end; nothing could be said
    nothing is said for long     an utterance ends with an error; else the end of the stream
    the daemon drains            after the transcript, where one is owed
    somebody ends the session    the same

The protocol has no key. TCP clients are told apart by their addresses (`server.wyoming_allowed`), and count as the
daemon's own user; those on Unix sockets are known by their credentials.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address

import attrs
import trio

from sttd.admission import Peer
from sttd.errors import OverloadedError
from sttd.host import logs
from sttd.host.sockets import Listener
from sttd.planes.drain import Drain, serve_connections
from sttd.planes.peers import unix_peer
from sttd.planes.streams import bound_inflow, linger, widen_outflow
from sttd.planes.supervise import Supervisor, counted
from sttd.planes.wyoming_connection import Common, Connection, Line, WyomingLimits
from sttd.service import Service

log = logs.get(__name__)


def configured_limits(service: Service) -> WyomingLimits:
    """The limits that the configuration sets, the rest by default."""
    limits = service.settings.limits
    own = max(2 * limits.sessions_per_uid, limits.connections // 4)
    return WyomingLimits(connections=limits.connections, connections_per_uid=own, idle_s=limits.adapter_idle_s)


async def serve_wyoming(
    listeners: Sequence[Listener],
    service: Service,
    *,
    allowed: Sequence[IPv4Network | IPv6Network] = (),
    streaming: bool = True,
    drain: Drain,
    limits: WyomingLimits | None = None,
    on_freed: Callable[[int], None] = lambda count_bytes: None,
    task_status: trio.TaskStatus[list[Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve Wyoming on the listeners until drained; closes them.

    Args:
        allowed: where TCP clients may come from; empty: from wherever they reach the listeners.
        streaming: tell text while it is spoken.
        limits: None takes those of the configuration.
        on_freed: is told how many bytes a connection received that has ended.

    No client can end it or disturb another one: whatever a connection raises is logged and counted, and ends that
    connection alone. Cancellation cuts all connections at once.
    """
    limits = limits or configured_limits(service)
    common = Common(service=service, streaming=streaming, drain=drain, limits=limits)
    plane = _Plane(
        common=common,
        allowed=tuple(allowed),
        on_freed=on_freed,
        supervisor=Supervisor("wyoming", partial(service.meters.count_failure, "wyoming")),
    )
    for listener in listeners:
        bound_inflow(listener)
    service.quotas.declare(
        "connections_wyoming",
        lambda: plane.accepted,
        limit=lambda: 2 * plane.common.limits.connections,
        per_user=lambda: 2 * plane.common.limits.connections_per_uid,
    )
    await serve_connections(listeners, plane.handle, drain=drain, task_status=task_status)


@attrs.define(eq=False, kw_only=True)
class _Plane:
    """Lets connections in."""

    common: Common
    allowed: tuple[IPv4Network | IPv6Network, ...]
    on_freed: Callable[[int], None]
    supervisor: Supervisor
    accepted: Counter[int] = attrs.field(factory=Counter, init=False)  # connections by uid, until they are closed
    _served: Counter[int] = attrs.field(factory=Counter, init=False)  # those that were not refused, until they end

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close. Raises nothing but Cancelled."""
        with self.common.service.meters.connected("wyoming"):
            await self.supervisor.run(partial(self._admit, stream))

    async def _admit(self, stream: trio.SocketStream) -> None:
        """Serve the connection, unless it may not be there, or there are too many."""
        try:
            peer = self._peer(stream)
            if peer is None or self._too_many(peer, self.accepted, times=2):
                return
            with counted(self.accepted, peer.uid):
                await self.supervisor.run(partial(self._serve, stream, peer))
                await linger(stream, timeout_s=self.common.limits.linger_s)
        finally:
            await trio.aclose_forcefully(stream)

    async def _serve(self, stream: trio.SocketStream, peer: Peer) -> None:
        widen_outflow(stream)
        connection = Connection(
            common=self.common, line=Line(stream=stream, stall_s=self.common.limits.stall_s), peer=peer
        )
        if self._too_many(peer, self._served):
            await connection.refuse(OverloadedError("there are as many connections as there may be; come again later"))
            return
        try:
            with counted(self._served, peer.uid):
                await connection.run()
        finally:
            self.on_freed(connection.received_bytes)

    def _too_many(self, peer: Peer, counts: Counter[int], *, times: int = 1) -> bool:
        """Whether there is no room for one more, with so many `times` the limits."""
        full = counts.total() >= times * self.common.limits.connections
        return full or (not peer.privileged and counts[peer.uid] >= times * self.common.limits.connections_per_uid)

    def _peer(self, stream: trio.SocketStream) -> Peer | None:
        """Who is there; None: somebody who may not be."""
        if stream.socket.family == socket.AF_UNIX:
            return unix_peer(stream)
        if self.allowed:
            try:
                address = ip_address(stream.socket.getpeername()[0])
            except OSError:
                return None  # it is gone already
            if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
                address = address.ipv4_mapped  # by a socket of both families
            if not any(address in network for network in self.allowed):
                log.debug("a Wyoming client is not on the list `server.wyoming_allowed`", address=str(address))
                return None
        return Peer(uid=os.geteuid(), privileged=True)
