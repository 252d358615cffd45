"""What each method of the control plane does: the service's call behind it, or the connection's.

`METHODS` has a function for each verb that `sttd.wire.verbs` declares. Its parameters are checked, and the peer's
right to call it too. What it returns is the result; what it raises becomes the error.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias

import attrs
import trio

import sttd
from sttd.admission import Peer
from sttd.answers import as_map
from sttd.hub import Subscription
from sttd.service import Service
from sttd.wire import rpc, verbs
from sttd.wire.common import PROTOCOL

FEATURES = ("events", "progress", "describe", "resume")


class Connection(Protocol):
    """The connection that a request came by, as far as methods need it."""

    def limits_map(self) -> dict[str, Any]:
        """The limits as `hello` names them."""

    async def send(self, data: bytes) -> None:
        """Write one whole message. Must not be cancelled but with the connection."""

    def replace_subscription(self, subscription: Subscription | None) -> None:
        """Close the connection's subscription and put this one in its place."""

    async def forward_events(self, subscription: Subscription) -> None:
        """Send what the subscription brings until it is closed."""


@attrs.define(eq=False, kw_only=True)
class Call:
    """A request that is being executed. `after` runs once its answer is written."""

    connection: Connection
    service: Service
    peer: Peer
    msgid: int
    after: Callable[[], Awaitable[None]] | None = None


async def _hello(call: Call, params: verbs.HelloParams) -> Mapping[str, Any]:
    return {
        "server": f"sttd/{sttd.__version__}",
        "protocol": PROTOCOL,
        "pid": os.getpid(),
        "uid": call.peer.uid,
        "features": FEATURES,
        "limits": call.connection.limits_map(),
    }


async def _ping(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    return {}


async def _describe(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    return verbs.describe_verbs()


async def _status(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    return as_map(call.service.status())


async def _models(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    return as_map(call.service.desk.models())


async def _load(call: Call, params: verbs.LoadParams) -> Mapping[str, Any]:
    return as_map(await call.service.desk.load(peer=call.peer, **attrs.asdict(params)))


async def _unload(call: Call, params: verbs.UnloadParams) -> Mapping[str, Any]:
    return as_map(await call.service.desk.unload(peer=call.peer, preset=params.preset, wait=params.wait))


async def _pull(call: Call, params: verbs.PullParams) -> Mapping[str, Any]:
    progress = Progress(call=call)
    failure: Exception | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(progress.send)
        try:
            result = await call.service.desk.pull(
                model=params.model, revision=params.revision, source=params.source, progress=progress.report
            )
        except Exception as error:  # raised below: leaving the nursery with it would cut a notification in half
            failure = error
        progress.finish()
    if failure is not None:
        raise failure
    return as_map(result)


async def _sessions(call: Call, params: verbs.SessionsParams) -> Mapping[str, Any]:
    return as_map(call.service.sessions(peer=call.peer, limit=params.limit, cursor=params.cursor))


async def _close_session(call: Call, params: verbs.CloseSessionParams) -> Mapping[str, Any]:
    call.service.close_session(peer=call.peer, session=params.session, drain=params.drain)
    return {}


async def _config(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    return as_map(call.service.config())


async def _reload(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    return as_map(await call.service.reload(peer=call.peer))


async def _subscribe(call: Call, params: verbs.SubscribeParams) -> Mapping[str, Any]:
    topics = verbs.TOPICS if params.topics is None else params.topics
    subscription = call.service.subscribe(peer=call.peer, topics=topics)
    call.connection.replace_subscription(subscription)
    call.after = partial(call.connection.forward_events, subscription)
    return {}


async def _unsubscribe(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    call.connection.replace_subscription(None)
    return {}


async def _drain(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    call.service.admission.drain(uid=call.peer.uid)
    registry = call.service.registry
    return {"sessions": len(registry) + registry.promised.total()}


async def _undrain(call: Call, params: verbs.NoParams) -> Mapping[str, Any]:
    call.service.admission.undrain(uid=call.peer.uid)
    return {}


async def _shutdown(call: Call, params: verbs.ShutdownParams) -> Mapping[str, Any]:
    async def stop() -> None:
        call.service.shutdown(peer=call.peer, drain_s=params.drain_s)
        await trio.lowlevel.checkpoint()

    call.after = stop  # the answer first: with `drain_s` 0 there would be no time left for it
    return {}


Method: TypeAlias = Callable[[Call, Any], Awaitable[Mapping[str, Any]]]

METHODS: Mapping[str, Method] = {
    "hello": _hello,
    "ping": _ping,
    "status": _status,
    "models": _models,
    "load": _load,
    "unload": _unload,
    "pull": _pull,
    "sessions": _sessions,
    "close_session": _close_session,
    "config": _config,
    "reload": _reload,
    "subscribe": _subscribe,
    "unsubscribe": _unsubscribe,
    "drain": _drain,
    "undrain": _undrain,
    "shutdown": _shutdown,
    "describe": _describe,
}


@attrs.define(eq=False, kw_only=True)
class Progress:
    """The newest progress of each file of a `pull`: a peer that reads slowly sees fewer steps, and always the last."""

    call: Call
    _newest: dict[str, dict[str, Any]] = attrs.field(factory=dict, init=False)
    _changed: trio.Event = attrs.field(factory=trio.Event, init=False)
    _finished: bool = attrs.field(default=False, init=False)

    def report(self, done_bytes: int, total_bytes: int | None, file: str) -> None:
        """Take one step, on the event loop; never waits."""
        self._newest[file] = {
            "msgid": self.call.msgid,
            "done_bytes": done_bytes,
            "total_bytes": total_bytes,
            "file": file,
        }
        self._changed.set()

    def finish(self) -> None:
        """There are no more steps."""
        self._finished = True
        self._changed.set()

    async def send(self) -> None:
        """Send the steps until there are no more."""
        while self._newest or not self._finished:
            await self._changed.wait()
            self._changed = trio.Event()
            newest, self._newest = self._newest, {}
            for step in newest.values():
                await self.call.connection.send(rpc.encode_notification("progress", params=step))
