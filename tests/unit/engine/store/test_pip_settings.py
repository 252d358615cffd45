"""pip's configuration, read as pip reads it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from sttd.engine.store import pip_settings as module
from sttd.engine.store.pip_settings import pip_settings
from sttd.errors import ModelError


@pytest.fixture
def machine(tmp_path):
    """An environment without any configuration; its folders can be written to."""
    (tmp_path / "home").mkdir()
    return {
        "HOME": str(tmp_path / "home"),
        "XDG_CONFIG_DIRS": str(tmp_path / "xdg"),
        "PIP_INDEX_URL": "https://mirror.test/simple/",
    }


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def settings(environ, tmp_path):
    return pip_settings(environ, prefix=str(tmp_path / "venv"))


def test_the_environment_goes_before_the_files_and_later_files_before_earlier(machine, tmp_path):
    del machine["PIP_INDEX_URL"]
    write(tmp_path / "xdg/pip/pip.conf", "[global]\nindex-url = https://machine.test/simple\nproxy = http://p.test:1\n")
    assert settings(machine, tmp_path).indexes == ("https://machine.test/simple",)
    write(tmp_path / "home/.config/pip/pip.conf", "[global]\nindex_url = https://user.test/simple\n")
    assert settings(machine, tmp_path).indexes == ("https://user.test/simple",)
    write(
        tmp_path / "venv/pip.conf",
        "[download]\nindex-url = https://venv.test/simple\n[global]\nindex-url = https://no\n",
    )
    assert settings(machine, tmp_path).indexes == ("https://venv.test/simple",)
    machine["PIP_INDEX_URL"] = "https://environment.test/simple/"
    found = settings(machine, tmp_path)
    assert found.indexes == ("https://environment.test/simple",)
    assert found.proxy == "http://p.test:1"
    machine["PIP_CONFIG_FILE"] = "/dev/null"
    assert settings(machine, tmp_path).proxy is None


def test_lists_are_split_and_several_indexes_are_kept_in_order(machine, tmp_path):
    machine |= {
        "PIP_EXTRA_INDEX_URL": "https://two.test/simple file:///three",
        "PIP_FIND_LINKS": "/wheels https://links.test/",
        "PIP_TRUSTED_HOST": "a.test b.test:8080",
        "PIP_TIMEOUT": "42",
    }
    found = settings(machine, tmp_path)
    assert found.indexes == ("https://mirror.test/simple", "https://two.test/simple", "file:///three")
    assert found.find_links == ("/wheels", "https://links.test/")
    assert found.trusted_hosts == {"a.test", "b.test:8080"}
    assert found.timeout_s == 42


def test_no_index_leaves_the_directories(machine, tmp_path):
    machine |= {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": "/media/stick"}
    found = settings(machine, tmp_path)
    assert (found.indexes, found.find_links) == ((), ("/media/stick",))
    del machine["PIP_FIND_LINKS"]
    with pytest.raises(ModelError, match="PIP_FIND_LINKS"):
        settings(machine, tmp_path)


def test_the_default_is_pips_own(machine, tmp_path):
    del machine["PIP_INDEX_URL"]
    pytest.importorskip("pip")
    (index,) = settings(machine, tmp_path).indexes
    words = subprocess.run(
        [sys.executable, "-m", "pip", "download", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert index in words.replace("\n", " ")


def test_without_pip_and_without_settings_it_says_what_to_set(machine, tmp_path, monkeypatch):
    del machine["PIP_INDEX_URL"]
    monkeypatch.setattr(module, "_default_index", lambda: "")
    with pytest.raises(ModelError, match="PIP_INDEX_URL"):
        settings(machine, tmp_path)


@pytest.mark.parametrize("word", ["nonsense", "-1", "0", "nan", "1e9"])
def test_a_timeout_that_is_none_is_the_default(machine, tmp_path, word):
    assert settings(machine | {"PIP_TIMEOUT": word}, tmp_path).timeout_s == 15


def test_a_file_that_is_none_is_one_clear_error(machine, tmp_path):
    write(tmp_path / "venv/pip.conf", "index-url = without a section")
    with pytest.raises(ModelError, match=r"pip\.conf cannot be read"):
        settings(machine, tmp_path)


def test_it_reads_what_pip_itself_reads(machine, tmp_path):
    """The same files through pip's own `config list`."""
    pytest.importorskip("pip")
    del machine["PIP_INDEX_URL"]
    write(
        tmp_path / "xdg/pip/pip.conf",
        "[global]\nindex-url = https://machine.test/simple\ntrusted-host = a.test\n b.test\n",
    )
    write(tmp_path / "home/.config/pip/pip.conf", "[global]\nextra-index-url =\n  https://x.test\n  https://y.test\n")
    command = [sys.executable, "-I", "-m", "pip", "config", "list"]
    path = {"PATH": "/usr/bin:/bin"}
    listed = subprocess.run(command, env=machine | path, capture_output=True, text=True, check=True).stdout
    values = dict(line.split("=", 1) for line in listed.splitlines() if line.startswith("global."))
    texts = {name: json.loads('"' + value[1:-1] + '"') for name, value in values.items()}
    found = settings(machine, tmp_path)
    assert found.indexes == (texts["global.index-url"], *texts["global.extra-index-url"].split())
    assert found.trusted_hosts == set(texts["global.trusted-host"].split())
