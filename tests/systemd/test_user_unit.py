"""The units of one person under their own manager."""

import pytest

from tests.systemd.conftest import CONFIG
from tests.systemd.talk import Session, call

pytestmark = pytest.mark.root

USER_MANAGER = """\
[Unit]
DefaultDependencies=no
[Service]
Type=notify
User=%i
Delegate=yes
Environment=XDG_RUNTIME_DIR=/run/user/@uid@ LD_LIBRARY_PATH=@library@
ExecStart=/lib/systemd/systemd --user
"""


@pytest.fixture(scope="module")
def person(boot):
    """A system in which the manager of `anna` runs, with sttd installed by herself."""
    with boot() as system:
        system.add_user("anna")
        text = USER_MANAGER.replace("@uid@", str(system.uid("anna")))
        text = text.replace("@library@", "/opt/sttd/python/lib")
        (system.root / "run/systemd/system/manager@.service").write_text(text)
        system.systemctl("daemon-reload")
        system.systemctl("start", "manager@anna")
        yield system


def userctl(system, *argv, check=True):
    return system.run("systemctl", "--user", "--no-pager", *argv, user="anna", check=check)


def test_a_person_installs_starts_uses_and_removes_it(person):
    home = person.root / "home/anna"
    config = home / ".config/sttd/sttd.toml"
    config.parent.mkdir(parents=True)
    config.write_text(CONFIG)
    person.run("chown", "-R", "anna:", "/home/anna/.config")
    installed = person.run("sttd", "install-units", "--user", "--bindir", "/opt/sttd/bin", user="anna")
    assert "systemctl --user enable --now" in installed.stdout

    userctl(person, "daemon-reload")
    userctl(person, "enable", "--now", "sttd.service", "sttd.socket", "sttd-audio.socket")
    sockets = person.root / f"run/user/{person.uid('anna')}/sttd"
    assert call(sockets / "control.sock", "status")["server"]["state"] == "ready"
    assert sockets.stat().st_mode & 0o777 == 0o700
    assert person.run("sttctl", "status", user="anna").returncode == 0
    with Session.open(sockets / "audio.sock") as session:
        session.speak(0.6)
        session.send(op="stop")
        assert session.until_closed() == 1000
    assert session.finals()[0]["text"] == "w1 w2"

    config.write_text("nonsense")
    assert userctl(person, "reload", "sttd", check=False).returncode != 0
    config.write_text(CONFIG)
    userctl(person, "reload", "sttd")
    userctl(person, "restart", "sttd")
    assert call(sockets / "control.sock", "ping") == {}

    removed = person.run("sttd", "install-units", "--user", "--uninstall", user="anna")
    assert "removed" in removed.stdout
    userctl(person, "stop", "sttd.service", "sttd.socket", "sttd-audio.socket")
    userctl(person, "daemon-reload")
    assert userctl(person, "start", "sttd", check=False).returncode != 0
    assert not [path for path in (home / ".config/systemd").rglob("*") if not path.is_dir()]
