"""The shortest clients of the wires that sttd speaks, all used in one way: push-to-talk over TCP.

They are not sttd's clients and no one else's: what they send is what the wire's documentation says. Each uses the
library that its users have underneath: `websockets`, `http.client`, plain sockets.

    with WIRES["realtime"](places) as wire:
        wire.send(pcm)
        text = wire.end()

A wire carries as many utterances as one likes before it is left; OpenAI's REST API makes a request of each.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import socket
import uuid
import wave
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from types import TracebackType
from typing import Any, Final, Protocol, Self

import attrs
from websockets.sync.client import ClientConnection
from websockets.sync.client import connect as websocket

RATE: Final = 16_000  # of what is sent: 16-bit mono
TIMEOUT_S: Final = 120.0
_APPEND_BYTES: Final = 9600  # of an event of OpenAI Realtime: 0.3 s


class RefusedError(Exception):
    """The daemon said no, in the wire's own words."""


@attrs.frozen(kw_only=True)
class Places:
    """Where a daemon listens on 127.0.0.1, and what it wants to be shown."""

    port: int
    wyoming: int
    key: str = ""
    headers: Mapping[str, str] = attrs.field(factory=dict)  # besides those of the wire, where it has any


class Wire(Protocol):
    """A connection to the daemon."""

    def __init__(self, places: Places) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def send(self, pcm: bytes) -> None:
        """Say this."""

    def end(self) -> str:
        """The utterance is over: its text. Raises RefusedError."""

    def drop(self) -> None:
        """Vanish, without a word. Idempotent."""


class _Base:
    """What a wire does on entering and leaving."""

    def __init__(self, places: Places) -> None:
        self.places = places

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drop()

    def drop(self) -> None:
        """Vanish."""


class _Socket(_Base):
    """A wire on a WebSocket."""

    path = "/ws"

    def __enter__(self) -> Self:
        key = {"Authorization": f"Bearer {self.places.key}"} if self.places.key else {}
        self._left = ExitStack()
        connecting = websocket(
            f"ws://127.0.0.1:{self.places.port}{self.path}",
            additional_headers={**key, **self.places.headers},
            compression=None,
            open_timeout=TIMEOUT_S,
            close_timeout=0,
        )
        self.ws: ClientConnection = self._left.enter_context(connecting)
        return self

    def say(self, **message: Any) -> None:
        """A text message."""
        self.ws.send(json.dumps(message))

    def hear(self) -> dict[str, Any]:
        """The next message."""
        message: dict[str, Any] = json.loads(self.ws.recv(TIMEOUT_S))
        return message

    def drop(self) -> None:
        """Vanish."""
        with suppress(OSError):
            self.ws.socket.shutdown(socket.SHUT_RDWR)
        self._left.close()


class Native(_Socket):
    """sttd's own wire, where the client finalizes."""

    def __enter__(self) -> Self:
        super().__enter__()
        self.say(op="start", lang="en", endpointing=False, interim=False)
        while self._hear()["type"] != "started":
            pass
        return self

    def send(self, pcm: bytes) -> None:
        """Say this."""
        self.ws.send(pcm)

    def end(self) -> str:
        """The utterance is over: its text."""
        self.say(op="finalize")
        while (event := self._hear())["type"] != "final":
            pass
        return str(event["text"])

    def _hear(self) -> dict[str, Any]:
        event = self.hear()
        if event["type"] == "error":
            raise RefusedError(event["code"])
        return event


class Realtime(_Socket):
    """OpenAI Realtime, a transcription session whose client commits."""

    path = "/v1/realtime?intent=transcription"

    def __enter__(self) -> Self:
        super().__enter__()
        audio = {
            "format": {"type": "audio/pcm", "rate": RATE},
            "transcription": {"model": "whisper-1", "language": "en"},
            "turn_detection": None,
        }
        self.say(type="session.update", session={"type": "transcription", "audio": {"input": audio}})
        self.deltas = ""  # of the newest item
        return self

    def send(self, pcm: bytes) -> None:
        """Say this."""
        for at in range(0, len(pcm), _APPEND_BYTES):
            piece = base64.b64encode(pcm[at : at + _APPEND_BYTES])
            self.say(type="input_audio_buffer.append", audio=piece.decode())

    def end(self) -> str:
        """The utterance is over: its text."""
        self.say(type="input_audio_buffer.commit")
        self.deltas = ""
        while True:
            event = self.hear()
            match event["type"]:
                case "error":
                    raise RefusedError(event["error"]["code"])
                case "conversation.item.input_audio_transcription.delta":
                    self.deltas += event["delta"]
                case "conversation.item.input_audio_transcription.failed":
                    raise RefusedError(event["error"]["code"])
                case "conversation.item.input_audio_transcription.completed":
                    return str(event["transcript"])


class Deepgram(_Socket):
    """Deepgram live, without endpointing."""

    path = f"/v1/listen?encoding=linear16&sample_rate={RATE}&endpointing=false&language=en"

    def send(self, pcm: bytes) -> None:
        """Say this."""
        self.ws.send(pcm)

    def end(self) -> str:
        """The utterance is over: its text."""
        self.say(type="Finalize")
        texts = []
        while True:
            event = self.hear()
            if event["type"] == "Error":
                raise RefusedError(event["description"])
            if event["type"] == "Results" and event["is_final"]:
                texts.append(event["channel"]["alternatives"][0]["transcript"])
                if event["from_finalize"]:
                    return " ".join(text for text in texts if text)


class Rest(_Base):
    """OpenAI's REST API: a request for each utterance."""

    def __enter__(self) -> Self:
        self._pcm = b""
        self._http = http.client.HTTPConnection("127.0.0.1", self.places.port, timeout=TIMEOUT_S)
        return self

    def send(self, pcm: bytes) -> None:
        """Say this."""
        self._pcm += pcm

    def end(self) -> str:
        """The utterance is over: its text."""
        self.ask()
        answer = self._http.getresponse()
        content = json.loads(answer.read())
        self._http.close()
        if answer.status != 200:
            raise RefusedError(content["error"]["code"])
        return str(content["text"])

    def ask(self) -> None:
        """Send the request, and do not wait for the answer."""
        boundary = uuid.uuid4().hex
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
            for name, value in (("model", "whisper-1"), ("language", "en"))
        ]
        parts.append(f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n')
        body = "".join(parts).encode() + wav(self._pcm) + f"\r\n--{boundary}--\r\n".encode()
        key = {"Authorization": f"Bearer {self.places.key}"} if self.places.key else {}
        kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        self._http.request("POST", "/v1/audio/transcriptions", body, {**kind, **key, **self.places.headers})
        self._pcm = b""

    def drop(self) -> None:
        """Vanish."""
        self._http.close()


class Wyoming(_Base):
    """Wyoming over TCP."""

    _FORMAT: Final = {"rate": RATE, "width": 2, "channels": 1}

    def __enter__(self) -> Self:
        self._socket = socket.create_connection(("127.0.0.1", self.places.wyoming), TIMEOUT_S)
        self._file = self._socket.makefile("rb")
        self._begun = False
        self.deltas = ""  # of the newest utterance
        return self

    def send(self, pcm: bytes) -> None:
        """Say this."""
        if not self._begun:
            self._say("transcribe", {"language": "en"})
            self._say("audio-start", self._FORMAT)
            self._begun, self.deltas = True, ""
        for at in range(0, len(pcm), 65536):
            self._say("audio-chunk", self._FORMAT, pcm[at : at + 65536])

    def end(self) -> str:
        """The utterance is over: its text."""
        self._say("audio-stop", {})
        self._begun = False
        while True:
            kind, data = self._hear()
            if kind == "transcript":
                return str(data["text"])
            if kind == "transcript-chunk":
                self.deltas += data["text"]
            elif kind == "error":
                raise RefusedError(data["code"])

    def drop(self) -> None:
        """Vanish."""
        self._file.close()
        self._socket.close()

    def _say(self, kind: str, data: Mapping[str, Any], payload: bytes = b"") -> None:
        line = json.dumps({"type": kind, "data": data, "payload_length": len(payload)})
        self._socket.sendall(line.encode() + b"\n" + payload)

    def _hear(self) -> tuple[str, dict[str, Any]]:
        line = self._file.readline()
        if not line:
            raise ConnectionError("the daemon closed the connection")
        event = json.loads(line)
        more = self._file.read(event.get("data_length") or 0)
        return event["type"], {**event.get("data", {}), **json.loads(more or b"{}")}


def upload(name: str, places: Places, pcm: bytes) -> str:
    """The text of one utterance, over a connection of its own."""
    with WIRES[name](places) as wire:
        wire.send(pcm)
        return wire.end()


WIRES: Final[Mapping[str, type[Wire]]] = {
    "sttd": Native,
    "openai": Rest,
    "realtime": Realtime,
    "wyoming": Wyoming,
    "deepgram": Deepgram,
}


def wav(pcm: bytes) -> bytes:
    """A WAV file of 16 kHz, 16-bit mono."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(pcm)
    return file.getvalue()
