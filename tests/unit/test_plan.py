"""A configuration is read and checked whole, and what is wrong with it is a `ConfigError`, whoever reads it."""

import signal
import time

import pytest

from sttd.errors import ConfigError
from sttd.plan import Sources, make_plan

GOOD = b'[models]\nmodel = "fake"\n'
BAD = {
    "a number with 400 digits": GOOD + b"[server]\ndrain_s = 1" + b"0" * 400,
    "a number of 400 digits for a preset": GOOD + b"[presets.fake]\ndecode_ms = 1" + b"0" * 400,
    "5000 brackets": GOOD + b"x = " + b"[" * 5000,
    "bad UTF-8": GOOD + b"[server]\ntoken = '\xff'",
    "an unknown option of a preset": GOOD + b"[presets.fake]\nwords_ms = 1",
}


def plan(file):
    return make_plan(Sources(config_file=file, environ={}, flags={}))


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_file_is_an_error_of_the_configuration(tmp_path, content):
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD)
    assert plan(file).config.models.model == "fake"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        plan(file)
    assert "__init__" not in caught.value.message
    assert "unexpected" not in caught.value.message


def test_a_home_that_nobody_has_is_a_directory_that_is_not_there(tmp_path):
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD + b'models_dir = "~nobody-of-that-name/models"\n')
    assert plan(file).store.locate("nobody/has-this") is None


def test_a_running_daemon_outlives_every_bad_file(serve, tmp_path):
    """By `reload` the error is told, by SIGHUP it is in the log; the configuration stays as it was."""
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD)
    daemon = serve("--tcp", "off", "--config", str(file))

    def refused():
        return daemon.log().count("reload refused")

    def check():
        before = refused()
        with pytest.raises(RuntimeError, match="config_invalid"):
            daemon.call("reload")
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 10
        while refused() < before + 2:
            assert time.monotonic() < deadline, daemon.log()
            time.sleep(0.02)
        assert daemon.call("config")["values"]["models.model"]["value"] == "fake"

    for content in BAD.values():
        file.write_bytes(content)
        check()
    file.unlink()
    check()
    file.mkdir()
    check()
    file.rmdir()
    file.write_bytes(GOOD)
    assert daemon.call("reload") == {"changed": [], "needs_restart": []}
