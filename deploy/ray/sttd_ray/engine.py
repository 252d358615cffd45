"""sttd's engine in a thread of its own, for a program that runs on asyncio.

    asyncio: decode ──► token.run_sync_soon ──► Trio: a task, a job, a ticket ──► Dispatcher ──► the model
       ▲                                                       │
       └──────────── a future of concurrent.futures ◄──────────┘

The dispatcher is the daemon's own: batches of one key form while the model is busy, finals go before interims and those
before files, deadlines are kept, what nobody waits for is not begun, what does not fit the memory is tried in smaller
batches. The model has a process of its own, as in the daemon, which is started again when it dies.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import functools
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import attrs
import trio

from sttd.core.pooling import PoolLimits
from sttd.core.scheduling import PolicyOptions
from sttd.core.types import DecodeItem, Hypothesis, JobClass
from sttd.engine.contract import Backend, EngineLostError, IsolableBackend, Lease, Preset
from sttd.engine.dispatcher import Dispatcher
from sttd.engine.engine import build_engine, open_engine
from sttd.engine.fake import FakeBackend
from sttd.engine.process.backend import IsolatedBackend
from sttd.engine.process.crew import Crew
from sttd.engine.store.ledger import Ledger
from sttd.engine.store.models import ModelStore, default_own_dir
from sttd.engine.tickets import Job, JobDropped
from sttd.engine.whisper.backend import WhisperBackend
from sttd.errors import InternalError, SttdError
from sttd.host import logs

log = logs.get(__name__)

_ENDED: Final = "the engine of this replica has ended"
_AWAY_S: Final = 120.0  # chosen: large-v3 from a slow disk takes about a minute
_FREE_S: Final = 5.0  # chosen: for the process of the model to end
_UID: Final = 0  # all requests are one user's: whose they are, the edge knows


class TooLateError(Exception):
    """The deadline passed before there was a hypothesis."""


def find_backends(crew: Crew, *, models_dir: str) -> dict[str, Backend]:
    """The recognisers that can decode on this machine, in processes of `crew`. Touches no network."""
    ledger = Ledger(default_own_dir().parent / "models.json")
    folder = Path(models_dir).expanduser() if models_dir else None
    whisper = WhisperBackend(store=ModelStore(models_dir=folder, network=False, ledger=ledger), ledger=ledger)
    inner: tuple[IsolableBackend, ...] = (whisper, FakeBackend())
    return {each.name: IsolatedBackend(inner=each, crew=crew) for each in inner}


@attrs.define(eq=False, kw_only=True)
class _Claim:
    """One item, whoever waits for it."""

    item: DecodeItem
    job_class: JobClass
    wait_s: float
    future: concurrent.futures.Future[Hypothesis]
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)


@attrs.define(eq=False, kw_only=True)
class EngineThread:
    """A loaded model and its dispatcher. The methods are for the thread that made it, and for asyncio.

    Args:
        preset: what to load, resolved.
        backends: by their names.
        crew: the processes of the backends.
        decode_timeout_s: a decode that takes longer hangs.
        away_s: for how long the process of the model may be gone before the engine counts as lost.
    """

    preset: Preset
    backends: dict[str, Backend]
    crew: Crew
    decode_timeout_s: float
    away_s: float = _AWAY_S
    lost: str | None = attrs.field(default=None, init=False)  # why it decodes nothing any more
    dispatcher: Dispatcher = attrs.field(init=False)
    _ids: Iterator[int] = attrs.field(factory=itertools.count, init=False)
    _seen: float | None = attrs.field(default=None, init=False)  # when the model had a process; None: it never had
    _thread: threading.Thread = attrs.field(init=False)
    token: trio.lowlevel.TrioToken = attrs.field(init=False)
    _spawn: Callable[[_Claim], object] = attrs.field(init=False)
    _stop: trio.Event = attrs.field(init=False)

    def start(self) -> None:
        """Load the model. Blocks until it can decode. Raises SttdError, or whatever ended the thread."""
        ready: concurrent.futures.Future[None] = concurrent.futures.Future()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="sttd-engine", daemon=True)
        self._thread.start()
        ready.result()

    def stop(self, *, wait_s: float) -> None:
        """Drop what waits, and free the model. Waits for the decode that runs, so long at most."""
        try:
            self.token.run_sync_soon(self._stop.set)
        except trio.RunFinishedError:
            return
        self._thread.join(wait_s)

    async def decode(self, item: DecodeItem, *, job_class: JobClass, wait_s: float) -> Hypothesis:
        """Decode an item, on asyncio. Cancelled, it is not begun, or nobody hears of it.

        Raises:
            EngineLostError: this engine decodes nothing any more; another one may.
            DecodeError: the engine failed on this item.
            OverloadedError: there is too much of this class already; has `retry_after_s`.
            TooLateError: `wait_s` is over.
        """
        claim = _Claim(item=item, job_class=job_class, wait_s=wait_s, future=concurrent.futures.Future())
        try:
            self.token.run_sync_soon(functools.partial(self._spawn, claim))
        except trio.RunFinishedError:
            raise EngineLostError(_ENDED) from None
        try:
            return await asyncio.wrap_future(claim.future)
        except asyncio.CancelledError:
            self._tell(claim.scope.cancel)
            raise

    def look_after(self) -> None:
        """Look whether the model has a process, now and then. One that does not come back makes the engine lost."""
        if self.crew.pids():
            self._seen = time.monotonic()
        elif self._seen is not None and time.monotonic() - self._seen > self.away_s:
            self.lost = "the process of the model does not come back"

    # ------------------------------------------------------------------ in its thread

    def _tell(self, what: Callable[[], object]) -> None:
        try:
            self.token.run_sync_soon(what)
        except trio.RunFinishedError:
            log.debug("the engine has ended already")

    def _run(self, ready: concurrent.futures.Future[None]) -> None:
        try:
            trio.run(self._serve, ready)
        except BaseException as error:
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            self.lost = f"the engine ended: {type(error).__name__}"
            if ready.done():
                log.exception("the engine ended")
            else:
                ready.set_exception(error)

    async def _serve(self, ready: concurrent.futures.Future[None]) -> None:
        engine = build_engine(
            presets={self.preset.name: self.preset},
            backends=self.backends,
            limits=PoolLimits(max_loaded_models=1, idle_ttl_s=0.0),
            options=PolicyOptions(final_workers=0),  # finals have replicas of their own
            call_timeout_s=self.decode_timeout_s,
            crew=self.crew,
        )
        self.dispatcher = engine.dispatcher
        self.dispatcher.on_hang = self._hang
        async with open_engine(engine):
            lease = await engine.pool.lease(self.preset.name)
            try:
                async with trio.open_nursery() as nursery:
                    self.token, self._stop = trio.lowlevel.current_trio_token(), trio.Event()
                    self._spawn = lambda claim: nursery.start_soon(self._settle, lease, claim)
                    ready.set_result(None)
                    await self._stop.wait()
                    nursery.cancel_scope.cancel()
            finally:
                lease.release()
            await engine.finish(patience_s=_FREE_S)

    def _hang(self, lease: Lease) -> None:
        self.lost = "a decode hangs"

    async def _settle(self, lease: Lease, claim: _Claim) -> None:
        """Decode one item, and tell. Whatever is wrong with it is told, too: others have this thread as well."""
        if not claim.future.set_running_or_notify_cancel():
            return
        claim.scope.deadline = trio.current_time() + claim.wait_s
        try:
            with claim.scope:
                ticket = self.dispatcher.submit(
                    Job(
                        item=claim.item,
                        job_class=claim.job_class,
                        session=str(next(self._ids)),  # each its own: none takes the place of another
                        uid=_UID,
                        deadline=claim.scope.deadline,
                        lease=lease,
                    )
                )
                outcome = await ticket.wait()
                claim.future.set_result(outcome.hypothesis)
                return
            claim.future.set_exception(TooLateError())
        except JobDropped:
            claim.future.set_exception(EngineLostError(_ENDED))
        except SttdError as error:
            if isinstance(error, EngineLostError):
                self.lost = error.message
            claim.future.set_exception(error)
        except Exception:
            log.exception("a job could not be decoded")
            claim.future.set_exception(InternalError("a bug in sttd; the log has the traceback"))
        finally:
            if not claim.future.done():  # the thread ends
                claim.future.set_exception(EngineLostError(_ENDED))
