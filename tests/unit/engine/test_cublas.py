"""cuBLAS from a wheel: found where the wheel puts it, loaded in order, and missed without a fuss."""

import ctypes
import sys

import pytest

from sttd.engine import cublas


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
    for name in cublas.LIBRARIES:
        (wheel / name).touch()
    assert cublas.preload()
    assert loaded == [(str(wheel / name), ctypes.RTLD_GLOBAL) for name in cublas.LIBRARIES]


def test_a_wheel_without_them_counts_for_nothing(wheel):
    assert not cublas.preload()


def test_one_that_does_not_load_is_said_and_left_to_the_linker(wheel, caplog):
    for name in cublas.LIBRARIES:
        (wheel / name).write_bytes(b"no library")
    assert not cublas.preload()
    assert "does not load" in caplog.text


def test_no_wheel_is_no_trouble(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setitem(sys.modules, "nvidia", None)
    assert not cublas.preload()
