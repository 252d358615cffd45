"""A local cluster of Ray with sttd's application on it, in a process of its own (`deploy/ray/local_cluster.py`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks import report

PYTHON = report.ROOT / "build" / "ray" / "bin" / "python"
REASON = "`make ray` gets Ray Serve"
_SCRIPT = report.ROOT / "deploy" / "ray" / "local_cluster.py"


def configuration(*, port: int, args: dict[str, Any], **deployments: dict[str, Any]) -> dict[str, Any]:
    """What `serve deploy` would be given. HTTP is answered on one node, at `port` of loopback."""
    return {
        "proxy_location": "HeadOnly",
        "http_options": {"host": "127.0.0.1", "port": port},
        "applications": [
            {
                "name": "sttd",
                "route_prefix": "/",
                "import_path": "sttd_ray.app:build",
                "args": args,
                "deployments": [{"name": name, **options} for name, options in deployments.items()],
            }
        ],
    }


def replicas(count: int, *, ongoing: int = 16, waiting: int = 256, cpus: float = 1) -> dict[str, Any]:
    """Options of a deployment with so many replicas, no more and no less."""
    return {
        "num_replicas": count,
        "autoscaling_config": None,
        "max_ongoing_requests": ongoing,
        "max_queued_requests": waiting,
        "ray_actor_options": {"num_cpus": cpus},
    }


def scaled(*, most: int, ongoing: int, waiting: int) -> dict[str, Any]:
    """Options of a deployment that has one replica, and gets up to so many as soon as requests wait."""
    quickly = {"upscale_delay_s": 1, "metrics_interval_s": 1, "look_back_period_s": 2, "downscale_delay_s": 600}
    return {
        "autoscaling_config": {"min_replicas": 1, "max_replicas": most, "target_ongoing_requests": 1, **quickly},
        "max_ongoing_requests": ongoing,
        "max_queued_requests": waiting,
        "ray_actor_options": {"num_cpus": 1},
    }


class RayCluster:
    """The cluster; a context manager, at whose end no process of it is left.

    Args:
        config: see `configuration`.
        folder: for the configuration and the log.
        nodes: raylets.
        cpus: that each says it has.
    """

    def __init__(self, config: dict[str, Any], folder: Path, *, nodes: int = 3, cpus: int = 4) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file, self.log = folder / "serve.yaml", folder / "ray.log"
        self._file.write_text(json.dumps(config))
        self._arguments = ["--nodes", str(nodes), "--cpus", str(cpus), str(self._file)]

    def __enter__(self) -> RayCluster:
        environ = {**os.environ, "PYTHONPATH": str(report.ROOT)}
        with self.log.open("w") as log:
            self._process = subprocess.Popen(
                [str(PYTHON), str(_SCRIPT), *self._arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, env=environ,
            )  # fmt: skip
        try:
            self._answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.communicate()  # the end of its input is its end

    def order(self, *command: object) -> Any:
        """Have it do something; what it answers. Raises RuntimeError with the end of its log if it has failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the cluster has failed: {self.log.read_text()[-3000:]}")
        return json.loads(line)
