"""The agent of a dictation in this process, with a hand that waits to be told: what happens between two steps of it."""

import json
import os
import signal
import socket
import subprocess
import sys
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from sttd_client.dictation import agent as agent_module
from sttd_client.dictation.agent import Agent

from benchmarks.recordings import as_bytes, read_audio
from tests.desktop import microphone
from tests.running import PATIENCE_S, RunningDaemon

NUMBER = Path(__file__).parents[2] / "tests" / "data" / "number.flac"
LONG = "a letter after the other " * 40  # in place of a word: many times what is typed in one go


class Hand:
    """Types nothing. What it is asked for waits until the test lets it, and is counted."""

    name = "x11"  # one of those that type in pieces

    def __init__(self):
        self.prepares, self.writes = trio.Event(), trio.Event()  # somebody waits there
        self.may_prepare, self.may_write = trio.Event(), trio.Event()
        self.typed = ""

    async def prepare(self):
        self.prepares.set()
        await self.may_prepare.wait()

    async def write(self, text):
        self.writes.set()
        await self.may_write.wait()
        self.typed += text


@pytest.fixture
def daemon(tmp_path):
    daemon = RunningDaemon.start(tmp_path / "sttd", "--tcp", "off", "--model", "fake")
    yield daemon
    assert daemon.stop() == 0, daemon.log()


@asynccontextmanager
async def an_agent(tmp_path, monkeypatch, control_socket=None):
    """Yields the hand, and how to ask: a function that sends a request and returns the connection with its lines."""
    hand = Hand()
    environ = {
        **microphone(tmp_path, as_bytes(read_audio(NUMBER))),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "XDG_RUNTIME_DIR": str(tmp_path),
    }
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(agent_module, "hand_of", lambda *_, **__: hand)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(tmp_path / "sttd-dictate.sock"))
        listener.listen(8)
        async with trio.open_nursery() as nursery:
            agent = Agent(environ=environ, control_socket=control_socket)
            nursery.start_soon(agent.run, trio.SocketListener(trio.socket.from_stdlib_socket(listener.dup())))

            async def ask(do, **more):
                stream = await trio.open_unix_socket(str(tmp_path / "sttd-dictate.sock"))
                await stream.send_all(json.dumps({"do": do, **more}).encode() + b"\n")
                return stream

            with trio.fail_after(PATIENCE_S):
                yield hand, ask
            nursery.cancel_scope.cancel()


async def line(stream):
    data = b""
    while not data.endswith(b"\n"):
        data += (more := await stream.receive_some(4096))
        assert more, "the agent hung up"
    return json.loads(data)


async def state(ask):
    async with await ask("status") as stream:
        return await line(stream)


async def comes_to(ask, wanted):
    while True:
        if (await state(ask))["state"] == wanted:
            return
        await trio.sleep(0.01)


async def test_a_stop_before_it_has_begun_ends_it_and_who_waits_is_told(tmp_path, monkeypatch):
    async with an_agent(tmp_path, monkeypatch) as (hand, ask):
        waiting, pressed = await ask("start", wait=True), await ask("start")
        await hand.prepares.wait()
        async with await ask("stop") as stop:
            assert (await line(stop))["state"] == "idle"
        hand.may_prepare.set()
        async with waiting, pressed:
            assert "before it had begun" in (await line(waiting))["error"]["message"]
            assert (await line(pressed))["state"] == "idle"  # a key that was touched: nothing to complain of
        assert (await state(ask))["state"] == "idle"


async def test_letters_under_way_at_a_cancel_are_the_last(tmp_path, monkeypatch, daemon):
    config = tmp_path / "config" / "sttd"
    config.mkdir(parents=True)
    (config / "dictation.toml").write_text(f'[any.phrases]\n"w1" = "{LONG}"\n')
    control = str(daemon.directory / "control.sock")
    async with an_agent(tmp_path, monkeypatch, control) as (hand, ask):
        hand.may_prepare.set()
        async with await ask("start") as start:
            assert (await line(start))["state"] == "listening"
        await hand.writes.wait()
        async with await ask("cancel") as cancel:
            assert (await line(cancel))["state"] == "finishing"
        hand.may_write.set()
        await comes_to(ask, "idle")
        assert 0 < len(hand.typed) < len(LONG.split(" ")[0]) + 16
        assert LONG.startswith(hand.typed)


async def test_a_dictation_ends_with_the_program_that_waits_for_it(tmp_path, monkeypatch, daemon):
    async with an_agent(tmp_path, monkeypatch, str(daemon.directory / "control.sock")) as (hand, ask):
        hand.may_prepare.set()
        hand.may_write.set()
        command = [str(Path(sys.executable).with_name("sttctl")), "dictate"]
        process = await trio.lowlevel.open_process(
            command, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        await comes_to(ask, "listening")
        process.send_signal(signal.SIGKILL)
        await process.wait()
        await comes_to(ask, "idle")
        assert (await state(ask))["note"] == ""
