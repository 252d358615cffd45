"""A daemon as clients of Deepgram's live API see it: the real `deepgram-sdk`, and a foreign WebSocket."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
from deepgram import DeepgramClient, DeepgramClientEnvironment
from deepgram.core.events import EventType
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.running import RunningDaemon, free_port, read_pcm

DATA = Path(__file__).parent / "data"
PATIENCE_S = 60.0


class Running:
    """A daemon with a TCP port of its own."""

    def __init__(self, directory, *arguments):
        self.port = free_port()
        self.daemon = RunningDaemon.start(directory, "--tcp", f"127.0.0.1:{self.port}", *arguments)

    def client(self, kind=DeepgramClient, key="unused"):
        http_url, socket_url = f"http://127.0.0.1:{self.port}", f"ws://127.0.0.1:{self.port}"
        places = {"base": http_url, "production": socket_url, "agent": socket_url, "agent_rest": http_url}
        return kind(api_key=key, environment=DeepgramClientEnvironment(**places))

    def connect(self, query="encoding=linear16&sample_rate=16000", **options):
        """A foreign WebSocket."""
        return connect(f"ws://127.0.0.1:{self.port}/v1/listen?{query}", max_size=None, **options)


def clip(name="light", rate=16_000):
    return read_pcm(DATA / f"{name}.flac", rate=rate)


def pieces(pcm, size=3200):
    return [pcm[at : at + size] for at in range(0, len(pcm), size)]


def listen(socket, messages):
    """Read in the background until the close, as the SDK's users do."""
    socket.on(EventType.MESSAGE, messages.append)
    thread = threading.Thread(target=socket.start_listening)
    thread.start()
    return thread


def hear_all(socket):
    """Messages of a foreign WebSocket until the close, its code and reason."""
    messages = []
    try:
        while True:
            messages.append(json.loads(socket.recv(timeout=PATIENCE_S)))
    except ConnectionClosed as closed:
        return messages, *((closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (None, ""))


def hear(socket, holds):
    """Messages up to and with the first that is looked for."""
    messages = []
    while not messages or not holds(messages[-1]):
        messages.append(json.loads(socket.recv(timeout=PATIENCE_S)))
    return messages


def say(socket, kind, **fields):
    socket.send(json.dumps({"type": kind, **fields}))


def transcript(result):
    if isinstance(result, dict):
        return result["channel"]["alternatives"][0]["transcript"]
    return result.channel.alternatives[0].transcript


def finals(messages):
    return [m for m in messages if isinstance(m, dict) and m["type"] == "Results" and m["is_final"]]


def check_ranges(results, audio_s, channel=0):
    """The ranges of the finals of one channel cover the audio without gaps, and their words lie in them."""
    at = 0.0
    for result in results:
        if not result.is_final or result.channel_index[0] != channel:
            continue
        assert result.start == pytest.approx(at, abs=1e-6)
        at = result.start + result.duration
        [alternative] = result.channel.alternatives
        assert bool(alternative.words) == bool(alternative.transcript)
        for word in alternative.words:
            assert result.start - 1e-6 <= word.start <= word.end <= at + 1e-6
            assert 0 < word.confidence <= 1
        assert (alternative.confidence > 0) == bool(alternative.transcript)
    assert at == pytest.approx(audio_s, abs=0.002)
