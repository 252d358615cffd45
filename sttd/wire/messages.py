"""What the audio plane's messages are: each op of a client and each event of the daemon, declared once.

The daemon parses ops and writes events, clients do the reverse, and the reference pages list both: all from the
classes below. The options that `start`, `configure` and `started` carry are declared in `sttd/options.py`. The control
plane's verbs are in `verbs.py`. The wire knows nothing of the core: the audio plane maps ops to session options and
core events to these names.

A field that is None was omitted, and the daemon's configuration decides; `lang` is "auto" where the client asked for
detection in so many words.
"""

# ruff: noqa: RUF009  (the functions of `fields` make attrs fields, which is what ruff cannot see)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeAlias, get_args

import attrs

from sttd.errors import ProtocolError
from sttd.fields import (
    MAX_NAME_CHARS,
    asked,
    base64,
    clip,
    dump,
    flag,
    integer,
    nested,
    number,
    refuse,
    rows,
    string,
    strings,
    told,
)
from sttd.options import EndpointingFields, SessionOptions
from sttd.wire.jsontext import read_object, write_object
from sttd.wire.schema import parse

# ---------------------------------------------------------------- the options of a session, in the words of the wire


@attrs.frozen(kw_only=True)
class _Options:
    """Of what type each option is; the rest is declared by `SessionOptions`."""

    kind: str | None = None
    sample_rate: int | None = None
    lang: str | None = None
    languages: tuple[str, ...] | None = None
    encoding: str | None = None
    channels: int | None = None
    channel_select: int | None = None
    interim: bool | None = None
    task: str | None = None
    model: str | None = None
    interim_model: str | None = None
    words: bool | None = None
    prompt: str | None = None
    hotwords: tuple[str, ...] | None = None
    endpointing: EndpointingFields | Literal[False] | None = None
    overflow: str | None = None
    context: str | None = None
    lock_stable: bool | None = None
    resumable: bool | None = None
    label: str | None = None


def _check_languages(lang: str | None, languages: tuple[str, ...] | None) -> None:
    if languages is None:
        return
    if not languages:
        refuse("languages", "`languages` must name one language at least; leave it out where any may be spoken")
    if lang is not None and lang != "auto" and lang not in languages:
        refuse("lang", "`lang` must be one of `languages`, or `auto`")


# ---------------------------------------------------------------- from the client


@attrs.frozen(kw_only=True, field_transformer=asked(SessionOptions))
class Start(_Options):
    """Opens the session. The first message of a client, once."""

    op: ClassVar[str] = "start"

    def __attrs_post_init__(self) -> None:
        _check_languages(self.lang, self.languages)
        if self.resumable and self.encoding == "container":
            refuse("resumable", "`resumable` needs raw audio: nobody can say where in a container to go on")
        if self.channel_select is None or self.encoding == "container":  # a container says itself how many it has
            return
        if self.channel_select >= (self.channels or 1):
            refuse("channel_select", "`channel_select` must be below `channels`; the first channel is 0")


@attrs.frozen(kw_only=True)
class Audio:
    """Audio inside a text message; the same as a binary message with these bytes."""

    op: ClassVar[str] = "audio"

    payload: bytes = base64("audio in the encoding of `start`", required=True)


@attrs.frozen(kw_only=True)
class Finalize:
    """Ends the current utterance now, as push-to-talk does at its release."""

    op: ClassVar[str] = "finalize"


@attrs.frozen(
    kw_only=True,
    field_transformer=asked(
        SessionOptions, changes="utterance", omitted="unchanged", lang="unchanged; `auto` with `languages`"
    ),
)
class Configure:
    """Changes options from the next utterance on; what it does not name stays."""

    op: ClassVar[str] = "configure"

    lang: str | None = None
    languages: tuple[str, ...] | None = None
    prompt: str | None = None
    hotwords: tuple[str, ...] | None = None
    interim: bool | None = None
    endpointing: EndpointingFields | Literal[False] | None = None
    context: str | None = None

    def __attrs_post_init__(self) -> None:
        _check_languages(self.lang, self.languages)


@attrs.frozen(kw_only=True)
class Stop:
    """No more audio: everything pending is finalized and sent, then `stopped`, then the connection closes."""

    op: ClassVar[str] = "stop"


@attrs.frozen(kw_only=True)
class Resume:
    """Goes on with a session whose connection dropped. The first message of a new connection, in place of `start`."""

    op: ClassVar[str] = "resume"

    token: str = string("the last `resume_token` that was received", max_chars=MAX_NAME_CHARS, required=True)
    last_seq: int = integer("the last `event_seq` that was received; 0 for none", minimum=0, required=True)


Op: TypeAlias = Start | Audio | Finalize | Configure | Stop | Resume

OPS: Mapping[str, type[Op]] = {cls.op: cls for cls in (Start, Audio, Finalize, Configure, Stop, Resume)}


def parse_client(message: str | bytes | Mapping[str, Any]) -> Op:
    """The op that a client's text message is. Nothing of a refused message may take effect.

    Raises:
        ProtocolError: `bad_request` (no JSON, no object), `too_large`, `unknown_op`, or `bad_option` naming the field.
    """
    fields = dict(message if isinstance(message, Mapping) else read_object(message))
    name = fields.pop("op", None)
    cls = OPS.get(name) if isinstance(name, str) else None
    if cls is None:
        shown = f"`{clip(name)}`" if isinstance(name, str) else "a message without `op`"
        raise ProtocolError(f"unknown op {shown}; known: {', '.join(OPS)}", code="unknown_op")
    return parse(cls, fields)


def encode_op(op: Op) -> str:
    """The text message that says `op`."""
    return write_object({"op": op.op, **dump(op)})


# ---------------------------------------------------------------- from the daemon


@attrs.frozen(kw_only=True)
class _OfSession:
    """An event of a session. What is said about the connection alone (`hello`, `started`, `resumed`, `ack`) is none."""

    event_seq: int | None = integer(
        "number of the event in a resumable session, from 1", omitted="absent in other sessions"
    )


def _numbered_last(cls: type[Any], fields: list[attrs.Attribute[Any]]) -> list[attrs.Attribute[Any]]:
    """What an event says comes before its number."""
    return sorted(fields, key=lambda field: field.name == "event_seq")


@attrs.frozen(kw_only=True)
class Hello:
    """The daemon's first message on a connection."""

    type: ClassVar[str] = "hello"

    server: str = string("name and version of the daemon", required=True)
    protocol: int = integer("version of this protocol", required=True)
    encodings: tuple[str, ...] = strings("what `start` may name", required=True)
    presets: tuple[str, ...] = strings("presets that `start` may name", required=True)


@attrs.frozen(kw_only=True, field_transformer=told(SessionOptions))
class Started(_Options):
    """The session is open; the options as they are in effect, under the names of `start`."""

    type: ClassVar[str] = "started"

    session: str = string("id of the session", required=True)
    resume_token: str | None = string(
        "what `resume` shows, once; nobody else should see it", omitted="absent unless `resumable`"
    )
    endpointing: EndpointingFields | Literal[False] | None = nested(
        EndpointingFields, "when an utterance ends by itself", or_false=True, ignore_unknown=True
    )


@attrs.frozen(kw_only=True)
class Resumed:
    """The session goes on here: the client sends what comes behind `position_s`, and gets the events that it missed."""

    type: ClassVar[str] = "resumed"

    position_s: float = number("the client goes on with the sample there", required=True)
    resume_token: str = string("the next one; the one that was shown is of no more use", required=True)
    ops: int = integer("as in `ack`", required=True)


@attrs.frozen(kw_only=True)
class Ack:
    """Audio up to here need not be sent again. In resumable sessions, at least once a second of audio."""

    type: ClassVar[str] = "ack"

    position_s: float = number("so much audio was taken: samples of the client, divided by its rate", required=True)
    ops: int = integer(
        "so many of the client's messages that are no audio were taken since `start`, refused ones too", required=True
    )


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class SpeechStart(_OfSession):
    """An utterance was opened; exactly one `final` will end it."""

    type: ClassVar[str] = "speech_start"

    utterance: int = integer("number of the utterance, from 1", required=True)
    at_s: float = number("where the speech began on the audio clock", required=True)


@attrs.frozen(kw_only=True)
class InterimWordFields:
    """One word of an interim; joined they are its text."""

    word: str = string("the word", required=True)
    probability: float = number("0 to 1, of its least probable token", required=True)
    stable: bool = flag("it never changes in later interims", required=True)


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class Interim(_OfSession):
    """Text so far of the open utterance."""

    type: ClassVar[str] = "interim"

    utterance: int = integer("number of the utterance", required=True)
    seq: int = integer("rises within the utterance", required=True)
    text: str = string("the whole text so far", required=True)
    stable_chars: int = integer("so many leading characters never change in later interims", required=True)
    start_s: float = number("start of the utterance", required=True)
    end_s: float = number("end of the audio that was heard for this text", required=True)
    words: tuple[InterimWordFields, ...] | None = rows(
        InterimWordFields, "the words", ignore_unknown=True, omitted="absent unless asked for"
    )


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class SpeechEnd(_OfSession):
    """The speech of an utterance ended; its `final` follows."""

    type: ClassVar[str] = "speech_end"

    utterance: int = integer("number of the utterance", required=True)
    at_s: float = number("where the speech ended, not where that was decided", required=True)
    silence_ms: int = integer("the silence that decided it; 0 unless the endpointer did", required=True)


@attrs.frozen(kw_only=True)
class WordFields:
    """One word of a final."""

    word: str = string("the word", required=True)
    start_s: float = number("its start on the audio clock", required=True)
    end_s: float = number("its end", required=True)
    probability: float = number("0 to 1", required=True)


@attrs.frozen(kw_only=True)
class TimingFields:
    """Where the time between the end of speech and the final went."""

    endpoint_ms: float | None = number("decision minus end of speech")
    queue_ms: float | None = number("the decode waited")
    decode_ms: float | None = number("the decode that made the text ran")
    speculative: bool | None = flag("it ran before the decision")


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class Final(_OfSession):
    """The text of an utterance. Nothing follows it; `text` is "" where the sound was no speech."""

    type: ClassVar[str] = "final"

    utterance: int = integer("number of the utterance", required=True)
    text: str = string("the text", required=True)
    start_s: float = number("start of the utterance", required=True)
    end_s: float = number("end of the utterance", required=True)
    language: str | None = string("ISO 639-1, as detected or asked for")
    language_probability: float | None = number(
        "0 to 1: that it is the right one", omitted="absent: it was not detected"
    )
    confidence: float | None = number("0 to 1: exp of the mean log probability of a token")
    reason: str = string("what ended it: endpoint, finalize, max_length, stop, disconnect, drain", required=True)
    model: str | None = string("the preset that made the text")
    words: tuple[WordFields, ...] | None = rows(
        WordFields, "the words", ignore_unknown=True, omitted="absent unless asked for"
    )
    timing: TimingFields | None = nested(TimingFields, "where the time went", ignore_unknown=True)


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class Progress(_OfSession):
    """How far a file is; at least every second of work."""

    type: ClassVar[str] = "progress"

    done_s: float = number("audio that is done", required=True)
    total_s: float | None = number("all of it", omitted="null while unknown")


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class Gap(_OfSession):
    """Audio that was dropped; the audio clock counts it."""

    type: ClassVar[str] = "gap"

    from_s: float = number("start of what is missing", required=True)
    to_s: float = number("its end", required=True)
    reason: str = string("why: `overflow`, the session is behind and its client asked to drop", required=True)


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class Warn(_OfSession):
    """Something that the client should know and can live with."""

    type: ClassVar[str] = "warning"

    code: str = string(
        "what it is: `lagging`, finals come late; `too_quiet`, somebody speaks below what can be heard; "
        "`kept_waiting`, text waits for what the message says, such as a server that does not answer; of containers, "
        "`damaged_audio`: a part was skipped, `other_tracks`: there are more than the one that is heard, `late_text`: "
        "nothing can be read before all has come",
        required=True,
    )
    message: str = string("in words", required=True)
    lag_s: float | None = number("how far the session is behind", omitted="absent in other warnings")


@attrs.frozen(kw_only=True)
class FailureData:
    """What goes with an error, for programs. Further fields may come."""

    field: str | None = string("the option that is wrong", omitted="absent where none is")
    retry_after_s: float | None = number("when the same may succeed", omitted="absent where that is not known")


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class Failure(_OfSession):
    """An error. A fatal one ends the session; otherwise it goes on as if the message had not been sent."""

    type: ClassVar[str] = "error"

    code: str = string("one of the documented codes", required=True)
    message: str = string("for a person", required=True)
    retryable: bool = flag("the same may succeed later", default=False)
    fatal: bool = flag("the session is over", default=False)
    data: FailureData | None = nested(
        FailureData, "details for programs", ignore_unknown=True, omitted="absent where there are none"
    )


@attrs.frozen(kw_only=True, field_transformer=_numbered_last)
class Stopped(_OfSession):
    """The last message of a session that ended well."""

    type: ClassVar[str] = "stopped"

    audio_s: float = number("audio that arrived, dropped audio included", required=True)
    utterances: int = integer("utterances that got a final", required=True)
    dropped_s: float = number("audio that was dropped", required=True)


Event: TypeAlias = (
    Hello
    | Started
    | Resumed
    | Ack
    | SpeechStart
    | Interim
    | SpeechEnd
    | Final
    | Progress
    | Gap
    | Warn
    | Failure
    | Stopped
)

EVENTS: Mapping[str, type[Event]] = {cls.type: cls for cls in get_args(Event)}


def encode_event(name: str, fields: Mapping[str, Any]) -> str:
    """The text message of the event `name`, with fields that are trusted. Raises ValueError where one is not finite."""
    return write_object({"type": name, **fields})


def parse_event(message: str | bytes | Mapping[str, Any]) -> Event | None:
    """The event that a daemon's text message is; None for a type that this version does not know.

    Unknown fields are skipped: within one protocol version the daemon may add some.

    Raises:
        ProtocolError: the message breaks the protocol.
    """
    fields = message if isinstance(message, Mapping) else read_object(message)
    cls = EVENTS.get(str(fields.get("type")))
    return None if cls is None else parse(cls, fields, ignore_unknown=True)
