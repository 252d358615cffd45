"""The one API that all planes use: sessions, models, status, configuration, events.

A plane translates bytes to these calls and back, and knows nothing behind them. Answers are values
(`sttd/answers.py`); errors are `SttdError`s with their code.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import attrs
import trio

import sttd
from sttd.admission import Admission, Peer, Place
from sttd.answers import (
    ConfigValues,
    HealthStatus,
    OptionValue,
    Reloaded,
    ServerStatus,
    SessionPage,
    Status,
    compose_status,
)
from sttd.config.reader import Loaded
from sttd.config.tree import Config
from sttd.core.accounting import LatencyWindow
from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.core.types import Final, Interim
from sttd.defaults import session_defaults, session_tuning
from sttd.desk import ModelDesk
from sttd.engine.contract import Preset
from sttd.engine.dispatcher import Dispatcher
from sttd.engine.engine import Engine
from sttd.engine.leases import PoolEntry
from sttd.engine.pool import ModelPool
from sttd.engine.silero_batch import SharedSilero
from sttd.engine.stock import Stock
from sttd.engine.store.models import ModelStore
from sttd.errors import SttdError
from sttd.host import logs
from sttd.host.looplag import LoopWatch
from sttd.host.pace import Pace, Paces
from sttd.hub import Hub, Subscription
from sttd.metrics import Metrics
from sttd.options import Api, SessionChanges, SessionOptions
from sttd.quotas import Quotas, quotas_of
from sttd.session.fitting import fit_changes, fit_options
from sttd.session.inbox import Held
from sttd.session.registry import Registry, running
from sttd.session.session import Session
from sttd.session.turns import Turns
from sttd.uploads import Uploads, uploads_of

log = logs.get("service")

_HEALTH_EVERY_S = 2.0
_LATENCY_S = 300.0  # latencies in `status` are of the last 5 minutes


@attrs.define(eq=False, kw_only=True)
class Service:
    """The daemon as its planes see it. Owned by the daemon, which also runs the engine."""

    loaded: Loaded
    preset_table: Mapping[str, Preset]
    engine: Engine
    store: ModelStore
    registry: Registry
    hub: Hub
    meters: Metrics
    health: LoopWatch
    on_reload: Callable[[], Awaitable[Reloaded]]
    on_shutdown: Callable[[float | None], None]
    clock: Callable[[], float] = trio.current_time
    listeners: tuple[str, ...] = ()
    last_error: str | None = None
    audio_dropped_s: float = 0.0
    _opened: bool = attrs.field(default=False, init=False)
    _held: Held = attrs.field(factory=Held, init=False)
    _turns: Turns = attrs.field(factory=Turns, init=False)
    _started_at: float = attrs.field(init=False)
    _latency_ms: dict[str, LatencyWindow] = attrs.field(
        factory=lambda: {"final": LatencyWindow(_LATENCY_S), "interim": LatencyWindow(_LATENCY_S)}, init=False
    )

    admission: Admission = attrs.field(init=False)
    desk: ModelDesk = attrs.field(init=False)
    uploads: Uploads = attrs.field(init=False)
    quotas: Quotas = attrs.field(init=False)
    _paces: Paces = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._started_at = self.clock()
        self.admission = Admission(
            config=self.settings,
            presets=self.preset_table,
            engine=self.engine,
            registry=self.registry,
            on_refused=self.meters.count_refused_session,
            network=self.store.network,
        )
        self.desk = ModelDesk(admission=self.admission, pool=self.pool, store=self.store)
        limits = self.settings.limits
        self.uploads = uploads_of(limits)
        self._paces = Paces(limits.bytes_per_s_per_uid, clock=self.clock)
        self.quotas = quotas_of(
            registry=self.registry,
            dispatcher=self.dispatcher,
            held=self._held,
            uploads=self.uploads.room,
            paces=self._paces,
        )

    @property
    def settings(self) -> Config:
        """The configuration in effect."""
        return self.loaded.config

    @property
    def state(self) -> Literal["starting", "ready", "draining"]:
        """As `status` tells it."""
        return "draining" if self.admission.closed() else "ready" if self._opened else "starting"

    @property
    def pool(self) -> ModelPool:
        """The models in memory."""
        return self.engine.pool

    @property
    def stock(self) -> Stock:
        """What there is of them."""
        return self.engine.pool.stock

    @property
    def dispatcher(self) -> Dispatcher:
        """What decodes."""
        return self.engine.dispatcher

    # ------------------------------------------------------------------ what the daemon does with it

    def open(self) -> None:
        """Everything listens: the daemon is ready."""
        self._opened = True

    def apply(
        self, loaded: Loaded, *, presets: Mapping[str, Preset], limits: PoolLimits, options: PolicyOptions
    ) -> None:
        """Take a new configuration, at once, so that nobody sees half of it."""
        self.loaded, self.preset_table = loaded, presets
        self.admission.config, self.admission.presets = loaded.config, presets
        self.engine.configure(
            presets=presets,
            limits=limits,
            options=options,
            call_timeout_s=loaded.config.scheduler.decode_timeout_s,
        )
        self.registry.limit = loaded.config.limits.sessions
        self.registry.limit_per_uid = loaded.config.limits.sessions_per_uid
        self._paces.bytes_per_s = loaded.config.limits.bytes_per_s_per_uid

    def pace(self, uid: int) -> Pace:
        """What a plane calls after every read of a connection of this user."""
        return self._paces.of(uid)

    def begin_drain(self) -> int:
        """Take no more sessions, for the daemon stops. Returns how many are to be ended."""
        self.admission.state = "stopping"
        return len(self.registry)

    async def drain(self, *, deadline: float) -> None:
        """Finals for everybody; who is not done by the deadline gets the text that is there."""
        sessions = self.registry.all()
        for session in sessions:
            session.end("drain", close_code=1001)
        with trio.move_on_at(deadline):
            for session in sessions:
                await session.wait_finished()
        for session in sessions:
            session.abort(close_code=1001)  # changes nothing where it has finished
        with trio.move_on_at(deadline):
            await self.dispatcher.drain()

    def note_model(self, event: str, entry: PoolEntry, error: SttdError | None) -> None:
        """A model is loading, loaded, unloaded, or failed to load."""
        more = {} if error is None else {"error": error.as_map()}
        if error is not None:
            self.last_error = error.message
            log.warning(f"model {event}", preset=entry.preset, code=error.code, reason=error.message)
        else:
            log.info(f"model {event}", preset=entry.preset, device=entry.device, compute_type=entry.compute_type)
        self.hub.publish("models", {"event": event, **attrs.asdict(entry), **more})

    def summary(self) -> str:
        """What goes on, in a line for `systemctl status`."""
        statistics = self.dispatcher.statistics()
        waiting = sum(statistics.queued.values())
        models = ", ".join(entry.preset for entry in self.stock.status().entries) or "no model loaded"
        what = f"{'draining; ' if self.admission.closed() else ''}{len(self.registry)} session(s)"
        return f"{what}; {models}; {waiting} waiting, {statistics.in_flight} decoding"

    # ------------------------------------------------------------------ sessions

    def presets(self) -> list[str]:
        """Presets that a session may name."""
        return self.admission.selectable()

    def defaults(self, *, kind: Literal["live", "file"] = "live") -> SessionOptions:
        """What a session gets where its client does not say."""
        return session_defaults(self.settings, kind=kind)

    @asynccontextmanager
    async def open_session(
        self,
        options: SessionOptions,
        *,
        peer: Peer,
        api: Api = "sttd",
        whole: bool = False,
        place: Place | None = None,
    ) -> AsyncIterator[Session]:
        """A session for as long as the block runs.

        Args:
            options: what the client asks for.
            peer: who the client is.
            api: the wire by which it came.
            whole: all of the audio is here, so no pause in it is worth a guess at how it goes on.
            place: what was kept for it.

        Leaving the block without `stop` is a dropped connection: the finals still owed are made and go to
        subscribers before the block is left. Cancellation ends the session at once.

        Raises:
            ModelError: `model_not_found`, `model_not_local`.
            ProtocolError: `bad_option`; a model is asked for a language or a translation that it cannot do.
            OverloadedError, SessionError: no room, or the daemon is stopping.
        """
        options = attrs.evolve(options, interim_model=options.interim_model or options.model)
        silero = await self._voice_network()  # first: nothing may come between the admission and the list of sessions
        self.admission.admit(options, uid=peer.uid, place=place)
        window_s = self.preset_table[options.model].max_window_s
        options = fit_options(options, self.stock.shelf, window_s=window_s, selectable=self.presets())
        session = self._new_session(options, peer, api, silero=silero, whole=whole)
        self.registry.add(session)
        self.meters.count_session(api)
        self._tell_session("opened", session)
        try:
            async with running(session):
                yield session
        finally:
            self.registry.remove(session)
            self.dispatcher.forget(session.id)
            self.audio_dropped_s += session.dropped_s
            self._tell_session("closed", session)

    def fit_changes(self, changes: SessionChanges, *, options: SessionOptions) -> SessionChanges:
        """What `configure` may change in a session with these options. Raises ProtocolError, as `open_session`."""
        return fit_changes(changes, self.stock.shelf, options=options, selectable=self.presets())

    async def _voice_network(self) -> SharedSilero | None:
        return await self.engine.voice_network() if self.settings.vad.silero else None

    def _new_session(
        self, options: SessionOptions, peer: Peer, api: Api, *, silero: SharedSilero | None, whole: bool
    ) -> Session:
        return Session(
            id=self.registry.new_id(),
            uid=peer.uid,
            api=api,
            options=options,
            tuning=session_tuning(self.settings, self.stock.shelf, options, whole=whole),
            models=self.pool,
            decoding=self.dispatcher,
            silero=silero,
            held=self._held,
            turns=self._turns,
            clock=self.clock,
            on_final=self._note_final,
            on_written=self._note_written,
        )

    def _note_final(self, session: Session, final: Final) -> None:
        if self.hub.wanted("transcripts"):
            event = {"event": "final", "session": session.id, **attrs.asdict(final)}
            self.hub.publish("transcripts", event, uid=session.uid)

    def _note_written(self, event: Interim | Final, latency_s: float) -> None:
        kind: Literal["final", "interim"] = "final" if isinstance(event, Final) else "interim"
        self._latency_ms[kind].add(latency_s * 1000, now=self.clock())
        self.meters.observe_latency(kind, latency_s)

    def _tell_session(self, event: str, session: Session) -> None:
        log.info(f"session {event}", session=session.id, uid=session.uid, preset=session.options.model)
        self.hub.publish("sessions", {"event": event, **attrs.asdict(session.row())}, uid=session.uid)

    def sessions(self, *, peer: Peer, limit: int = 100, cursor: str | None = None) -> SessionPage:
        """One page of the sessions that this peer may see."""
        page, following = self.registry.page(uid=peer.sees, limit=limit, cursor=cursor)
        return SessionPage(sessions=tuple(session.row() for session in page), next=following)

    def close_session(self, *, peer: Peer, session: str, drain: bool = True) -> None:
        """End somebody's session. With `drain` what was said is still decoded. Raises NotFoundError.

        One that is asleep has its finals kept for its client with `drain`, else it is over at once.
        """
        found = self.registry.find(session, uid=peer.sees)
        if drain:
            found.end("drain")
        else:
            found.abort()
            found.rest.dismissed.set()

    def subscribe(self, *, peer: Peer, topics: tuple[str, ...]) -> Subscription:
        """Events from now on, of what this peer may see."""
        return self.hub.subscribe(frozenset(topics), uid=peer.sees)

    @property
    def in_use(self) -> bool:
        """Whether anybody would miss the daemon now: a session or an upload is open, a model is being downloaded, or it
        is drained: the next one would take sessions again."""
        return bool(len(self.registry) or self.uploads.active or self.desk.pulls or self.admission.closed())

    # ------------------------------------------------------------------ the daemon itself

    def config(self) -> ConfigValues:
        """Every option, its value and where it came from."""
        values = {key: OptionValue(value=value, origin=origin) for key, (value, origin) in self.loaded.values().items()}
        return ConfigValues(values=values)

    async def reload(self, *, peer: Peer) -> Reloaded:
        """Read the configuration again. Raises ConfigError, with the old one still in effect."""
        log.info("reload", uid=peer.uid)
        return await self.on_reload()

    def shutdown(self, *, peer: Peer, drain_s: float | None = None) -> None:
        """Stop the daemon, gently for so long."""
        log.info("shutdown", uid=peer.uid)
        self.on_shutdown(drain_s)

    def readiness(self) -> tuple[bool, str]:
        """Whether the default preset could serve a session now, and why not."""
        reason = self.admission.closed() or self.desk.missing()
        return reason is None, reason or "ok"

    def status(self) -> Status:
        """The state of the daemon in one look."""
        now = self.clock()
        return compose_status(
            server=ServerStatus(
                version=sttd.__version__,
                pid=os.getpid(),
                uptime_s=round(now - self._started_at, 3),
                state=self.state,
                listeners=self.listeners,
                config_path=self.loaded.path,
            ),
            models=self.stock.status(),
            workers=self.stock.workers,
            scheduler=self.dispatcher.statistics(),
            registry=self.registry,
            admission=self.admission.usual(self.defaults()),
            final_ms=self._latency_ms["final"].percentiles((0.5, 0.95, 0.99), now=now),
            interim_ms=self._latency_ms["interim"].percentiles((0.5, 0.95), now=now),
            quotas=self.quotas.rows(),
            health=self._health(),
        )

    def _health(self) -> HealthStatus:
        return HealthStatus(
            event_loop_lag_ms_p99=self.health.lag_ms_p99(),
            audio_dropped_s=round(self.audio_dropped_s + sum(s.dropped_s for s in self.registry.all()), 3),
            engine_restarts=self.engine.restarts + self.engine.crew.restarts,
            last_error=self.last_error or self.engine.trouble or self.engine.crew.trouble,
        )

    async def watch_health(self) -> None:
        """Tell subscribers of `health` whenever something got worse, until cancelled."""
        known = self._health()
        while True:
            await trio.sleep(_HEALTH_EVERY_S)
            before, known = known, self._health()
            if attrs.evolve(known, event_loop_lag_ms_p99=None) != attrs.evolve(before, event_loop_lag_ms_p99=None):
                self.hub.publish("health", {"event": "changed", **attrs.asdict(known)})

    def metrics(self) -> bytes:
        """The metrics page."""
        return self.meters.render(
            self.status(),
            apis=self.registry.apis(),
            asleep=self.registry.asleep(),
            held_bytes={"audio": self._held.total_bytes, "uploads": self.uploads.room.taken_bytes},
            tasks=trio.lowlevel.current_statistics().tasks_living,
        )
