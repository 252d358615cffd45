"""What libgomp is told about waiting, and that it is told in time."""

from __future__ import annotations

import pytest

from sttd.engine import openmp
from tests.running import RunningDaemon


def test_threads_spin_briefly():
    environ = {}
    openmp.spin_briefly(environ)
    assert environ == {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize(
    "given", [{"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "5"}]
)
def test_whoever_has_set_the_policy_keeps_it(given):
    environ = dict(given)
    openmp.spin_briefly(environ)
    assert environ == given


@pytest.mark.model
def test_the_daemon_says_so_before_libgomp_is_loaded(tmp_path):
    daemon = RunningDaemon.start(tmp_path, "--tcp", "off", env={"OMP_DISPLAY_ENV": "verbose"})
    try:
        daemon.call("load", preset="demo")
        log = daemon.log()  # libgomp writes there what it has understood
    finally:
        daemon.stop()
    assert "GOMP_SPINCOUNT = '1000'" in log
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in log
