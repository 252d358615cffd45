"""Where fuzzing begins: good inputs of every target, and the corpora that it has found.

The seeds are made from the examples of the contracts and by encoding a short sound; the corpora are files of their own,
`corpus/TARGET.txt`, an input a line in base64, that `python -m tests.fuzz` writes.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from tests.fuzz.targets import BOUNDARY, SEPARATOR

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
CONTRACT = HERE.parent / "contract"

_FRAME_HEADS = {
    "text": b"\x81\x82\0\0\0\0{}",
    "pieces": b"\x01\x81\0\0\0\0{\x80\x81\0\0\0\0}",
    "binary": b"\x82\xfe\x00\x80\0\0\0\0" + bytes(128),
    "long": b"\x82\xff" + (5000).to_bytes(8, "big") + bytes(4),
    "ping": b"\x89\x84\1\2\3\4ping",
    "close": b"\x88\x82\0\0\0\0\x03\xe8",
    "unmasked": b"\x81\x02{}",
    "bad UTF-8": b"\x81\x82\0\0\0\0\xff\xfe",
}
_HEADS = (
    "GET /ws HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    "Sec-WebSocket-Protocol: sttd.token.t\r\n\r\n",
    "GET /status HTTP/1.1\r\nHost: h\r\nOrigin: https://o\r\nAuthorization: Bearer t\r\n\r\n",
    "OPTIONS /v1/models HTTP/1.1\r\nHost: h\r\nOrigin: https://o\r\nAccess-Control-Request-Method: GET\r\n\r\n",
    "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nxi-api-key: t\r\nExpect: 100-continue\r\n"
    "Content-Type: multipart/form-data; boundary=b0undary\r\nContent-Length: 5\r\n\r\nhello",
    "POST /v1/audio/translations HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
    'Content-Type: multipart/form-data; boundary="b0undary"\r\n\r\n5\r\nhello\r\n0\r\n\r\n',
    "GET /v1/listen?encoding=linear16&sample_rate=16000 HTTP/1.1\r\nHost: [::1]:1\r\nUpgrade: websocket\r\n"
    "Connection: keep-alive, Upgrade\r\nSec-WebSocket-Protocol: token, t\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
)
_WYOMING = (
    ("describe", {}, b""),
    ("ping", {"text": "x"}, b""),
    ("transcribe", {"name": "fake", "language": "en", "transcript_names": ["Ada"], "transcript_terms": ["sttd"]}, b""),
    ("audio-start", {"rate": 16000, "width": 2, "channels": 1}, b""),
    ("audio-chunk", {"rate": 16000, "width": 2, "channels": 1}, b"samples!"),
    ("audio-chunk", {"rate": 16000, "width": 3, "channels": 2}, b"samples"),
    ("audio-stop", {}, b""),
    ("synthesize", {"text": "no"}, b"?"),
)
_REALTIME: tuple[dict[str, Any], ...] = (
    {
        "type": "session.update",
        "session": {
            "type": "transcription",
            "audio": {
                "input": {
                    "format": {"type": "audio/pcm", "rate": 24000},
                    "transcription": {"model": "whisper-1", "language": "en", "prompt": "p", "keywords": ["k"]},
                    "noise_reduction": {"type": "near_field"},
                    "turn_detection": {"type": "server_vad", "silence_duration_ms": 500},
                }
            },
            "include": ["item.input_audio_transcription.logprobs", "sttd.interim"],
        },
    },
    {
        "type": "transcription_session.update",
        "session": {
            "input_audio_format": "g711_ulaw",
            "input_audio_transcription": {"model": "gpt-4o-transcribe", "languages": ["en", "de"]},
            "turn_detection": {"type": "semantic_vad", "eagerness": "high"},
        },
    },
    {"type": "input_audio_buffer.append", "event_id": "e", "audio": "AAAAAA=="},
    {"type": "input_audio_buffer.commit"},
    {"type": "input_audio_buffer.clear"},
)
_QUERY = (
    "encoding=linear16&sample_rate=16000&channels=2&multichannel=true&interim_results=true&endpointing=300"
    "&utterance_end_ms=1000&keyterm=a&keywords=b:2&vad_events=1&model=nova-3&language=en-US"
)
_DEEPGRAM: tuple[dict[str, Any], ...] = (
    {"type": "KeepAlive"},
    {"type": "Configure", "keyterms": ["a"], "features": {"x": True}},
    {"type": "Finalize", "channel": 1},
    {"type": "CloseStream"},
)


@cache
def seeds(target: str) -> tuple[bytes, ...]:
    """Good inputs, and some bad ones; none where the bytes are moves of a machine."""
    return tuple(dict.fromkeys(_seeds(target)))


def _seeds(target: str) -> Iterator[bytes]:
    match target:
        case "rpc":
            examples = json.loads((CONTRACT / "control.json").read_text())
            yield from (bytes.fromhex(v["hex"]) for kind in ("conversation", "refused") for v in examples[kind])
        case "frames":
            yield from _FRAME_HEADS.values()
            yield b"".join(_FRAME_HEADS.values())
        case "http":
            yield from (head.encode() for head in _HEADS)
        case "multipart":
            yield from _forms()
        case "wyoming":
            lines = [_event(*event) for event in _WYOMING]
            yield from (*lines, b"".join(lines))
        case "messages":
            examples = json.loads((CONTRACT / "audio.json").read_text())
            texts = [json.dumps(v["message"]) for v in examples["ops"]] + [v["text"] for v in examples["refused"]]
            yield from (text.encode("utf-8", "replace") for text in texts)
            yield SEPARATOR.join(text.encode("utf-8", "replace") for text in texts)
        case "events":
            examples = json.loads((CONTRACT / "audio.json").read_text())
            yield from (json.dumps(v["message"]).encode() for v in examples["events"])
        case "realtime":
            yield from (json.dumps(event).encode() for event in _REALTIME)
            yield SEPARATOR.join(json.dumps(event).encode() for event in _REALTIME)
        case "deepgram":
            yield SEPARATOR.join([_QUERY.encode(), b"\x01\0\0", *(json.dumps(each).encode() for each in _DEEPGRAM)])
            yield from (SEPARATOR + json.dumps(each).encode() for each in _DEEPGRAM)
        case "container":
            yield from _containers()
        case _:
            yield bytes(64)


def _forms() -> Iterator[bytes]:
    def part(name: str, value: bytes, more: str = "") -> bytes:
        return f'--{BOUNDARY.decode()}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value

    end = b"\r\n--" + BOUNDARY + b"--\r\n"
    fields = {"model": b"whisper-1", "language": b"en", "response_format": b"verbose_json", "stream": b"true"}
    fields |= {"timestamp_granularities[]": b"word", "temperature": b"0.2", "include[]": b"logprobs"}
    yield b"\r\n".join(part(name, value) for name, value in fields.items()) + end
    yield part("file", b"RIFF", '; filename="a.wav"') + end
    yield (
        part("model", b"x")
        + b"\r\n"
        + part("file", bytes(200), '; filename="a"')
        + b"\r\n"
        + part("prompt", b"p")
        + end
    )


def _event(kind: str, data: dict[str, Any], payload: bytes) -> bytes:
    body = json.dumps(data).encode()
    line = {"type": kind, "version": "1", "data_length": len(body), "payload_length": len(payload)}
    return json.dumps(line).encode() + b"\n" + body + payload


def _containers() -> Iterator[bytes]:
    """A tenth of a second of a tone in each container that is read, as far as the library can write it."""
    import av

    tone = (np.sin(np.arange(4800) / 8) * 8000).astype(np.int16)
    for name, codec in (
        ("wav", "pcm_s16le"),
        ("flac", "flac"),
        ("mp3", "mp3"),
        ("ogg", "libopus"),
        ("webm", "libopus"),
        ("mp4", "aac"),
        ("aiff", "pcm_s16be"),
        ("au", "pcm_mulaw"),
    ):
        file = io.BytesIO()
        with av.open(file, "w", format=name) as container:
            stream = container.add_stream(codec, rate=48_000, layout="mono")
            frame = av.AudioFrame.from_ndarray(tone[np.newaxis], format="s16", layout="mono")
            frame.sample_rate = 48_000
            for packet in (*stream.encode(frame), *stream.encode(None)):
                container.mux(packet)
        yield file.getvalue()


def corpus(target: str) -> tuple[bytes, ...]:
    """What fuzzing has found that reaches further than the seeds."""
    path = CORPUS / f"{target}.txt"
    return tuple(map(base64.b64decode, path.read_text().split())) if path.is_file() else ()


def keep(target: str, inputs: list[bytes]) -> None:
    """Write the corpus of a target."""
    CORPUS.mkdir(exist_ok=True)
    lines = sorted((base64.b64encode(data).decode() for data in inputs), key=lambda line: (len(line), line))
    (CORPUS / f"{target}.txt").write_text("".join(f"{line}\n" for line in lines))
