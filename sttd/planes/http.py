"""The front of the audio sockets: reads a request head, and refuses it, answers it or hands it to the plane for it.

One request a connection. TCP and Unix sockets differ in the access rules alone (`wire/access.py`): a Unix peer is
known by its credentials, a TCP peer counts as the daemon's own user.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from functools import partial

import attrs
import trio

from sttd.admission import Peer, Place
from sttd.answers import as_map
from sttd.errors import SttdError
from sttd.host.sockets import Listener
from sttd.host.tls import Cipher
from sttd.metrics import CONTENT_TYPE as METRICS_TYPE
from sttd.planes import page, realtime, realtime_asking
from sttd.planes.audio import AudioLimits, serve_audio
from sttd.planes.deepgram import serve_deepgram
from sttd.planes.drain import Drain, serve_connections
from sttd.planes.lasting import Lasting
from sttd.planes.line import LineLimits
from sttd.planes.openai import UploadLimits, serve_call
from sttd.planes.peers import unix_peer
from sttd.planes.streams import RECEIVE_BYTES, bound_inflow, linger, widen_outflow
from sttd.planes.supervise import Supervisor, counted
from sttd.service import Service
from sttd.wire.access import AccessRules
from sttd.wire.frames import LargeMessages
from sttd.wire.http import Denial, HeadReader, Request, Response, json_response, refusal
from sttd.wire.routes import Call, Connect, Decision, Get, Offers, Route, decide, form_of


@attrs.frozen(kw_only=True)
class HttpLimits:
    """Bounds of the plane. Times in seconds."""

    connections: int = 512  # WebSockets and uploads; as many again may be in the middle of a plain request, or closing
    connections_per_uid: int = 128  # those of one user who has no say over the daemon; as many again likewise
    head_s: float = 5.0  # to send a request head
    answer_s: float = 10.0  # to take the answer
    large_bytes: int = 256 * 1024 * 1024  # chosen: as much as all sessions may hold of what their clients sent
    linger_s: float = 2.0  # to read the last bytes, while it may still be writing
    audio: AudioLimits = attrs.field(factory=AudioLimits)
    line: LineLimits = attrs.field(factory=LineLimits)
    upload: UploadLimits = attrs.field(factory=UploadLimits)


def configured_limits(service: Service) -> HttpLimits:
    """The limits that the configuration sets, the rest by default."""
    limits = service.settings.limits
    audio = AudioLimits(start_s=limits.start_timeout_s, idle_s=limits.idle_timeout_s)
    own = max(2 * limits.sessions_per_uid, limits.connections // 4)  # some wait for their `start`
    line = LineLimits(keepalive_s=limits.keepalive_s, idle_s=limits.adapter_idle_s)
    upload = UploadLimits(body_bytes=limits.upload_bytes, stall_s=limits.upload_stall_s, final_s=limits.final_upload_s)
    return HttpLimits(connections=limits.connections, connections_per_uid=own, audio=audio, line=line, upload=upload)


async def serve_http(
    listeners: Sequence[Listener],
    service: Service,
    *,
    lasting: Lasting,
    access: AccessRules | None,
    drain: Drain,
    cipher: Cipher | None = None,
    offers: Offers = Offers(),  # noqa: B008 (frozen)
    limits: HttpLimits | None = None,
    on_freed: Callable[[int], None] = lambda count_bytes: None,
    task_status: trio.TaskStatus[list[Listener]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve HTTP and WebSockets on the listeners until drained; closes them.

    Args:
        lasting: keeps the sessions that outlive their connections.
        access: the rules for TCP listeners; None for Unix sockets.
        cipher: the TLS of these listeners; None without.
        offers: the APIs of others that are answered.
        limits: None takes those of the configuration.
        on_freed: is told how many bytes a WebSocket received that has ended.

    No client can end it or disturb another one: whatever a connection raises is logged and counted, and ends that
    connection alone. Cancellation cuts all connections at once.
    """
    plane = _Plane(
        service=service,
        lasting=lasting,
        access=access,
        cipher=cipher,
        offers=offers,
        drain=drain,
        limits=limits or configured_limits(service),
        on_freed=on_freed,
        supervisor=Supervisor("audio", partial(service.meters.count_failure, "audio")),
    )
    service.quotas.declare(
        "connections_unix" if access is None else "connections_tcp",
        lambda: plane.accepted,
        limit=lambda: 2 * plane.limits.connections,
        per_user=lambda: 2 * plane.limits.connections_per_uid,
    )
    for listener in listeners:
        bound_inflow(listener)
    await serve_connections(listeners, plane.handle, drain=drain, task_status=task_status)


@attrs.define(eq=False, kw_only=True)
class _Plane:
    """What the connections share."""

    service: Service
    lasting: Lasting
    access: AccessRules | None
    cipher: Cipher | None
    offers: Offers
    drain: Drain
    limits: HttpLimits
    on_freed: Callable[[int], None]
    supervisor: Supervisor
    accepted: Counter[int] = attrs.field(factory=Counter, init=False)  # connections by uid, until they are closed
    _long: Counter[int] = attrs.field(factory=Counter, init=False)  # WebSockets and uploads, by uid
    _large: LargeMessages = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._large = LargeMessages(self.limits.large_bytes)

    async def handle(self, stream: trio.SocketStream) -> None:
        """One connection, from accept to close. Raises nothing but Cancelled."""
        with self.service.meters.connected("audio"):
            await self.supervisor.run(partial(self._admit, stream))

    async def _admit(self, stream: trio.SocketStream) -> None:
        """Serve the connection, unless its user or everybody together has too many."""
        peer = self._peer(stream)
        full = self.accepted.total() >= 2 * self.limits.connections
        if full or (not peer.privileged and self.accepted[peer.uid] >= 2 * self.limits.connections_per_uid):
            return
        with counted(self.accepted, peer.uid):
            attend = partial(self._attend, port=0 if self.access is None else stream.socket.getsockname()[1])
            await (attend(stream) if self.cipher is None else self.cipher.serve(stream, attend))

    async def _attend(self, stream: trio.SocketStream, *, port: int) -> None:
        """Serve what is in the clear, and close it. Raises nothing but Cancelled."""
        await self.supervisor.run(partial(self._serve, stream, port))
        await linger(stream, timeout_s=self.limits.linger_s)

    async def _serve(self, stream: trio.SocketStream, port: int) -> None:
        widen_outflow(stream)
        head = HeadReader()
        request = await self._read_head(stream, head)
        if request is None:
            await trio.aclose_forcefully(stream)
            return
        decision = request if isinstance(request, Response) else self._decide(stream, request, port)
        if isinstance(decision, Response):
            with_body = isinstance(request, Response) or request.method != "HEAD"
            await self._respond(stream, decision, with_body=with_body)
            return
        peer = self._peer(stream)
        with counted(self._long, peer.uid):
            await self._converse(stream, decision, peer, head)

    async def _converse(
        self, stream: trio.SocketStream, decision: Call | Connect, peer: Peer, head: HeadReader
    ) -> None:
        """Serve what lasts longer than an answer from memory."""
        match decision:
            case Connect(socket="audio", upgrade=upgrade, request=request):
                place = self._place(request, peer)
                if isinstance(place, Response):
                    await self._respond(stream, place)
                    return
                with place or nullcontext():
                    await serve_audio(
                        stream,
                        upgrade,
                        service=self.service,
                        lasting=self.lasting,
                        peer=peer,
                        place=place,
                        drain=self.drain,
                        limits=self.limits.audio,
                        on_freed=self.on_freed,
                    )
            case Connect(socket="listen"):
                refused = await serve_deepgram(
                    stream,
                    decision,
                    service=self.service,
                    peer=peer,
                    limits=self.limits.line,
                    on_freed=self.on_freed,
                )
                if refused is not None:
                    await self._respond(stream, refused)
            case Call():
                await serve_call(
                    stream,
                    decision,
                    head.body(),
                    service=self.service,
                    peer=peer,
                    drain=self.drain,
                    limits=self.limits.upload,
                    respond=partial(self._respond, stream, with_body=decision.request.method != "HEAD"),
                    on_freed=self.on_freed,
                )
            case Connect(socket="realtime", upgrade=upgrade, request=request):
                if refused := realtime_asking.check(request, service=self.service, peer=peer):
                    await self._respond(stream, refused)
                    return
                await realtime.serve_realtime(
                    stream,
                    upgrade,
                    request,
                    service=self.service,
                    peer=peer,
                    drain=self.drain,
                    limits=self.limits.line,
                    large=self._large,
                    on_freed=self.on_freed,
                )

    def _decide(self, stream: trio.SocketStream, request: Request, port: int) -> Response | Call | Connect:
        """What becomes of a request; `port` is the daemon's own, which a deciphered stream does not know."""
        decision: Decision = decide(request, access=self.access, port=port, offers=self.offers)
        if isinstance(decision, Get):
            return self._answer(decision.route, request)
        if isinstance(decision, Connect | Call) and (denial := self._too_many(self._peer(stream))):
            if isinstance(decision, Connect):
                denial = attrs.evolve(denial, status=503)  # some clients give up for good on 4xx
            return form_of(request.path)(denial)
        return decision

    def _too_many(self, peer: Peer) -> Denial | None:
        """Why there is no room for one more WebSocket or upload, or this user has enough of them."""
        own = self.limits.connections_per_uid
        if self._long.total() >= self.limits.connections:
            return Denial("overloaded", f"all {self.limits.connections} connections are taken; come again later")
        if not peer.privileged and self._long[peer.uid] >= own:
            return Denial("overloaded", f"user {peer.uid} has {own} connections, as many as one user may")
        return None

    def _place(self, request: Request, peer: Peer) -> Place | Response | None:
        """What is kept for a client that says that it will `start`, or its refusal; None: it does not say so."""
        if not request.says("start"):
            return None
        try:
            return self.service.admission.expect(self.service.defaults(), uid=peer.uid)
        except SttdError as error:
            return refusal(Denial.of(error))

    async def _respond(self, stream: trio.SocketStream, answer: Response, *, with_body: bool = True) -> None:
        self.service.meters.count_response(answer.status)
        with trio.move_on_after(self.limits.answer_s):
            await stream.send_all(answer.to_bytes(body=with_body))

    async def _read_head(self, stream: trio.SocketStream, head: HeadReader) -> Request | Response | None:
        """The head, its refusal, or None for a peer that sends none: it left, or a drain began before it was done."""
        result = None
        with trio.move_on_after(self.limits.head_s) as patience:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._stop_reading_on_drain, nursery.cancel_scope)
                result = await _receive_head(stream, head)
                nursery.cancel_scope.cancel()
        if patience.cancelled_caught:
            return refusal(Denial("idle_timeout", f"no request within {self.limits.head_s:g} s"))
        return result

    async def _stop_reading_on_drain(self, scope: trio.CancelScope) -> None:
        """Browsers keep connections in reserve; nothing is owed to them."""
        await self.drain.closed.wait()
        scope.cancel()

    def _answer(self, route: Route, request: Request) -> Response:
        """The content of a path. Bodies are made in memory: the largest are files of the page."""
        match route:
            case "ready":
                ready, reason = self.service.readiness()
                content = {
                    "status": "ok" if ready else "unavailable",
                    "reason": reason,
                    "admission": self.service.admission.usual(self.service.defaults()),
                }
                return json_response(content, status=200 if ready else 503)
            case "status":
                return json_response(as_map(self.service.status()))
            case "models":
                return json_response(as_map(self.service.desk.models()))
            case "metrics":
                return Response(status=200, body=self.service.metrics(), content_type=METRICS_TYPE)
            case "page":
                return page.answer(request, secure=self.cipher is not None)

    def _peer(self, stream: trio.SocketStream) -> Peer:
        if self.access is None:
            return unix_peer(stream)
        return Peer(uid=os.geteuid(), privileged=True)


async def _receive_head(stream: trio.SocketStream, head: HeadReader) -> Request | Response | None:
    while data := await stream.receive_some(RECEIVE_BYTES):
        if (result := head.push(data)) is not None:
            return result
    return None
