"""A cluster of several nodes on this machine with the application on it, for tests and benchmarks.

    python deploy/ray/local_cluster.py --nodes 3 --cpus 2 CONFIG.yaml

Each node is a raylet of its own with workers of its own, as on so many machines (`ray.cluster_utils`). All ports are
chosen by the kernel, but for the one that the configuration gives to HTTP. Commands are JSON arrays on standard input,
a line each; each is answered by a line of JSON on standard output. What Ray itself says goes to standard error.

    ["replicas"]          → {"finals": [pid, …], …}: those that run
    ["kill", "finals"]    → SIGKILL for the process of one of them; its pid
    ["processes"]         → [pid, …]: all that belong to the cluster
    ["deploy", CONFIG]    → the application as configured so runs; null
    ["leave"]             → the whole cluster ends; null
    ["come"]              → it is there again, with the application; null

At the end of standard input everything ends, and no process is left.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import http.client as http_client
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

# Before Ray is imported, which reads them. A machine with other work to do is not a cluster that fails.
os.environ.update(
    RAY_USAGE_STATS_ENABLED="0",
    RAY_prestart_worker_first_driver="0",  # as many workers as replicas, no more
    RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S="120",
    RAY_SERVE_PROXY_HEALTH_CHECK_TIMEOUT_S="120",
    RAY_gcs_server_request_timeout_seconds="120",
    RAY_worker_niceness="0",  # it is 15: beside anything else workers would hardly come to run
    RAY_health_check_timeout_ms="60000",
    RAY_raylet_start_wait_time_s="180",
)
_HERE: Final = Path(__file__).parent
os.environ["PYTHONPATH"] = os.pathsep.join([str(_HERE), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
sys.path.insert(0, str(_HERE))

import ray  # noqa: E402
import yaml  # noqa: E402
from ray import serve  # noqa: E402
from ray.cluster_utils import Cluster  # noqa: E402
from ray.serve.config import HTTPOptions  # noqa: E402
from ray.serve.context import _get_global_client  # noqa: E402
from ray.serve.schema import ServeDeploySchema  # noqa: E402

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER: Final = 36
_PATIENCE_S: Final = 300.0  # chosen, as in the tests
_NODE: Final = {"object_store_memory": 100 * 1024**2, "include_dashboard": False, "gcs_server_port": 0}


class LocalCluster:
    """The cluster, and what is done to it."""

    def __init__(self, config: dict[str, Any], *, nodes: int, cpus: int) -> None:
        self._config, self._nodes, self._cpus = config, nodes, cpus
        self._folder: str | None = None
        self._cluster: Any = None

    def come(self) -> None:
        """Start the nodes and deploy the application. Returns when it answers."""
        self._folder = tempfile.mkdtemp(prefix="sttd-ray-", dir="/tmp")  # a Unix socket has 107 bytes for its path
        # Ray notes there which cluster is this machine's: `serve run` of somebody else must not join this one.
        os.environ["RAY_TMPDIR"] = self._folder
        Path(self._folder, "ray").mkdir()
        self._cluster = Cluster(
            initialize_head=True,
            head_node_args={"num_cpus": self._cpus, "temp_dir": self._folder, **_NODE},
            shutdown_at_exit=True,
        )
        for _ in range(self._nodes - 1):
            self._cluster.add_node(wait=False, num_cpus=self._cpus, object_store_memory=_NODE["object_store_memory"])
        ray.init(address=self._cluster.address, log_to_driver=False, logging_level="warning")
        _until(lambda: sum(node["Alive"] for node in ray.nodes()) == self._nodes)
        options = {"proxy_location": self._config.get("proxy_location", "HeadOnly")}
        with contextlib.suppress(TimeoutError):  # it waits for a minute; what runs by then is asked below
            serve.start(http_options=HTTPOptions(**self._config["http_options"]), **options)
        self.deploy(self._config)

    def deploy(self, config: dict[str, Any]) -> None:
        """Deploy the application as it is configured there; where HTTP is answered stays. Returns when it runs."""
        self._config = config
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config), _blocking=False)
        _until(self._runs)
        _until(self._answers)

    def leave(self) -> None:
        """End all of it at once, as when the power fails: what is under way is not waited for."""
        if self._cluster is not None:
            _kill_descendants()
            ray.shutdown()
            self._cluster = None
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def _runs(self) -> bool:
        """Whether all of it is as configured, with as many replicas as were asked for."""
        applications = _applications()
        for application in applications.values():
            if application["status"] == "DEPLOY_FAILED":
                raise RuntimeError(application["message"])
        wanted = [
            (each["name"], each["num_replicas"])
            for each in self._config["applications"][0]["deployments"]
            if "num_replicas" in each
        ]
        return all(application["status"] == "RUNNING" for application in applications.values()) and all(
            len(self.replicas().get(name, ())) == count for name, count in wanted
        )

    def _answers(self) -> bool:
        http = self._config["http_options"]
        connection = http_client.HTTPConnection(http["host"], http["port"], timeout=_PATIENCE_S)
        try:
            connection.request("GET", "/v1/models")
            return connection.getresponse().status in (200, 401)
        except OSError:
            return False
        finally:
            connection.close()

    def replicas(self) -> dict[str, list[int]]:
        """The processes of the replicas of the first application that run."""
        application = _applications()[self._config["applications"][0]["name"]]
        return {
            name: [replica["pid"] for replica in deployment["replicas"] if replica["state"] == "RUNNING"]
            for name, deployment in application["deployments"].items()
        }

    def processes(self) -> list[int]:
        """All that were started for the cluster and have not ended."""
        return sorted(_descendants())

    def kill(self, deployment: str) -> int:
        """SIGKILL for one of them; which it was."""
        pid = self.replicas()[deployment][0]
        os.kill(pid, signal.SIGKILL)
        return pid


def _applications() -> dict[str, Any]:
    details = _get_global_client().get_serve_details()
    applications: dict[str, Any] = details["applications"]
    return applications


def _until(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("the cluster does not come up")
        time.sleep(0.1)


def _own_family() -> None:
    """End when the parent does, and adopt those whose parents end before them: so all that has to end is known."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _kill_descendants() -> None:
    """End whatever was started here, and whatever that has started; nothing else."""
    while left := _descendants():
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        time.sleep(0.05)


def _descendants() -> set[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            with contextlib.suppress(OSError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, look = set[int](), [os.getpid()]
    while look:
        mine = children.get(look.pop(), [])
        found.update(mine)
        look += mine
    return found


def main() -> None:
    """Serve one program, which has the other ends of standard input and output."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--cpus", type=int, default=2)
    given = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what others print
    cluster = LocalCluster(yaml.safe_load(given.config.read_text()), nodes=given.nodes, cpus=given.cpus)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    _own_family()
    try:
        cluster.come()
        print(json.dumps("ready"), file=answers)
        for line in sys.stdin:
            name, *arguments = json.loads(line)
            if name not in ("come", "deploy", "leave", "replicas", "processes", "kill"):
                raise ValueError(f"there is no command {name!r}")
            print(json.dumps(getattr(cluster, name)(*arguments)), file=answers)
    finally:
        cluster.leave()
        _kill_descendants()


if __name__ == "__main__":
    main()
