"""What a client of OpenAI's Realtime API may set, in both of its dialects, and how it is shown.

Rules:

1. A key that an update leaves out keeps its value, null clears it, an unknown one is ignored.
2. After one wrong value nothing of an update takes effect.
3. Both updates are understood with the keys of both dialects: ga nests them in `audio.input`, beta has them flat.
4. What is ignored is shown all the same where upstream would have taken it. What is bounded is shown as in effect.
5. Turn detection that nobody has set depends on the model: upstream has none for some, and their clients commit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, Literal, TypeGuard

import attrs

from sttd.errors import ProtocolError
from sttd.fields import clip
from sttd.options import MAX_HOTWORD_CHARS, MAX_HOTWORDS, MAX_PROMPT_CHARS, MAX_RATE, MIN_RATE, RawEncoding
from sttd.wire.names import CONFIGURED, find_language

Dialect = Literal["ga", "beta"]
AudioType = Literal["audio/pcm", "audio/pcmu", "audio/pcma"]

LOGPROBS: Final = "item.input_audio_transcription.logprobs"
INTERIMS: Final = "sttd.interim"

_ENCODINGS: Final[Mapping[AudioType, RawEncoding]] = {
    "audio/pcm": "pcm_s16le",
    "audio/pcmu": "mulaw",
    "audio/pcma": "alaw",
}
_BETA_FORMATS: Final[Mapping[str, AudioType]] = {
    "pcm16": "audio/pcm",
    "g711_ulaw": "audio/pcmu",
    "g711_alaw": "audio/pcma",
}
_PCM_RATE: Final = 24_000  # upstream has no other
_G711_RATE: Final = 8_000

# Upstream detects no turns for these: their clients say nothing of it, and commit (pipecat, LiveKit).
_COMMITTED_MODELS: Final = ("gpt-realtime-whisper", "gpt-live-transcribe")
_SILENCE_MS: Final = (100, 10_000)  # what a session takes; what lies outside counts as the bound
_VADS: Final[Mapping[str, Mapping[str, Any]]] = {
    "server_vad": {"type": "server_vad", "threshold": 0.5, "prefix_padding_ms": 300, "silence_duration_ms": 500},
    "semantic_vad": {"type": "semantic_vad", "eagerness": "auto"},
}
# Silence that ends an utterance, in milliseconds, by `eagerness`; None: as configured.
EAGERNESS: Final[Mapping[str, tuple[int, int] | None]] = {
    "high": (300, 500),
    "auto": None,
    "medium": None,
    "low": (700, 2000),
}
_IGNORED: Final = ("threshold", "prefix_padding_ms", "create_response", "interrupt_response", "idle_timeout_ms")
_MAX_SHOWN_CHARS, _MAX_SHOWN = 32, 1e9  # of what is ignored and shown; chosen: more than upstream takes

# Where a setting stands in the one dialect and in the other.
_GA: Final = "session.audio.input"
_KEYS: Final[Sequence[tuple[str, str, str]]] = (
    ("format", f"{_GA}.format", "session.input_audio_format"),
    ("transcription", f"{_GA}.transcription", "session.input_audio_transcription"),
    ("noise_reduction", f"{_GA}.noise_reduction", "session.input_audio_noise_reduction"),
    ("turn_detection", f"{_GA}.turn_detection", "session.turn_detection"),
)


class RefusedError(ValueError):
    """What a client said is refused, and nothing of it takes effect.

    Args:
        message: for a person.
        param: where the wrong value stands.
        code: the API's word for what is wrong.
        event_id: by which the client named its event.
    """

    def __init__(
        self, message: str, *, param: str | None = None, code: str = "invalid_value", event_id: str | None = None
    ) -> None:
        super().__init__(message)
        self.message, self.param, self.code, self.event_id = message, param, code, event_id


@attrs.frozen(kw_only=True)
class Transcription:
    """How speech is transcribed, as the client says it; `language` is a code."""

    model: str | None = None
    language: str | None = None
    languages: tuple[str, ...] = ()
    prompt: str | None = None
    keywords: tuple[str, ...] = ()

    def shown(self) -> dict[str, Any]:
        """As a session shows it."""
        more = {"languages": list(self.languages), "keywords": list(self.keywords)}
        return {
            "model": self.model or CONFIGURED,
            "language": self.language,
            "prompt": self.prompt,
            **{name: value for name, value in more.items() if value},
        }


@attrs.frozen(kw_only=True)
class Settings:
    """What is in effect on one connection."""

    audio_type: AudioType = "audio/pcm"
    rate: int = _PCM_RATE
    transcription: Transcription = Transcription()
    noise_reduction: Mapping[str, Any] | None = None
    include: tuple[str, ...] = ()
    _turns: Mapping[str, Any] | Literal["unset"] | None = attrs.field(default="unset", alias="turns")

    @property
    def encoding(self) -> RawEncoding:
        """The audio's, in sttd's words."""
        return _ENCODINGS[self.audio_type]

    @property
    def turn_detection(self) -> Mapping[str, Any] | None:
        """How the daemon ends an item; None: the client commits (rule 5)."""
        if self._turns != "unset":
            return self._turns
        return None if (self.transcription.model or "").startswith(_COMMITTED_MODELS) else _VADS["server_vad"]

    @property
    def silence_ms(self) -> tuple[int, int] | None:
        """With turn detection: the least and the most silence that ends an item; None: as configured."""
        turns = self.turn_detection or {}
        if turns.get("type") == "semantic_vad":
            return EAGERNESS[turns["eagerness"]]
        silence_ms = turns.get("silence_duration_ms")
        return None if silence_ms is None else (silence_ms, silence_ms)

    def updated(self, session: object) -> Settings:
        """These settings after an update. Raises RefusedError."""
        if session is None:
            raise RefusedError("an update needs a `session`", param="session", code="missing_required_parameter")
        given = _object(session, "session")
        if given.get("type") not in (None, "transcription"):
            raise RefusedError("every session here is of type 'transcription'", param="session.type")
        changed = self
        for name, param, value in _given(given):
            changed = _READERS[name](changed, value, param)
        return changed

    def shown(self, dialect: Dialect) -> dict[str, Any]:
        """As an update in this dialect would say all of it."""
        if dialect == "beta":
            names = {name: beta for beta, name in _BETA_FORMATS.items()}
            return {
                "input_audio_format": names[self.audio_type],
                "input_audio_transcription": self.transcription.shown(),
                "input_audio_noise_reduction": self.noise_reduction,
                "turn_detection": self.turn_detection,
                "include": list(self.include),
            }
        pcm = {"rate": self.rate} if self.audio_type == "audio/pcm" else {}
        audio = {
            "format": {"type": self.audio_type, **pcm},
            "transcription": self.transcription.shown(),
            "noise_reduction": self.noise_reduction,
            "turn_detection": self.turn_detection,
        }
        return {"audio": {"input": audio}, "include": list(self.include)}


def _given(session: Mapping[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """What an update names: the setting, where it stands, and its value."""
    audio = _object(session.get("audio") or {}, "session.audio")
    nested = _object(audio.get("input") or {}, _GA)
    for name, ga, beta in _KEYS:
        if name in nested:
            yield name, ga, nested[name]
        flat = beta.removeprefix("session.")
        if flat in session:
            yield name, beta, session[flat]
    if "include" in session:
        yield "include", "session.include", session["include"]


def _with_format(settings: Settings, value: Any, param: str) -> Settings:
    if isinstance(value, str):
        value = {"type": _BETA_FORMATS.get(value, value)}
    given = {} if value is None else _object(value, param)
    audio_type = next((known for known in _ENCODINGS if known == (given.get("type") or "audio/pcm")), None)
    if audio_type is None:
        known = ", ".join((*_ENCODINGS, *_BETA_FORMATS))
        raise RefusedError(f"a format is one of {known}", param=f"{param}.type" if "type" in given else param)
    rate = given.get("rate")
    if audio_type != "audio/pcm":
        if rate not in (None, _G711_RATE):
            raise RefusedError(f"G.711 has {_G711_RATE} samples a second", param=f"{param}.rate")
        return attrs.evolve(settings, audio_type=audio_type, rate=_G711_RATE)
    if rate is None:
        kept = value is not None and settings.audio_type == audio_type
        rate = settings.rate if kept else _PCM_RATE
    if type(rate) is not int or not MIN_RATE <= rate <= MAX_RATE:
        raise RefusedError(f"a rate is a number from {MIN_RATE} to {MAX_RATE}", param=f"{param}.rate")
    return attrs.evolve(settings, audio_type=audio_type, rate=rate)


def _with_transcription(settings: Settings, value: Any, param: str) -> Settings:
    if value is None:
        return attrs.evolve(settings, transcription=Transcription())
    given = _object(value, param)
    changes: dict[str, Any] = {}
    if "model" in given:
        changes["model"] = _text(given["model"], f"{param}.model")
    if "language" in given:
        changes["language"] = _language(_text(given["language"], f"{param}.language"), f"{param}.language")
    if "languages" in given:
        names = _texts(given["languages"], f"{param}.languages")
        codes = (_language(name, f"{param}.languages") for name in names)
        changes["languages"] = tuple(dict.fromkeys(code for code in codes if code))
    if "prompt" in given:
        prompt = _text(given["prompt"], f"{param}.prompt")
        changes["prompt"] = prompt and prompt[-MAX_PROMPT_CHARS:]
    if "keywords" in given:
        words = (word.strip() for word in _texts(given["keywords"], f"{param}.keywords"))
        fitting = dict.fromkeys(word for word in words if 0 < len(word) <= MAX_HOTWORD_CHARS)
        changes["keywords"] = tuple(fitting)[:MAX_HOTWORDS]
    return attrs.evolve(settings, transcription=attrs.evolve(settings.transcription, **changes))


def _with_noise_reduction(settings: Settings, value: Any, param: str) -> Settings:
    if value is None:
        return attrs.evolve(settings, noise_reduction=None)
    given = _object(value, param)
    shown = {name: given[name] for name in ("type", "strength") if _is_plain(given.get(name))}
    return attrs.evolve(settings, noise_reduction={**(settings.noise_reduction or {}), **shown})


def _with_turn_detection(settings: Settings, value: Any, param: str) -> Settings:
    if value is None:
        return attrs.evolve(settings, turns=None)
    given, before = _object(value, param), settings.turn_detection or {}
    kind = given.get("type") or before.get("type", "server_vad")
    if not isinstance(kind, str) or kind not in _VADS:
        raise RefusedError(f"turn detection is null or one of {', '.join(_VADS)}", param=f"{param}.type")
    turns = {**(before if before.get("type") == kind else _VADS[kind])}
    turns |= {name: given[name] for name in _IGNORED if _is_plain(given.get(name))}
    if kind == "server_vad" and "silence_duration_ms" in given:
        turns["silence_duration_ms"] = _silence_ms(given["silence_duration_ms"], f"{param}.silence_duration_ms")
    if kind == "semantic_vad" and "eagerness" in given:
        eagerness = given["eagerness"] or "auto"
        if not isinstance(eagerness, str) or eagerness not in EAGERNESS:
            raise RefusedError(f"eagerness is one of {', '.join(EAGERNESS)}", param=f"{param}.eagerness")
        turns["eagerness"] = eagerness
    return attrs.evolve(settings, turns=turns)


def _with_include(settings: Settings, value: Any, param: str) -> Settings:
    asked = () if value is None else _texts(value, param)
    return attrs.evolve(settings, include=tuple(name for name in (LOGPROBS, INTERIMS) if name in asked))


_READERS: Final = {
    "format": _with_format,
    "transcription": _with_transcription,
    "noise_reduction": _with_noise_reduction,
    "turn_detection": _with_turn_detection,
    "include": _with_include,
}


# ---------------------------------------------------------------- values


def _object(value: object, param: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RefusedError(f"`{param}` must be an object", param=param)
    return value


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is a string that can be sent to somebody: JSON can also spell half of a surrogate pair."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _text(value: object, param: str) -> str | None:
    if value is None or is_text(value):
        return value or None
    raise RefusedError(f"`{param}` must be a string", param=param)


def _texts(value: object, param: str) -> Iterable[str]:
    if value is None:
        return ()
    if not isinstance(value, list) or not all(is_text(item) for item in value):
        raise RefusedError(f"`{param}` must be a list of strings", param=param)
    return value


def _language(name: str | None, param: str) -> str | None:
    try:
        return find_language(name)
    except ProtocolError as error:
        raise RefusedError(error.message, param=param) from None


def _silence_ms(value: object, param: str) -> int:
    if value is None:
        default: int = _VADS["server_vad"]["silence_duration_ms"]
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise RefusedError(f"`{param}` must be a number, not {clip(repr(value))}", param=param)
    least, most = _SILENCE_MS
    return int(min(max(value, least), most))


def _is_plain(value: object) -> bool:
    """Whether a value that is ignored may be shown: a number, or a word."""
    if isinstance(value, str):
        return len(value) <= _MAX_SHOWN_CHARS and is_text(value)
    return isinstance(value, int | float) and abs(value) <= _MAX_SHOWN
