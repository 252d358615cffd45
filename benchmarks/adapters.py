"""What do other systems' wires add to a push-to-talk upload, and what do fifty uploads do to a live speaker?

First: five seconds of speech, sent at once over a new TCP connection, through each wire in turn, many rounds in one
run; the time is from connecting to having the whole text. The fake model takes as long for each, so what differs is
the wire. Target: an adapter adds at most 5 ms to the native wire (p95).

Second: one person speaks live, alone and beside fifty uploads that come at once, again and again; passes of both kinds
alternate. Latency is from the true end of speech to the final. Target: p95 at most 1.2 times the p95 alone, plus
one bounded call.

The clients are as short as the wires allow, and each uses the library that its users have underneath: `websockets`,
`http.client`, plain sockets.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import random
import socket
import time
import uuid
import wave
from collections.abc import Callable
from pathlib import Path

import trio
from websockets.sync.client import connect as websocket

from benchmarks import load, report
from benchmarks.options import Options
from benchmarks.sessions import session_for

UPLOAD_S = 5.0
ROUNDS = 60
TARGET_MS = 5.0
UPLOADS = 50
PASSES = 2
TARGET_RATIO = 1.2
CHUNK_MS = 20
TIMEOUT_S = 120
# As long as tiny.en takes for a final of five seconds; it sleeps, so that the clients have the processor.
FAKE = ("--model", "fake", "--set", "presets.fake.decode_ms=100")


def main(options: Options) -> None:
    """Both tables."""
    port, wyoming = _free_port(), _free_port()
    places = ("--tcp", f"127.0.0.1:{port}", "--set", f'server.wyoming=["127.0.0.1:{wyoming}"]')
    pcm = session_for(options.model).pcm[: int(UPLOAD_S * load.RATE) * 2]
    wires = {
        "sttd": lambda: _native(port, pcm),
        "OpenAI REST": lambda: _rest(port, pcm),
        "OpenAI Realtime": lambda: _realtime(port, pcm),
        "Wyoming": lambda: _wyoming(wyoming, pcm),
        "Deepgram": lambda: _deepgram(port, pcm),
    }
    with load.daemon(*FAKE, *places) as directory:
        load.call(directory, "load", preset="fake", keep_alive_s=-1)
        report.write(
            "adapters",
            _compare(wires),
            {"upload": f"{UPLOAD_S:g} s, {ROUNDS} rounds", "target": f"p95 at most {TARGET_MS:g} ms above sttd's"},
        )
    model = options.model
    with load.daemon(*model.serve, *places) as directory:
        load.call(directory, "load", preset=model.preset, keep_alive_s=-1)
        bound_s = load.call(directory, "config")["values"]["scheduler.final_hold_s"]["value"]
        rows = [trio.run(_beside_uploads, directory, options, port, pcm, bound_s)]
        report.write(
            "adapters_beside",
            rows,
            {"target": f"p95 beside {UPLOADS} uploads at most {TARGET_RATIO:g} times p95 alone plus one bounded call"},
            model=model.name,
        )


def _compare(wires: dict[str, Callable[[], str]]) -> list[dict[str, object]]:
    took: dict[str, list[float]] = {name: [] for name in wires}
    texts: dict[str, set[str]] = {name: set() for name in wires}
    names = list(wires)
    for _ in range(ROUNDS):
        random.shuffle(names)
        for name in names:
            began = time.perf_counter()
            texts[name].add(wires[name]())
            took[name].append((time.perf_counter() - began) * 1000)
    native = load.percentile(took["sttd"], 0.95) or 0.0
    rows = []
    for name, times in took.items():
        p95 = load.percentile(times, 0.95) or 0.0
        rows.append(
            {
                "wire": name,
                "p50_ms": round(load.percentile(times, 0.5) or 0.0, 1),
                "p95_ms": round(p95, 1),
                "added_p95_ms": round(p95 - native, 1),
                "target": "met" if p95 - native <= TARGET_MS else "missed",
                "same_text": texts[name] == texts["sttd"] and len(texts[name]) == 1,
            }
        )
    return rows


async def _beside_uploads(
    directory: Path, options: Options, port: int, pcm: bytes, bound_s: float
) -> dict[str, object]:
    session = session_for(options.model)
    frames = load.chunked(session.pcm, chunk_ms=CHUNK_MS)
    alone: list[float] = []
    beside: list[float] = []
    uploaded = 0
    for _ in range(PASSES):
        for latencies in (alone, beside):
            async with trio.open_nursery() as nursery:
                if latencies is beside:
                    uploaded += UPLOADS
                    for _ in range(UPLOADS):
                        nursery.start_soon(trio.to_thread.run_sync, _rest, port, pcm)
                talk = await load.talk(directory, frames, chunk_ms=CHUNK_MS, options={"lang": "en"})
                latencies += load.final_latencies_s(talk, session.truth)[0]
    before_s, after_s = (load.percentile(each, 0.95) or 0.0 for each in (alone, beside))
    return {
        "finals": f"{len(alone)}+{len(beside)}",
        "uploads": uploaded,
        "alone_p95_ms": round(before_s * 1000),
        "beside_p95_ms": round(after_s * 1000),
        "allowed_p95_ms": round((TARGET_RATIO * before_s + bound_s) * 1000),
        "target": "met" if after_s <= TARGET_RATIO * before_s + bound_s else "missed",
    }


# ------------------------------------------------------------------------------------------------ the wires


def _native(port: int, pcm: bytes) -> str:
    with websocket(f"ws://127.0.0.1:{port}/ws", compression=None) as ws:
        ws.send(json.dumps({"op": "start", "lang": "en", "endpointing": False, "interim": False}))
        ws.send(pcm)
        ws.send(json.dumps({"op": "stop"}))
        texts = []
        while (event := json.loads(ws.recv(TIMEOUT_S)))["type"] != "stopped":
            if event["type"] == "final":
                texts.append(event["text"])
            elif event["type"] == "error":
                raise RuntimeError(event["message"])
    return " ".join(texts)


def _rest(port: int, pcm: bytes) -> str:
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (("model", "whisper-1"), ("language", "en"))
    ]
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'.encode()
    body = b"".join([*parts, head, _wav(pcm), f"\r\n--{boundary}--\r\n".encode()])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        kind = f"multipart/form-data; boundary={boundary}"
        connection.request("POST", "/v1/audio/transcriptions", body, {"Content-Type": kind})
        answer = connection.getresponse()
        content = json.loads(answer.read())
    finally:
        connection.close()
    if answer.status != 200:
        raise RuntimeError(content["error"]["message"])
    return str(content["text"])


def _realtime(port: int, pcm: bytes) -> str:
    with websocket(f"ws://127.0.0.1:{port}/v1/realtime?intent=transcription", compression=None) as ws:
        audio = {
            "format": {"type": "audio/pcm", "rate": load.RATE},
            "transcription": {"model": "whisper-1", "language": "en"},
            "turn_detection": None,
        }
        update = {"type": "transcription", "audio": {"input": audio}}
        ws.send(json.dumps({"type": "session.update", "session": update}))
        ws.send(json.dumps({"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()}))
        ws.send(json.dumps({"type": "input_audio_buffer.commit"}))
        while True:
            event = json.loads(ws.recv(TIMEOUT_S))
            if event["type"] == "conversation.item.input_audio_transcription.completed":
                return str(event["transcript"])
            if event["type"] == "error":
                raise RuntimeError(event["error"]["message"])


def _wyoming(port: int, pcm: bytes) -> str:
    format_ = {"rate": load.RATE, "width": 2, "channels": 1}
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as sock:
        sock.sendall(
            _wyoming_event("transcribe", {"language": "en"})
            + _wyoming_event("audio-start", format_)
            + _wyoming_event("audio-chunk", format_, pcm)
            + _wyoming_event("audio-stop", {})
        )
        with sock.makefile("rb") as file:
            while line := file.readline():
                event = json.loads(line)
                data = event.get("data", {}) | json.loads(file.read(event.get("data_length", 0)) or b"{}")
                if event["type"] == "transcript":
                    return str(data["text"])
                if event["type"] == "error":
                    raise RuntimeError(data["text"])
    raise ConnectionError("the daemon closed the connection")


def _wyoming_event(kind: str, data: dict[str, object], payload: bytes = b"") -> bytes:
    return json.dumps({"type": kind, "data": data, "payload_length": len(payload)}).encode() + b"\n" + payload


def _deepgram(port: int, pcm: bytes) -> str:
    query = f"encoding=linear16&sample_rate={load.RATE}&endpointing=false&language=en"
    texts = []
    with websocket(f"ws://127.0.0.1:{port}/v1/listen?{query}", compression=None) as ws:
        ws.send(pcm)
        ws.send(json.dumps({"type": "CloseStream"}))
        while (event := json.loads(ws.recv(TIMEOUT_S)))["type"] != "Metadata":
            if event["type"] == "Results" and event["is_final"]:
                texts.append(event["channel"]["alternatives"][0]["transcript"])
    return " ".join(text for text in texts if text)


def _wav(pcm: bytes) -> bytes:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(load.RATE)
        out.writeframes(pcm)
    return file.getvalue()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
