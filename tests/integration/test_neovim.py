"""Neovim as a MessagePack-RPC client that knows nothing of sttd: `sockconnect` with rpc, then `rpcrequest`."""

import json
import shutil
import subprocess

import pytest

from tests.running import PATIENCE_S, RunningDaemon

NVIM = shutil.which("nvim")
pytestmark = pytest.mark.skipif(NVIM is None, reason="Neovim is not installed (Debian: apt install neovim)")


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    daemon = RunningDaemon.start(tmp_path_factory.mktemp("nvim"), "--tcp", "off", "--model", "fake")
    yield daemon
    assert daemon.stop() == 0


def ask(daemon, tmp_path, script):
    """Run `script` in Neovim, with `sttd` as its channel; what it assigns to `g:answer` comes back."""
    answer = tmp_path / "answer.json"
    source = tmp_path / "script.vim"
    source.write_text(
        f"let sttd = sockconnect('pipe', '{daemon.control}', {{'rpc': v:true}})\n"
        "try\n"
        f"{script}\n"
        "catch\n"
        "  let g:answer = {'error': v:exception}\n"
        "endtry\n"
        f"call writefile([json_encode(g:answer)], '{answer}')\n"
        "quitall!\n"
    )
    subprocess.run(
        [NVIM, "--headless", "--clean", "-i", "NONE", "-S", source],
        check=True,
        timeout=PATIENCE_S,
        capture_output=True,
        env={"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "PATH": "/usr/bin:/bin"},
    )
    return json.loads(answer.read_text())


def test_requests_with_and_without_parameters(daemon, tmp_path):
    answer = ask(
        daemon,
        tmp_path,
        """
        let hello = rpcrequest(sttd, 'hello', {'client': 'nvim', 'protocol': 1})
        let status = rpcrequest(sttd, 'status')
        let load = rpcrequest(sttd, 'load', {'preset': 'fake', 'num_workers': 2})
        let unload = rpcrequest(sttd, 'unload', {'preset': 'fake'})
        let g:answer = {'hello': hello, 'status': status, 'load': load, 'unload': unload}
        """,
    )
    assert answer["hello"]["protocol"] == 1
    assert answer["hello"]["server"].startswith("sttd/")
    assert answer["status"]["server"]["state"] == "ready"
    assert answer["load"]["entry"]["preset"] == "fake"
    assert answer["load"]["entry"]["num_workers"] == 2
    assert answer["unload"]["unloaded"] == 1


def test_an_error_reaches_the_user_and_the_channel_lives_on(daemon, tmp_path):
    answer = ask(
        daemon,
        tmp_path,
        """
        let g:answer = {}
        try
          call rpcrequest(sttd, 'load', {'preset': 'no-such-preset'})
        catch
          let g:answer.error = v:exception
        endtry
        let g:answer.ping = rpcrequest(sttd, 'ping')
        """,
    )
    assert "Error invoking 'load'" in answer["error"]  # Neovim shows errors that are strings, and ours are maps
    assert answer["ping"] == {}


def test_parameters_of_another_shape_leave_the_channel_open(daemon, tmp_path):
    answer = ask(
        daemon,
        tmp_path,
        """
        let g:answer = {}
        try
          call rpcrequest(sttd, 'status', 1, 2)
        catch
          let g:answer.error = v:exception
        endtry
        let g:answer.ping = rpcrequest(sttd, 'ping')
        """,
    )
    assert "Error invoking 'status'" in answer["error"]
    assert answer["ping"] == {}


def test_notifications_in_both_directions_do_no_harm(daemon, tmp_path):
    # Neovim knows no notification `event`, and says so in a notification of its own.
    answer = ask(
        daemon,
        tmp_path,
        """
        call rpcnotify(sttd, 'nothing', {'a': 1})
        call rpcrequest(sttd, 'subscribe', {'topics': ['models']})
        call rpcrequest(sttd, 'load', {'preset': 'fake'})
        call rpcrequest(sttd, 'unload')
        sleep 100m
        call rpcrequest(sttd, 'unsubscribe')
        let g:answer = rpcrequest(sttd, 'ping')
        """,
    )
    assert answer == {}
