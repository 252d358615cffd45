"""A satellite that speaks in real time: text while it is spoken, and the transcript when it has stopped."""

from __future__ import annotations

import socket
import time

import pytest
from wyoming.audio import AudioStart, AudioStop

from benchmarks.recordings import as_bytes
from benchmarks.words import words
from tests.wyoming_client import open_client, text_of

PIECE_BYTES = 3200  # 100 ms

pytestmark = [pytest.mark.real, pytest.mark.slow]


def test_a_satellite_gets_text_of_a_person(model_on_disk, serve, recordings):
    model_on_disk("tiny.en")
    daemon = serve("--tcp", "off", "--model", "tiny.en", "--set", "server.wyoming=unix://w.sock")
    daemon.call("load", preset="tiny.en", keep_alive_s=-1)
    pcm = as_bytes(recordings["jfk"].samples)[: 32_000 * 6]
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(120.0)
    connection.connect(str(daemon.directory / "w.sock"))
    with open_client(connection) as client:
        client.say(AudioStart(16000, 2, 1))
        for at in range(0, len(pcm), PIECE_BYTES):
            client.speak(pcm[at : at + PIECE_BYTES])
            time.sleep(0.1)  # the satellite's clock, not a wait for the daemon
        client.say(AudioStop())
        text = text_of(client.told())
        assert words(text)[:5] == ["and", "so", "my", "fellow", "americans"]
        assert client.transcribe(bytes(64_000)) == ""
