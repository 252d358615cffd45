"""Pretrained models for the tests, daemons that run them, and recordings of people.

A model is what `sttd pull` has put into the user's cache; the first run pulls it. Where it cannot be had, the tests
that need it are skipped with the reason.
"""

from __future__ import annotations

import fcntl
import functools
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from benchmarks.recordings import load
from sttd.engine.store.models import ModelStore
from tests.running import PATIENCE_S, RunningDaemon

# One for English alone and small, one for many languages, which takes thrice as long: each day it hears those.
MODELS = ("tiny.en", pytest.param("base", marks=pytest.mark.slow))
PULL_S = 900.0  # chosen: 150 MB over a slow line


@pytest.fixture(scope="session")
def model_on_disk():
    """`model_on_disk("base")`: the directory of the model; skips where it is not there and cannot be pulled."""

    def located(name: str) -> Path:
        path, reason = _located(name)
        if path is None:
            pytest.skip(f"no model {name}: {reason}")
        return path

    return located


@functools.cache  # also what did not work is not tried again
def _located(name: str) -> tuple[Path | None, str]:
    # One at a time, also of test runs beside this one: `sttd pull` refuses while another does the same.
    with Path(tempfile.gettempdir(), "sttd-tests-pull.lock").open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        store = ModelStore()
        if (path := store.locate(name)) is not None:
            return path, ""
        reason = _pull(name)
        path = store.locate(name)
    return path, reason or "pulled, and not found"


def _pull(name: str) -> str:
    """Why it did not work; "" where it did."""
    try:
        done = subprocess.run(
            [sys.executable, "-m", "sttd", "pull", name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PULL_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"not pulled within {PULL_S:.0f} s"
    lines = done.stderr.strip().splitlines() or [f"sttd pull ended with {done.returncode}"]
    return lines[0] if done.returncode else ""


@pytest.fixture(scope="session")
def daemon_with(model_on_disk, tmp_path_factory):
    """`daemon_with("base")`: a daemon with that model, loaded; one for all tests, none of which leaves anything."""
    daemons: dict[str, RunningDaemon] = {}

    def running(name: str) -> RunningDaemon:
        model_on_disk(name)
        if name not in daemons:
            daemons[name] = RunningDaemon.start(
                tmp_path_factory.mktemp(name), "--tcp", "off", "--model", name,
                "--set", f"scheduler.decode_timeout_s={10 * PATIENCE_S}",  # a busy machine is no decode that hangs
            )  # fmt: skip
            daemons[name].call("load", preset=name, keep_alive_s=-1)
        return daemons[name]

    yield running
    for daemon in daemons.values():
        assert daemon.stop() == 0, daemon.log()


@pytest.fixture(params=MODELS)
def model(request) -> str:
    """The name of each model in turn."""
    return request.param


@pytest.fixture
def daemon(daemon_with, model) -> RunningDaemon:
    """A daemon for each model in turn."""
    return daemon_with(model)


@pytest.fixture(scope="session")
def recordings(testdata):
    """All recordings by name, as `benchmarks.recordings` loads them."""
    return load(testdata)
