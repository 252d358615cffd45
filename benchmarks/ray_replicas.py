"""Ray Serve (`deploy/ray`): finals per second with 1, 2 and 4 replicas, on a cluster of several nodes on this machine.

- `sleeping`: decodes that sleep, one at a time in each replica. It costs no arithmetic, so what is measured is the way
  there and back: Ray's proxy, the ingress, the queue, and how evenly replicas are kept busy.
- the model: real decodes, with one thread a replica. More replicas than cores gain nothing.

So many clients ask that each replica has one request that is decoded and others that wait. `of_linear` is the rate by
that of one replica and by their number. Where decodes sleep `of_ideal` is the rate by that of replicas that sleep all
the time: it needs no measured one, which could be slow itself. Its target is 0.9.
"""

from __future__ import annotations

import http.client
import statistics
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import attrs

from benchmarks import ray_cluster, recordings, report
from benchmarks.options import Options
from benchmarks.peer.environment import free_port
from benchmarks.ray_cluster import RayCluster
from sttd.core.types import DecodeItem, DecodeOptions, seconds
from sttd.engine.remote.asking import Request, request_for

COUNTS: Final = (1, 2, 4)
DECODE_MS: Final = 400  # chosen: what a final takes on a busy GPU; and far above what the way takes on two busy cores
CLIENTS: Final = 4  # a replica: one decoded, one in the replica, two in the queue
WARM_S: Final = 3.0
MEASURED_S: Final = 15.0
CLIPS_S: Final = (1.0, 8.0)  # of the recordings that are used: utterances
NODES: Final = 3
WAIT_S: Final = 120.0


@attrs.frozen(kw_only=True)
class Load:
    """What clients send, again and again, and how much audio each of it is."""

    requests: Sequence[Request]
    audio_s: Sequence[float]


def main(options: Options) -> None:
    """Both tables. Raises RuntimeError where there is no Ray."""
    if not ray_cluster.PYTHON.exists():
        raise RuntimeError(ray_cluster.REASON)
    port, model = free_port(), options.model
    sleeping = {"model": "fake", "preset": {"decode_ms": DECODE_MS}}
    real = {"model": "bench", "preset": {"model": str(model.path), "cpu_threads": 1, "num_workers": 1}}
    clips = [
        clip for clip in recordings.english(longest_s=CLIPS_S[1]) if seconds(len(clip.samples)) >= CLIPS_S[0]
    ]  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="sttd-bench-") as folder:
        config = _config(port, sleeping, 1, ongoing=2)
        with RayCluster(config, Path(folder), nodes=NODES, cpus=4) as cluster:
            meta = {"target": "0.9 of ideal", "decode_ms": DECODE_MS, "nodes": NODES, "clients_a_replica": CLIENTS}
            load = _load("fake", [clips[0].samples])
            report.write("ray_replicas", _asleep(_rows(cluster, port, sleeping, load, ongoing=2)), meta)
            load = _load("bench", [clip.samples for clip in clips])
            meta = {"clips": len(clips), "threads_a_replica": 1, "clients_a_replica": CLIENTS}
            report.write("ray_replicas", _rows(cluster, port, real, load, ongoing=4), meta, model=model.name)


def _config(port: int, args: dict[str, Any], count: int, *, ongoing: int) -> dict[str, Any]:
    return ray_cluster.configuration(
        port=port,
        args=args,
        ingress={"num_replicas": 1},
        finals=ray_cluster.replicas(count, ongoing=ongoing),
        bulk=ray_cluster.replicas(1),
    )


def _load(model: str, recorded: Sequence[Any]) -> Load:
    items = [DecodeItem(samples=samples, options=DecodeOptions(language="en")) for samples in recorded]
    requests = [
        request_for(
            item, model=model, answer="verbose_json", send_priority=False, deadline_s=WAIT_S, boundary="a-boundary"
        )
        for item in items
    ]
    return Load(requests=requests, audio_s=[seconds(len(samples)) for samples in recorded])


def _rows(cluster: RayCluster, port: int, args: dict[str, Any], load: Load, *, ongoing: int) -> list[dict[str, Any]]:
    rows, single = list[dict[str, Any]](), 0.0
    for count in COUNTS:
        cluster.order("deploy", _config(port, args, count, ongoing=ongoing))
        row = _measured(port, load, clients=CLIENTS * count)
        single = single or row["finals_per_s"]
        rows.append({"replicas": count, **row, "of_linear": row["finals_per_s"] / single / count})
    return rows


def _asleep(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same, with the share of the time that replicas slept."""
    return [{**row, "of_ideal": row["finals_per_s"] * DECODE_MS / 1000 / row["replicas"]} for row in rows]


def _measured(port: int, load: Load, *, clients: int) -> dict[str, Any]:
    began = time.monotonic()
    crowd = [_Client(port, load, offset) for offset in range(clients)]
    time.sleep(WARM_S + MEASURED_S)
    since, until = began + WARM_S, time.monotonic()
    for client in crowd:
        client.done.set()
    for client in crowd:
        client.join()
    answered = [answer for client in crowd for answer in client.answers if since <= answer[0] < until]
    took = sorted(1000 * took_s for _, took_s, _ in answered)
    return {
        "finals_per_s": len(answered) / (until - since),
        "audio_s_per_s": sum(audio_s for _, _, audio_s in answered) / (until - since),
        "p50_ms": statistics.median(took),
        "p99_ms": statistics.quantiles(took, n=100)[98],
    }


class _Client:
    """Asks, waits for the answer, and asks again."""

    def __init__(self, port: int, load: Load, offset: int) -> None:
        self.done = threading.Event()
        self.answers: list[tuple[float, float, float]] = []  # when, how long it took, how much audio
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, args=(port, load, offset), daemon=True)
        self._thread.start()

    def join(self) -> None:
        """Wait for its last answer. Raises what went wrong."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self, port: int, load: Load, number: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        try:
            while not self.done.is_set():
                number = (number + 1) % len(load.requests)
                request, began = load.requests[number], time.monotonic()
                connection.request(request.method, "/v1" + request.path, request.body, dict(request.headers))
                answer = connection.getresponse()
                body = answer.read()
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {body[:300]!r}")
                now = time.monotonic()
                self.answers.append((now, now - began, load.audio_s[number]))
        except Exception as error:
            self._error = error
        finally:
            connection.close()
