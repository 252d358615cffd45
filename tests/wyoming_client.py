"""A Wyoming client that blocks, of the real package's reading and writing."""

from __future__ import annotations

import contextlib
import select
import socket
from typing import BinaryIO

import attrs
from wyoming.asr import Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.event import read_event, write_event

SPOKEN_S = 3.0
PCM = b"\x10\x00\xf0\xff" * int(SPOKEN_S * 8000)


@contextlib.contextmanager
def open_client(sock: socket.socket):
    """On a connection, which is closed in the end."""
    with sock, sock.makefile("rwb") as file:
        yield Client(sock, file)


@attrs.frozen
class Client:
    socket: socket.socket
    file: BinaryIO

    def say(self, *events):
        for event in events:
            write_event(event.event(), self.file)

    def hear(self):
        return read_event(self.file)

    def speak(self, pcm=PCM, *, rate=16000, width=2, channels=1, step=4096):
        for at in range(0, len(pcm), step):
            self.say(AudioChunk(rate, width, channels, pcm[at : at + step]))

    def speak_until_told(self):
        """Begin an utterance and speak a word a time until there is text of it. Returns how many words that were."""
        self.say(AudioStart(16000, 2, 1))
        for number in range(1, 90):
            self.speak(PCM[:9600])
            if select.select([self.socket], [], [], 0.1)[0]:
                return number
        raise AssertionError("no text in 27 s of speech")

    def rest(self):
        """Everything until the end of the stream."""
        return list(iter(self.hear, None))

    def told(self):
        """All events of an utterance, up to its `transcript-stop`."""
        events = []
        while not events or events[-1].type not in ("transcript-stop", "error"):
            events.append(self.hear())
            assert events[-1] is not None, events
        return events

    def transcribe(self, pcm=PCM, **audio):
        """An utterance of a line, and its text."""
        self.say(AudioStart(audio.get("rate", 16000), audio.get("width", 2), audio.get("channels", 1)))
        self.speak(pcm, **audio)
        self.say(AudioStop())
        return text_of(self.told())


def text_of(events):
    """The text of an utterance, of which everything that was said is as it should be."""
    kinds = [event.type for event in events]
    chunks = kinds.count("transcript-chunk")
    assert kinds == ["transcript-start", *["transcript-chunk"] * chunks, "transcript", "transcript-stop"], events
    text = Transcript.from_event(events[-2]).text
    assert "".join(TranscriptChunk.from_event(event).text for event in events[1 : 1 + chunks]) == text
    assert all(TranscriptChunk.from_event(event).text for event in events[1 : 1 + chunks])
    return text
