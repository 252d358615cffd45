"""Between the words of the audio protocol and the values of the core: options in, events out.

Neither side knows the other. What a client left out comes from the daemon's configuration.
"""

from __future__ import annotations

from typing import Any

import attrs

from sttd.core import types as core
from sttd.fields import rules_of
from sttd.options import Endpointing, EndpointingFields, SessionChanges, SessionOptions
from sttd.wire.messages import Configure, Start, encode_event

_EVENT_NAMES: dict[type[Any], str] = {
    core.SpeechStart: "speech_start",
    core.Interim: "interim",
    core.SpeechEnd: "speech_end",
    core.Final: "final",
    core.Progress: "progress",
    core.Gap: "gap",
    core.Warn: "warning",
    core.Failure: "error",
    core.Stopped: "stopped",
}
_PARTS = (core.Word, core.InterimWord, core.Timing)
_NULLABLE = frozenset({"total_s"})  # None is said as null; other fields that are None stay out
_UNSENT: dict[type[Any], frozenset[str]] = {core.SpeechEnd: frozenset({"reason"})}  # the final says it
_FIELDS = {
    kind: tuple(field.name for field in attrs.fields(kind) if field.name not in _UNSENT.get(kind, ()))
    for kind in (*_EVENT_NAMES, *_PARTS)
}


def session_options(start: Start, *, defaults: SessionOptions) -> SessionOptions:
    """The options that a client asked for with `start`, the rest from `defaults` for sessions of that kind."""
    asked = {**_given(start), **_languages(start)}
    if start.model is not None:
        asked.setdefault("interim_model", start.model)
    if start.endpointing is not None:
        asked["endpointing"] = _endpointing(start.endpointing, defaults=defaults.endpointing)
        if asked["endpointing"] is not None:
            asked["max_utterance_s"] = asked["endpointing"].max_utterance_s
    return attrs.evolve(defaults, **asked)


def session_changes(configure: Configure, *, current: Endpointing | None) -> SessionChanges:
    """What `configure` names; `current` fills the endpointing fields that it does not."""
    changes = {**_given(configure), **_languages(configure)}
    if configure.endpointing is not None:
        changes["endpointing"] = _endpointing(configure.endpointing, defaults=current)
    return SessionChanges(**changes)


def endpointing_after(changes: SessionChanges, *, current: Endpointing | None) -> Endpointing | None:
    """The endpointing that holds once `changes` are in effect."""
    endpointing: Endpointing | None = changes.given().get("endpointing", current)
    return endpointing


def started_fields(session: str, options: SessionOptions, *, token: str | None = None) -> dict[str, Any]:
    """The fields of `started`: the effective options, under the names of `start`, and how to resume."""
    fields = {name: getattr(options, name) for name in rules_of(SessionOptions)}
    fields["lang"] = options.lang or "auto"
    fields["languages"] = list(options.languages) or None
    fields["hotwords"] = list(options.hotwords)
    fields["endpointing"] = attrs.asdict(options.endpointing) if options.endpointing else False
    return {"session": session, **({} if token is None else {"resume_token": token}), **fields}


def event_fields(event: core.SessionEvent) -> tuple[str, dict[str, Any]]:
    """A session's event as its client is told: name and fields. Times are rounded to milliseconds."""
    return _EVENT_NAMES[type(event)], _plain_fields(event)


def event_message(event: core.SessionEvent) -> str:
    """The same as a text message."""
    return encode_event(*event_fields(event))


def _given(message: Start | Configure) -> dict[str, Any]:
    return {f.name: value for f in attrs.fields(type(message)) if (value := getattr(message, f.name)) is not None}


def _languages(message: Start | Configure) -> dict[str, Any]:
    """`lang` and `languages` as options. Who names several languages wants to have them told apart."""
    options: dict[str, Any] = {}
    if message.languages is not None:
        options["languages"] = tuple(dict.fromkeys(message.languages))
    if message.lang is not None or message.languages is not None:
        options["lang"] = None if message.lang == "auto" else message.lang
    return options


def _endpointing(asked: EndpointingFields | bool, *, defaults: Endpointing | None) -> Endpointing | None:
    """None means that the client finalizes. A bound that the client did not name gives way to one that it did."""
    if not isinstance(asked, EndpointingFields):
        return None
    merged = attrs.evolve(defaults or Endpointing(), **_given_fields(asked))
    if asked.silence_ms_max is None:
        return attrs.evolve(merged, silence_ms_max=max(merged.silence_ms_min, merged.silence_ms_max))
    return attrs.evolve(merged, silence_ms_min=min(merged.silence_ms_min, merged.silence_ms_max))


def _given_fields(asked: EndpointingFields) -> dict[str, Any]:
    return {name: value for name, value in attrs.asdict(asked).items() if value is not None}


def _plain_fields(value: Any) -> dict[str, Any]:
    fields = {name: _plain(getattr(value, name)) for name in _FIELDS[type(value)]}
    return {name: plain for name, plain in fields.items() if plain is not None or name in _NULLABLE}


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, tuple):
        return [_plain_fields(item) for item in value]
    return _plain_fields(value) if type(value) in _FIELDS else value
