"""Sessions of all kinds and wires, each checked against what its wire promises.

A kind is a function that runs one session. It raises Refused where the daemon had no room, Vanished where the client
left on purpose, and anything else where a promise was broken.
"""

from __future__ import annotations

import base64
import http.client
import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect, unix_connect
from wyoming.asr import Transcribe
from wyoming.audio import AudioChunk, AudioStart, AudioStop

from benchmarks.wires import wav
from tests.census import NOISE
from tests.realtime_client import NAMES, check_items
from tests.running import PATIENCE_S, check_promises
from tests.soak.checks import FIXED, check, preset_for, refusal
from tests.soak.library import library, library_asyncio
from tests.soak.world import DATA, RATE, SILENT_END_WORDS, Manner, Refused, Vanished, World, dial
from tests.wyoming_client import Client, text_of

BINARY_HALF = b"\x82\xfe\x40\x00"  # a WebSocket frame of 16 KiB that never comes
LINE_HALF = b'{"type": "audio-chunk", "payload_le'


# ---------------------------------------------------------------- the native wire


def websocket(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """A stranger's WebSocket on the Unix socket: live, interims, endpoints."""
    preset = preset_for(world, rng)
    with _socket(lambda: unix_connect(str(world.daemon.audio), "ws://localhost/ws", **_PLAIN)) as client:
        session = _start(client, model=preset, endpointing=FIXED, lang="en", label="soak websocket")
        events: list[dict[str, Any]] = []
        _speak(world, client, manner, world.clips[clip], session, events)
        client.send(json.dumps({"op": "stop"}))
        _to_the_end(client, events)
    check(world, events, key=("live", clip), preset=preset)


def file(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """A FLAC file, as a file."""
    preset = preset_for(world, rng)
    data = (DATA / f"{clip}.flac").read_bytes()
    with _socket(lambda: unix_connect(str(world.daemon.audio), "ws://localhost/ws", **_PLAIN)) as client:
        session = _start(client, kind="file", encoding="container", model=preset, lang="en", label="soak file")
        events: list[dict[str, Any]] = []
        _speak(world, client, manner, data, session, events)
        client.send(json.dumps({"op": "stop"}))
        _to_the_end(client, events)
    check(world, events, key=("file", clip), preset=preset)


def push_to_talk(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """Several utterances that their client ends, of which every word is known, over TCP."""
    preset = rng.choice(world.fakes)
    with _socket(lambda: connect(f"ws://127.0.0.1:{world.port}/ws", **_PLAIN)) as client:
        session = _start(client, model=preset, endpointing=False, interim=rng.random() < 0.5, label="soak push")
        events: list[dict[str, Any]] = []
        for number in range(1, 4):
            seconds = rng.choice((0.6, 1.2, 2.4))
            _speak(world, client, manner, _noise(seconds), session, events)
            client.send(json.dumps({"op": "finalize"}))
            while sum(event["type"] == "final" for event in events) < number:
                events.append(json.loads(client.recv(timeout=PATIENCE_S)))
            world.expect(("noise", seconds), events[-1]["text"])
        client.send(json.dumps({"op": "stop"}))
        _to_the_end(client, events)
    check_promises(events)
    world.tell(events)


def sttctl(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """`sttctl transcribe`, which is killed where its user is impatient."""
    command = [sys.executable, "-c", "import sys; from sttd_client.ctl.main import main; sys.exit(main())"]
    more = ["--socket", str(world.daemon.control), "transcribe", "--model", world.fakes[0], str(DATA / f"{clip}.flac")]
    with subprocess.Popen([*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        if manner.kind in ("vanish", "half"):
            time.sleep(rng.uniform(0.0, 1.0))
            process.kill()
            raise Vanished
        out, err = process.communicate(timeout=PATIENCE_S)
    if process.returncode in (3, 6):  # the sockets are being made anew, or the daemon has no room
        raise Refused(err)
    assert process.returncode == 0, err
    world.expect_about(("sttctl", clip), out.splitlines())
    world.tally.heard(len(out.splitlines()))


# ---------------------------------------------------------------- other wires


def openai(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """OpenAI's REST API: an upload, answered whole or as a stream."""
    stream = rng.random() < 0.3
    preset = preset_for(world, rng)
    body = _form({"model": preset, "language": "en", "stream": str(stream).lower()}, wav(world.clips[clip]))
    http_ = http.client.HTTPConnection("127.0.0.1", world.port, timeout=PATIENCE_S)
    dial(http_.connect)
    raw = http_.sock
    try:
        http_.putrequest("POST", "/v1/audio/transcriptions")
        http_.putheader("Content-Type", "multipart/form-data; boundary=b0undary")
        http_.putheader("Content-Length", str(len(body)))
        http_.endheaders()
        if manner.kind == "drip":
            manner = Manner(rng, "good", 40.0)  # each piece of an upload is small to the daemon
        with suppress(BrokenPipeError, ConnectionResetError):  # it has answered already, and that is to be read
            manner.say(body, raw.sendall, raw=raw, half=b"\r\n--b0und")
        answer = http_.getresponse()
        content = answer.read()
    finally:
        http_.close()
    if answer.status in (429, 503):
        raise refusal(json.loads(content)["error"]["code"], content.decode())
    assert answer.status == 200, content
    if stream:
        events = [json.loads(line[6:]) for line in content.decode().split("\n") if line.startswith("data: ")]
        assert [event["type"] for event in events[:-1]] == ["transcript.text.delta"] * (len(events) - 1), events
        assert events[-1]["type"] == "transcript.text.done", events
        text = events[-1]["text"]
        assert "".join(event["delta"] for event in events[:-1]) == text
    else:
        text = json.loads(content)["text"]
    if preset in world.fakes:
        world.expect_about(("openai", clip), [text])
    world.tally.heard(1)


def realtime(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """OpenAI Realtime: items that the client commits."""
    preset = rng.choice(world.fakes)
    dialled = f"ws://127.0.0.1:{world.port}/v1/realtime?intent=transcription"
    audio = {
        "format": {"type": "audio/pcm", "rate": RATE},
        "transcription": {"model": preset, "language": "en"},
        "turn_detection": None,
    }
    with _socket(lambda: connect(dialled, **_PLAIN)) as client:
        client.send(
            json.dumps({"type": "session.update", "session": {"type": "transcription", "audio": {"input": audio}}})
        )
        events: list[dict[str, Any]] = []

        def append(piece: bytes) -> None:
            text = base64.b64encode(piece).decode()
            client.send(json.dumps({"type": "input_audio_buffer.append", "audio": text}))

        for number in range(1, 4):
            seconds = rng.choice((0.6, 1.2, 2.4))
            manner.say(_noise(seconds), append, raw=client.socket, half=BINARY_HALF)
            client.send(json.dumps({"type": "input_audio_buffer.commit"}))
            while sum(event["type"] in (f"{NAMES}completed", f"{NAMES}failed") for event in events) < number:
                events.append(json.loads(client.recv(timeout=PATIENCE_S)))
                if events[-1]["type"] in ("error", f"{NAMES}failed"):
                    raise refusal(events[-1]["error"]["code"], str(events[-1]))
            world.expect(("realtime", seconds), events[-1]["transcript"])
    check_items(events)
    world.tally.heard(3)


def wyoming(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """Home Assistant's package: two utterances on a connection."""
    preset = rng.choice(world.fakes)
    raw = dial(lambda: socket.create_connection(("127.0.0.1", world.wyoming_port), PATIENCE_S))
    file = raw.makefile("rwb")
    client = Client(raw, file)
    try:
        for _ in range(2):
            with suppress(BrokenPipeError, ConnectionResetError):  # it has said why, and that is to be read
                client.say(Transcribe(name=preset, language="en"), AudioStart(RATE, 2, 1))
                manner.say(
                    world.clips[clip],
                    lambda piece: client.say(AudioChunk(RATE, 2, 1, piece)),
                    raw=raw,
                    half=LINE_HALF,
                )
                client.say(AudioStop())
            events = client.told()
            if events[-1].type == "error":
                raise refusal(events[-1].data["code"], events[-1].data["text"])
            world.expect_about(("wyoming", clip), [text_of(events)], silent_words=SILENT_END_WORDS)
            world.tally.heard(1)
    finally:
        with suppress(OSError):
            file.close()
        raw.close()


def deepgram(world: World, rng: random.Random, clip: str, manner: Manner) -> None:
    """Deepgram live: endpoints, a `Finalize` in the middle, `CloseStream`."""
    preset = rng.choice(world.fakes)
    query = f"encoding=linear16&sample_rate={RATE}&endpointing=600&interim_results=true&language=en&model={preset}"
    pcm = world.clips[clip]
    with _socket(lambda: connect(f"ws://127.0.0.1:{world.port}/v1/listen?{query}", **_PLAIN)) as client:
        events: list[dict[str, Any]] = []
        manner.say(pcm, lambda piece: _send_and_look(client, piece, events), raw=client.socket)
        client.send(json.dumps({"type": "Finalize"}))
        client.send(json.dumps({"type": "CloseStream"}))
        code = _to_the_end(client, events)
    if code == 1013:
        raise Refused
    assert code == 1000, (code, events)
    assert events[-1]["type"] == "Metadata", events[-1]
    finals = [event for event in events if event["type"] == "Results" and event["is_final"]]
    at = 0.0
    for final in finals:
        assert abs(final["start"] - at) < 1e-6, "a hole between the ranges of two finals"
        at = final["start"] + final["duration"]
    assert abs(at - len(pcm) / (2 * RATE)) < 0.002, "the ranges end before the audio does"
    assert sum(final["from_finalize"] for final in finals) == 1
    texts = [final["channel"]["alternatives"][0]["transcript"] for final in finals]
    world.expect_about(("deepgram", clip), [text for text in texts if text])
    world.tally.heard(len(finals))


KINDS: Mapping[str, Callable[[World, random.Random, str, Manner], None]] = {
    kind.__name__: kind
    for kind in (library, library_asyncio, websocket, push_to_talk, file, openai, realtime, wyoming, deepgram, sttctl)
}


# ---------------------------------------------------------------- helpers

_PLAIN: dict[str, Any] = {
    "max_size": None,
    "compression": None,
    "open_timeout": PATIENCE_S,
    "close_timeout": 1,
    "ping_interval": None,
}


@contextmanager
def _socket(open_: Callable[[], ClientConnection]) -> Iterator[ClientConnection]:
    """A WebSocket. Whoever vanishes has no time for a closing handshake."""
    with ExitStack() as stack:
        try:
            client = dial(lambda: stack.enter_context(open_()))
        except InvalidStatus as error:
            raise (Refused if error.response.status_code in (408, 429, 503) else AssertionError)(str(error)) from error
        try:
            yield client
        except Vanished:
            client.close_socket()
            raise
        except ConnectionClosed as closed:
            if closed.rcvd is not None and closed.rcvd.code == 1013:
                raise Refused(closed.rcvd.reason) from closed
            raise


def _start(client: ClientConnection, **options: Any) -> str:
    assert json.loads(client.recv(timeout=PATIENCE_S))["type"] == "hello"
    client.send(json.dumps({"op": "start", **options}))
    started = json.loads(client.recv(timeout=PATIENCE_S))
    if started["type"] == "error":
        raise refusal(started["code"], started["message"])
    assert started["type"] == "started", started
    return str(started["session"])


def _speak(
    world: World, client: ClientConnection, manner: Manner, data: bytes, session: str, events: list[dict[str, Any]]
) -> None:
    """Send it on the native wire, and add what comes meanwhile. Who vanishes has been promised what he has seen."""
    try:
        manner.say(data, lambda piece: _send_and_look(client, piece, events), raw=client.socket)
    except Vanished:
        check_promises(events, whole=False)
        world.left(session, events)
        raise


def _send_and_look(client: ClientConnection, piece: bytes, events: list[dict[str, Any]]) -> None:
    client.send(piece)
    while True:
        try:
            events.append(json.loads(client.recv(timeout=0)))
        except TimeoutError:
            return


def _to_the_end(client: ClientConnection, events: list[dict[str, Any]]) -> int:
    """Everything until the close, and its code."""
    while True:
        try:
            events.append(json.loads(client.recv(timeout=PATIENCE_S)))
        except ConnectionClosed as closed:
            return closed.rcvd.code if closed.rcvd is not None else 1006


def _noise(seconds: float) -> bytes:
    return (NOISE * 3)[: round(RATE * seconds) * 2]


def _form(fields: Mapping[str, str], data: bytes) -> bytes:
    parts = [
        f'--b0undary\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    head = '--b0undary\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n'
    return "".join([*parts, head]).encode() + data + b"\r\n--b0undary--\r\n"
