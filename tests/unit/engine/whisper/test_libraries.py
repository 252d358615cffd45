"""What libgomp is told about waiting, and cuBLAS from a wheel: found, loaded in order, missed without a fuss."""

from __future__ import annotations

import ctypes
import sys

import pytest

from sttd.engine.whisper import libraries
from tests.running import RunningDaemon


def test_threads_spin_briefly():
    environ = {}
    libraries.spin_briefly(environ)
    assert environ == {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "1"}


@pytest.mark.parametrize(
    "given", [{"OMP_WAIT_POLICY": "passive"}, {"OMP_WAIT_POLICY": "active", "GOMP_SPINCOUNT": "5"}]
)
def test_whoever_has_set_the_policy_keeps_it(given):
    environ = dict(given)
    libraries.spin_briefly(environ)
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


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A place for packages that has the wheel's folders, and nothing else of that name."""
    folder = tmp_path / "nvidia" / "cublas" / "lib"
    folder.mkdir(parents=True)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in [name for name in sys.modules if name.partition(".")[0] == "nvidia"]:
        monkeypatch.delitem(sys.modules, name)
    yield folder
    for name in [name for name in sys.modules if name.partition(".")[0] == "nvidia"]:
        del sys.modules[name]


def test_both_libraries_are_loaded_for_everybody_and_in_order(wheel, monkeypatch):
    loaded = []
    monkeypatch.setattr(ctypes, "CDLL", lambda path, mode: loaded.append((path, mode)))
    for name in libraries.LIBRARIES:
        (wheel / name).touch()
    assert libraries.preload_cublas()
    assert loaded == [(str(wheel / name), ctypes.RTLD_GLOBAL) for name in libraries.LIBRARIES]


def test_a_wheel_without_them_counts_for_nothing(wheel):
    assert not libraries.preload_cublas()


def test_one_that_does_not_load_is_said_and_left_to_the_linker(wheel, caplog):
    for name in libraries.LIBRARIES:
        (wheel / name).write_bytes(b"no library")
    assert not libraries.preload_cublas()
    assert "does not load" in caplog.text


def test_no_wheel_is_no_trouble(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setitem(sys.modules, "nvidia", None)
    assert not libraries.preload_cublas()
