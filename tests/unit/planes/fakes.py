"""A service and a session that do what a test tells them, and a plane that serves them on real sockets."""

from contextlib import asynccontextmanager
from functools import partial

import attrs
import trio

from sttd.admission import Place
from sttd.config.tree import Config
from sttd.core.types import Stopped
from sttd.host.pace import Paces
from sttd.host.spool import Room
from sttd.metrics import Metrics
from sttd.options import SessionOptions
from sttd.planes.audio import AudioLimits
from sttd.planes.drain import Drain
from sttd.planes.http import HttpLimits, serve_http
from sttd.planes.lasting import Lasting
from sttd.quotas import Quotas
from sttd.session.beginning import Beginning
from sttd.session.inbox import Inbox
from sttd.session.registry import Registry
from sttd.session.rest import Rest
from sttd.uploads import Uploads
from sttd.wire.access import AccessRules
from tests.answers import MODELS, STATUS

LOOPBACK = AccessRules()


@attrs.define(eq=False, slots=False)  # tests replace methods
class FakeSession:
    """Remembers what it was given; `say` is what it tells its client."""

    options: SessionOptions
    id: str = "s000001"
    close_code: int | None = None
    calls: list = attrs.field(factory=list)
    left: trio.Event = attrs.field(factory=trio.Event)
    told_to_stop: trio.Event = attrs.field(factory=trio.Event)
    stuck: bool = False  # take no audio
    heard_s: float = 0.0
    stays: bool = False  # beyond a `stop`
    rest: Rest = attrs.field(factory=Rest)
    finished: trio.Event = attrs.field(factory=trio.Event)
    _events: tuple = attrs.field(factory=lambda: trio.open_memory_channel(5000))
    ended: bool = False
    calm: bool = False
    inbox: Inbox = attrs.field(init=False)

    def __attrs_post_init__(self):
        self.inbox = Inbox(self.options)

    def say(self, *events):
        for event in events:
            self._events[0].send_nowait(event)

    def end(self, *events, close_code):
        if not self.ended:
            self.ended = True
            self.say(*events)
            self.close_code = close_code
            self._events[0].close()
            self.finished.set()

    def unstick(self):
        self.stuck = False
        self.inbox.close()
        self.inbox = Inbox(self.options)

    def named(self, name):
        return [call[1] for call in self.calls if call[0] == name]

    @property
    def ending(self):
        return "stop" if self.ended else None

    async def wait_for_room(self, *, patient=False):
        await trio.lowlevel.checkpoint()
        await self.inbox.wait_for_room()

    def feed(self, data):
        self.calls.append(("feed", data))
        self.inbox.put(data)
        if not self.stuck:
            self.inbox = Inbox(self.options)  # all of it was taken

    def finalize(self):
        self.calls.append(("finalize", None))

    def configure(self, changes):
        self.calls.append(("configure", changes))

    def stop(self):
        self.calls.append(("stop", None))
        self.told_to_stop.set()
        if not self.stays:
            self.end(Stopped(audio_s=0.0, utterances=0, dropped_s=0.0), close_code=1000)

    def abort(self):
        self.calls.append(("abort", None))
        self.end(Stopped(audio_s=0.0, utterances=0, dropped_s=0.0), close_code=1008)

    async def wait_finished(self):
        await self.finished.wait()

    def row(self):
        return self

    @property
    def audio_s(self):
        return self.heard_s

    async def receive(self):
        return await self._events[1].receive()


@attrs.define(eq=False, kw_only=True)
class FakeUploads(Uploads):
    """Holds uploads as the real ones do, and decodes them to what the service says."""

    service: object

    async def decode_beginning(self, pieces, *, most_s, uid):
        if self.service.refusals:
            raise self.service.refusals.pop(0)
        self.service.upload = b"".join([piece async for piece in pieces])
        return self.service.beginning


@attrs.define(eq=False)
class FakeService:
    """Opens `FakeSession`s, or raises `refusals` in turn."""

    meters: Metrics = attrs.field(factory=Metrics)
    sessions: list = attrs.field(factory=list)
    peers: list = attrs.field(factory=list)
    apis: list = attrs.field(factory=list)
    refusals: list = attrs.field(factory=list)
    ready: tuple = (True, "ok")
    upload: bytes = b""  # the last one
    config: Config = attrs.field(factory=Config)
    breaks: bool = False  # where a session is left
    staying: bool = False  # its sessions do not end at a `stop`
    opened: trio.Event = attrs.field(factory=trio.Event)
    unwanted: list = attrs.field(factory=list)  # raised in turn where it is asked whether a session would be opened
    taken: float = 0.0
    registry: Registry = attrs.field(factory=lambda: Registry(10, 10))
    places: list = attrs.field(factory=list)  # what each session was opened with
    beginning: Beginning = attrs.field(factory=lambda: Beginning(pcm=bytes(6400), duration_s=0.1, whole=True))
    uploads: Uploads = attrs.field(init=False)
    quotas: Quotas = attrs.field(factory=Quotas)

    def __attrs_post_init__(self):
        self.uploads = FakeUploads(Room(total_bytes=1 << 20, uid_bytes=1 << 20), finals=1, service=self)

    @property
    def desk(self):
        return self

    @property
    def admission(self):
        return self

    def usual(self, defaults):
        return self.taken

    def check(self, options, *, uid):
        if self.unwanted:
            raise self.unwanted.pop(0)

    def expect(self, defaults, *, uid):
        self.check(defaults, uid=uid)
        return Place(self.registry.expected, uid)

    def promise(self, *, uid):
        self.check(None, uid=uid)
        return Place(self.registry.promised, uid)

    def pace(self, uid):
        return Paces(0).of(uid)

    @property
    def settings(self):
        return self.config

    def presets(self):
        return ["auto", "fake"]

    def defaults(self, *, kind="live"):
        return SessionOptions(kind=kind, interim=kind == "live", model="fake")

    def fit_changes(self, changes, *, options):
        if self.refusals:
            raise self.refusals.pop(0)
        return changes

    @asynccontextmanager
    async def open_session(self, options, *, peer, api="sttd", whole=False, place=None):
        await trio.lowlevel.checkpoint()
        if self.refusals:
            raise self.refusals.pop(0)
        self.places.append(place)
        if place is not None:
            place.leave()
        session = FakeSession(options, stays=self.staying)
        self.sessions.append(session)
        self.peers.append(peer)
        self.apis.append(api)
        self.opened.set()
        try:
            yield session
        finally:
            session.left.set()
        if self.breaks:
            raise ZeroDivisionError

    def readiness(self):
        return self.ready

    def status(self):
        return attrs.evolve(STATUS, sessions=attrs.evolve(STATUS.sessions, active=len(self.sessions)))

    def repositories(self):
        return {"auto": None, "fake": None}

    def models(self):
        return MODELS

    async def read_languages(self):
        await trio.lowlevel.checkpoint()

    def languages(self, preset):
        return ("de", "en") if preset == "fake" else ("en",)

    def metrics(self):
        return self.meters.render(self.status())


@attrs.define(eq=False)
class RunningPlane:
    """A plane on one listener."""

    service: FakeService
    drain: Drain
    address: tuple | str

    async def connect(self):
        if isinstance(self.address, str):
            return await trio.open_unix_socket(self.address)
        return await trio.open_tcp_stream(*self.address)

    async def ask(self, request):
        """Send bytes, and return all that comes back."""
        async with await self.connect() as stream:
            await stream.send_all(request)
            return b"".join([chunk async for chunk in stream])

    async def get(self, path, *, host="localhost", method="GET", headers=""):
        answer = await self.ask(f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{headers}\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        return int(head.split()[1]), head.decode("latin-1"), body


@asynccontextmanager
async def open_plane(*, access=LOOPBACK, path=None, limits=None, service=None, on_freed=None, **audio):
    """Serve fakes over TCP, or over a Unix socket at `path`; `audio` are fields of AudioLimits."""
    service, drain = service or FakeService(), Drain()
    limits = limits or HttpLimits(linger_s=0.5, audio=AudioLimits(**{"close_s": 1.0, **audio}))
    if path is None:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        address = listeners[0].socket.getsockname()
    else:
        access, address = None, str(path)
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(address)
        listener.listen()
        listeners = [trio.SocketListener(listener)]
    async with trio.open_nursery() as nursery:
        more = {"on_freed": on_freed} if on_freed else {}
        lasting = Lasting(service)
        await nursery.start(_start, lasting.run)
        serve = partial(
            serve_http, listeners, service, lasting=lasting, access=access, drain=drain, limits=limits, **more
        )
        await nursery.start(_start, serve)
        yield RunningPlane(service, drain, address)
        nursery.cancel_scope.cancel()


async def _start(serve, *, task_status):
    await serve(task_status=task_status)
