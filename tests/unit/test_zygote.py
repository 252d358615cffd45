"""Daemons that are forked: they end as others do, say what they say, and none is left behind."""

import os
import signal
import subprocess
from pathlib import Path

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


def runs(pid):
    """Whether it has not ended; one that nobody has buried has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("deaf", [False, True])
def test_what_is_left_ends_with_the_tests(log, tmp_path, deaf):
    """Also where nobody hears any more how one of them has ended, as when a worker leaves at once."""
    tests, options = Zygote(), ["--tcp", "off", "--model", "fake", "--set", "server.wyoming=[]"]
    one, other = (
        tests.start(["serve", "--runtime-dir", str(tmp_path / name), *options], env={}, log=log)
        for name in ("one", "other")
    )
    eventually(lambda: all((tmp_path / name / "control.sock").exists() for name in ("one", "other")))
    if deaf:
        os.close(one._report)
        os.kill(one.pid, signal.SIGKILL)
        eventually(lambda: not runs(one.pid))
    tests.leave()
    eventually(lambda: not runs(one.pid) and not runs(other.pid))
    assert other.wait() == -signal.SIGKILL
