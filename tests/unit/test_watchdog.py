"""What hangs is named with its tasks, and the tests after it run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = """
from tests.watchdog import Watchdog

def pytest_configure(config):
    config.pluginmanager.register(Watchdog(config, limit_s=10.0))
"""
TESTS = """
import signal, threading
import pytest, trio

async def nobody_comes():
    await trio.Event().wait()

async def test_a_deaf_task():
    with trio.CancelScope(shield=True):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(nobody_comes)

def test_a_lock():
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()

@pytest.mark.slow
def test_which_may_be_slow():
    assert not any(signal.getitimer(signal.ITIMER_REAL))

def test_after_it():
    assert any(signal.getitimer(signal.ITIMER_REAL))
"""


@pytest.mark.parametrize(
    ("test", "said", "others"),
    [
        ("test_a_deaf_task", "nobody_comes", "after"),
        pytest.param("test_a_lock", "no Trio loop", "after or slow", marks=pytest.mark.slow),
    ],
)
def test_a_test_that_hangs_is_named_and_the_others_run(tmp_path, test, said, others):
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\ntrio_mode = true\nmarkers = slow\n")
    (tmp_path / "test_it.py").write_text(TESTS)
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n1", "-p", "no:cacheprovider", "-k", f"{test} or {others}", tmp_path],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )
    assert f"1 failed, {1 + others.count(' or ')} passed" in run.stdout
    assert f"test_it.py::{test} did not end within 10 s" in run.stderr
    assert said in run.stderr
    assert f"crashed while running 'test_it.py::{test}'" in run.stdout
