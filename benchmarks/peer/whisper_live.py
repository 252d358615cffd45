"""WhisperLive: a WebSocket of 32-bit floats, answered with the last segments, again and again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import numpy as np
import trio
import trio_websocket

from benchmarks.options import Model
from benchmarks.peer.environment import environment, free_port, process, stub
from benchmarks.peer.script import Heard, Server, Spoken, paced, unbroken, until_still

VERSION = "whisper-live 0.10.0 (faster-whisper 1.2.0)"
NOTE = (
    "int8, 5 beams, one shared model, its VAD on, batching as the row says; a stub for torch, which it asks for a GPU"
)

# It imports torch to ask for a GPU and for a backend that is not used; without it this says there is none.
TORCH = "class cuda:\n    is_available = staticmethod(lambda: False)\n"
PROGRAM = """
import sys
from whisper_live.server import TranscriptionServer
TranscriptionServer().run(
    "127.0.0.1", port=int(sys.argv[1]), backend="faster_whisper", faster_whisper_custom_model_path=sys.argv[2],
    single_model=True, max_clients=16, batch_enabled=sys.argv[3] == "batched", batch_max_queue_wait_s=60.0,
    batch_max_admissions_per_s=100.0, batch_beam_size=5)
"""
NEEDS = (
    "faster-whisper==1.2.0",
    "requests",
    "websockets",
    "fastapi",
    "uvicorn",
    "python-multipart",
    "scipy",
    "av",
    "numpy",
)
OPTIONS = {
    "uid": "benchmark",
    "language": "en",
    "task": "transcribe",
    "use_vad": True,
    "send_last_n_segments": 100,
    "no_speech_thresh": 0.45,
    "same_output_threshold": 10,
}


@contextmanager
def serve(model: Model, speakers: int, *, batching: str) -> Iterator[Server]:
    """One server; `batching` is `serial` or `batched`."""
    python = environment("whisper-live", ["--no-deps", "whisper-live==0.10.0"], NEEDS)
    port = free_port()
    command = [python, "-c", PROGRAM, str(port), str(model.path), batching]
    with process("whisper-live", command, port, PYTHONPATH=stub("torch", TORCH)) as pid:
        yield Server(pids=(pid,), talks={"heard": partial(_heard, port, model)})


async def _heard(port: int, model: Model, script: list[Spoken], logs: list[Heard]) -> None:
    heard = Heard()
    logs.append(heard)
    pcm = unbroken(script, heard)
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{port}/") as socket:
        await socket.send_message(json.dumps({**OPTIONS, "model": str(model.path)}))
        while json.loads(await socket.get_message()).get("message") != "SERVER_READY":
            pass
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                while True:
                    try:
                        message = json.loads(await socket.get_message())
                    except trio_websocket.ConnectionClosed:
                        return
                    segments = message.get("segments", [])
                    if segments:
                        done = " ".join(each["text"] for each in segments if each["completed"])
                        heard.note(trio.current_time() - began, done, " ".join(each["text"] for each in segments))

            async def send(data: bytes) -> None:
                await socket.send_message((np.frombuffer(data, "<i2").astype(np.float32) / 32768).tobytes())

            nursery.start_soon(listen)
            await paced(pcm, send)
            await until_still(heard, send)  # it decodes nothing after the end of the audio
            await socket.send_message(b"END_OF_AUDIO")
