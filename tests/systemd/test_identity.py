"""Who may use the system service, and what each sees of it."""

import json
import subprocess

import pytest

from tests.systemd.conftest import CONFIG
from tests.systemd.talk import Session, call

pytestmark = pytest.mark.root

# A session of whoever runs this: says its name, then keeps it open until its input ends.
HOLD = """
import sys
from tests.systemd.talk import Session
with Session.open("/run/sttd/audio.sock") as session:
    print(session.started["session"], flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def people(system):
    """anna and bob are in the group, mallory is not."""
    for name, groups in (("anna", ["sttd"]), ("bob", ["sttd"]), ("mallory", [])):
        system.add_user(name, groups=groups)


@pytest.fixture
def service(lab, people):
    lab.systemctl("start", "sttd")
    return lab


def sttctl(lab, *argv, user, check=True):
    return lab.run("sttctl", *argv, user=user, check=check)


def sessions_of(lab, user):
    return [row["session"] for row in json.loads(sttctl(lab, "sessions", "--json", user=user).stdout)["sessions"]]


def test_a_member_of_the_group_may_and_others_are_told_so(service):
    assert sttctl(service, "status", user="anna").returncode == 0
    refused = sttctl(service, "status", user="mallory", check=False)
    assert refused.returncode == 4
    assert "sttd" in refused.stderr
    assert "group" in refused.stderr or "permission" in refused.stderr.lower()
    assert "Traceback" not in refused.stderr


def test_the_peer_s_uid_is_seen_as_it_is(service):
    script = "from tests.systemd.talk import call; print(call('/run/sttd/control.sock', 'hello')['uid'])"
    for name in ("anna", "bob"):
        assert int(service.python(script, user=name).stdout) == service.uid(name)
    assert call(service.control, "hello")["uid"] == 0


def test_everybody_sees_and_ends_only_what_is_theirs(service):
    hold = subprocess.Popen(
        service.argv("/opt/sttd/venv/bin/python3", "-c", HOLD, user="anna"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with hold:
        name = hold.stdout.readline().strip()
        assert sessions_of(service, "anna") == [name]
        assert sessions_of(service, "bob") == []
        assert sttctl(service, "close", name, user="bob", check=False).returncode == 5
        assert [row["uid"] for row in call(service.control, "sessions")["sessions"]] == [service.uid("anna")]
        assert sttctl(service, "close", name, user="anna").returncode == 0
        hold.stdin.close()


def test_what_concerns_everybody_is_for_the_administrator(service):
    for command in ("reload", "config"):
        assert sttctl(service, command, user="anna", check=False).returncode == 4
        assert sttctl(service, command, user=None).returncode == 0


def test_a_download_is_refused_at_once_with_the_unit_that_does_it(service):
    refused = sttctl(service, "pull", "tiny", user=None, check=False)
    assert refused.returncode == 4
    assert "sttd-pull@tiny.service" in refused.stderr


def test_a_session_of_the_group_s_member_is_transcribed(service):
    with Session.open(service.audio) as session:
        session.speak(0.6)
        session.send(op="stop")
        assert session.until_closed() == 1000
    assert session.finals()[0]["text"] == "w1 w2"


def test_a_port_that_systemd_holds_wants_a_token(service):
    """Every local user reaches a port, so who has no token is refused, and without one set nothing starts."""
    status = (
        "import urllib.request as u; print(u.urlopen(u.Request('http://127.0.0.1:7788/status', headers={})).status)"
    )
    service.systemctl("stop", "sttd")
    service.systemctl("start", "sttd-tcp.socket")
    assert service.systemctl("start", "sttd", check=False).returncode != 0
    assert "set `server.token_file`" in str([entry["MESSAGE"] for entry in service.journal()])

    token = service.root / "etc/sttd/token"
    token.write_text("open-sesame\n")
    service.run("chown", "root:sttd", "/etc/sttd/token")
    token.chmod(0o640)
    service.configure(f'{CONFIG}\n[server]\ntoken_file = "/etc/sttd/token"\n'.replace("[server]\ndrain_s = 5.0\n", ""))
    service.systemctl("reset-failed")
    service.systemctl("start", "sttd.socket", "sttd-audio.socket", "sttd-tcp.socket", "sttd")
    assert "audio-tcp: systemd" in call(service.control, "status")["server"]["listeners"]
    assert "401" in service.python(status, user="mallory", check=False).stderr
    allowed = status.replace("{}", "{'Authorization': 'Bearer open-sesame'}")
    assert service.python(allowed, user="mallory").stdout.strip() == "200"
    assert service.run("cat", "/etc/sttd/token", user="mallory", check=False).returncode != 0
