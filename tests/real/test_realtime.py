"""OpenAI's Realtime API with a pretrained model: words while a person speaks, and the same words in the end."""

from __future__ import annotations

import base64
import json
import time

import pytest
from websockets.sync.client import unix_connect

from benchmarks.recordings import as_bytes
from benchmarks.words import words

NAMES = "conversation.item.input_audio_transcription."
PIECE_S = 0.1
PATIENCE_S = 3.0  # the longest interval between two interims

pytestmark = pytest.mark.real


def append(socket, pcm):
    message = {"type": "input_audio_buffer.append", "audio": base64.b64encode(pcm).decode()}
    socket.send(json.dumps(message))


def test_words_come_while_a_person_speaks_and_stay(daemon_with, recordings):
    recording = recordings["austen-0920"]
    pcm, size = as_bytes(recording.samples), round(PIECE_S * 32_000)
    events, held = [], None
    with unix_connect(str(daemon_with("tiny.en").audio), "ws://localhost/v1/realtime", max_size=None) as socket:
        form = {"type": "audio/pcm", "rate": 16_000}
        session = {"audio": {"input": {"format": form, "turn_detection": None}}}
        socket.send(json.dumps({"type": "session.update", "session": session}))
        began = time.monotonic()
        for number, at in enumerate(range(0, len(pcm), size)):
            append(socket, pcm[at : at + size])
            time.sleep(max(0.0, began + number * PIECE_S - time.monotonic()))
        # A busy machine shows late what was said; what comes now came before the commit.
        while held is None:
            try:
                events.append(json.loads(socket.recv(timeout=PATIENCE_S)))
            except TimeoutError:
                append(socket, bytes(size))  # more audio, for one more interim
            else:
                held = events[-1].get("delta")
        socket.send(json.dumps({"type": "input_audio_buffer.commit"}))
        while events[-1]["type"] != f"{NAMES}completed":
            events.append(json.loads(socket.recv(timeout=60)))
    names = [event["type"] for event in events]
    assert names.index(f"{NAMES}delta") < names.index("input_audio_buffer.committed")
    transcript = events[-1]["transcript"]
    assert "".join(event.get("delta", "") for event in events) == transcript
    wanted, heard = words(recording.text), words(transcript)
    assert len(set(wanted) & set(heard)) > 0.7 * len(set(wanted))
