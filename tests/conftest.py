"""What all tests share: switches for slow and special tests, hypothesis profiles, where the recordings are."""

from __future__ import annotations

# ruff: noqa: E402
from sttd.host import blas

blas.import_numpy()  # before anything else imports it, as the daemon does

import os
import signal
import sys
from pathlib import Path

import hypothesis
import pytest

ROOT = Path(__file__).parents[1]
# A shell starts background jobs with SIGINT ignored, and programs inherit that: tests press Ctrl-C all the same.
signal.signal(signal.SIGINT, signal.default_int_handler)

sys.path.insert(0, str(ROOT))  # so that `tests.running` can be imported under importlib mode

# `deep` is for a night; CI and everyday runs take the quick one, with a fixed seed so that red means changed.
# How fast the machine is decides nothing: neither deadlines nor the check that examples come quickly.
_ANY_SPEED = {"deadline": None, "suppress_health_check": [hypothesis.HealthCheck.too_slow]}
hypothesis.settings.register_profile("quick", max_examples=40, derandomize=True, **_ANY_SPEED)
hypothesis.settings.register_profile("deep", max_examples=5000, **_ANY_SPEED)
hypothesis.settings.load_profile(os.environ.get("STTD_HYPOTHESIS", "quick"))

SWITCHES = {"slow": "--run-slow", "gpu": "--run-gpu", "network": "--run-network"}


def pytest_addoption(parser):
    for marker, switch in SWITCHES.items():
        parser.addoption(switch, action="store_true", help=f"also run tests marked {marker}")


def pytest_configure(config):
    from tests.watchdog import Watchdog

    config.pluginmanager.register(Watchdog(config))


def pytest_collection_modifyitems(config, items):
    for item in items:
        for marker, switch in SWITCHES.items():
            if item.get_closest_marker(marker) and not config.getoption(switch):
                item.add_marker(pytest.mark.skip(reason=f"marked {marker}; run with {switch}"))
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root"))


@pytest.fixture(scope="session")
def testdata() -> Path:
    """The folder with real recordings: $STTD_TESTDATA, or those of this folder."""
    path = Path(os.environ.get("STTD_TESTDATA") or ROOT / "tests" / "data")
    if not (path / "speech" / "manifest.jsonl").is_file():
        pytest.skip(f"no recordings in {path}; set STTD_TESTDATA")
    return path


@pytest.fixture
def serve(tmp_path):
    """A factory of real daemons: `serve("--model", "fake")`. Each is stopped, and must have stopped in good order."""
    from tests.running import RunningDaemon

    daemons = []

    def start(*arguments, directory="run", env=None):
        daemon = RunningDaemon.start(tmp_path / directory, *arguments, env=env)
        daemons.append(daemon)
        return daemon

    yield start
    for daemon in daemons:
        assert daemon.stop() == daemon.expected_status, daemon.log()
