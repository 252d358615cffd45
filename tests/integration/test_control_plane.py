"""The control plane of a real daemon: who may do what, what a stop tells, twenty loads that are one."""

import socket
import subprocess
import tempfile
import threading
from pathlib import Path

import msgpack
import numpy as np
import pytest

from tests.running import PATIENCE_S, read_to_end, read_until, start

# Noise does where the client finalizes: no voice detector gates it.
SECOND = np.random.default_rng(1).integers(-3000, 3000, 16_000).astype("<i2").tobytes()


class Line:
    """One connection, kept open."""

    def __init__(self, daemon):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(PATIENCE_S)
        self.socket.connect(str(daemon.control))
        self.unpacker = msgpack.Unpacker()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, *messages):
        self.socket.sendall(b"".join(map(msgpack.packb, messages)))

    def messages(self):
        """Everything that comes, until the daemon closes."""
        while data := self.socket.recv(65536):
            self.unpacker.feed(data)
            yield from self.unpacker

    def subscribe(self, *topics):
        """The events from now on."""
        self.send([0, 0, "subscribe", [{"topics": topics}]])
        messages = self.messages()
        assert next(messages) == [1, 0, None, {}]
        return (message[2][0] for message in messages)


def test_a_drain_is_told_to_subscribers(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=200")
    with Line(daemon) as line, daemon.connect() as client:
        events = line.subscribe("transcripts", "sessions")
        session = start(client, endpointing=False)["session"]
        client.send(SECOND)
        read_until(client, "speech_start")
        daemon.terminate()
        read_to_end(client)
        told = list(events)
    kinds = [event["event"] for event in told]
    assert kinds == ["opened", "final", "closed"]
    assert {event["session"] for event in told} == {session}
    assert (told[1]["text"], told[1]["reason"]) == ("w1 w2 w3", "drain")
    assert [event["seq"] for event in told] == list(range(1, len(told) + 1))
    assert daemon.stop() == 0


def test_shutdown_answers_and_then_stops(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    assert daemon.call("shutdown", drain_s=0) == {}
    assert daemon.process.wait(PATIENCE_S) == 0
    daemon.signalled = True


def test_twenty_clients_load_a_cold_model_once(serve):
    daemon = serve("--tcp", "off", "--model", "demo")
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(daemon.call("load", preset="demo")["cache_hit"]))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == 20
    assert daemon.call("status")["models"]["loaded"] == 1
    assert daemon.log().count("model loaded") == 1


@pytest.fixture
def public():
    """A directory that other users may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


@pytest.mark.root
def test_another_user_sees_his_own_and_may_not_change_the_daemon(serve, public):
    daemon = serve("--tcp", "off", "--model", "fake", directory=public / "run")
    daemon.directory.chmod(0o755)
    daemon.control.chmod(0o666)
    with daemon.connect() as client:
        session = start(client, endpointing=False)["session"]
        script = (
            "import socket, sys\n"
            "sttd = socket.socket(socket.AF_UNIX)\n"
            f"sttd.connect({str(daemon.control)!r})\n"
            "for frame in sys.stdin.read().split():\n"
            "    sttd.sendall(bytes.fromhex(frame))\n"
            "    print(sttd.recv(65536).hex())\n"
        )
        methods = ["hello", "sessions", "status", "config", "reload", "shutdown", "pull", "close_session"]
        params = {"pull": [{"model": "tiny"}], "close_session": [{"session": session}]}
        frames = [msgpack.packb([0, i, method, params.get(method, [])]).hex() for i, method in enumerate(methods)]
        done = subprocess.run(
            ["/usr/bin/python3", "-c", script],
            input="\n".join(frames),
            user=65534,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, done.stderr
        answers = dict(
            zip(methods, (msgpack.unpackb(bytes.fromhex(line)) for line in done.stdout.split()), strict=True)
        )
        assert answers["hello"][3]["uid"] == 65534
        assert answers["sessions"][3]["sessions"] == []
        assert answers["status"][3]["sessions"]["active"] == 1
        for method in ("config", "reload", "shutdown", "pull"):
            assert answers[method][2]["code"] == "forbidden"
        assert answers["close_session"][2]["code"] == "not_found"
        assert [row["session"] for row in daemon.call("sessions")["sessions"]] == [session]
