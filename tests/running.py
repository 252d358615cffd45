"""A real daemon in a process of its own, and the shortest clients that can talk to it.

The clients here are independent of sttd on purpose: `websockets` for the audio plane, `msgpack` over a plain
socket for the control plane.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgpack
import numpy as np
from websockets.sync.client import ClientConnection, unix_connect

from tests.zygote import Child, Zygote

# How long anything may take that is under way: a machine with other work to do is not a daemon that hangs. Chosen.
PATIENCE_S = 300.0


zygote = functools.cache(Zygote)


@attrs.define
class RunningDaemon:
    """`sttd serve` on private sockets."""

    directory: Path
    process: subprocess.Popen[str] | Child
    expected_status: int = 0
    signalled: bool = False

    @property
    def control(self) -> Path:
        return self.directory / "control.sock"

    @property
    def audio(self) -> Path:
        return self.directory / "audio.sock"

    @classmethod
    def start(
        cls, directory: Path, *arguments: str, env: dict[str, str] | None = None, through: tuple[str, ...] = ()
    ) -> RunningDaemon:
        """Start it, `through` another command, and wait until it answers `ping`. Without Wyoming: its default port is
        for one daemon a machine."""
        directory.mkdir(parents=True, exist_ok=True)
        if not any("server.wyoming" in argument for argument in arguments):
            arguments = ("--set", "server.wyoming=[]", *arguments)
        if os.geteuid():  # only root sees the descriptors of a process that keeps its memory to itself
            arguments = ("--set", "server.traceable=true", *arguments)
        environ = {key: value for key, value in os.environ.items() if not key.startswith("STTD_")}
        environ |= {"XDG_CONFIG_HOME": str(directory / "no-config"), **(env or {})}
        command = ["serve", "--runtime-dir", str(directory), *arguments]
        process: subprocess.Popen[str] | Child
        with (directory / "log").open("w") as log:
            if through:
                process = subprocess.Popen([*through, sys.executable, "-m", "sttd", *command], stderr=log, env=environ)
            else:
                process = zygote().start(command, env=environ, log=log)
        daemon = cls(directory, process)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"sttd ended with {process.returncode}: {daemon.log()}")
            try:
                daemon.call("ping")
            except OSError:
                time.sleep(0.02)
            else:
                return daemon
        raise TimeoutError(daemon.log())

    def log(self) -> str:
        return (self.directory / "log").read_text()

    def terminate(self) -> None:
        """SIGTERM; a second one makes it stop at once."""
        self.signalled = True
        self.process.send_signal(signal.SIGTERM)

    def stop(self, *, timeout_s: float = PATIENCE_S) -> int:
        """SIGTERM unless it had one, and the exit status."""
        if self.process.poll() is None and not self.signalled:
            self.terminate()
        try:
            return self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise

    def call(self, method: str, **params: object) -> dict:
        """One request of the control plane. Raises RuntimeError with the error's map."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(PATIENCE_S)
            sock.connect(str(self.control))
            sock.sendall(msgpack.packb([0, 1, method, [params] if params else []]))
            unpacker = msgpack.Unpacker()
            while data := sock.recv(65536):
                unpacker.feed(data)
                for message in unpacker:
                    if message[0] == 1:
                        if message[2] is not None:
                            raise RuntimeError(message[2])
                        return message[3]
        raise ConnectionError("the daemon closed the connection")

    def connect(self) -> ClientConnection:
        """A WebSocket to the audio plane. It sends no pings: it would not see the answer while a test reads nothing."""
        uri = "ws://localhost/ws"
        return unix_connect(str(self.audio), uri, max_size=None, open_timeout=PATIENCE_S, ping_interval=None)


def start(socket_: ClientConnection, **options: object) -> dict:
    """Open a session; returns `started`."""
    hello = json.loads(socket_.recv(timeout=PATIENCE_S))
    assert hello["type"] == "hello"
    socket_.send(json.dumps({"op": "start", **options}))
    started = json.loads(socket_.recv(timeout=PATIENCE_S))
    assert started["type"] == "started", started
    return started


def say(socket_: ClientConnection, op: str, **fields: object) -> None:
    socket_.send(json.dumps({"op": op, **fields}))


def eventually(
    condition: Callable[[], Any], *, otherwise: Callable[[], object] = lambda: "it did not come true"
) -> Any:
    """What the condition gives, once it holds: what it asks of is another process, that tells nobody."""
    deadline = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, otherwise()
        time.sleep(0.02)
    return value


PIECE_S = 0.5


def speak(
    daemon: RunningDaemon, socket_: ClientConnection, pcm: bytes, *, until: Callable[[list[dict]], bool]
) -> list[dict]:
    """Send 16-bit audio of 16 kHz at the pace of speech; once `until` holds for the interims, as fast as it goes.

    The pace is slower where hearing and decoding take their time, so that there are interims on any machine. Of the
    daemon's sessions this is the newest. Returns the events so far.
    """
    events, enough, size = [], False, round(PIECE_S * 16_000) * 2
    for at in range(0, len(pcm), size):
        socket_.send(pcm[at : at + size])
        due = time.monotonic() + PIECE_S
        while not enough:
            try:
                events.append(json.loads(socket_.recv(timeout=max(0.1, due - time.monotonic()))))
            except TimeoutError:
                if _has_done_its_work(daemon, heard_s=(at + size) / 32_000):
                    break
            else:
                enough = events[-1]["type"] == "interim" and until([e for e in events if e["type"] == "interim"])
    return events


def _has_done_its_work(daemon: RunningDaemon, *, heard_s: float) -> bool:
    """Whether its newest session has heard so much, and there is nothing to load or to decode."""
    row, status = daemon.call("sessions")["sessions"][-1], daemon.call("status")
    loading = any(entry["state"] == "loading" for entry in status["models"]["entries"])
    decoding = status["scheduler"]["in_flight"] or any(status["scheduler"]["queued"].values())
    return row["audio_s"] >= heard_s - 0.1 and not loading and not decoding


def read_until(socket_: ClientConnection, kind: str, *, timeout_s: float = PATIENCE_S) -> list[dict]:
    """Events up to and with the first of this kind."""
    events = []
    while True:
        events.append(json.loads(socket_.recv(timeout=timeout_s)))
        if events[-1]["type"] == kind:
            return events


def read_to_end(socket_: ClientConnection, *, timeout_s: float = PATIENCE_S) -> list[dict]:
    """All events until the daemon closes."""
    return [json.loads(message) for message in iter_messages(socket_, timeout_s=timeout_s)]


def iter_messages(socket_: ClientConnection, *, timeout_s: float = PATIENCE_S):
    from websockets.exceptions import ConnectionClosed

    while True:
        try:
            yield socket_.recv(timeout=timeout_s)
        except ConnectionClosed:
            return


def transcribe(daemon: RunningDaemon, pcm: bytes, *, chunk_bytes: int = 6400, **options: object) -> list[dict]:
    """Send everything as fast as it goes, stop, and read to the end."""
    with daemon.connect() as socket_:
        start(socket_, **options)
        for at in range(0, len(pcm), chunk_bytes):
            socket_.send(pcm[at : at + chunk_bytes])
        say(socket_, "stop")
        return read_to_end(socket_)


def check_promises(events: list[dict], *, locked: bool = False, whole: bool = True) -> None:
    """Promises 1, 2 and 4 of docs/reference/audio.md on everything that one session was told after `started`.

    With `locked` promise 3 too, which is that of `lock_stable`. Not `whole`: the client did not hear it to the end.
    """
    shown, ended, finals, stable, seqs = [], [], [], {}, {}
    for event in events:
        kind, number = event["type"], event.get("utterance")
        assert number not in finals, "something follows the final of its utterance"
        if kind == "speech_start":
            shown.append(number)
        elif kind == "interim":
            assert number in shown, "an interim before its speech_start"
            assert number not in ended, "an interim after speech_end"
            assert event["seq"] > seqs.get(number, 0), "seq does not rise"
            seqs[number] = event["seq"]
            before = stable.get(number, "")
            assert event["stable_chars"] >= len(before), "stable_chars went back"
            assert event["text"].startswith(before), "stable text changed"
            stable[number] = event["text"][: event["stable_chars"]]
        elif kind == "speech_end":
            ended.append(number)
        elif kind == "final":
            assert number in ended or number not in shown, "a final before its speech_end"
            assert not locked or event["text"].startswith(stable.get(number, "")), "the final changed stable text"
            finals.append(number)
    assert finals == list(range(1, len(finals) + 1)), "finals are missing or out of order"
    if not whole:
        return
    assert set(shown) <= set(finals), "an utterance without its final"
    assert events[-1]["type"] == "stopped", f"stopped is not the last message, but {events[-1]}"
    assert events[-1]["utterances"] == len(finals)


def read_samples(path: Path) -> np.ndarray:
    """Any audio file as the model takes it: 16 kHz, mono, float32."""
    return np.frombuffer(read_pcm(path), "<i2").astype(np.float32) / 32768


def read_pcm(path: Path, *, rate: int = 16_000, channels: int = 1) -> bytes:
    """Any audio file as interleaved 16-bit PCM."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono" if channels == 1 else "stereo", rate=rate)
    with av.open(str(path)) as container:
        frames = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
        frames += resampler.resample(None)
    return b"".join(frame.to_ndarray().tobytes() for frame in frames)


class ControlLine:
    """One connection to the control plane, kept open, that knows msgpack and sockets alone."""

    def __init__(self, daemon: RunningDaemon, *, timeout_s: float = PATIENCE_S) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(timeout_s)
        self.socket.connect(str(daemon.control))
        self.events: list[dict] = []
        self._answers: dict[int, tuple] = {}
        self._unpacker = msgpack.Unpacker()
        self._msgid = 0

    def __enter__(self) -> ControlLine:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def ask(self, method: str, *params: object) -> int:
        """Send a request without waiting; its id. `params` as they are, for shapes that are wrong on purpose."""
        self._msgid += 1
        self.socket.sendall(msgpack.packb([0, self._msgid, method, list(params)]))
        return self._msgid

    def read(self) -> list:
        """The next message. Raises EOFError where the daemon has closed."""
        while True:
            for message in self._unpacker:
                return message
            data = self.socket.recv(65536)
            if not data:
                raise EOFError
            self._unpacker.feed(data)

    def answer(self, msgid: int) -> tuple[dict | None, dict | None]:
        """Error and result of a request; other answers and events that come before are kept."""
        while msgid not in self._answers:
            message = self.read()
            if message[0] == 1:
                self._answers[message[1]] = (message[2], message[3])
            else:
                self.events += message[2]
        return self._answers.pop(msgid)

    def call(self, method: str, **params: object) -> dict:
        """One request. Raises RuntimeError with the error's map."""
        error, result = self.answer(self.ask(method, *([params] if params else [])))
        if error is not None:
            raise RuntimeError(error)
        return result

    def code(self, method: str, *params: object) -> str:
        """The code of the error that a request must end with."""
        error, result = self.answer(self.ask(method, *params))
        assert error is not None, result
        assert error.keys() == {"code", "message", "retryable", "data"}
        assert error["message"]
        return error["code"]

    def event(self) -> dict:
        """The next event of a subscription."""
        while not self.events:
            message = self.read()
            assert message[:2] == [2, "event"], message
            self.events += message[2]
        return self.events.pop(0)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]
