"""RealtimeSTT: a library for one speaker, so each speaker has a recorder with a model of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import trio

from benchmarks.options import Model
from benchmarks.peer.environment import environment, free_port, process, stub
from benchmarks.peer.script import Heard, Server, Spoken, paced, unbroken

VERSION = "realtimestt 1.1.2 (faster-whisper 1.2.1, silero-vad 6.2.3, torch 2.13.0)"
NOTE = (
    "a recorder and a model for each speaker, the one model for interims too; int8, 5 beams, 3 for interims (its "
    "default); a stub for PyAudio: no microphone is used"
)
NEEDS = (
    "faster-whisper==1.2.1",
    "webrtcvad-wheels==2.0.14",
    "halo==0.0.31",
    "colorama==0.4.6",
    "scipy==1.17.1",
    "websockets==16.0",
    "websocket-client==1.9.0",
    "soundfile==0.13.1",
    "onnxruntime==1.32.0",
    "packaging==26.4",
)
PYAUDIO = "paInt16 = 8\n\n\nclass PyAudio:\n    pass\n"
HOST = Path(__file__).with_name("realtimestt_host.py")


@contextmanager
def serve(model: Model, speakers: int) -> Iterator[Server]:
    """As many hosts as there will be speakers."""
    # Nothing imports torchaudio, which it requires and which would bring a torch for GPUs along.
    python = environment(
        "realtimestt", ["torch==2.13.0"], ["--no-deps", "realtimestt==1.1.2", "silero-vad==6.2.3"], NEEDS
    )
    path = stub("pyaudio", PYAUDIO)
    ports = [free_port() for _ in range(speakers)]
    with ExitStack() as stack:
        pids = tuple(
            stack.enter_context(
                process(f"realtimestt-{number}", [python, str(HOST), str(port), str(model.path)], port, PYTHONPATH=path)
            )
            for number, port in enumerate(ports)
        )
        yield Server(pids=pids, talks={"heard": partial(_heard, ports)})


async def _heard(free: list[int], script: list[Spoken], logs: list[Heard]) -> None:
    heard = Heard()
    logs.append(heard)
    pcm = unbroken(script, heard)
    port = free.pop()
    finals: list[str] = []
    try:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream, trio.open_nursery() as nursery:
            began = trio.current_time()

            async def listen() -> None:
                rest = b""
                async for data in stream:
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        message = json.loads(line)
                        if "final" in message:
                            finals.append(message["final"])
                        shown = [*finals, message["shown"]] if "shown" in message else finals
                        heard.note(trio.current_time() - began, " ".join(finals), " ".join(shown))

            nursery.start_soon(listen)
            await paced(pcm, stream.send_all)
            await stream.send_eof()
    finally:
        free.append(port)
