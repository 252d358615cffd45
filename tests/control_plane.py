"""The control plane alone: on a real Unix socket, before a service that only pretends.

The client here knows msgpack and sockets, nothing of sttd's own codec.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgpack
import trio

from sttd.answers import ConfigValues, OptionValue, PullResult, Reloaded, SessionPage
from sttd.config.tree import Config
from sttd.engine.leases import LoadResult, UnloadResult
from sttd.errors import ModelError, NotFoundError
from sttd.hub import Hub
from sttd.planes.control import ControlLimits, serve_control
from sttd.planes.drain import Drain
from sttd.quotas import Quotas
from sttd.session.registry import Registry
from sttd.session.row import SessionRow
from tests.answers import ENTRY, MODELS, STATUS


@attrs.define(eq=False)
class Meters:
    """Counts, as the metrics do."""

    connections: int = 0
    failures: int = 0

    @contextmanager
    def connected(self, plane):
        self.connections += 1
        yield

    def count_failure(self, plane):
        self.failures += 1


@attrs.define(eq=False)
class FakeService:
    """What the plane calls. `load` waits for `gate`; some names of presets and models make trouble."""

    hub: Hub = attrs.field(factory=Hub)
    gate: trio.Event = attrs.field(factory=trio.Event)
    loading: int = 0
    cancelled_loads: int = 0
    shut_down: list[float | None] = attrs.field(factory=list)
    calls: list[Any] = attrs.field(factory=list)
    meters: Meters = attrs.field(factory=Meters)
    settings: Config = attrs.field(factory=Config)
    quotas: Quotas = attrs.field(factory=Quotas)

    def status(self):
        return STATUS

    @property
    def admission(self):
        return self

    @property
    def registry(self):
        registry = Registry(10, 10)
        registry.expected[0], registry.promised[0] = 2, 1
        return registry

    def drain(self, *, uid):
        self.calls.append(("drain", uid))

    def undrain(self, *, uid):
        self.calls.append(("undrain", uid))

    def models(self):
        return MODELS

    @property
    def desk(self):
        return self

    async def load(self, *, peer, preset, cpu_threads, num_workers, keep_alive_s):
        if preset == "missing":
            raise ModelError("there is no preset `missing`", code="model_not_found", data={"known": ["demo"]})
        if preset == "bug":
            raise ZeroDivisionError("a bug")
        if preset == "unsendable":
            return LoadResult(cache_hit=True, load_seconds=0.0, entry=object())
        self.loading += 1
        try:
            await self.gate.wait()
        except trio.Cancelled:
            self.cancelled_loads += 1
            raise
        finally:
            self.loading -= 1
        return LoadResult(cache_hit=False, load_seconds=0.0, entry=attrs.evolve(ENTRY, preset=preset))

    async def unload(self, *, peer, preset, wait):
        self.calls.append(("unload", preset, wait))
        return UnloadResult(unloaded=0, entries=(), native_trim_attempted=False, process_rss_bytes=1, vram_bytes=None)

    async def pull(self, *, model, revision, source, progress):
        for done in range(0, 101, 20):
            progress(done, 100, "model.bin")
            await trio.lowlevel.checkpoint()
        if model == "missing":
            raise ModelError("there is no such model", code="model_not_found")
        progress(7, None, "config.json")
        return PullResult(path="/models/" + model, model=model, source="hub", verified=True)

    def sessions(self, *, peer, limit, cursor):
        row = SessionRow(
            session="s1",
            uid=peer.uid,
            label="",
            api="sttd",
            kind="live",
            state="idle",
            model="fake",
            lang=None,
            audio_s=0.0,
            utterances=0,
            lag_s=0.0,
        )
        return SessionPage(sessions=(row,)[:limit], next=cursor)

    def close_session(self, *, peer, session, drain):
        raise NotFoundError(f"there is no session {session}")

    def config(self):
        return ConfigValues(values={"models.model": OptionValue(value="auto", origin="default")})

    async def reload(self, *, peer):
        return Reloaded(changed=(), needs_restart=())

    def subscribe(self, *, peer, topics):
        return self.hub.subscribe(frozenset(topics), uid=peer.sees)

    def shutdown(self, *, peer, drain_s):
        self.shut_down.append(drain_s)


@attrs.define(eq=False)
class Plane:
    """A running control plane."""

    path: Path
    service: FakeService
    drain: Drain

    @property
    def failures(self) -> int:
        return self.service.meters.failures

    @asynccontextmanager
    async def connect(self):
        async with await trio.open_unix_socket(self.path) as stream:
            yield Peer(stream)

    async def is_alive(self) -> bool:
        """A newcomer is served."""
        async with self.connect() as peer:
            return await peer.call("ping") == {}


@attrs.define(eq=False)
class Peer:
    """One connection, as another MessagePack-RPC library would have it."""

    stream: trio.SocketStream
    messages: list[Any] = attrs.field(factory=list)  # received and not asked for yet
    _unpacker: msgpack.Unpacker = attrs.field(factory=msgpack.Unpacker)
    _msgid: int = 0

    async def send(self, *messages: Any) -> None:
        await self.stream.send_all(b"".join(map(msgpack.packb, messages)))

    async def receive(self) -> Any:
        """The next message; trio.EndOfChannel at the end."""
        with trio.fail_after(60):
            while not self.messages:
                data = await self.stream.receive_some(65536)
                if not data:
                    raise trio.EndOfChannel
                self._unpacker.feed(data)
                self.messages += self._unpacker
        return self.messages.pop(0)

    async def receive_all(self) -> list[Any]:
        """Everything until the daemon closes."""
        received = []
        while True:
            try:
                received.append(await self.receive())
            except trio.EndOfChannel:
                return received

    async def call(self, method: str, **params: Any) -> Any:
        """The result; an error's map raises Refused. Notifications that come in between are kept."""
        self._msgid += 1
        await self.send([0, self._msgid, method, [params] if params else []])
        kept = []
        while True:
            message = await self.receive()
            if message[0] == 1 and message[1] == self._msgid:
                break
            kept.append(message)
        self.messages[:0] = kept
        if message[2] is not None:
            raise Refused(message[2])
        return message[3]


class Refused(Exception):
    """The daemon's error map."""

    @property
    def code(self) -> str:
        return self.args[0]["code"]


@asynccontextmanager
async def open_plane(directory: Path, *, limits: ControlLimits | None = None):
    """A plane that ends with the block."""
    path = directory / "control.sock"
    socket = trio.socket.socket(trio.socket.AF_UNIX)
    await socket.bind(str(path))
    socket.listen(50)
    plane = Plane(path, FakeService(), Drain())
    async with trio.open_nursery() as nursery:
        serve = partial(
            serve_control,
            [trio.SocketListener(socket)],
            plane.service,
            limits=limits,
            drain=plane.drain,
        )
        await nursery.start(serve)
        yield plane
        nursery.cancel_scope.cancel()
