"""wyoming-faster-whisper: the recogniser of Home Assistant, which is told when an utterance is over."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio

from benchmarks import load
from benchmarks.options import Model
from benchmarks.peer.environment import PEERS, THREADS, environment, free_port, process
from benchmarks.peer.script import Heard, Server, Spoken, paced, told_parts

VERSION = "wyoming-faster-whisper 3.8.1 (faster-whisper 1.2.1)"
NOTE = "int8, 5 beams; no interims in its protocol"


@contextmanager
def serve(model: Model, speakers: int) -> Iterator[Server]:
    """The server with one model for all connections."""
    python = environment("wyoming-faster-whisper", ["wyoming-faster-whisper==3.8.1", "faster-whisper==1.2.1"])
    port = free_port()
    arguments = ["--uri", f"tcp://127.0.0.1:{port}", "--model", str(model.path), "--data-dir", str(PEERS / "data")]
    arguments += ["--stt-library", "faster-whisper", "--language", "en", "--compute-type", "int8", "--beam-size", "5"]
    arguments += ["--cpu-threads", str(THREADS), "--local-files-only"]
    with process("wyoming", [python, "-m", "wyoming_faster_whisper", *arguments], port) as pid:
        yield Server(pids=(pid,), talks={"told": partial(_told, port)})


async def _told(port: int, script: list[Spoken], heard: list[Heard]) -> None:
    """A connection for each utterance, as Home Assistant has it."""
    heard += [Heard() for _ in script]
    began = trio.current_time()

    async def one(number: int, pcm: bytes, speech_s: float, task_status: trio.TaskStatus[None]) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        audio = {"rate": load.RATE, "width": 2, "channels": 1}
        async with stream:
            await stream.send_all(_event("transcribe", {"language": "en"}))
            await stream.send_all(_event("audio-start", audio))
            heard[number].starts_s.append(trio.current_time() - began + speech_s)
            await paced(pcm, lambda data: stream.send_all(_event("audio-chunk", audio, data)))
            await stream.send_all(_event("audio-stop", {}))
            heard[number].ends_s.append(trio.current_time() - began)
            task_status.started()
            text = await _transcript(stream)
            heard[number].note(trio.current_time() - began, text, text)

    async with trio.open_nursery() as nursery:
        for number, (quiet_s, pcm, speech_s) in enumerate(told_parts(script)):
            await trio.sleep(quiet_s)
            await nursery.start(one, number, pcm, speech_s)


def _event(kind: str, data: dict[str, object], payload: bytes = b"") -> bytes:
    body = json.dumps(data).encode()
    head = {"type": kind, "version": "1.10.2", "data_length": len(body), "payload_length": len(payload)}
    return json.dumps(head).encode() + b"\n" + body + payload


async def _transcript(stream: trio.SocketStream) -> str:
    """The text of the one `transcript` that answers."""
    buffer = bytearray()

    async def take(size: int) -> bytes:
        while len(buffer) < size:
            buffer.extend(await _more(stream))
        taken = bytes(buffer[:size])
        del buffer[:size]
        return taken

    while True:
        while b"\n" not in buffer:
            buffer.extend(await _more(stream))
        head = json.loads(await take(buffer.index(b"\n") + 1))
        data = {**head.get("data", {}), **json.loads(await take(head.get("data_length") or 0) or "{}")}
        await take(head.get("payload_length") or 0)
        if head["type"] == "transcript":
            return str(data["text"])


async def _more(stream: trio.SocketStream) -> bytes:
    data = bytes(await stream.receive_some())
    if not data:
        raise ConnectionError("the server closed the connection")
    return data
