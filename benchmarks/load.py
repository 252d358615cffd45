"""Clients for benchmarks: many paced sessions from one process, cheap enough not to be what is measured.

A session is a WebSocket on the daemon's Unix socket, spoken by hand: frames are made once, with a mask of zeros
(which the protocol allows), so that sending a chunk costs one system call.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import attrs
import msgpack
import trio

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "sttd" / "assets"
RATE = 16_000
CONNECTS = 250  # tries, 20 ms apart: 5 s; chosen
Truth = list[dict[str, Any]]  # utterances as {start_s, end_s, text}


class OverloadedError(RuntimeError):
    """The daemon takes no more sessions for a moment."""


@attrs.frozen
class Heard:
    """An event with the time at which it arrived, in seconds on the session's audio clock at real-time pace."""

    at_s: float
    event: dict[str, Any]


@attrs.define
class Talk:
    """What one session said and heard."""

    heard: list[Heard] = attrs.field(factory=list)

    def events(self, kind: str) -> list[Heard]:
        return [heard for heard in self.heard if heard.event["type"] == kind]


@contextmanager
def daemon(
    *arguments: str,
    keep: dict[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    tree: Path = ROOT,
) -> Iterator[Path]:
    """`sttd serve` with these arguments; yields the directory of its sockets, and puts its pid into `keep`.

    `environ` comes on top of this process's environment, of which nothing of sttd's own is passed on. `tree` is the
    checkout that it runs from.
    """
    with tempfile.TemporaryDirectory(prefix="sttd-bench-") as name:
        directory = Path(name)
        config = directory / "empty.toml"
        config.touch()
        command = [
            sys.executable,
            "-m",
            "sttd",
            "serve",
            "--config",
            str(config),
            "--runtime-dir",
            name,
            "--tcp",
            "off",
            "--set",
            "server.wyoming=[]",
        ]
        with (directory / "log").open("w") as log:
            path = {"PYTHONPATH": os.pathsep.join([str(tree), str(tree / "clients")])} if tree != ROOT else {}
            process = subprocess.Popen(
                [*command, *arguments], stderr=log, env=clean_environ({**path, **(environ or {})}), cwd=tree
            )
        try:
            _wait_until_ready(directory, process)
            if keep is not None:
                keep["pid"] = process.pid
            yield directory
        finally:
            process.terminate()
            process.wait(60)


def clean_environ(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without settings of sttd, and what comes on top."""
    return {**{key: value for key, value in os.environ.items() if not key.startswith("STTD_")}, **extra}


def _wait_until_ready(directory: Path, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        if process.poll() is not None:
            raise RuntimeError((directory / "log").read_text())
        try:
            call(directory, "ping")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise TimeoutError("the daemon does not answer")


def call(directory: Path, method: str, **params: object) -> dict[str, Any]:
    """One request of the control plane."""
    import socket

    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(60)
        sock.connect(str(directory / "control.sock"))
        sock.sendall(msgpack.packb([0, 1, method, [params] if params else []]))
        unpacker = msgpack.Unpacker()
        while data := sock.recv(65536):
            unpacker.feed(data)
            for message in unpacker:
                if message[0] == 1:
                    if message[2] is not None:
                        raise RuntimeError(message[2]["message"])
                    return message[3]  # type: ignore[no-any-return]
    raise ConnectionError("the daemon closed the connection")


def tree_cpu_s(pid: int) -> float:
    """CPU time that a process and all its descendants have used, with those that have ended and were waited for."""
    children: dict[int, list[int]] = {}
    used: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        number = int(path.parent.name)
        children.setdefault(int(fields[1]), []).append(number)
        used[number] = sum(map(int, fields[11:15]))
    total, todo = 0, [pid]
    while todo:
        number = todo.pop()
        total += used.get(number, 0)
        todo += children.get(number, [])
    return total / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Main memory of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sample() -> tuple[bytes, Truth]:
    """The bundled sample as 16 kHz PCM, and its utterances."""
    return clip(ASSETS / "sample.flac")


def clip(path: Path) -> tuple[bytes, Truth]:
    """A recording with the list of its utterances beside it, as 16 kHz PCM."""
    return pcm(path), json.loads(path.with_suffix(".json").read_text())["utterances"]


def pcm(path: Path) -> bytes:
    """Any audio file as 16 kHz mono 16-bit PCM."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        frames = [block for frame in container.decode(audio=0) for block in resampler.resample(frame)]
        frames += resampler.resample(None)
    return b"".join(frame.to_ndarray().tobytes() for frame in frames)


def percentile(values: list[float], share: float) -> float | None:
    """The value below which `share` of them lie; None without values."""
    if not values:
        return None
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# ------------------------------------------------------------------------------------------------ sessions


@attrs.define(eq=False)
class Session:
    """One WebSocket. `events` come with their arrival time."""

    stream: trio.SocketStream
    rest: bytes = b""

    async def say(self, **message: object) -> None:
        """A text message."""
        await self.stream.send_all(frame(json.dumps(message).encode(), opcode=1))

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """Until the daemon closes."""
        while (payload := await self._next()) is not None:
            yield json.loads(payload)

    async def _next(self) -> bytes | None:
        while True:
            size, start = _frame_size(self.rest)
            if size and len(self.rest) >= start + size:
                opcode, payload = self.rest[0] & 15, self.rest[start : start + size]
                self.rest = self.rest[start + size :]
                if opcode == 8:
                    return None
                if opcode == 1:
                    return payload
                continue
            data = await self.stream.receive_some(65536)
            if not data:
                return None
            self.rest += data


def frame(payload: bytes, *, opcode: int = 2) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    if size < 126:
        head = bytes([128 | opcode, 128 | size])
    elif size < 65536:
        head = bytes([128 | opcode, 254]) + size.to_bytes(2, "big")
    else:
        head = bytes([128 | opcode, 255]) + size.to_bytes(8, "big")
    return head + bytes(4) + payload


def _frame_size(data: bytes) -> tuple[int, int]:
    """(payload size, where it starts); (0, 0) while that is not known."""
    if len(data) < 2:
        return 0, 0
    size = data[1] & 127
    if size < 126:
        return size, 2
    width = 2 if size == 126 else 8
    if len(data) < 2 + width:
        return 0, 0
    return int.from_bytes(data[2 : 2 + width], "big"), 2 + width


@asynccontextmanager
async def connect(directory: Path, **options: object) -> AsyncIterator[Session]:
    """An open session, after `started`."""
    stream = await _upgrade(directory / "audio.sock")
    async with stream:
        data = b""
        while b"\r\n\r\n" not in data:
            data += await stream.receive_some(65536)
        session = Session(stream, data.partition(b"\r\n\r\n")[2])
        await session.say(op="start", **options)
        async for event in session.events():
            if event["type"] == "error":
                raise (OverloadedError if event["code"] == "overloaded" else RuntimeError)(event["message"])
            if event["type"] == "started":
                break
        yield session


async def _upgrade(path: Path) -> trio.SocketStream:
    """A connection that has asked for a WebSocket.

    Where the listener's queue is full, connecting without blocking fails at once, and trio learns of it only when it
    sends: then it is tried again.
    """
    for _ in range(CONNECTS):
        stream = await trio.open_unix_socket(str(path))
        try:
            await stream.send_all(
                b"GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
            )
        except trio.BrokenResourceError:
            await stream.aclose()
            await trio.sleep(0.02)
        else:
            return stream
    raise ConnectionError("the daemon does not accept connections")


def chunked(pcm: bytes, *, chunk_ms: int) -> list[bytes]:
    """The audio as ready frames."""
    size = RATE * 2 * chunk_ms // 1000
    return [frame(pcm[at : at + size]) for at in range(0, len(pcm), size)]


async def talk(
    directory: Path,
    frames: list[bytes],
    *,
    chunk_ms: int,
    delay_s: float = 0.0,
    options: Mapping[str, object] | None = None,
    into: Talk | None = None,
) -> Talk:
    """Speak in real time after `delay_s`, then stop; returns everything heard, which is `into` where that is given."""
    result = into if into is not None else Talk()
    await trio.sleep(delay_s)
    async with connect(directory, **(options or {})) as session, trio.open_nursery() as nursery:
        began = trio.current_time()

        async def listen() -> None:
            async for event in session.events():
                result.heard.append(Heard(trio.current_time() - began, event))
            nursery.cancel_scope.cancel()

        nursery.start_soon(listen)
        for number, data in enumerate(frames, 1):
            # A microphone hands a chunk over when its last sample has been spoken.
            await trio.sleep_until(began + number * chunk_ms / 1000)
            await session.stream.send_all(data)
        await session.say(op="stop")
        await trio.sleep(120)  # the listener ends it
    return result


def final_latencies_s(talk_: Talk, truth: Truth) -> tuple[list[float], int, list[float]]:
    """How long after the true end of speech each utterance had its final, cuts too early, and first words' delays.

    The truth is the sample's own list of utterances. A final may cover several of them when the pause between was
    short; its latency counts from the end of the last one. A final that ends more than 0.25 s before the end of
    an utterance has cut it in two: that is an early cut.
    """
    latencies, cuts, first = [], 0, []
    for heard in talk_.events("final"):
        inside = [u for u in truth if heard.event["start_s"] < u["end_s"] and u["start_s"] < heard.event["end_s"]]
        if not inside:
            continue
        end_s = inside[-1]["end_s"]
        cuts += heard.event["end_s"] < end_s - 0.25
        latencies.append(heard.at_s - end_s)
        interims = [i for i in talk_.events("interim") if i.event["utterance"] == heard.event["utterance"]]
        if interims:
            first.append(interims[0].at_s - inside[0]["start_s"])
    return latencies, cuts, first
