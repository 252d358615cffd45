"""Daemons that are forked: they end as others do, say what they say, and none is left behind."""

import os
import signal
import subprocess

import pytest

from tests.running import RunningDaemon, eventually, zygote
from tests.zygote import Zygote


@pytest.fixture
def log(tmp_path):
    with (tmp_path / "log").open("w+") as file:
        yield file


def test_the_exit_status_and_what_was_said_come_back(log):
    child = zygote().start(["serve", "--set", "nonsense"], env={}, log=log)
    assert child.wait() == child.poll() == child.returncode == 2
    log.seek(0)
    assert "nonsense" in log.read()
    child.send_signal(signal.SIGTERM)  # to nobody


def test_whoever_is_killed_has_ended_by_the_signal(tmp_path):
    daemon = RunningDaemon.start(tmp_path, "--model", "fake", "--tcp", "off")
    with pytest.raises(subprocess.TimeoutExpired):
        daemon.process.wait(0.01)
    assert daemon.process.poll() is None
    daemon.process.kill()
    assert daemon.process.wait() == -signal.SIGKILL


def test_the_environment_is_the_one_that_was_given(tmp_path):
    daemon = RunningDaemon.start(tmp_path, "--tcp", "off", env={"STTD_MODELS__MODEL": "fake"})
    assert daemon.call("config")["values"]["models.model"]["value"] == "fake"
    assert daemon.stop() == 0


def test_what_is_left_ends_with_the_tests(log, tmp_path):
    tests = Zygote()
    child = tests.start(["serve", "--runtime-dir", str(tmp_path), "--tcp", "off", "--model", "fake"], env={}, log=log)
    os.kill(child.pid, 0)
    tests.leave()
    eventually(lambda: child.poll() is not None)
    assert child.returncode == -signal.SIGKILL
