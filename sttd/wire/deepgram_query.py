"""What a client of Deepgram's live API asks for in the address of its WebSocket.

Rules:

1. A value that sttd reads is checked, and a wrong one refused by its name (`bad_option`). Of a single value that is
   given twice the last counts.
2. `redact` and `callback` are refused: to ignore them would break a promise.
3. Whatever else upstream has and sttd has not (`punctuate`, `diarize`, …) is accepted, without effect.
4. Without `encoding` the audio is a container, which says itself what its rate and channels are. To tell its channels
   apart, their number must be known before it comes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal
from urllib.parse import parse_qsl

import attrs

from sttd.errors import ProtocolError
from sttd.fields import clip
from sttd.options import CONTAINER, MAX_CHANNELS, MAX_RATE, MIN_RATE, Encoding

_ENCODINGS: Final[Mapping[str, Encoding]] = {
    "linear16": "pcm_s16le",
    "linear32": "pcm_f32le",
    "mulaw": "mulaw",
    "alaw": "alaw",
    "flac": CONTAINER,
    "ogg-opus": CONTAINER,
    "": CONTAINER,
}
_TELEPHONE: Final = ("mulaw", "alaw")
_TELEPHONE_RATE: Final = 8_000
_FLAGS: Final[Mapping[str, bool]] = {"true": True, "1": True, "false": False, "0": False}
_REFUSED: Final = ("redact", "callback")
_UTTERANCE_END_MS: Final = (1000, 5000)
_MOST_DIGITS: Final = 9
_BOOST: Final = re.compile(r":[+-]?[0-9]+(\.[0-9]+)?$")  # behind a keyword


@attrs.frozen(kw_only=True)
class Asked:
    """What was asked for. None: not said."""

    encoding: Encoding
    sample_rate: int | None  # of raw audio
    channels: int  # as declared
    multichannel: bool  # each is transcribed by itself
    model: str | None
    language: str | None
    interim_results: bool
    vad_events: bool
    endpointing: int | Literal[False] | None  # the silence that ends an utterance, in ms; False: none does
    utterance_end_ms: int | None
    hotwords: tuple[str, ...]


def parse_query(query: str) -> Asked:
    """The part of the address behind the question mark. Raises ProtocolError, `bad_option`."""
    pairs = parse_qsl(query, keep_blank_values=True)
    last = {name: value.strip() for name, value in pairs}
    for name in _REFUSED:
        if _FLAGS.get(last.get(name, "false").lower(), True) and last.get(name):
            raise _wrong(name, f"sttd does not do `{name}`, and to ignore it would break a promise: leave it out")
    encoding = _encoding(last.get("encoding", ""))
    multichannel, channels = _flag(last, "multichannel"), _integer(last, "channels", 1, MAX_CHANNELS)
    if multichannel and encoding == CONTAINER and channels is None:
        raise _wrong("channels", "`multichannel` of a container needs `channels`: how many of them it has")
    interim_results = _flag(last, "interim_results")
    utterance_end_ms = _integer(last, "utterance_end_ms", *_UTTERANCE_END_MS)
    if utterance_end_ms is not None and not interim_results:
        raise _wrong("utterance_end_ms", "`utterance_end_ms` needs `interim_results=true`")
    return Asked(
        encoding=encoding,
        sample_rate=None if encoding == CONTAINER else _sample_rate(last),
        channels=channels or 1,
        multichannel=multichannel,
        model=last.get("model"),
        language=None if _flag(last, "detect_language") else last.get("language"),
        interim_results=interim_results,
        vad_events=_flag(last, "vad_events"),
        endpointing=_endpointing(last.get("endpointing", "")),
        utterance_end_ms=utterance_end_ms,
        hotwords=tuple(
            _BOOST.sub("", value) if name == "keywords" else value
            for name, value in pairs
            if name in ("keyterm", "keywords")
        ),
    )


def _encoding(name: str) -> Encoding:
    encoding = _ENCODINGS.get(name.lower())
    if encoding is None:
        known = ", ".join(known for known in _ENCODINGS if known)
        raise _wrong("encoding", f"`encoding` is one of {known}, or left out for a container, not {clip(name)!r}")
    return encoding


def _sample_rate(given: Mapping[str, str]) -> int:
    rate = _integer(given, "sample_rate", MIN_RATE, MAX_RATE)
    if rate is not None:
        return rate
    if given["encoding"].lower() in _TELEPHONE:
        return _TELEPHONE_RATE
    raise _wrong("sample_rate", f"`encoding={given['encoding']}` needs `sample_rate`")


def _endpointing(value: str) -> int | Literal[False] | None:
    if value.lower() in ("", "true"):
        return None
    if value.lower() == "false":
        return False
    return _integer({"endpointing": value}, "endpointing", 0, None)


def _flag(given: Mapping[str, str], name: str) -> bool:
    value = given.get(name) or "false"
    if (flag := _FLAGS.get(value.lower())) is None:
        raise _wrong(name, f"`{name}` is true or false, not {clip(value)!r}")
    return flag


def _integer(given: Mapping[str, str], name: str, least: int, most: int | None) -> int | None:
    """None where it is not given."""
    value = given.get(name)
    if not value:
        return None
    number = int(value) if value.isascii() and value.isdecimal() and len(value) <= _MOST_DIGITS else -1
    if number < least or (most is not None and number > most):
        bounds = f"from {least} to {most}" if most is not None else f"of {least} or more"
        raise _wrong(name, f"`{name}` is an integer {bounds}, not {clip(value)!r}")
    return number


def _wrong(name: str, message: str) -> ProtocolError:
    return ProtocolError(message, code="bad_option", data={"field": name})
