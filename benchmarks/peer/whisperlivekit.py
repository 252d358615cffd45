"""WhisperLiveKit: a WebSocket of PCM, answered with the lines so far and the text that is not yet sure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import trio
import trio_websocket

from benchmarks.options import Model
from benchmarks.peer.environment import environment, free_port, process
from benchmarks.peer.script import Heard, Server, Spoken, paced, unbroken

VERSION = "whisperlivekit 0.2.26 (faster-whisper 1.2.1, torch 2.13.0)"
NOTE = (
    "policy `localagreement` on faster-whisper, 5 beams, int8 by `auto`, its own VAD; its default policy needs PyTorch "
    "weights, which are other files than those of the rest"
)
NEEDS = (
    "faster-whisper==1.2.1",
    "fastapi==0.165.0",
    "starlette==1.10.0",
    "uvicorn==0.54.0",
    "websockets==17.4",
    "python-multipart==0.0.34",
    "librosa==0.11.0",
    "soundfile==0.14.0",
    "huggingface-hub==2.4.0",
    "tiktoken==0.14.0",
    "tqdm==4.70.1",
    "onnxruntime==1.32.0",
)


@contextmanager
def serve(model: Model, speakers: int) -> Iterator[Server]:
    """One server with one model."""
    # Nothing imports torchaudio, which it requires and which would bring a torch for GPUs along.
    python = environment("whisperlivekit", ["torch==2.13.0"], ["--no-deps", "whisperlivekit==0.2.26"], NEEDS)
    port = free_port()
    arguments = ["--host", "127.0.0.1", "--port", str(port), "--model_dir", str(model.path), "--language", "en"]
    arguments += ["--backend", "faster-whisper", "--backend-policy", "localagreement", "--pcm-input"]
    with process("whisperlivekit", [python, "-m", "whisperlivekit.basic_server", *arguments], port) as pid:
        yield Server(pids=(pid,), talks={"heard": partial(_heard, port)})


async def _heard(port: int, script: list[Spoken], logs: list[Heard]) -> None:
    heard = Heard()
    logs.append(heard)
    pcm = unbroken(script, heard)
    async with trio_websocket.open_websocket_url(f"ws://127.0.0.1:{port}/asr") as socket:
        began = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def listen() -> None:
                while True:
                    message = json.loads(await socket.get_message())
                    if message.get("type") == "ready_to_stop":
                        return
                    if "lines" in message:
                        done = " ".join(line["text"] for line in message["lines"] if line["text"])
                        shown = f"{done} {message['buffer_transcription']}"
                        heard.note(trio.current_time() - began, done, shown)

            nursery.start_soon(listen)
            await paced(pcm, socket.send_message)
            await socket.send_message(b"")  # the end of the audio
