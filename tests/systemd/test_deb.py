"""The Debian package: built from this tree, installed, used, upgraded, removed and purged in a system of its own."""

import shutil
import subprocess

import pytest

from tests.systemd.lab import REPOSITORY
from tests.systemd.talk import Session, call

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The path of the built package."""
    if not shutil.which("dpkg-deb"):
        pytest.skip("this is no Debian: dpkg-deb is missing")
    if subprocess.run(["/usr/bin/python3", "-c", "import ensurepip, venv"], capture_output=True).returncode:
        pytest.skip("the package is built with the system's Python, which lacks venv: apt install python3-venv")
    directory = tmp_path_factory.mktemp("deb")
    built = subprocess.run([REPOSITORY / "packaging/build-deb", directory], capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (deb,) = directory.glob("sttd_*.deb")
    return deb


@pytest.fixture(scope="module")
def debian(boot, package):
    """A system without sttd. A container's policy that forbids to start services does not hold in it."""
    with boot(units_installed=False, files={"/usr/sbin/policy-rc.d": "#!/bin/sh\nexit 0\n"}) as system:
        shutil.copy(package, system.root / "root/sttd.deb")
        yield system


def leftovers(system):
    """What lies around under the name of sttd, besides dpkg's own records and the program under test."""
    places = ("/etc", "/usr", "/var/lib", "/var/cache", "/run")
    found = system.run("find", *places, "-xdev", "-name", "*sttd*", "-not", "-path", "/var/lib/dpkg/*").stdout.split()
    return sorted(path for path in found if not path.startswith("/run/log"))


def test_install_use_upgrade_remove_purge(debian):
    assert leftovers(debian) == []

    debian.run("dpkg", "--install", "/root/sttd.deb")
    assert debian.show("sttd", "ActiveState") == "active"
    assert (
        debian.systemctl("is-enabled", "sttd.service", "sttd.socket", "sttd-audio.socket").stdout.split()
        == ["enabled"] * 3
    )
    assert debian.run("/usr/bin/sttctl", "status").returncode == 0
    assert debian.run("/usr/bin/sttd", "version").stdout.startswith("sttd ")

    config = debian.root / "etc/sttd/sttd.toml"
    config.write_text(config.read_text() + '[presets.mine]\nbackend = "fake"\n')
    debian.systemctl("reload", "sttd")
    with Session.open(debian.audio, model="mine") as session:
        session.speak(0.6)
        session.send(op="stop")
        assert session.until_closed() == 1000
    assert session.finals()[0]["text"] == "w1 w2"

    # The real engine with the package's own libraries, inside the sandbox.
    (sample,) = debian.root.glob("usr/lib/sttd/lib/python3.*/site-packages/sttd/assets/sample.flac")
    inside = "/" + str(sample.relative_to(debian.root))
    assert "hello world" in debian.run("/usr/bin/sttctl", "transcribe", "-m", "demo", inside).stdout.lower()

    before = debian.main_pid()
    debian.run("dpkg", "--install", "/root/sttd.deb")  # an upgrade to the same version
    assert debian.main_pid() not in (0, before)
    assert "presets.mine.backend" in call(debian.control, "config")["values"], "the configuration was kept"

    debian.run("dpkg", "--remove", "sttd")
    assert debian.show("sttd", "ActiveState") == "inactive"
    assert not debian.control.exists()
    assert config.exists(), "only a purge takes the configuration"

    debian.run("dpkg", "--install", "/root/sttd.deb")
    assert debian.show("sttd", "ActiveState") == "active"
    debian.run("dpkg", "--purge", "sttd")
    assert debian.show("sttd", "ActiveState") == "inactive"
    assert leftovers(debian) == []
