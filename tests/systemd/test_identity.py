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
    for line in sys.stdin:
        session.speak(0.6)
        session.send(op="finalize")
        print(session.until("final")["text"], flush=True)
"""


# Subscribes, says so, and prints every event until its input ends.
LISTEN = """
import msgpack, select, socket, sys
with socket.socket(socket.AF_UNIX) as sock:
    sock.connect("/run/sttd/control.sock")
    sock.sendall(msgpack.packb([0, 1, "subscribe", [{"topics": ["transcripts", "sessions"]}]]))
    unpacker = msgpack.Unpacker()
    while True:
        ready, _, _ = select.select([sock, sys.stdin], [], [])
        if sock in ready:
            unpacker.feed(sock.recv(65536))
            for message in unpacker:
                print(message[2][0]["event"] if message[0] == 2 else "subscribed", flush=True)
        elif sys.stdin in ready:
            break
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


def talking(lab, script, *, user):
    """A script that runs inside as `user`, with pipes to it."""
    command = lab.argv("/opt/sttd/venv/bin/python3", "-c", script, user=user)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


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
    with talking(service, HOLD, user="anna") as hold:
        name = hold.stdout.readline().strip()
        assert sessions_of(service, "anna") == [name]
        assert sessions_of(service, "bob") == []
        assert sttctl(service, "close", name, user="bob", check=False).returncode == 5
        assert [row["uid"] for row in call(service.control, "sessions")["sessions"]] == [service.uid("anna")]
        assert sttctl(service, "close", name, user="anna").returncode == 0
        hold.stdin.close()


def test_transcripts_go_to_who_spoke_and_to_the_administrator(service):
    listeners = {user: talking(service, LISTEN, user=user) for user in ("anna", "bob", None)}
    for listener in listeners.values():
        assert listener.stdout.readline() == "subscribed\n"
    with talking(service, HOLD, user="anna") as anna:
        anna.stdout.readline()
        anna.stdin.write("speak\n")
        anna.stdin.flush()
        assert anna.stdout.readline() == "w1 w2\n"
        anna.stdin.close()
    heard = {user: listener.communicate(timeout=90)[0].split() for user, listener in listeners.items()}
    assert heard["bob"] == []
    assert heard["anna"][:2] == heard[None][:2] == ["opened", "final"]


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
