"""The shortest client that must work: an independent library, base64 as fast as it goes, nothing read before `stop`."""

from __future__ import annotations

import base64
import json

import pytest
from websockets.sync.client import connect, unix_connect

from benchmarks.recordings import as_bytes
from benchmarks.words import words
from tests.running import check_promises, free_port, read_to_end

MESSAGE_BYTES = 3200  # 100 ms

pytestmark = pytest.mark.real


def converse(client, pcm):
    client.send(json.dumps({"op": "start", "sample_rate": 16000, "lang": "en"}))
    for at in range(0, len(pcm), MESSAGE_BYTES):
        payload = base64.b64encode(pcm[at : at + MESSAGE_BYTES]).decode()
        client.send(json.dumps({"op": "audio", "payload": payload}))
    client.send(json.dumps({"op": "stop"}))
    return read_to_end(client)


def test_the_shortest_client(model_on_disk, serve, recordings):
    model_on_disk("tiny.en")
    port = free_port()
    daemon = serve("--tcp", f"127.0.0.1:{port}", "--model", "tiny.en")
    address = f"ws://127.0.0.1:{port}/ws"
    for open_client in (lambda: connect(address), lambda: unix_connect(str(daemon.audio), address)):
        with open_client() as client:
            hello, started, *events = converse(client, as_bytes(recordings["jfk"].samples))
            assert client.close_code == 1000
        check(hello, started, events)


def check(hello, started, events):
    assert (hello["type"], started["type"], started["model"]) == ("hello", "started", "tiny.en")
    check_promises(events)
    assert events[-1]["audio_s"] == pytest.approx(11.0, abs=0.03)
    heard = words(" ".join(event["text"] for event in events if event["type"] == "final"))
    assert {"americans", "country"} <= set(heard)
