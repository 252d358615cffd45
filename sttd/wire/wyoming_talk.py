"""The conversation of a Wyoming client, sans IO: what its events ask for, and what it is told of an utterance.

Rules of what it asks for:

1. An utterance begins with `audio-start`, or with an `audio-chunk` outside of one, and ends with `audio-stop`. There
   may be any number on a connection, one after another.
2. All its chunks have the format that it began with; another one is an error.
3. An `audio-start` within an utterance ends that one, of which nothing more is told, and begins the next.
4. An `audio-stop` outside of an utterance is owed a transcript where a `transcribe` came since the last one: it was an
   utterance without any audio. Else it is read over.

Rules of what it is told of one:

5. `transcript` is said once, at the end.
6. With streaming what is stable is told before, in `transcript-chunk`s, which together are the text of the transcript.
   Before the first one, or before the transcript, comes `transcript-start`; after the transcript `transcript-stop`.
"""

from __future__ import annotations

from typing import TypeAlias

import attrs

from sttd.errors import ProtocolError
from sttd.wire import wyoming
from sttd.wire.growing import GrowingText
from sttd.wire.wyoming import (
    AudioChunk,
    AudioStart,
    AudioStop,
    Describe,
    Event,
    Format,
    Ping,
    Samples,
    Transcribe,
    Widener,
)


@attrs.frozen
class Begin:
    """An utterance begins. `again`: in the middle of another one, which is of no more use."""

    format: Format
    again: bool = False


@attrs.frozen
class Feed:
    """Samples of the utterance, in the encoding of its format."""

    data: bytes


@attrs.frozen
class End:
    """The utterance is over."""


@attrs.frozen
class Nothing:
    """An utterance without any audio is over."""


Action: TypeAlias = Describe | Ping | Transcribe | Begin | Feed | End | Nothing


@attrs.define(eq=False)
class Talk:
    """Rules 1 to 4 for one connection."""

    _format: Format | None = attrs.field(default=None, init=False)  # of the utterance that is open
    _widener: Widener | None = attrs.field(default=None, init=False)
    _asked: bool = attrs.field(default=False, init=False)  # by a `transcribe`, and no audio came since

    @property
    def open(self) -> bool:
        """An utterance has begun and not ended."""
        return self._format is not None

    def receive(self, event: Event) -> Action | None:
        """What is to be done about an event; None: nothing. Raises ProtocolError, `bad_audio`."""
        match event:
            case Describe() | Ping():
                return event
            case Transcribe():
                self._asked = True
                return event
            case AudioStart():
                again = self.open
                self._begin(event.format)
                return Begin(event.format, again=again)
            case AudioChunk():
                return self._chunk(event.format)
            case Samples(data=data):
                wide = self._widener.widen(data) if self._widener is not None else b""
                return Feed(wide) if wide else None
            case AudioStop():
                return self._stop()
        return None

    def _begin(self, declared: Format) -> None:
        self._format, self._widener, self._asked = declared, Widener(declared.width), False

    def _chunk(self, declared: Format) -> Begin | None:
        if self._format is None:
            self._begin(declared)
            return Begin(declared)
        if declared != self._format:
            raise ProtocolError("the format of the audio changes within an utterance", code="bad_audio")
        return None

    def _stop(self) -> End | Nothing | None:
        if self._format is not None:
            self._format = self._widener = None
            return End()
        asked, self._asked = self._asked, False
        return Nothing() if asked else None


@attrs.define(eq=False)
class Transcript:
    """Rules 5 and 6 for one utterance. Each answer is what is to be written; b"": nothing.

    Args:
        streaming: text is told while it is spoken.
        language: of the speech, as far as it is known before.
    """

    streaming: bool
    language: str | None = None
    _text: GrowingText = attrs.field(init=False)
    _started: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._text = GrowingText(self.language)

    @property
    def told(self) -> bool:
        """Whether the client has some of its text."""
        return self._started

    def stable(self, number: int, text: str) -> bytes:
        """So much of one of sttd's own utterances will not change; this one may consist of several."""
        return self._chunk(self._text.stable(number, text))

    def final(self, number: int, text: str, *, language: str | None) -> bytes:
        """The whole text of one of them."""
        return self._chunk(self._text.final(number, text, language=language))

    def end(self) -> bytes:
        """The utterance is over, and nothing more is to be said about it."""
        whole = wyoming.transcript(self._text.text, self._text.language)
        return self._start() + whole + wyoming.transcript_stop() if self.streaming else whole

    def _chunk(self, text: str) -> bytes:
        return self._start() + wyoming.transcript_chunk(text) if text and self.streaming else b""

    def _start(self) -> bytes:
        if self._started:
            return b""
        self._started = True
        return wyoming.transcript_start(self._text.language)
