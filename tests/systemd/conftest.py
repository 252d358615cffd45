"""A booted system for the tests of a module; skipped with the reason where there cannot be one."""

import pytest

from tests.systemd.lab import Lab, why_not

CONFIG = """\
[models]
model = "fake"

[server]
drain_s = 5.0

[presets.slow]
backend = "fake"
decode_ms = 1500
"""


@pytest.fixture(scope="session")
def boot(tmp_path_factory):
    """`with boot(...) as lab:`; the arguments are those of `Lab.up`."""
    reason = why_not()
    if reason:
        pytest.skip(reason)

    def up(**options):
        return Lab.up(tmp_path_factory.mktemp("lab"), **{"config": CONFIG, **options})

    return up


@pytest.fixture(scope="module")
def system(boot):
    """One system for the whole module."""
    with boot() as lab:
        yield lab


@pytest.fixture
def lab(system):
    """The module's system with the configuration as installed, the sockets open and the daemon not running."""
    system.reset()
    system.systemctl("start", "sttd.socket", "sttd-audio.socket")
    return system
