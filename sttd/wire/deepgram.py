"""Deepgram's live API, sans IO: what a client's message asks for, and what its channels are told.

    a message ──▶ Conversation ──▶ Audio | Finalize | Configure | CloseStream | Refuse | Fail
    what a session says ──▶ Channel ──▶ messages for the client

Rules of a channel. Times are milliseconds of its audio; an utterance is one of the client's, of one final or more.

1. An `is_final` is a final of the session, which never changes. Its range begins where the one before it ended, the
   first at 0, and ends with its speech or its last word: what is quiet behind it lies in the next. The last range ends
   with the audio; where the last final ends before, an empty one follows it.
2. `speech_final` says that the utterance has ended: by an endpoint, `Finalize`, or the end of the stream. A final that
   `max_utterance_s` cut does not end it. Where nobody spoke on behind the cut, an empty `speech_final` says so as soon
   as the silence is as long as an endpoint's.
3. What may change (`is_final` false) is what was heard behind the last range. So the interim of an utterance waits
   until the finals before it are out; of those that wait the newest counts, and its own final takes its place.
4. Words rise and lie in the range; what would stick out is moved to its border. A final with text has words: where the
   session knows none, its text is spread over its speech.
5. Each `Finalize` has exactly one `is_final` with `from_finalize`. Its range ends at the audio that came before it,
   as far as that can be counted: a container's own time is that of the final. Where nothing was open it is empty, and
   ends no utterance. Those that the end of the session overtakes are answered there.
6. `UtteranceEnd` comes once an utterance, behind its `speech_final`, when `utterance_end_ms` of audio came behind its
   last word and nobody spoke. A sound that turns out to be no speech does not count; words that come sooner take the
   place of the last one.
7. At the end of the stream comes all that is pending.

Rules of the conversation:

8. `KeepAlive` is answered by nothing, and neither is silence.
9. A message that is none (not JSON, an unknown type, a wrong value) is answered by an `Error` with what came, and
   changes nothing. A message above `MAX_MESSAGE_BYTES` ends the connection. After `CloseStream`, and an empty binary
   message is one, what the client says is of no more use.
"""

from __future__ import annotations

import hashlib
import unicodedata
import uuid
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol, TypeAlias

import attrs

from sttd.errors import ProtocolError, SttdError
from sttd.wire.jsontext import MAX_MESSAGE_BYTES, read_object, write_object

_MAX_ECHO_CHARS: Final = 1000  # of a message that was not understood; chosen
_MAX_REASON_BYTES: Final = 123  # of a close frame (RFC 6455, section 5.5)
_PADDING_MS: Final = 40  # the last frame of a session is filled up, or left out: two frames of 20 ms at the most
_ARCH: Final = "whisper"

# ---------------------------------------------------------------- what a client asks for


@attrs.frozen
class Audio:
    """Audio of all channels, as it was sent."""

    data: bytes = attrs.field(repr=False)


@attrs.frozen
class Finalize:
    """The utterance ends here."""

    channel: int | None  # None: on every channel


@attrs.frozen
class Configure:
    """Other words are likely from the next utterance on; None: the same."""

    keyterms: tuple[str, ...] | None


@attrs.frozen
class CloseStream:
    """No more audio."""


@attrs.frozen
class Refuse:
    """To be told to the client; the stream goes on."""

    text: str


@attrs.frozen
class Fail:
    """The connection ends once what is pending was written."""

    error: SttdError


Asked: TypeAlias = Audio | Finalize | Configure | CloseStream | Refuse | Fail


@attrs.define(eq=False, kw_only=True)
class Conversation:
    """What the client says, and how the connection ends."""

    channels: int = 1  # that are transcribed
    ending: bool = attrs.field(default=False, init=False)
    error: SttdError | None = attrs.field(default=None, init=False)  # why it ends, if not in good order
    _digest: Any = attrs.field(factory=hashlib.sha256, init=False)

    @property
    def sha256(self) -> str:
        """Of the audio so far."""
        return str(self._digest.hexdigest())

    def receive(self, message: str | bytes) -> Asked | None:
        """What a message asks for; None: nothing."""
        if self.ending:
            return None
        size = len(message) if isinstance(message, bytes) or message.isascii() else len(message.encode())
        if size > MAX_MESSAGE_BYTES:
            return self.fail(ProtocolError(f"a message may have {MAX_MESSAGE_BYTES} bytes at most", code="too_large"))
        if isinstance(message, bytes):
            self._digest.update(message)
            return Audio(message) if message else self._close()
        try:
            return self._parse(read_object(message))
        except ProtocolError as error:
            return Refuse(error_event("SchemaError", error.message, came=message))

    def fail(self, error: SttdError) -> Fail:
        """The connection ends for this reason. The first one counts."""
        self.ending = True
        self.error = self.error or error
        return Fail(self.error)

    def overrule(self, error: SttdError) -> None:
        """The connection ends for this reason, whatever was said before: a bug, or a client that does not read."""
        self.ending, self.error = True, error

    def close_with(self, session_code: int | None) -> tuple[int, str | None]:
        """Code and reason of the close frame; `session_code` is that of a session that ended by itself."""
        if self.error is None:
            return session_code or 1000, None
        match self.error.code:
            case "idle_timeout":
                return 1011, _reason(f"NET-0001: {self.error.message}")
            case "bad_audio" | "bad_option":  # a container may have other channels than was said
                return 1008, _reason(f"DATA-0000: {self.error.message}")
            case code:
                return self.error.close_code, code

    def _close(self) -> CloseStream:
        self.ending = True
        return CloseStream()

    def _parse(self, fields: Mapping[str, Any]) -> Asked | None:
        match fields.get("type"):
            case "KeepAlive":
                return None
            case "CloseStream":
                return self._close()
            case "Finalize":
                return Finalize(self._channel(fields.get("channel")))
            case "Configure":
                return Configure(_keyterms(fields))
            case _:
                raise ProtocolError("the type is none of KeepAlive, Finalize, CloseStream, Configure")

    def _channel(self, channel: object) -> int | None:
        if channel is None or (type(channel) is int and 0 <= channel < self.channels):
            return channel
        raise ProtocolError(f"`channel` is a number from 0 to {self.channels - 1}, or left out for all")


def _keyterms(fields: Mapping[str, Any]) -> tuple[str, ...] | None:
    keyterms, features = fields.get("keyterms"), fields.get("features")
    if not isinstance(features, dict | None) or not all(isinstance(value, bool) for value in (features or {}).values()):
        raise ProtocolError("`features` is an object of true and false")
    if keyterms is None:
        return None
    if not isinstance(keyterms, list) or not all(isinstance(word, str) for word in keyterms):
        raise ProtocolError("`keyterms` is a list of strings")
    return tuple(keyterms)


def _reason(text: str) -> str:
    """As a close frame may carry it."""
    return text.encode()[:_MAX_REASON_BYTES].decode(errors="ignore")


# ---------------------------------------------------------------- what a client is told besides its text


def error_event(variant: str, description: str, *, came: str | None = None) -> str:
    """An `Error`; `came`: the message that it is about."""
    fields = {"type": "Error", "variant": variant, "description": description}
    if came is not None:
        # A lone surrogate, which JSON can spell, cannot be sent.
        fields["message"] = came[:_MAX_ECHO_CHARS].encode(errors="replace").decode()
    return write_object(fields)


def configured(request_id: str, keyterms: Sequence[str] | None) -> str:
    """A `ConfigureSuccess`; `keyterms` are those in effect, None: they were not named."""
    fields: dict[str, Any] = {"type": "ConfigureSuccess", "request_id": request_id}
    return write_object(fields if keyterms is None else {**fields, "keyterms": list(keyterms)})


def metadata(*, request_id: str, sha256: str, created: str, duration_ms: int, channels: int) -> str:
    """The last message of a stream that ended well."""
    return write_object(
        {
            "type": "Metadata",
            "transaction_key": "deprecated",
            "request_id": request_id,
            "sha256": sha256,
            "created": created,
            "duration": duration_ms / 1000,
            "channels": channels,
        }
    )


@attrs.define(eq=False)
class Splitter:
    """Takes interleaved channels apart. A sample of all channels may be torn between two messages."""

    width: int  # bytes of a sample of one channel
    count: int  # channels
    _rest: bytes = attrs.field(default=b"", init=False)

    def split(self, data: bytes) -> list[bytes]:
        """What of each channel is whole now."""
        frame = self.width * self.count
        data = self._rest + data
        whole = len(data) - len(data) % frame
        data, self._rest = data[:whole], data[whole:]
        channels = []
        for channel in range(self.count):
            samples = bytearray(whole // self.count)
            for byte in range(self.width):
                samples[byte :: self.width] = data[channel * self.width + byte :: frame]
            channels.append(bytes(samples))
        return channels


# ---------------------------------------------------------------- what a session says


class HeardWord(Protocol):
    """A word of a final, its times in seconds of the session."""

    @property
    def word(self) -> str: ...
    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...
    @property
    def probability(self) -> float: ...


class HeardInterim(Protocol):
    """Text so far of an utterance of the session."""

    @property
    def utterance(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def stable_chars(self) -> int: ...
    @property
    def end_s(self) -> float: ...


class HeardFinal(Protocol):
    """The text of an utterance of the session."""

    @property
    def utterance(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def start_s(self) -> float: ...
    @property
    def end_s(self) -> float: ...
    @property
    def language(self) -> str: ...
    @property
    def confidence(self) -> float: ...
    @property
    def reason(self) -> str: ...
    @property
    def model(self) -> str: ...
    @property
    def words(self) -> Sequence[HeardWord] | None: ...


@attrs.frozen
class _Word:
    """A word as it is sent."""

    text: str
    start_ms: int
    end_ms: int
    confidence: float

    def fields(self) -> dict[str, Any]:
        return {
            "word": _bare(self.text),
            "start": self.start_ms / 1000,
            "end": self.end_ms / 1000,
            "confidence": round(self.confidence, 4),
            "punctuated_word": self.text,
        }


@attrs.define(eq=False, kw_only=True)
class Channel:
    """The rules above for one channel. Every input returns the messages that follow from it, in order.

    Args:
        index, count: which of how many channels it is.
        request_id: of the connection.
        model, interim_model: presets, of finals and interims.
        version: of the daemon.
        bytes_per_s: of the audio that is fed; None: a container's, which cannot be counted.
        vad_events: `SpeechStarted` is wanted.
        tell_language: the language was not given but detected, and is told.
        utterance_end_ms: see rule 6; None: `UtteranceEnd` is not wanted.
        silence_ms: an endpoint's (rule 2).
    """

    index: int = 0
    count: int = 1
    request_id: str
    model: str
    interim_model: str
    version: str
    bytes_per_s: int | None
    vad_events: bool = False
    tell_language: bool = False
    utterance_end_ms: int | None = None
    silence_ms: int = 700
    end_ms: int = attrs.field(default=0, init=False)  # of the last range
    _fed_bytes: int = attrs.field(default=0, init=False)
    _asked: deque[int | None] = attrs.field(factory=deque, init=False)  # where each open `Finalize` came
    _done: int = attrs.field(default=0, init=False)  # the last utterance of the session that has its final
    _starts: dict[int, int] = attrs.field(factory=dict, init=False)  # where those began that have none yet
    _waiting: HeardInterim | None = attrs.field(default=None, init=False)  # for the finals before it
    _cut: bool = attrs.field(default=False, init=False)  # the client's utterance goes on, or that is not known yet
    _word_ms: int | None = attrs.field(default=None, init=False)  # end of the last word of the client's utterance
    _quiet_from_ms: int | None = attrs.field(default=None, init=False)  # the same of one that is to have its end

    @property
    def awaits_quiet(self) -> bool:
        """Whether silence is of interest, so that `quiet` is to be told how it grows."""
        ending = self.utterance_end_ms is not None and self._quiet_from_ms is not None
        return not self._starts and (ending or self._cut)

    @property
    def fed_ms(self) -> int | None:
        """How much audio came; None: nobody can count it."""
        return None if self.bytes_per_s is None else self._fed_bytes * 1000 // self.bytes_per_s

    # ---------------------------------------------------------------- what the client does

    def fed(self, count_bytes: int) -> None:
        """The session was given audio."""
        self._fed_bytes += count_bytes

    def finalize(self) -> None:
        """The session was told to end its utterance here."""
        self._asked.append(self.fed_ms)

    # ---------------------------------------------------------------- what the session says

    def speech_started(self, utterance: int, at_s: float) -> list[str]:
        """An utterance of the session was opened."""
        at_ms = _ms(at_s)
        told = [] if self._starts else self._utterance_end(at_ms)
        self._starts[utterance] = at_ms
        if self.vad_events:
            told.append(write_object({"type": "SpeechStarted", "channel": [self.index], "timestamp": at_ms / 1000}))
        return told

    def interim(self, interim: HeardInterim) -> list[str]:
        """Text that may change (rule 3)."""
        if not interim.text:
            return []
        if interim.utterance != self._done + 1:
            self._waiting = interim
            return []
        return [
            self._results(
                end_ms=max(self.end_ms, _ms(interim.end_s)),
                text=interim.text,
                confidence=interim.stable_chars / len(interim.text),
                is_final=False,
                model=self.interim_model,
            )
        ]

    def final(self, final: HeardFinal) -> list[str]:
        """Text that does not change any more (rules 1, 2, 4, 5)."""
        from_finalize = final.reason == "finalize"
        asked_ms = self._asked.popleft() if from_finalize and self._asked else None
        words = _heard_words(final)
        end_ms = self._end_of(final, words, asked_ms=asked_ms)
        words = _within(words, self.end_ms, end_ms)
        opened = self._starts.pop(final.utterance, None) is not None
        speech_final = (opened or self._cut) and final.reason != "max_length"
        told = [
            self._results(
                end_ms=end_ms,
                text=final.text,
                words=words,
                confidence=final.confidence if final.text else 0.0,
                speech_final=speech_final,
                from_finalize=from_finalize,
                language=final.language,
                model=final.model,
            )
        ]
        self._done, self._cut = final.utterance, final.reason == "max_length"
        if words:
            self._word_ms, self._quiet_from_ms = words[-1].end_ms, None
        if speech_final:
            self._end_utterance()
        if self._starts:
            told += self._utterance_end(min(self._starts.values()))
        if self._waiting is not None and self._waiting.utterance <= self._done + 1:
            waited, self._waiting = self._waiting, None
            told += self.interim(waited) if waited.utterance > self._done else []
        return told

    def quiet(self, until_s: float) -> list[str]:
        """The session has heard so much and said nothing new (rules 2 and 6). Only while `awaits_quiet`."""
        until_ms, told = _ms(until_s), list[str]()
        if self._cut and until_ms >= self.end_ms + self.silence_ms:
            told.append(self._results(end_ms=self.end_ms + self.silence_ms, speech_final=True))
            self._cut = False
            self._end_utterance()
        return [*told, *self._utterance_end(until_ms)]

    def stopped(self, audio_s: float | None) -> list[str]:
        """The session has ended, after so much audio; None: because of an error (rules 1, 5, 7)."""
        end_ms = self._audio_end_ms(audio_s)
        told = list[str]()
        while self._asked:
            asked_ms = self._asked.popleft()
            reach_ms = end_ms if asked_ms is None else min(asked_ms, end_ms)
            told.append(self._last(reach_ms, from_finalize=True))
        if end_ms > self.end_ms or (self._cut and audio_s is not None):
            told.append(self._last(end_ms))
        self._starts.clear()
        return [*told, *self._utterance_end(end_ms)]

    # ---------------------------------------------------------------- rules

    def _last(self, end_ms: int, *, from_finalize: bool = False) -> str:
        """Without text, at the end of the stream."""
        speech_final, self._cut = self._cut, False
        text = self._results(end_ms=max(end_ms, self.end_ms), speech_final=speech_final, from_finalize=from_finalize)
        if speech_final:
            self._end_utterance()
        return text

    def _end_utterance(self) -> None:
        """A `speech_final` was sent."""
        if self._word_ms is not None:
            self._quiet_from_ms, self._word_ms = self._word_ms, None

    def _utterance_end(self, quiet_until_ms: int) -> list[str]:
        """Rule 6."""
        last_ms, wanted_ms = self._quiet_from_ms, self.utterance_end_ms
        if last_ms is None or wanted_ms is None or quiet_until_ms < last_ms + wanted_ms:
            return []
        self._quiet_from_ms = None
        fields = {"channel": [self.index, self.count], "last_word_end": last_ms / 1000}
        return [write_object({"type": "UtteranceEnd", **fields})]

    def _end_of(self, final: HeardFinal, words: Sequence[_Word], *, asked_ms: int | None) -> int:
        """Where the range of a final ends (rules 1 and 5)."""
        fed_ms = self.fed_ms
        if asked_ms is not None:
            end_ms = asked_ms
        elif final.reason == "stop" and fed_ms is not None:
            end_ms = fed_ms
        else:
            end_ms = max([_ms(final.end_s), *(word.end_ms for word in words)])
            end_ms = end_ms if fed_ms is None else min(end_ms, fed_ms)
        return max(end_ms, self.end_ms)

    def _audio_end_ms(self, audio_s: float | None) -> int:
        """Where the audio of the session ended. What it was given may be more: then it did not take it all."""
        if audio_s is None:
            return self.end_ms
        heard_ms, fed_ms = _ms(audio_s), self.fed_ms
        return fed_ms if fed_ms is not None and fed_ms < heard_ms + _PADDING_MS else heard_ms

    def _results(
        self,
        *,
        end_ms: int,
        text: str = "",
        words: Sequence[_Word] = (),
        confidence: float = 0.0,
        is_final: bool = True,
        speech_final: bool = False,
        from_finalize: bool = False,
        language: str = "",
        model: str | None = None,
    ) -> str:
        start_ms = self.end_ms
        if is_final:
            self.end_ms = end_ms
        alternative: dict[str, Any] = {
            "transcript": text,
            "confidence": round(confidence, 4),
            "words": [word.fields() for word in words],
        }
        if self.tell_language and language and text:
            alternative["languages"] = [language]
        name = model or self.model
        return write_object(
            {
                "type": "Results",
                "channel_index": [self.index, self.count],
                "start": start_ms / 1000,
                "duration": (end_ms - start_ms) / 1000,
                "is_final": is_final,
                "speech_final": speech_final,
                "from_finalize": from_finalize,
                "channel": {"alternatives": [alternative]},
                "metadata": {
                    "request_id": self.request_id,
                    "model_uuid": str(uuid.uuid5(uuid.NAMESPACE_URL, f"sttd:{name}")),
                    "model_info": {"name": name, "version": self.version, "arch": _ARCH},
                },
            }
        )


def _ms(time_s: float) -> int:
    return round(time_s * 1000)


def _heard_words(final: HeardFinal) -> list[_Word]:
    """The words of a final; where it has text alone, that is spread over its speech (rule 4)."""
    heard = [
        _Word(text, _ms(word.start_s), _ms(word.end_s), word.probability)
        for word in final.words or ()
        if (text := word.word.strip())
    ]
    texts = final.text.split()
    if heard or not texts:
        return heard
    start_ms, length_ms = _ms(final.start_s), _ms(final.end_s - final.start_s)
    ends = [start_ms + length_ms * (index + 1) // len(texts) for index in range(len(texts))]
    return [
        _Word(text, begin, end, final.confidence)
        for text, begin, end in zip(texts, [start_ms, *ends], ends, strict=False)
    ]


def _within(words: Sequence[_Word], start_ms: int, end_ms: int) -> list[_Word]:
    """The words in their order, none before another's end, all between these times."""
    fitted: list[_Word] = []
    after_ms = start_ms
    for word in words:
        begin = min(max(word.start_ms, after_ms), end_ms)
        after_ms = min(max(word.end_ms, begin), end_ms)
        fitted.append(attrs.evolve(word, start_ms=begin, end_ms=after_ms))
    return fitted


def _bare(word: str) -> str:
    """In lower case, without the punctuation round it; what is nothing else stays."""
    marks = "".join(letter for letter in set(word) if unicodedata.category(letter).startswith("P"))
    return (word.strip(marks) or word).lower()
