"""Where the daemon listens: its directory, its socket files, sockets of systemd, ports that others hold."""

import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
from contextlib import asynccontextmanager, closing
from functools import partial

import pytest
import trio

from sttd.errors import AccessError, ConfigError, OverloadedError
from sttd.host import sockets
from sttd.host.rundir import SYSTEM_DIR, owned, runtime_dir
from sttd.host.sockets import open_listeners
from sttd.host.systemd import InheritedSocket
from tests.running import RunningDaemon


async def close(listeners):
    for listener in (*listeners.control, *listeners.audio, *listeners.tcp, *listeners.wyoming):
        await listener.aclose()


def test_the_directory_is_the_configured_one_or_the_users(monkeypatch, tmp_path):
    assert runtime_dir("/some/where", {"XDG_RUNTIME_DIR": "/run/user/5"}).as_posix() == "/some/where"
    assert runtime_dir("here", {}) == (tmp_path.cwd() / "here").absolute()
    assert runtime_dir("", {"XDG_RUNTIME_DIR": "/run/user/5"}).as_posix() == "/run/user/5/sttd"
    monkeypatch.setattr(os, "getuid", lambda: 0)
    assert runtime_dir("", {}) == SYSTEM_DIR
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    with pytest.raises(ConfigError, match="--runtime-dir"):
        runtime_dir("", {})


def test_one_daemon_owns_a_directory(tmp_path):
    directory = tmp_path / "a" / "b"
    with owned(directory):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700
        with pytest.raises(OverloadedError, match=f"pid {os.getpid()}"), owned(directory):
            pass
    with owned(directory):
        pass


def test_a_directory_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(AccessError, match="--runtime-dir"), owned(tmp_path / "file" / "run"):
        pass


def test_a_directory_that_others_may_write_in_is_refused(tmp_path):
    """They could put their own sockets in it, or a link in place of the lock."""
    everybodys = tmp_path / "everybodys"
    everybodys.mkdir()
    everybodys.chmod(0o1777)
    with pytest.raises(AccessError, match="everybody"), owned(everybodys):
        pass
    assert list(everybodys.iterdir()) == []


@pytest.mark.root
def test_a_directory_of_another_user_is_refused(tmp_path):
    os.chown(tmp_path, 65534, 65534)
    with pytest.raises(AccessError, match="another user"), owned(tmp_path):
        pass


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("precious")
    directory = tmp_path / "run"
    directory.mkdir()
    (directory / "sttd.lock").symlink_to(victim)
    with pytest.raises(AccessError), owned(directory):
        pass
    assert victim.read_text() == "precious"


@pytest.mark.parametrize(("directory_mode", "socket_mode"), [(0o700, 0o600), (0o750, 0o660), (0o755, 0o660)])
async def test_socket_files_are_for_the_user_or_for_the_group(tmp_path, directory_mode, socket_mode):
    tmp_path.chmod(directory_mode)
    before = os.umask(0)
    os.umask(before)
    listeners = await open_listeners(tmp_path, tcp="off", tcp_is_default=False)
    assert os.umask(before) == before
    for name in ("control.sock", "audio.sock"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == socket_mode
    assert listeners.names == [f"control: {tmp_path}/control.sock", f"audio: {tmp_path}/audio.sock"]
    await close(listeners)
    listeners.remove_files()
    listeners.remove_files()
    assert not list(tmp_path.iterdir())


async def test_the_sockets_of_another_daemon_stay(tmp_path):
    first = await open_listeners(tmp_path, tcp="off", tcp_is_default=False)
    for path in tmp_path.iterdir():
        path.unlink()  # as if the directory had been removed under it
    second = await open_listeners(tmp_path, tcp="off", tcp_is_default=False)
    await close(first)
    first.remove_files()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["audio.sock", "control.sock"]
    stream = await trio.open_unix_socket(tmp_path / "audio.sock")
    await stream.aclose()
    await close(second)
    second.remove_files()
    assert not list(tmp_path.iterdir())


@asynccontextmanager
async def watched(directory):
    """A daemon's sockets, as its duty looks after them; whoever connects is told which socket it was."""
    with owned(directory) as holding:
        listeners = await open_listeners(directory, tcp="off", tcp_is_default=False, holding=holding)

        async def greet(listener, stream):
            async with stream:
                await stream.send_all(listener.path.name.encode())

        async with trio.open_nursery() as nursery:
            for listener in (*listeners.control, *listeners.audio):
                nursery.start_soon(trio.serve_listeners, partial(greet, listener), [listener])
            nursery.start_soon(listeners.watch)
            yield listeners
            nursery.cancel_scope.cancel()
        listeners.remove_files()


async def greeting(path):
    async with await trio.open_unix_socket(path) as stream:
        return (await stream.receive_some()).decode()


def said(caplog, level="WARNING"):
    return [record.getMessage() for record in caplog.records if record.levelname == level]


@pytest.mark.parametrize(("directory_mode", "socket_mode"), [(0o700, 0o600), (0o750, 0o660)])
async def test_a_directory_that_was_removed_is_made_again_and_new_clients_find_the_daemon(
    tmp_path, caplog, directory_mode, socket_mode, autojump_clock
):
    directory = tmp_path / "run"
    directory.mkdir(mode=directory_mode)
    async with watched(directory):
        await trio.sleep(20)
        assert not caplog.records
        for _ in range(2):
            caplog.clear()
            shutil.rmtree(directory)
            await trio.sleep(20)
            assert len(said(caplog)) == len(caplog.records) == 2
            assert stat.S_IMODE(directory.stat().st_mode) == directory_mode
            for name in ("control.sock", "audio.sock"):
                assert stat.S_IMODE((directory / name).stat().st_mode) == socket_mode
                assert await greeting(directory / name) == name
            with pytest.raises(OverloadedError, match=f"pid {os.getpid()}"), owned(directory):
                pass
    assert [path.name for path in directory.iterdir()] == ["sttd.lock"]


async def test_a_directory_that_somebody_made_again_is_taken_and_one_socket_alone_is_too(tmp_path, autojump_clock):
    directory = tmp_path / "run"
    async with watched(directory):
        shutil.rmtree(directory)
        directory.mkdir(mode=0o755)
        await trio.sleep(20)
        assert await greeting(directory / "audio.sock") == "audio.sock"
        assert stat.S_IMODE((directory / "audio.sock").stat().st_mode) == 0o600, "as it was, whatever the directory is"
        (directory / "audio.sock").unlink()
        before = (directory / "control.sock").stat().st_ino
        await trio.sleep(20)
        assert await greeting(directory / "audio.sock") == "audio.sock"
        assert (directory / "control.sock").stat().st_ino == before


async def test_where_another_daemon_was_first_it_stays_until_that_one_goes(tmp_path, caplog, autojump_clock):
    directory = tmp_path / "run"
    async with watched(directory):
        shutil.rmtree(directory)
        with owned(directory):
            second = await open_listeners(directory, tcp="off", tcp_is_default=False)
            files = {path.name: path.stat().st_ino for path in directory.iterdir()}
            await trio.sleep(60)
            assert {path.name: path.stat().st_ino for path in directory.iterdir()} == files
            assert len(said(caplog, "ERROR")) == len(caplog.records) == 2, "said once for each socket"
            assert "another sttd (pid" in caplog.text
            await close(second)
            second.remove_files()
        await trio.sleep(20)
        assert await greeting(directory / "control.sock") == "control.sock"


async def test_who_listens_there_without_holding_the_directory_stays_too(tmp_path, caplog, autojump_clock):
    async with watched(tmp_path):
        path = tmp_path / "audio.sock"
        path.unlink()
        with closing(socket.socket(socket.AF_UNIX)) as other:
            other.bind(str(path))
            other.listen()
            await trio.sleep(60)
            assert "somebody listens on" in caplog.text
            assert len(caplog.records) == 1
        await trio.sleep(20)
        assert await greeting(path) == "audio.sock"


async def test_a_directory_that_cannot_be_made_again_is_said_once(tmp_path, caplog, autojump_clock):
    directory = tmp_path / "user" / "sttd"
    async with watched(directory):
        shutil.rmtree(directory.parent)
        await trio.sleep(60)
        assert len(said(caplog, "ERROR")) == len(caplog.records) == 2
        assert str(directory) in caplog.text


async def test_what_is_systemds_is_not_bound_again(tmp_path, caplog, autojump_clock):
    passed = socket.socket(socket.AF_UNIX)
    path = tmp_path / "systemd.sock"
    passed.bind(str(path))
    passed.listen()
    inherited = [InheritedSocket(name="control", socket=passed)]
    listeners = await open_listeners(tmp_path, tcp="off", tcp_is_default=False, inherited=inherited)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listeners.watch)
        await trio.sleep(20)
        assert not caplog.records
        path.unlink()
        await trio.sleep(60)
        assert len(caplog.records) == 1
        assert f"{path} is gone; it is systemd's" in caplog.text
        assert not path.exists()
        nursery.cancel_scope.cancel()
    await close(listeners)
    listeners.remove_files()


async def test_a_stale_socket_is_replaced_and_a_live_one_is_not(tmp_path):
    path = tmp_path / "audio.sock"
    with socket.socket(socket.AF_UNIX) as gone:
        gone.bind(str(path))
    listeners = await open_listeners(tmp_path, tcp="off", tcp_is_default=False)
    with pytest.raises(OverloadedError, match="somebody listens on"):
        await open_listeners(tmp_path, tcp="off", tcp_is_default=False)
    stream = await trio.open_unix_socket(path)
    await stream.aclose()
    await close(listeners)


async def test_who_listens_and_is_too_busy_to_answer_is_somebody(tmp_path):
    path = tmp_path / "control.sock"
    with closing(socket.socket(socket.AF_UNIX)) as busy, closing(socket.socket(socket.AF_UNIX)) as waiting:
        busy.bind(str(path))
        busy.listen(0)
        waiting.connect(str(path))
        with pytest.raises(OverloadedError, match="somebody listens on"):
            await open_listeners(tmp_path, tcp="off", tcp_is_default=False)
    assert path.exists()


async def test_what_is_no_socket_is_not_touched(tmp_path):
    (tmp_path / "control.sock").write_text("mine")
    with pytest.raises(AccessError, match="is no socket"):
        await open_listeners(tmp_path, tcp="off", tcp_is_default=False)
    assert (tmp_path / "control.sock").read_text() == "mine"


async def test_a_path_that_is_too_long_is_an_error(tmp_path):
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    with pytest.raises(ConfigError, match="--runtime-dir"):
        await open_listeners(directory, tcp="off", tcp_is_default=False)


async def test_a_port_of_the_systems_choice_is_named(tmp_path):
    listeners = await open_listeners(tmp_path, tcp="127.0.0.1:0", tcp_is_default=False)
    port = listeners.tcp[0].socket.getsockname()[1]
    assert listeners.names[-1] == f"audio-tcp: 127.0.0.1:{port}"
    await close(listeners)


async def test_the_default_port_may_be_taken_and_a_configured_one_may_not(tmp_path, caplog):
    with closing(socket.create_server(("127.0.0.1", 0))) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        listeners = await open_listeners(tmp_path, tcp=address, tcp_is_default=True)
        assert listeners.tcp == []
        assert f"{address} is in use" in caplog.text
        await close(listeners)
        listeners.remove_files()
        with pytest.raises(OverloadedError, match="--tcp"):
            await open_listeners(tmp_path, tcp=address, tcp_is_default=False)


async def test_an_address_that_is_not_ours_is_denied(tmp_path):
    with pytest.raises(AccessError, match=r"192\.0\.2\.1"):
        await open_listeners(tmp_path, tcp="192.0.2.1:1", tcp_is_default=False)
    assert list(tmp_path.iterdir()) == []  # a start that fails leaves nothing


async def test_sockets_of_systemd_take_the_place_of_own_ones(tmp_path):
    passed = [socket.socket(socket.AF_UNIX), socket.create_server(("127.0.0.1", 0))]
    passed[0].bind(str(tmp_path / "systemd.sock"))
    passed[0].listen()
    inherited = [InheritedSocket(name="control", socket=passed[0]), InheritedSocket(name="audio-tcp", socket=passed[1])]
    listeners = await open_listeners(tmp_path, tcp="127.0.0.1:1", tcp_is_default=False, inherited=inherited)
    assert listeners.inherited
    assert listeners.names == ["control: systemd", "audio-tcp: systemd", f"audio: {tmp_path}/audio.sock"]
    assert [len(group) for group in (listeners.control, listeners.audio, listeners.tcp)] == [1, 1, 1]
    await close(listeners)
    listeners.remove_files()
    assert [path.name for path in tmp_path.iterdir()] == ["systemd.sock"]


async def test_a_socket_of_an_unknown_name_is_an_error(tmp_path):
    with closing(socket.socket(socket.AF_UNIX)) as passed, pytest.raises(ConfigError, match="FileDescriptorName"):
        await open_listeners(
            tmp_path, tcp="off", tcp_is_default=False, inherited=[InheritedSocket(name="speech", socket=passed)]
        )
    assert sockets.BACKLOG >= 100


@pytest.mark.parametrize(
    ("limits", "wanted", "allowed"), [((200, 1000), 500, 500), ((200, 400), 500, 400), ((900, 900), 500, 900)]
)
def test_the_limit_of_open_files_is_raised_as_far_as_allowed(limits, wanted, allowed):
    program = f"""
import resource
from sttd.host.sockets import allow_open_files
resource.setrlimit(resource.RLIMIT_NOFILE, {limits})
print(allow_open_files({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == f"{allowed} ({allowed}, {limits[1]})"


def test_a_daemon_that_serves_has_raised_its_limit(tmp_path):
    daemon = RunningDaemon.start(tmp_path, "--tcp", "off", "--model", "fake")
    try:
        soft, hard = resource.prlimit(daemon.process.pid, resource.RLIMIT_NOFILE)
    finally:
        daemon.stop()
    assert soft == min(8192, hard) or soft > 8192


# ------------------------------------------------------------------ Wyoming


async def test_wyoming_listens_on_ports_and_on_paths_that_are_bound_again(tmp_path, autojump_clock):
    addresses = ("127.0.0.1:0", "tcp://[::1]:0", "unix://w.sock", f"unix://{tmp_path}/deep.sock", "unix://w.sock")
    listeners = await open_listeners(tmp_path, tcp="off", tcp_is_default=False, wyoming=addresses)
    ports = [listener.socket.getsockname()[1] for listener in listeners.wyoming[:2]]
    assert listeners.names[2:] == [
        f"wyoming: 127.0.0.1:{ports[0]}",
        f"wyoming: [::1]:{ports[1]}",
        f"wyoming: {tmp_path}/w.sock",
        f"wyoming: {tmp_path}/deep.sock",
    ]
    assert stat.S_IMODE((tmp_path / "w.sock").stat().st_mode) == 0o600
    async with trio.open_nursery() as nursery:
        nursery.start_soon(listeners.watch)
        (tmp_path / "w.sock").unlink()
        await trio.sleep(20)
        nursery.cancel_scope.cancel()
    assert (tmp_path / "w.sock").exists()
    await close(listeners)
    listeners.remove_files()
    assert list(tmp_path.iterdir()) == []


async def test_wyomings_default_port_may_be_taken_and_a_configured_one_may_not(tmp_path, caplog):
    with closing(socket.create_server(("127.0.0.1", 0))) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        open_it = partial(open_listeners, tmp_path, tcp="off", tcp_is_default=False, wyoming=[address])
        listeners = await open_it(wyoming_is_default=True)
        assert listeners.wyoming == []
        assert f"{address} is in use" in caplog.text
        await close(listeners)
        listeners.remove_files()
        with pytest.raises(OverloadedError, match=r"server\.wyoming"):
            await open_it(wyoming_is_default=False)
    assert list(tmp_path.iterdir()) == []


async def test_a_wyoming_socket_of_systemd_takes_the_place_of_own_ones(tmp_path):
    passed = socket.create_server(("127.0.0.1", 0))
    inherited = [InheritedSocket(name="wyoming", socket=passed)]
    listeners = await open_listeners(
        tmp_path, tcp="off", tcp_is_default=False, wyoming=["127.0.0.1:1"], inherited=inherited
    )
    assert listeners.names[0] == "wyoming: systemd"
    assert len(listeners.wyoming) == 1
    assert listeners.inherited
    await close(listeners)
    listeners.remove_files()


async def test_a_wyoming_path_without_its_directory_is_an_error(tmp_path):
    with pytest.raises(AccessError, match=r"nowhere/w\.sock: No such file"):
        await open_listeners(tmp_path, tcp="off", tcp_is_default=False, wyoming=["unix://nowhere/w.sock"])
