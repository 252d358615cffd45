"""Which daemon a client finds, and what it says when there is none."""

import os
import socket
from pathlib import Path

import pytest
import sttd_client.blocking
from sttd_client import addresses
from sttd_client.addresses import (
    NoDaemonError,
    TcpAddress,
    audio_sockets,
    connect_first,
    connect_unix,
    control_sockets,
)

from sttd.errors import AccessError, ProtocolError


def test_the_users_daemon_comes_before_the_systems(monkeypatch):
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert control_sockets() == [Path("/run/user/7/sttd/control.sock"), Path("/run/sttd/control.sock")]
    assert audio_sockets() == [Path("/run/user/7/sttd/audio.sock"), Path("/run/sttd/audio.sock")]


def test_without_a_runtime_directory_the_search_is_where_the_daemon_falls_back_to():
    own = Path(f"/run/user/{os.getuid()}/sttd/control.sock")
    assert control_sockets() == [own, Path("/run/sttd/control.sock")]


def test_a_named_socket_ends_the_search(monkeypatch):
    monkeypatch.setenv("STTD_SOCKET", "/a/control.sock")
    assert control_sockets() == [Path("/a/control.sock")]
    assert control_sockets("/b/control.sock") == [Path("/b/control.sock")]


def test_a_runtime_directory_names_the_socket_in_it(tmp_path):
    assert control_sockets(tmp_path) == [tmp_path / "control.sock"]


def test_a_socket_that_nobody_listens_on_is_passed_over(tmp_path):
    stale, alive = tmp_path / "stale", tmp_path / "alive"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(stale))
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(alive))
        listener.listen()
        with connect_first([tmp_path / "absent", stale, alive], connect_unix) as connection:
            assert connection.getpeername() == str(alive)


def test_no_daemon_says_where_it_looked_and_how_to_start_one(tmp_path):
    with pytest.raises(NoDaemonError, match=r"absent.*\n.*sttd serve"):
        connect_first([tmp_path / "absent"], connect_unix)


@pytest.mark.parametrize(
    ("path", "advice"), [("/run/sttd/control.sock", "usermod -aG sttd"), ("/home/x/control.sock", "another user")]
)
def test_a_forbidden_socket_is_said_to_be_one(path, advice):
    def refuse(path):
        raise PermissionError

    with pytest.raises(AccessError, match=advice) as caught:
        connect_first([Path(path)], refuse)
    assert caught.value.code == "forbidden"


def test_an_alive_daemon_counts_more_than_a_forbidden_one():
    def connect(path):
        if path.name == "forbidden":
            raise PermissionError
        return path.name

    assert connect_first([Path("forbidden"), Path("alive")], connect) == "alive"


def test_tcp_addresses_write_ipv6_as_urls_do_and_hide_the_token():
    assert TcpAddress().authority == f"127.0.0.1:{addresses.DEFAULT_PORT}"
    address = TcpAddress(host="::1", port=1, token="secret")
    assert address.authority == "[::1]:1"
    assert "secret" not in repr(address)


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("wss://stt.example", ("stt.example", 443, True)),
        ("https://stt.example:7788/", ("stt.example", 7788, True)),
        ("ws://[::1]:7788/ws", ("::1", 7788, False)),
        ("http://127.0.0.1", ("127.0.0.1", 80, False)),
    ],
)
def test_a_url_says_where_a_daemon_is_and_whether_there_is_tls(url, place):
    address = TcpAddress.of_url(url, token="secret", ca="ca.pem")
    assert (address.host, address.port, address.tls) == place
    assert (address.token, address.ca) == ("secret", "ca.pem")


@pytest.mark.parametrize(
    "url",
    [
        "", "stt.example", "stt.example:7788", "ftp://stt.example", "wss://", "wss://stt.example:port", "wss://h:99999",
        "wss://stt.example/other", "wss://user:secret@stt.example", "wss://stt.example/?token=secret", "wss://[::1",
    ],
)  # fmt: skip
def test_what_is_no_url_of_a_daemon_is_refused_without_repeating_it(url):
    with pytest.raises(ProtocolError) as caught:
        TcpAddress.of_url(url)
    assert "secret" not in caught.value.message


def test_an_authority_that_cannot_be_read_is_an_error_of_the_file(tmp_path):
    for file, content, what in ((tmp_path / "absent", None, "No such file"), (tmp_path / "poem", "roses", "holds no")):
        if content:
            file.write_text(content)
        address = TcpAddress(port=1, tls=True, ca=str(file))
        with pytest.raises(OSError, match=what) as caught, sttd_client.blocking.open_session(tcp=address):
            pass
        assert str(file) in str(caught.value)
        assert not isinstance(caught.value, NoDaemonError)
