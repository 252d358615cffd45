"""What everybody in a soak shares: the daemon, what it is expected to hear, how clients misbehave, what was counted."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from websockets.exceptions import InvalidMessage

from tests.running import PATIENCE_S, RunningDaemon, read_pcm
from tests.soak.proxy import Proxy

DATA = Path(__file__).parents[1] / "data"
RATE = 16_000
SILENT_WORDS = 3  # of 300 ms, that fakes hear in the silence of 600 ms that ends an utterance, and by rounding
SILENT_END_WORDS = (
    6  # the same at the end of a recording, where its client ends the utterance: 1 s and 0.5 s of its own
)
PIECE_BYTES = RATE * 2 // 10  # 100 ms

Send = Callable[[bytes], object]


class Refused(Exception):
    """The daemon said before anything began that it has no room. That is a promise kept."""


class Vanished(Exception):
    """This client left in the middle, on purpose."""


@attrs.define
class Tally:
    """What was counted, from many threads."""

    done: Counter[str] = attrs.field(factory=Counter)  # sessions that were checked to their end, by kind
    left: Counter[str] = attrs.field(factory=Counter)  # that their client left on purpose
    refused: Counter[str] = attrs.field(factory=Counter)  # with `overloaded`, before they began
    told: Counter[str] = attrs.field(factory=Counter)  # warnings, and errors that were not fatal, by code
    faults: Counter[str] = attrs.field(factory=Counter)
    utterances: int = 0
    broken: list[str] = attrs.field(factory=list)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def count(self, what: str, key: str, by: int = 1) -> None:
        """One more in one of the counters."""
        with self._lock:
            getattr(self, what)[key] += by

    def heard(self, utterances: int) -> None:
        """So many finals were checked."""
        with self._lock:
            self.utterances += utterances

    def broke(self, what: str) -> None:
        """A promise was broken."""
        with self._lock:
            self.broken.append(what)


@attrs.define(eq=False)
class World:
    """One soak."""

    daemon: RunningDaemon
    port: int
    wyoming_port: int
    proxy: Proxy
    clips: dict[str, bytes]  # 16-bit mono at 16 kHz
    fakes: tuple[str, ...]  # presets that all hear the same
    real: str | None  # one with a model
    isolation: str  # `engine.isolation`, if it is set
    tally: Tally = attrs.field(factory=Tally)
    shown: dict[str, set[int]] = attrs.field(factory=dict)  # utterances that clients saw begin before they left
    _heard: dict[Hashable, object] = attrs.field(factory=dict)
    _lock: threading.Lock = attrs.field(factory=threading.Lock)

    def expect(self, key: Hashable, heard: object) -> None:
        """The same was heard of the same sound before, when nothing was wrong. The first time it is taken for that."""
        with self._lock:
            before = self._heard.setdefault(key, heard)
        assert heard == before, f"{key}: {heard!r}, and before it was {before!r}"

    def expect_about(self, key: Hashable, texts: list[str], *, silent_words: int = SILENT_WORDS) -> None:
        """As many texts as when nothing was wrong, of about as many words.

        The fakes hear silence as words, too: an interim in the pause that ends the utterance has more of them than its
        final, which keeps what became stable. `silent_words`: what such a pause may have.
        """
        counts = [len(text.split()) for text in texts]
        with self._lock:
            before = self._heard.setdefault(key, counts)
        assert isinstance(before, list)
        assert len(counts) == len(before), f"{key}: {texts!r}, and before there were {before} words"
        near = all(abs(now - then) <= silent_words for now, then in zip(counts, before, strict=True))
        assert near, f"{key}: {texts!r}, and before there were {before} words"

    def left(self, session: str, events: list[dict[str, Any]]) -> None:
        """A client of the native wire left: what began before its eyes is to be final for those who listen."""
        with self._lock:
            self.shown[session] = {event["utterance"] for event in events if event["type"] == "speech_start"}

    def tell(self, events: list[dict[str, Any]]) -> None:
        """Count what a session was told besides its text."""
        for event in events:
            if event["type"] in ("warning", "error"):
                self.tally.count("told", event["code"])
        self.tally.heard(sum(event["type"] == "final" for event in events))


def clips(*names: str) -> dict[str, bytes]:
    """Recordings with a second of silence behind, so that their last utterance has its endpoint."""
    return {name: read_pcm(DATA / f"{name}.flac") + bytes(2 * RATE) for name in names}


# ---------------------------------------------------------------- how clients are


@attrs.define
class Manner:
    """How one client behaves on its connection: well, or not."""

    rng: random.Random
    kind: str = "good"
    pace: float = 0.0  # of speech, times real time; 0: as fast as it goes

    @classmethod
    def any(cls, rng: random.Random) -> Manner:
        """One of them; six in ten are good."""
        kind = rng.choices(("good", "vanish", "half", "deaf", "drip"), weights=(60, 12, 8, 10, 10))[0]
        return cls(rng, kind, rng.choice((0.0, 1.0, 1.0, 4.0)))

    def say(self, pcm: bytes, send: Send, *, raw: socket.socket, half: bytes = b"\x82\xfe\x40\x00") -> None:
        """Send it in pieces. Raises Vanished.

        Args:
            send: what the wire makes of a piece.
            raw: the socket underneath.
            half: the beginning of something on this wire that has no end.
        """
        pieces = [pcm[at : at + PIECE_BYTES] for at in range(0, len(pcm), PIECE_BYTES)]
        moment = self.rng.randrange(len(pieces))
        for number, piece in enumerate(pieces):
            if number == moment and self.kind != "good":
                piece = self._misbehave(piece, send, raw, half)
            send(piece)
            if self.pace:
                time.sleep(len(piece) / (2 * RATE * self.pace))

    def _misbehave(self, piece: bytes, send: Send, raw: socket.socket, half: bytes) -> bytes:
        """What of the piece is still to be sent."""
        match self.kind:
            case "deaf":  # and silent
                time.sleep(self.rng.uniform(0.5, 4.0))
                return piece
            case "drip":
                dripped = min(200, len(piece) - 2)  # something is left: an empty message has a meaning of its own
                for at in range(0, dripped, 2):
                    send(piece[at : at + 2])
                    time.sleep(0.01)
                return piece[dripped:]
            case "half":
                with suppress(OSError):  # it was sent away meanwhile
                    raw.sendall(half)
        with suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)
        raise Vanished


def dial(connect: Callable[[], Any]) -> Any:
    """What `connect` gives, once it does: sockets are removed and queues are full now and then."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return connect()
        except (ConnectionError, FileNotFoundError, BlockingIOError, EOFError, InvalidMessage):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
