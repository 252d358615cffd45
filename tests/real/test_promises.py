"""The promises 1 to 4 of the audio plane where decodes take their time and utterances end by themselves.

On every recording they are checked in `test_word_errors`, and with the embedded model in `tests/e2e`.
"""

from __future__ import annotations

import socket

import pytest

from benchmarks.recordings import as_bytes
from benchmarks.words import words
from sttd.core.types import SAMPLE_RATE
from tests.running import PATIENCE_S, ControlLine, check_promises, read_to_end, read_until, say, speak, start

pytestmark = pytest.mark.real


def finals(events):
    return [event for event in events if event["type"] == "final"]


def pcm_of(recording, *, from_s=0.0, to_s):
    """A part of a recording, as a client sends it."""
    return as_bytes(recording.samples[round(from_s * SAMPLE_RATE) : round(to_s * SAMPLE_RATE)])


def test_a_stop_in_the_middle_of_a_sentence(daemon, recordings):
    # From 0.3 s to 6.5 s without a pause; the sentence goes on to 7.7 s.
    pcm = pcm_of(recordings["ls-2412-153948-0000"], from_s=0.3, to_s=6.5)
    with daemon.connect() as client:
        start(client, lang="en", lock_stable=True)
        events = speak(daemon, client, pcm, until=lambda interims: interims[-1]["stable_chars"] > 0)
        say(client, "stop")
        events += read_to_end(client)
        assert client.close_code == 1000
    check_promises(events, locked=True)
    assert any(event["type"] == "interim" and event["stable_chars"] for event in events)
    assert finals(events)[-1]["reason"] == "stop"
    assert events[-1]["audio_s"] == pytest.approx(6.2, abs=0.03)
    assert {"reader", "excuse", "nothing"} <= set(words(" ".join(final["text"] for final in finals(events))))


# Of the speech in `bush-columbia`: two sentences with their pauses, and the third nearly to its end, at 7.9 s.
TO_THE_THIRD_S = 7.5


def speak_to_the_third(client, recordings):
    """Returns when the third utterance has begun, with the events so far."""
    start(client, lang="en")
    pcm = pcm_of(recordings["bush-columbia"], to_s=TO_THE_THIRD_S)
    for at in range(0, len(pcm), 6400):
        client.send(pcm[at : at + 6400])
    events = []
    while not events or events[-1]["utterance"] < 3:
        events += read_until(client, "speech_start")
    return events


def test_a_dropped_connection(daemon, recordings):
    with ControlLine(daemon) as line, daemon.connect() as client:
        line.call("subscribe", topics=["transcripts"])
        shown = speak_to_the_third(client, recordings)
        client.socket.shutdown(socket.SHUT_RDWR)
        told = [line.event()]
        while told[-1]["reason"] != "disconnect":
            told.append(line.event())
    assert [event["utterance"] for event in told] == [1, 2, 3]
    # What the client was sent before is the same.
    for final in finals(shown):
        assert told[final["utterance"] - 1]["text"] == final["text"]
    assert {"terrible", "news", "sadness"} <= set(words(" ".join(event["text"] for event in told)))


def test_sigterm(model_on_disk, model, serve, recordings):
    model_on_disk(model)
    daemon = serve("--tcp", "off", "--model", model, "--set", f"server.drain_s={PATIENCE_S}")
    daemon.call("load", preset=model)
    with daemon.connect() as client:
        events = speak_to_the_third(client, recordings)
        daemon.terminate()
        events += read_to_end(client)
        assert client.close_code == 1001
    assert daemon.stop() == 0, daemon.log()
    check_promises(events)
    assert [final["utterance"] for final in finals(events)] == [1, 2, 3]
    assert finals(events)[-1]["reason"] == "drain"
    assert {"terrible", "news"} <= set(words(" ".join(final["text"] for final in finals(events))))
