"""The two protocols of the service manager, against a real datagram socket and real listening sockets."""

import os
import socket
import subprocess
import sys
import textwrap

import pytest

from sttd.errors import ConfigError
from sttd.host.systemd import Notifier, listen_fds


@pytest.fixture
def manager(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        sock.settimeout(2)
        yield sock


def notifier(manager, **variables):
    return Notifier.from_environment({"NOTIFY_SOCKET": manager.getsockname(), **variables})


def received(manager):
    return manager.recv(4096).decode().split("\n")


def test_each_state_is_one_datagram_with_its_status(manager):
    notify = notifier(manager)
    notify.ready("2 models loaded")
    assert received(manager) == ["READY=1", "STATUS=2 models loaded"]
    notify.reloading(123_456)
    assert received(manager) == ["RELOADING=1", "MONOTONIC_USEC=123456"]
    notify.ready()
    assert received(manager) == ["READY=1"]
    notify.status("1 session")
    assert received(manager) == ["STATUS=1 session"]
    notify.extend_timeout(2.5)
    assert received(manager) == ["EXTEND_TIMEOUT_USEC=2500000"]
    notify.watchdog()
    assert received(manager) == ["WATCHDOG=1"]
    notify.stopping("draining")
    assert received(manager) == ["STOPPING=1", "STATUS=draining"]


def test_a_status_cannot_smuggle_in_another_assignment(manager):
    notifier(manager).status("two\nMAINPID=1\n lines")
    assert received(manager) == ["STATUS=two MAINPID=1 lines"]


def test_the_abstract_namespace():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(2)
        sock.bind(f"\0sttd-test-{os.getpid()}")
        Notifier.from_environment({"NOTIFY_SOCKET": f"@sttd-test-{os.getpid()}"}).ready()
        assert received(sock) == ["READY=1"]


def test_the_environment_is_emptied(manager):
    environ = {
        "NOTIFY_SOCKET": manager.getsockname(),
        "WATCHDOG_USEC": "4000000",
        "WATCHDOG_PID": str(os.getpid()),
        "LISTEN_PID": "1",
        "LISTEN_FDS": "1",
        "LISTEN_FDNAMES": "control",
        "HOME": "/",
    }
    notify = Notifier.from_environment(environ)
    assert notify.enabled
    assert notify.watchdog_interval_s == 2.0
    assert listen_fds(environ) == []
    assert environ == {"HOME": "/"}


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "nonsense"},
        {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"},
    ],
)
def test_no_watchdog_unless_it_is_this_process_that_is_watched(manager, variables):
    assert notifier(manager, **variables).watchdog_interval_s is None


def test_without_a_manager_nothing_happens_and_nothing_fails(tmp_path):
    notify = Notifier.from_environment({})
    assert not notify.enabled
    assert notify.watchdog_interval_s is None
    notify.ready("status")
    notify.watchdog()


def test_a_manager_that_goes_away_does_not_harm_the_daemon(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(tmp_path / "notify"))
        notify = Notifier.from_environment({"NOTIFY_SOCKET": str(tmp_path / "notify")})
        notify.ready()
        assert sock.recv(100) == b"READY=1"
    os.unlink(tmp_path / "notify")
    notify.status("nobody reads this")
    assert notify.enabled


# The descriptors of the protocol are 3 and up, which pytest itself uses: a child process takes them over.
CHILD = """
    import os, socket, sys
    from sttd.errors import ConfigError
    from sttd.host.systemd import listen_fds
    environ = {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": sys.argv[1], "LISTEN_FDNAMES": sys.argv[2]}
    try:
        for s in listen_fds(environ):
            print(s.name, s.fd, s.socket.family.name, s.socket.type.name, os.get_inheritable(s.fd))
    except ConfigError as error:
        print("error:", error)
    print(environ)
"""


def adopt(*sockets, names, count=None):
    """Run `listen_fds` in a child that has `sockets` as 3, 4, ... ; its output lines."""
    fds = [sock.fileno() for sock in sockets]
    script = (
        "import fcntl, os, sys; fds = [int(a) for a in sys.argv[1].split(',')];"
        "high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in fds];"
        "[os.dup2(fd, 3 + i) for i, fd in enumerate(high)]; os.closerange(3 + len(fds), 100);"
        "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[2:]])"
    )
    argv = [",".join(map(str, fds)), textwrap.dedent(CHILD), str(len(fds) if count is None else count), names]
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], pass_fds=fds, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def unix_listener(tmp_path, name="control.sock"):
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / name))
    sock.listen()
    return sock


def test_sockets_come_with_their_names_and_stay_out_of_children(tmp_path):
    with unix_listener(tmp_path) as control, socket.create_server(("127.0.0.1", 0)) as tcp:
        lines = adopt(control, tcp, names="control:audio-tcp")
    assert lines == ["control 3 AF_UNIX SOCK_STREAM False", "audio-tcp 4 AF_INET SOCK_STREAM False", "{}"]


def test_missing_names_are_empty(tmp_path):
    with unix_listener(tmp_path) as control:
        assert adopt(control, names="")[0] == " 3 AF_UNIX SOCK_STREAM False"


def test_a_socket_that_does_not_listen_is_an_error_that_names_it(tmp_path):
    with unix_listener(tmp_path) as control, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram:
        lines = adopt(control, datagram, names="control:audio")
    assert lines == [
        "error: inherited descriptor 4 ('audio') does not listen: its socket unit needs ListenStream=",
        "{}",
    ]


def test_a_descriptor_that_is_not_there_is_an_error(tmp_path):
    with unix_listener(tmp_path) as control:
        lines = adopt(control, names="control", count=2)
    assert lines[0] == "error: inherited descriptor 4 ('') is no socket: Bad file descriptor"


@pytest.mark.parametrize("variables", [{}, {"LISTEN_PID": "1", "LISTEN_FDS": "1"}, {"LISTEN_FDS": "1"}])
def test_descriptors_for_somebody_else_are_left_alone(variables):
    assert listen_fds(variables) == []
    assert variables == {}


def test_a_count_that_is_no_number_gives_nothing():
    assert listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "-1"}) == []


def test_errors_of_listen_fds_are_configuration_errors():
    assert ConfigError("x").row.exit_status == 2


def test_the_watchdog_is_fed_when_no_more_descriptors_can_be_opened(manager, monkeypatch):
    notify = notifier(manager)
    notify.watchdog()
    monkeypatch.setattr("sttd.host.systemd.socket.socket", None)  # whoever opens one now fails
    notify.watchdog()
    assert [manager.recv(100) for _ in range(2)] == [b"WATCHDOG=1"] * 2


def test_a_manager_that_came_back_is_told_again(tmp_path):
    path = tmp_path / "notify"
    notify = Notifier.from_environment({"NOTIFY_SOCKET": str(path)})
    for _ in range(2):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(path))
            notify.watchdog()
            assert sock.recv(100) == b"WATCHDOG=1"
        path.unlink()
        notify.watchdog()  # to nobody
