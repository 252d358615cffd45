"""What goes wrong in a soak besides clients that misbehave. A fault is over when its function returns."""

from __future__ import annotations

import os
import random
import signal
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from pathlib import Path

from tests.soak.world import World

CROWD = 100


def freeze(world: World, rng: random.Random) -> None:
    """The daemon stands still, as on a machine that swaps."""
    world.daemon.process.send_signal(signal.SIGSTOP)
    time.sleep(rng.uniform(0.3, 3.0))
    world.daemon.process.send_signal(signal.SIGCONT)


def cut(world: World, rng: random.Random) -> None:
    """Every connection through the proxy is cut."""
    world.proxy.cut()


def reload(world: World, rng: random.Random) -> None:
    """A preset that is in use changes, and is loaded anew."""
    write_config(world.daemon.directory, rng, isolation=world.isolation)
    world.daemon.process.send_signal(signal.SIGHUP)


def unload(world: World, rng: random.Random) -> None:
    """Somebody wants the memory back, in the middle of others' work."""
    world.daemon.call("unload", wait=False)


def evict(world: World, rng: random.Random) -> None:
    """Models are asked for in turn, of which not all may be there at the same time."""
    for preset in rng.sample(world.fakes, len(world.fakes)):
        with suppress(RuntimeError):  # every place is taken, and whoever asks is told so
            world.daemon.call("load", preset=preset)


def unlink(world: World, rng: random.Random) -> None:
    """Somebody cleans up in the runtime directory."""
    for path in (world.daemon.audio, world.daemon.control):
        path.unlink(missing_ok=True)
    time.sleep(2.0)


def crowd(world: World, rng: random.Random) -> None:
    """Many come at once, say nothing or nonsense, and leave."""
    with ExitStack() as stack:
        for _ in range(CROWD):
            client = stack.enter_context(socket.socket())
            client.connect(("127.0.0.1", rng.choice((world.port, world.wyoming_port))))
            if rng.random() < 0.5:
                with suppress(OSError):
                    client.sendall(rng.randbytes(rng.choice((3, 300, 30_000))))
        time.sleep(rng.uniform(0.0, 1.0))


def crash(world: World, rng: random.Random) -> None:
    """The process of a model crashes, or the kernel kills it; nothing where models are in threads."""
    engines = engine_processes(world.daemon.process.pid)
    if engines:
        with suppress(ProcessLookupError):
            os.kill(rng.choice(engines), rng.choice((signal.SIGSEGV, signal.SIGKILL)))


FAULTS: Mapping[str, Callable[[World, random.Random], None]] = {
    fault.__name__: fault for fault in (freeze, cut, reload, unload, evict, unlink, crowd, crash)
}


def engine_processes(daemon_pid: int) -> list[int]:
    """The processes that the daemon has started."""
    found: list[int] = []
    for children in Path(f"/proc/{daemon_pid}/task").glob("*/children"):
        with suppress(OSError):  # a thread that has ended
            found += map(int, children.read_text().split())
    return found


def write_config(directory: Path, rng: random.Random, *, isolation: str) -> None:
    """Three fakes that take different times and hear the same, and the limits of a soak."""
    slow_ms, workers = rng.choice((60, 90, 120)), rng.choice((1, 2))
    text = f"""
[models]
model = "quick"
max_loaded_models = 3

[limits]
keepalive_s = 120

[scheduler]
admission_wait_s = 10

[endpointing]
silence_ms_min = 600
silence_ms_max = 600

[presets.quick]
backend = "fake"
model = "x"
decode_ms = 5

[presets.slow]
backend = "fake"
model = "x"
decode_ms = {slow_ms}
num_workers = {workers}

[presets.third]
backend = "fake"
model = "x"
decode_ms = 30
"""
    engine = f'\n[engine]\nisolation = "{isolation}"\n' if isolation else ""
    (directory / "sttd.toml").write_text(text + engine)
