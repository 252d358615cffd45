"""The servers that `peers` compares, each in an environment of its own, and a small client for each protocol."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import trio
import trio_websocket

from benchmarks import load, report
from benchmarks.peer_script import CHUNK_MS, Heard, Spoken, paced, told_parts, unbroken

PEERS = report.ROOT / "build" / "peers"
READY_S = 60
MODEL = Path(os.environ.get("STTD_BENCH_MODEL") or load.ASSETS / "demo-model")
THREADS = len(os.sched_getaffinity(0))

# WhisperLive imports torch to ask for a GPU and for a backend that is not used; without it this says there is none.
TORCH = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
WHISPER_LIVE = """
import sys
from whisper_live.server import TranscriptionServer
TranscriptionServer().run(
    "127.0.0.1", port=int(sys.argv[1]), backend="faster_whisper", faster_whisper_custom_model_path=sys.argv[2],
    single_model=True, max_clients=16, batch_enabled=sys.argv[3] == "batched", batch_max_queue_wait_s=60.0,
    batch_max_admissions_per_s=100.0, batch_beam_size=5)
"""


# ------------------------------------------------------------------------------------------------ sttd


@contextmanager
def sttd() -> Iterator[tuple[Path, int]]:
    keep: dict[str, Any] = {}
    preset = ["--set", f"presets.demo.model={MODEL}"] if "STTD_BENCH_MODEL" in os.environ else []
    with load.daemon("--model", "demo", *preset, keep=keep) as directory:
        load.call(directory, "load", preset="demo", keep_alive_s=-1)
        yield directory, keep["pid"]


async def sttd_told(directory: Path, script: list[Spoken]) -> list[Heard]:
    heard = [Heard() for _ in script]
    began = trio.current_time()
    options = {"lang": "en", "endpointing": False, "interim": False}
    async with load.connect(directory, **options) as session, trio.open_nursery() as nursery:

        async def listen() -> None:
            async for event in session.events():
                if event["type"] == "final":
                    heard[event["utterance"] - 1].note(trio.current_time() - began, event["text"], event["text"])

        nursery.start_soon(listen)
        for number, (quiet_s, pcm) in enumerate(told_parts(script)):
            await trio.sleep(quiet_s)
            await paced(pcm, lambda data: session.stream.send_all(load.frame(data)))
            await session.say(op="finalize")
            heard[number].ends_s.append(trio.current_time() - began)
        await session.say(op="stop")
    return heard


async def sttd_heard(directory: Path, script: list[Spoken]) -> list[Heard]:
    heard = Heard()
    pcm = unbroken(script, heard)
    talk = await load.talk(directory, load.chunked(pcm, chunk_ms=CHUNK_MS), chunk_ms=CHUNK_MS, options={"lang": "en"})
    finals: list[str] = []
    for each in talk.heard:
        if each.event["type"] == "final":
            finals.append(each.event["text"])
            heard.note(each.at_s, " ".join(finals), " ".join(finals))
        elif each.event["type"] == "interim":
            heard.note(each.at_s, " ".join(finals), " ".join([*finals, each.event["text"]]))
    return [heard]


# ------------------------------------------------------------------------------------------------ Wyoming


@contextmanager
def wyoming() -> Iterator[tuple[int, int]]:
    python = _environment("wyoming-faster-whisper", ["wyoming-faster-whisper==3.8.1"])
    port = _free_port()
    arguments = ["--uri", f"tcp://127.0.0.1:{port}", "--model", str(MODEL), "--data-dir", str(PEERS / "data")]
    arguments += ["--stt-library", "faster-whisper", "--language", "en", "--compute-type", "int8", "--beam-size", "5"]
    arguments += ["--cpu-threads", str(THREADS), "--local-files-only"]
    with _server([python, "-m", "wyoming_faster_whisper", *arguments], port) as pid:
        yield port, pid


async def wyoming_told(port: int, script: list[Spoken]) -> list[Heard]:
    """A connection for each utterance, as Home Assistant has it."""
    heard = [Heard() for _ in script]
    began = trio.current_time()

    async def one(number: int, pcm: bytes, task_status: trio.TaskStatus[None]) -> None:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        audio = {"rate": load.RATE, "width": 2, "channels": 1}
        async with stream:
            await stream.send_all(_wyoming_event("transcribe", {"language": "en"}))
            await stream.send_all(_wyoming_event("audio-start", audio))
            await paced(pcm, lambda data: stream.send_all(_wyoming_event("audio-chunk", audio, data)))
            await stream.send_all(_wyoming_event("audio-stop", {}))
            heard[number].ends_s.append(trio.current_time() - began)
            task_status.started()
            text = await _wyoming_transcript(stream)
            heard[number].note(trio.current_time() - began, text, text)

    async with trio.open_nursery() as nursery:
        for number, (quiet_s, pcm) in enumerate(told_parts(script)):
            await trio.sleep(quiet_s)
            await nursery.start(one, number, pcm)
    return heard


def _wyoming_event(kind: str, data: dict[str, object], payload: bytes = b"") -> bytes:
    body = json.dumps(data).encode()
    head = {"type": kind, "version": "1.10.2", "data_length": len(body), "payload_length": len(payload)}
    return json.dumps(head).encode() + b"\n" + body + payload


async def _wyoming_transcript(stream: trio.SocketStream) -> str:
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


# ------------------------------------------------------------------------------------------------ WhisperLive


@contextmanager
def whisper_live(mode: str) -> Iterator[tuple[int, int]]:
    needs = [
        "faster-whisper==1.2.0",
        "requests",
        "websockets",
        "fastapi",
        "uvicorn",
        "python-multipart",
        "scipy",
        "av",
        "numpy",
    ]
    python = _environment("whisper-live", needs, alone="whisper-live==0.10.0")
    stubs = PEERS / "stubs"
    stubs.mkdir(exist_ok=True)
    (stubs / "torch.py").write_text(TORCH)
    port = _free_port()
    command = [python, "-c", WHISPER_LIVE, str(port), str(MODEL), mode]
    with _server(command, port, PYTHONPATH=str(stubs)) as pid:
        yield port, pid


async def whisper_live_heard(port: int, script: list[Spoken]) -> list[Heard]:
    heard = Heard()
    pcm = unbroken(script, heard)
    options = {
        "uid": "benchmark",
        "language": "en",
        "task": "transcribe",
        "model": str(MODEL),
        "use_vad": True,
        "send_last_n_segments": 100,
        "no_speech_thresh": 0.45,
        "same_output_threshold": 10,
    }
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{port}/") as socket_:
        await socket_.send_message(json.dumps(options))
        while json.loads(await socket_.get_message()).get("message") != "SERVER_READY":
            pass
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                while True:
                    try:
                        message = json.loads(await socket_.get_message())
                    except trio_websocket.ConnectionClosed:
                        return
                    segments = message.get("segments", [])
                    if segments:
                        done = " ".join(each["text"] for each in segments if each["completed"])
                        heard.note(trio.current_time() - began, done, " ".join(each["text"] for each in segments))

            async def send(data: bytes) -> None:
                await socket_.send_message((np.frombuffer(data, "<i2").astype(np.float32) / 32768).tobytes())

            nursery.start_soon(listen)
            await paced(pcm, send)
            await socket_.send_message(b"END_OF_AUDIO")
    return [heard]


# ------------------------------------------------------------------------------------------------ servers


def _environment(name: str, packages: list[str], *, alone: str = "") -> str:
    """The Python of an environment with these packages, made if it is not there; `alone` without what it needs."""
    folder = PEERS / name
    python = folder / "bin" / "python"
    done = folder / "installed"
    if not done.exists():
        print(f"  installing {name} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        if alone:
            subprocess.run([*pip, "--no-deps", alone], check=True)
        subprocess.run([*pip, *packages], check=True)
        done.touch()
    return str(python)


@contextmanager
def _server(command: list[str], port: int, **environ: str) -> Iterator[int]:
    """A server process once it accepts connections."""
    with (PEERS / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env={**os.environ, **environ})
    try:
        for _ in range(READY_S * 10):
            if process.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
            except OSError:
                time.sleep(0.1)
            else:
                yield process.pid
                return
        raise RuntimeError((PEERS / "log").read_text()[-2000:])
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
