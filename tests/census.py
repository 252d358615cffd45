"""What a daemon holds, counted from outside, and the one statement of what a fault may change: nothing.

    with unharmed(daemon):
        ...  # something goes wrong

Beside the block somebody speaks, and notices nothing. After it the counters are back where they were, no connection has
ended in a bug, and memory and descriptors are what they were.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import attrs
from prometheus_client.parser import text_string_to_metric_families

from tests.running import PATIENCE_S, RunningDaemon, check_promises, eventually, read_to_end, read_until, say, start

NOISE = bytes(range(256)) * 125  # 1 s of it, 16-bit at 16 kHz
HEARD = "w1 w2 w3"  # in that, by the fake recogniser
TOLD = {"endpointing": False, "interim": False}  # for who says himself where an utterance ends
# What a process may grow by and has not leaked: the allocator keeps pages, and those of a burst come back late. Chosen:
# a tenth of what the largest of the faults here has the daemon hold for a while.
MEMORY_SLACK_BYTES = 24 << 20


@attrs.frozen
class Census:
    """What the daemon has at one moment. `bugs` counts connections that ended in one, since the start."""

    sessions: int
    connections: int
    held_bytes: int
    tasks: int
    descriptors: int
    threads: int
    rss_bytes: int
    bugs: int

    @classmethod
    def take(cls, daemon: RunningDaemon) -> Census:
        """Now. Raises OSError where the daemon does not answer; the connection that asks is counted, always."""
        found = metrics(daemon)
        status = process_status(daemon.process.pid)
        return cls(
            sessions=found["sttd_sessions_active"],
            connections=found["sttd_connections_open"],
            held_bytes=found["sttd_held_bytes"],
            tasks=found["sttd_tasks"],
            descriptors=count_descriptors(daemon.process.pid),
            threads=status["Threads"],
            rss_bytes=status["VmRSS"] << 10,
            bugs=found.get("sttd_connection_failures_total", 0),
        )

    def over(self, base: Census) -> dict[str, tuple[int, int]]:
        """The counters that are above those of `base`, with both values. Threads are kept for a while, and not told."""
        names = ("sessions", "connections", "held_bytes", "tasks", "descriptors", "bugs")
        pairs = {name: (getattr(self, name), getattr(base, name)) for name in names}
        return {name: (now, then) for name, (now, then) in pairs.items() if now > then}


def least(several: Iterable[Census]) -> Census:
    """The smallest value of each counter."""
    return Census(*map(min, zip(*map(attrs.astuple, several), strict=True)))


def metrics(daemon: RunningDaemon) -> dict[str, int]:
    """The metrics page, each metric summed over its labels."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(PATIENCE_S)
        connection.connect(str(daemon.audio))
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while data := connection.recv(65536):
            answer += data
    head, _, body = answer.partition(b"\r\n\r\n")
    if b" 200 " not in head.partition(b"\r\n")[0]:
        raise ConnectionError(f"no metrics: {head[:80]!r}")
    found: dict[str, int] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + int(sample.value)
    return found


def process_status(pid: int) -> dict[str, int]:
    """Threads, VmRSS and VmSize (KiB) of /proc/PID/status."""
    with open(f"/proc/{pid}/status") as file:
        rows = [line.split() for line in file]
    return {row[0].removesuffix(":"): int(row[1]) for row in rows if row[0] in ("Threads:", "VmRSS:", "VmSize:")}


def count_descriptors(pid: int) -> int:
    """Descriptors without those of /proc and /sys: the first session opens them to read what memory there is."""
    count = 0
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with suppress(FileNotFoundError):
            count += not os.readlink(entry.path).startswith(("/proc/", "/sys/"))
    return count


# ---------------------------------------------------------------- somebody who is there all the time


@attrs.define(eq=False)
class Bystander:
    """Speaks an utterance after another on a connection of its own, in a thread, until it is to stop."""

    daemon: RunningDaemon
    finals: int = 0
    error: BaseException | None = None
    _spoken: threading.Event = attrs.field(factory=threading.Event, init=False)
    _enough: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="bystander")

    @contextmanager
    def speaking(self) -> Iterator[Bystander]:
        """It has spoken before the block, speaks meanwhile and is heard to the end after it."""
        self._thread.start()
        try:
            self.wait_for_another()
            yield self
        finally:
            self._enough.set()
            self._thread.join(2 * PATIENCE_S)
        assert self.error is None, repr(self.error)
        assert not self._thread.is_alive()

    def wait_for_another(self) -> None:
        """Until it has had one more final than now."""
        self._spoken.clear()
        assert self._spoken.wait(PATIENCE_S), "the bystander gets no final"
        assert self.error is None, repr(self.error)

    def _run(self) -> None:
        try:
            with self.daemon.connect() as client:
                start(client, label="bystander", **TOLD)
                events: list[dict[str, Any]] = []
                while not self._enough.is_set():
                    client.send(NOISE)
                    say(client, "finalize")
                    events += read_until(client, "final")
                    assert events[-1]["text"] == HEARD, events[-1]
                    self.finals += 1
                    self._spoken.set()
                    self._enough.wait(0.05)
                say(client, "stop")
                events += read_to_end(client)
                check_promises(events)
                assert client.close_code == 1000
                assert not [event for event in events if event["type"] == "error"], events
        except BaseException as error:
            self.error = error
        finally:
            self._spoken.set()


@contextmanager
def unharmed(daemon: RunningDaemon, *, memory_bytes: int = MEMORY_SLACK_BYTES) -> Iterator[Bystander]:
    """A fault in the block harms nobody; see the header. `memory_bytes`: what the daemon may have grown by."""
    with Bystander(daemon).speaking() as bystander:
        base = least(Census.take(daemon) for _ in range(5))  # a decode under way has tasks of its own
        yield bystander
        bystander.wait_for_another()
        eventually(
            lambda: not Census.take(daemon).over(base),
            otherwise=lambda: f"not as before: {Census.take(daemon).over(base)}",
        )
        grown = Census.take(daemon).rss_bytes - base.rss_bytes
        assert grown <= memory_bytes, f"{grown >> 20} MiB more than before"
    assert "Traceback" not in daemon.log()
