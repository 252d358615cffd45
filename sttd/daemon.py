"""The composition root: builds the parts, wires the planes to the service, starts, reloads, drains, stops.

Nurseries, outermost first; each layer outlives those inside it:

    engine   pool, dispatcher; event-loop watch
      └ duties   signals, watchdog, status line, idle exit, suspend
          └ control   the control plane
              └ keeping   sessions that outlive their connections
                  └ planes   HTTP and WebSocket on the Unix socket, the same on TCP, Wyoming

Stopping goes the other way: the listeners close; sessions get their finals and say goodbye; the dispatcher runs
dry; models are freed; and the process leaves by `os._exit`, because CTranslate2's threads may crash an
interpreter that takes itself apart around them.
"""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import attrs
import trio

import sttd
from sttd.answers import Reloaded
from sttd.config.tree import Config, changed, parse_networks
from sttd.engine import memory
from sttd.engine.engine import build_engine, open_engine
from sttd.engine.leases import PoolEntry
from sttd.errors import EXIT_OK, SttdError
from sttd.host import logs, privacy, rundir, sockets
from sttd.host.duties import supervised
from sttd.host.heap import HeapCare, settle
from sttd.host.looplag import LoopWatch
from sttd.host.suspend import watch_sleep
from sttd.host.systemd import InheritedSocket, Notifier
from sttd.host.tls import Cipher
from sttd.hub import Hub
from sttd.metrics import Metrics
from sttd.plan import Plan, Sources, make_plan, place, policy_options, pool_limits, read_token
from sttd.planes.control import serve_control
from sttd.planes.drain import Drain
from sttd.planes.http import serve_http
from sttd.planes.lasting import Lasting
from sttd.planes.streams import RESTS
from sttd.planes.wyoming import serve_wyoming
from sttd.service import Service
from sttd.session.registry import Registry
from sttd.wire.access import AccessRules
from sttd.wire.routes import Offers

log = logs.get("daemon")

_STATUS_EVERY_S = 2.0
_HOPELESS = 2  # times `decode_timeout_s`; chosen
_LAST_WORDS_S = 0.2  # what a client had sent when the signal came is on its way through buffers; it is still heard
_GOODBYE_S = 1.0  # after the drain's deadline, to write what was made of the last utterances then
_LOAD_EXTENDS_S = 60.0  # asked of systemd while a model loads; large-v3 from a slow disk takes about that


@attrs.define(eq=False)
class Daemon:
    """One run of the daemon."""

    sources: Sources
    plan: Plan
    notifier: Notifier
    listeners: sockets.Listeners
    inherited: list[InheritedSocket]
    service: Service = attrs.field(init=False)
    _stopping: trio.Event = attrs.field(factory=trio.Event, init=False)
    _started_with: Config = attrs.field(init=False)
    _drain_s: float | None = attrs.field(default=None, init=False)
    _control: Drain = attrs.field(factory=Drain, init=False)
    _heap: HeapCare = attrs.field(factory=lambda: HeapCare(trim=memory.trim), init=False)
    _audio: list[Drain] = attrs.field(factory=list, init=False)
    _cipher: Cipher | None = attrs.field(default=None, init=False)  # of the TCP plane
    _lasting: Lasting = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        config = self._started_with = self.plan.config
        self.service = Service(
            loaded=self.plan.loaded,
            preset_table=self.plan.presets,
            engine=build_engine(
                presets=self.plan.presets,
                backends=self.plan.backends,
                limits=pool_limits(config),
                options=policy_options(config),
                call_timeout_s=config.scheduler.decode_timeout_s,
                on_event=self._note_model,
                crew=self.plan.crew,
            ),
            store=self.plan.store,
            registry=Registry(config.limits.sessions, config.limits.sessions_per_uid),
            hub=Hub(),
            meters=Metrics(),
            health=LoopWatch(),
            on_reload=self.reload,
            on_shutdown=self.stop,
            listeners=tuple(self.listeners.names),
        )
        self._lasting = Lasting(self.service)

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Serve until told to stop, then drain. Cancellation ends everything at once."""
        service, engine = self.service, self.service.engine
        async with open_engine(engine), trio.open_nursery() as watch:
            watch.start_soon(service.health.run)
            watch.start_soon(RESTS.run)
            async with trio.open_nursery() as duties:
                await duties.start(self._heed_signals)
                for duty in (
                    self._beat,
                    self._report,
                    self._exit_when_idle,
                    service.watch_health,
                    self.listeners.watch,
                    self._heap.run,
                ):
                    duties.start_soon(supervised, duty)
                # logind may take its time to answer; Silero is loaded before the first session needs it.
                duties.start_soon(supervised, self._mind_sleep)
                duties.start_soon(engine.voice_network)
                duties.start_soon(service.desk.read_languages)  # Home Assistant waits for a second, and no longer
                async with trio.open_nursery() as control:
                    serve = _bind(serve_control, self.listeners.control, service, drain=self._control)
                    await control.start(serve)
                    await self._serve_sessions()
                    # Last: subscribers hear of the last finals, and `status` says what is going on until the end.
                    self._control.stop_accepting()
                duties.cancel_scope.cancel()
            if not await engine.finish(patience_s=self._patience_s()):
                # No thread can be stopped; one that outlasts the drain would keep the process until it is killed.
                log.warning("leaving with a decode or a load under way", drain_s=self._patience_s())
                self.listeners.remove_files()
                os._exit(EXIT_OK)
            watch.cancel_scope.cancel()
        log.info("stopped")

    def stop(self, drain_s: float | None = None) -> None:
        """Begin to stop; `drain_s` None is the configured time. Idempotent."""
        if not self._stopping.is_set():
            self._drain_s = drain_s
            self._stopping.set()

    async def _serve_sessions(self) -> None:
        """Everything that listens, the control plane aside, until told to stop and drained."""
        async with trio.open_nursery() as keeping:
            await keeping.start(self._lasting.run)
            async with trio.open_nursery() as planes:
                await self._open_planes(planes)
                settle()
                self.service.open()
                self.notifier.ready(self.service.summary())
                log.info("ready", listeners=", ".join(self.listeners.names), preset=self.plan.config.models.model)
                self._warn_if_not_ready()
                await self._stopping.wait()
                await self._drain()
            keeping.cancel_scope.cancel()

    async def _open_planes(self, planes: trio.Nursery) -> None:
        config, service, on_freed = self.plan.config, self.service, self._heap.freed
        offers = Offers(openai=config.server.openai, deepgram=config.server.deepgram)
        unix = Drain()
        serve = _bind(
            serve_http,
            self.listeners.audio,
            service,
            lasting=self._lasting,
            access=None,
            offers=offers,
            drain=unix,
            on_freed=on_freed,
        )
        await planes.start(serve)
        self._audio.append(unix)
        if self.listeners.tcp:
            server = config.server
            self._cipher = None if self.plan.tls is None else Cipher(self.plan.tls)
            access = AccessRules(
                allowed_hosts=server.allowed_hosts,
                allowed_origins=server.allowed_origins,
                token=read_token(config),
                secure=self._cipher is not None,
            )
            tcp = Drain()
            serve = _bind(
                serve_http,
                self.listeners.tcp,
                service,
                lasting=self._lasting,
                access=access,
                cipher=self._cipher,
                offers=offers,
                drain=tcp,
                on_freed=on_freed,
            )
            await planes.start(serve)
            self._audio.append(tcp)
        if self.listeners.wyoming:
            wyoming = Drain()
            serve = _bind(
                serve_wyoming,
                self.listeners.wyoming,
                service,
                allowed=parse_networks(config.server.wyoming_allowed),
                streaming=config.server.wyoming_streaming,
                drain=wyoming,
                on_freed=on_freed,
            )
            await planes.start(serve)
            self._audio.append(wyoming)

    async def _drain(self) -> None:
        """Finals for everybody, then goodbye; who is not done in time gets the text that is there."""
        patience_s = self._patience_s()
        deadline = trio.current_time() + patience_s
        sessions = self.service.begin_drain()
        log.info("stopping", sessions=sessions, drain_s=patience_s)
        self.notifier.stopping(f"Stopping; {sessions} session(s) get their last words")
        for drain in self._audio:
            if len(self._lasting):
                drain.begin()  # those who lost their connection may come back for their last words
            else:
                drain.stop_accepting()
            drain.close_at(deadline + _GOODBYE_S)
        self._control.close_at(deadline + _GOODBYE_S)
        await trio.sleep(min(_LAST_WORDS_S, patience_s))
        await self.service.drain(deadline=deadline)
        with trio.move_on_at(deadline):
            await self._lasting.wait_until_empty()
        for drain in self._audio:
            drain.stop_accepting()
        # The planes end by themselves once the last messages are written, or soon after the deadline.

    def _patience_s(self) -> float:
        return self.plan.config.server.drain_s if self._drain_s is None else self._drain_s

    # ------------------------------------------------------------------ reload

    async def reload(self) -> Reloaded:
        """Read the configuration again and take what can change while running. Raises ConfigError, changing nothing."""
        self.notifier.reloading(time.monotonic_ns() // 1000)
        try:
            plan = make_plan(self.sources)
            place(plan.loaded, environ=self.sources.environ, inherited=self.inherited)  # the next start must succeed
            now, _ = changed(self.plan.config, plan.config)
            _, restart = changed(self._started_with, plan.config)  # what waits for one is named until it comes
            self._apply(plan)
        except SttdError as exc:
            log.error("reload refused", reason=exc.message)
            raise
        finally:
            self.notifier.ready(self.service.summary())  # in any case: systemd would wait for it for ever
        log.info("reloaded", changed=", ".join(now), needs_restart=", ".join(restart))
        await trio.lowlevel.checkpoint()
        return Reloaded(changed=tuple(now), needs_restart=tuple(restart))

    def _apply(self, plan: Plan) -> None:
        """All of it synchronous, so that nobody sees half a configuration."""
        config, self.plan = plan.config, plan
        self.service.apply(
            plan.loaded, presets=plan.presets, limits=pool_limits(config), options=policy_options(config)
        )
        if self._cipher is not None and plan.tls is not None:
            self._cipher.context = plan.tls
        logs.configure(level=config.log.level, format=config.log.format)

    # ------------------------------------------------------------------ duties

    async def _heed_signals(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            task_status.started()
            async for number in signals:
                if number == signal.SIGHUP:
                    await self._reload_by_signal()
                elif self._stopping.is_set():
                    log.warning("stopping at once", signal=signal.Signals(number).name)
                    self.listeners.remove_files()
                    os._exit(128 + number)
                else:
                    self.stop()

    async def _reload_by_signal(self) -> None:
        try:
            await self.reload()
        except SttdError:
            return  # said in the log; a signal has nobody to answer

    async def _beat(self) -> None:
        """Feed the watchdog for as long as the loop turns and no decode hangs."""
        interval_s = self.notifier.watchdog_interval_s
        if interval_s is None:
            return
        while True:
            oldest_s = self.service.engine.oldest_call_s()
            # One that hangs is written off by then; where that did not happen, nothing here works any more.
            if oldest_s is None or oldest_s < _HOPELESS * self.plan.config.scheduler.decode_timeout_s:
                self.notifier.watchdog()
            else:
                log.error("a decode hangs; the watchdog is no longer fed", seconds=round(oldest_s))
            await trio.sleep(interval_s)

    async def _report(self) -> None:
        """Keep the line that `systemctl status` shows."""
        if not self.notifier.enabled:
            return
        said = ""
        while True:
            summary = self.service.summary()
            if summary != said and not self._stopping.is_set():
                self.notifier.status(summary)
                said = summary
            await trio.sleep(_STATUS_EVERY_S)

    async def _exit_when_idle(self) -> None:
        """With sockets that systemd holds, the next connection starts the daemon again."""
        idle_since = trio.current_time()
        while True:
            idle_s = self.plan.config.server.idle_exit_s
            if not (idle_s and self.listeners.inherited) or self.service.in_use:
                idle_since = trio.current_time()
            elif trio.current_time() - idle_since >= idle_s:
                log.info("idle, leaving; the next connection starts sttd again", idle_s=idle_s)
                self.stop()
                return
            await trio.sleep(min(1.0, idle_s / 4) if idle_s else 5.0)

    async def _mind_sleep(self) -> None:
        engine = self.service.engine
        await watch_sleep(on_sleep=engine.sleep, on_resume=engine.wake)

    # ------------------------------------------------------------------ what it says

    def _note_model(self, event: str, entry: PoolEntry, error: SttdError | None) -> None:
        if event == "loading":
            self.notifier.extend_timeout(_LOAD_EXTENDS_S)
        self.service.note_model(event, entry, error)

    def _warn_if_not_ready(self) -> None:
        ready, reason = self.service.readiness()
        if not ready:
            log.warning("not ready to transcribe", reason=reason)
        if self.plan.config.models.model == "demo":
            log.warning(
                "`demo` is a demonstration model for synthetic voices; "
                "get one for people with `sttctl pull base` and start with `--model base`"
            )


def _bind(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`nursery.start` passes positional arguments only."""

    async def start(*, task_status: trio.TaskStatus[Any]) -> None:
        await function(*args, **kwargs, task_status=task_status)

    return start


async def serve(sources: Sources, *, notifier: Notifier, inherited: list[InheritedSocket]) -> None:
    """Run a daemon to its end. Raises SttdError where it cannot start."""
    plan = make_plan(sources)
    config = plan.config
    logs.configure(level=config.log.level, format=config.log.format)
    if not config.server.traceable:
        privacy.keep_memory()
    log.info("starting", version=sttd.__version__, config=plan.loaded.path or "defaults")
    where = place(plan.loaded, environ=sources.environ, inherited=inherited)
    for warning in (*plan.loaded.warnings, *plan.warnings, *where.warnings):
        log.warning(warning)
    with rundir.owned(where.directory) as holding:
        listeners = await sockets.open_listeners(
            where.directory,
            tcp=where.tcp,
            tcp_is_default=where.tcp_is_default,
            wyoming=where.wyoming,
            wyoming_is_default=where.wyoming_is_default,
            inherited=inherited,
            holding=holding,
        )
        try:
            await Daemon(sources, plan, notifier, listeners, inherited).run()
        finally:
            listeners.remove_files()
