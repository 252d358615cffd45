"""A daemon under churning sessions of all kinds while things go wrong, for as long as one likes.

`run` starts a real daemon and so many clients. Each client has one session after another, of a random kind, with a
random recording and manner. Beside them faults happen, one after another, and somebody listens to all transcripts:
the finals of every session, also of those whose client left, must be there once and in order. Now and then all of it
rests, and the daemon is looked at.
"""

from __future__ import annotations

import random
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from tests.census import Census, least
from tests.running import ControlLine, RunningDaemon, eventually
from tests.soak.clients import KINDS
from tests.soak.faults import FAULTS, write_config
from tests.soak.proxy import Proxy
from tests.soak.record import Record
from tests.soak.world import Manner, Refused, Tally, Vanished, World, clips, dial

SAMPLE_S = 2.0
THREADS_IDLE_S = 12.0  # a thread of trio's that has nothing to do leaves after ten seconds


@attrs.frozen(kw_only=True)
class Options:
    """How much of it."""

    seconds: float
    clients: int = 20
    rests: int = 6  # besides the first one
    fault_every_s: float = 5.0  # on average
    seed: int = 1
    clips: tuple[str, ...] = ("light", "date", "number", "question")
    real: str | None = "demo"  # a preset with a model for one session in ten
    isolation: str = ""  # `engine.isolation`; "" leaves it out: nothing but the daemon can crash then
    patient: bool = True  # rests wait for idle threads to leave


def run(options: Options, directory: Path) -> tuple[Record, Tally]:
    """One soak in this directory. Raises what goes wrong with the soak itself; broken promises are counted."""
    with _world(options, directory) as world:
        soak = _Soak(options, world)
        soak.run()
    return soak.record, world.tally


@contextmanager
def _world(options: Options, directory: Path) -> Iterator[World]:
    run_directory = directory / "run"
    run_directory.mkdir(parents=True)
    write_config(run_directory, random.Random(options.seed), isolation=options.isolation)
    daemon = RunningDaemon.start(
        run_directory,
        "--config", str(run_directory / "sttd.toml"), "--tcp", "127.0.0.1:0",
        "--set", 'server.wyoming=["127.0.0.1:0"]',
    )  # fmt: skip
    ports = {
        name.partition(":")[0]: int(name.rpartition(":")[2])
        for name in daemon.call("status")["server"]["listeners"]
        if name.startswith(("audio-tcp", "wyoming"))
    }
    (directory / "proxy").mkdir()
    proxy = Proxy(directory / "proxy" / "audio.sock", daemon.audio)
    world = World(
        daemon,
        port=ports["audio-tcp"],
        wyoming_port=ports["wyoming"],
        proxy=proxy,
        clips=clips(*options.clips),
        fakes=("quick", "slow", "third"),
        real=options.real,
        isolation=options.isolation,
    )
    try:
        yield world
        proxy.close()
        status = daemon.stop()
        if status != 0:
            world.tally.broke(f"the daemon ended with {status}")
        if "Traceback" in daemon.log():
            world.tally.broke(f"the daemon logged a traceback: {daemon.log()[-3000:]}")
    finally:
        proxy.close()
        daemon.process.kill()


@attrs.define(eq=False)
class _Soak:
    """What runs: clients, faults, the sampler, the listener; each in a thread."""

    options: Options
    world: World
    record: Record = attrs.field(factory=Record, init=False)
    _began: float = attrs.field(factory=time.monotonic, init=False)
    _churning: threading.Event = attrs.field(factory=threading.Event, init=False)
    _over: threading.Event = attrs.field(factory=threading.Event, init=False)
    _busy: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _finals: dict[str, list[int]] = attrs.field(factory=dict, init=False)  # by session, as a listener heard them

    def run(self) -> None:
        """The whole of it."""
        options = self.options
        for kind in KINDS:  # how everything sounds while nothing is wrong
            for clip in options.clips:
                self._session(random.Random(options.seed), kind, clip, Manner(random.Random(options.seed)))
        if self.world.tally.broken:
            raise RuntimeError(f"something is wrong before anything goes wrong: {self.world.tally.broken[0]}")
        with ControlLine(self.world.daemon) as line:
            line.call("subscribe", topics=["transcripts"])
            self._start(self._listen, line)
            self._rest()
            threads = [self._start(self._churn, number) for number in range(options.clients)]
            threads += [self._start(self._break_things), self._start(self._sample)]
            for _ in range(options.rests):
                self._churning.set()
                time.sleep(options.seconds / options.rests)
                self._churning.clear()
                self._rest()
            self._over.set()
            for thread in threads:
                thread.join()
            self._check_finals()

    def _start(self, target: object, *arguments: object) -> threading.Thread:
        def guarded() -> None:
            try:
                target(*arguments)  # type: ignore[operator]
            except Exception:
                self.world.tally.broke(f"the soak itself: {traceback.format_exc()}")

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    @property
    def _now_s(self) -> float:
        return time.monotonic() - self._began

    # ---------------------------------------------------------------- clients

    def _churn(self, number: int) -> None:
        rng = random.Random(f"{self.options.seed} {number}")
        kinds = list(KINDS)
        while self._may_go_on():
            kind = kinds[number] if number < len(kinds) else rng.choice(kinds)  # at least one of each
            self._session(rng, kind, rng.choice(self.options.clips), Manner.any(rng))
            self._done()
            time.sleep(rng.uniform(0.0, 0.3))

    def _may_go_on(self) -> bool:
        """Once things churn; False when all is over. Who goes on is busy until `_done`."""
        while not self._over.is_set():
            with self._lock:
                if self._churning.is_set():
                    self._busy += 1
                    return True
            time.sleep(0.05)
        return False

    def _done(self) -> None:
        with self._lock:
            self._busy -= 1

    def _session(self, rng: random.Random, kind: str, clip: str, manner: Manner) -> None:
        tally = self.world.tally
        try:
            KINDS[kind](self.world, rng, clip, manner)
        except Vanished:
            tally.count("left", kind)
        except Refused:
            tally.count("refused", kind)
            time.sleep(1.0)
        except Exception:
            tally.broke(f"{kind}, {clip}, {manner.kind}, at {self._now_s:.1f} s: {traceback.format_exc()}")
        else:
            tally.count("done", kind)

    # ---------------------------------------------------------------- who listens

    def _listen(self, line: ControlLine) -> None:
        """Keep the numbers of all finals; the connection ends with the soak."""
        with suppress(EOFError, OSError, ValueError):
            while True:
                event = line.event()
                if event["topic"] == "lagged":
                    self.world.tally.broke(f"a subscriber that reads lost {event['dropped']} events")
                elif event["topic"] == "transcripts":
                    self._finals.setdefault(event["session"], []).append(event["utterance"])

    def _check_finals(self) -> None:
        for session, numbers in self._finals.items():
            if numbers != list(range(1, len(numbers) + 1)):
                self.world.tally.broke(f"finals of {session}: {numbers}")
        for session, shown in self.world.shown.items():
            if missing := shown - set(self._finals.get(session, ())):
                self.world.tally.broke(f"{session}, whose client left, has no final of {sorted(missing)}")
            self.world.tally.heard(len(shown))

    # ---------------------------------------------------------------- faults, samples, rests

    def _break_things(self) -> None:
        rng = random.Random(f"{self.options.seed} faults")
        names: list[str] = []
        while self._may_go_on():
            try:
                names = names or rng.sample(sorted(FAULTS), len(FAULTS))  # each in turn, in any order
                name = names.pop()
                self.record.faults.append((self._now_s, name))
                self.world.tally.count("faults", name)
                dial(lambda name=name: FAULTS[name](self.world, rng))
            finally:
                self._done()
            self._over.wait(rng.uniform(0.0, 2 * self.options.fault_every_s))

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_S):
            if self._churning.is_set():
                census = dial(lambda: Census.take(self.world.daemon))
                self.record.samples.append((self._now_s, census))

    def _unloaded(self) -> bool:
        """Whether no model is there, or on its way: one that was being loaded is not unloaded by that."""
        self.world.daemon.call("unload", wait=True)
        return not self.world.daemon.call("status")["models"]["entries"]

    def _rest(self) -> None:
        """Everybody leaves; then what the daemon has is written down."""
        daemon = self.world.daemon
        eventually(lambda: self._busy == 0, otherwise=lambda: f"{self._busy} sessions do not end")
        eventually(lambda: dial(self._unloaded))
        eventually(lambda: dial(lambda: Census.take(daemon)).sessions == 0)
        base = self.record.rests[0][1] if self.record.rests else None
        if self.options.patient:
            time.sleep(THREADS_IDLE_S)
        # A leak stays. What a thread reads just now does not: after a reload the files of models.
        seen = [Census.take(daemon) for _ in range(5)]

        def at_rest() -> bool:
            seen.append(Census.take(daemon))
            return base is None or not least(seen).over(base)

        with suppress(AssertionError):  # the record says what is too much
            eventually(at_rest)
        self.record.rests.append((self._now_s, least(seen)))
