"""The options of a session, each declared once: bounds, default, unit, meaning, and whether `configure` may change it.

From here come what `start`, `configure` and `started` carry (`wire/messages.py`), what the configuration sets for all
sessions (`config/tree.py`), the arguments of sttctl and the reference pages. This module lies below both `core` and
`wire`, because both stand on it and neither may know the other; it knows no more than what a field is.

A field that is not declared as one (`max_utterance_s`, `max_window_s`) is not for clients: the daemon fills it in.
`changes` says when a new value holds: `utterance`, from the next one on by `configure`; `session`, when one starts.
"""

# ruff: noqa: RUF009  (the functions of `fields` make attrs fields, which is what ruff cannot see)

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, Literal

import attrs

from sttd.fields import asked, flag, integer, name, nested, number, refuse, rules_of, string, strings
from sttd.live_text import LiveText

Kind = Literal["live", "file"]
Task = Literal["transcribe", "translate"]
Overflow = Literal["wait", "drop"]
Context = Literal["auto", "off"]
Api = Literal["sttd", "openai", "realtime", "wyoming", "deepgram"]  # by which wire a session came
RawEncoding = Literal["pcm_s16le", "pcm_s32le", "pcm_f32le", "mulaw", "alaw"]
Encoding = Literal[RawEncoding, "container"]

SAMPLE_BYTES: Final[Mapping[str, int]] = {"pcm_s16le": 2, "pcm_s32le": 4, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
CONTAINER: Final = "container"  # its samples are nobody's to count before it is decoded
ENCODINGS: Final = (*SAMPLE_BYTES, CONTAINER)
MIN_RATE, MAX_RATE = 8_000, 192_000
MAX_CHANNELS: Final = 8

# What CTranslate2 can compute in, the quickest first; which of them depends on the device.
COMPUTE_TYPES: Final = (
    "auto",
    "int8",
    "int8_float32",
    "int8_float16",
    "int8_bfloat16",
    "int16",
    "float16",
    "bfloat16",
    "float32",
    "default",
)
MAX_CPU_THREADS: Final = 64  # of one worker; chosen: calls gain little beyond four threads
MAX_WORKERS: Final = 8  # of one model; chosen: each is a copy of its workspace

# An utterance with its pre-roll (up to 0.5 s) must fit into Whisper's window of 30 s.
MAX_UTTERANCE_S: Final = 29.0
# A file has no listener: windows as long as Whisper takes them cost least, so only a real pause cuts one.
FILE_SILENCE_MS: Final = 2000

# Whisper's prompt takes 224 tokens, about 1000 letters; what is longer is cut by the engine. The bound keeps a
# session's options small, not short.
MAX_PROMPT_CHARS: Final = 4000
MAX_HOTWORDS: Final = 200
MAX_HOTWORD_CHARS: Final = 100
MAX_LANGUAGES: Final = 16  # chosen: more than anybody mixes in one session

# ISO 639-1 as far as Whisper knows it. Its tokens for Hawaiian and Cantonese have three letters because ISO 639-1 has
# none for them; `jw` is what Whisper calls Javanese, ISO says `jv`.
_CODES = """
af am ar as az ba be bg bn bo br bs ca cs cy da de el en es et eu fa fi fo fr gl gu ha haw he hi hr
ht hu hy id is it ja jw ka kk km kn ko la lb ln lo lt lv mg mi mk ml mn mr ms mt my ne nl nn no oc
pa pl ps pt ro ru sa sd si sk sl sn so sq sr su sv sw ta te tg th tk tl tr tt uk ur uz vi yi yo yue
zh
"""

LANGUAGES: Final = tuple(_CODES.split())
# They put no space between two sentences.
SPACELESS_LANGUAGES: Final = frozenset(["zh", "yue", "ja", "th", "lo", "km", "my", "bo"])


# ---------------------------------------------------------------- when an utterance ends


@attrs.frozen(kw_only=True)
class Endpointing:
    """When an utterance ends by itself."""

    # Below 100 ms every stop consonant would end an utterance.
    silence_ms_min: int = integer(
        "shortest silence that ends an utterance",
        minimum=100,
        maximum=10_000,
        default=400,
        unit="ms",
        changes="utterance",
        omitted=f"configurable; {FILE_SILENCE_MS} for `file`",
    )
    silence_ms_max: int = integer(
        "silence that ends an utterance in any case",
        minimum=100,
        maximum=10_000,
        default=700,
        unit="ms",
        changes="utterance",
        omitted=f"configurable; {FILE_SILENCE_MS} for `file`",
    )
    max_utterance_s: float = number(
        "longest utterance; a longer one is cut at a pause",
        minimum=1,
        maximum=MAX_UTTERANCE_S,
        default=28.0,
        unit="s",
        changes="utterance",
        omitted="configurable",
    )
    aggressiveness: int = integer(
        "of the WebRTC voice detector: 0 lets most through, 3 least",
        minimum=0,
        maximum=3,
        default=2,
        changes="utterance",
        omitted="configurable",
    )


FILE_ENDPOINTING: Final = Endpointing(silence_ms_min=FILE_SILENCE_MS, silence_ms_max=FILE_SILENCE_MS)


@attrs.frozen(kw_only=True, field_transformer=asked(Endpointing))
class EndpointingFields:
    """When an utterance ends by itself, as far as a client names it. What `configure` omits stays as it is."""

    silence_ms_min: int | None = None
    silence_ms_max: int | None = None
    max_utterance_s: float | None = None
    aggressiveness: int | None = None

    def __attrs_post_init__(self) -> None:
        low, high = self.silence_ms_min, self.silence_ms_max
        if low is not None and high is not None and low > high:
            refuse("endpointing.silence_ms_max", "`endpointing.silence_ms_max` is below `endpointing.silence_ms_min`")


# ---------------------------------------------------------------- sessions


@attrs.frozen(kw_only=True)
class SessionOptions:
    """The options of a session: what its client asked for, the rest from the configuration.

    The declarations are those of the wire, where `lang` is "auto" for None and `endpointing` false for None.
    """

    kind: Kind = string(
        "`live`; `file`: in the class of file work, no interims unless asked for, with `progress`",
        choices=("live", "file"),
        default="live",
        changes="session",
    )
    sample_rate: int = integer(
        "samples per second and channel", minimum=MIN_RATE, maximum=MAX_RATE, default=16_000, changes="session"
    )
    lang: str | None = string(  # None: detect
        "language of the speech, ISO 639-1; `auto` detects it, by all that the session has heard",
        choices=("auto", *LANGUAGES),
        changes="utterance",
        omitted="auto",
    )
    languages: tuple[str, ...] = strings(  # empty: all
        "the languages that may be spoken; `lang` is detected among them, so name one at least",
        max_items=MAX_LANGUAGES,
        choices=LANGUAGES,
        default=(),
        changes="utterance",
        omitted="any",
    )
    encoding: Encoding = string(
        "of the audio; `container`: a WAV, FLAC, MP3, Ogg, Opus, WebM or M4A byte stream",
        choices=ENCODINGS,
        default="pcm_s16le",
        changes="session",
    )
    channels: int = integer(
        "interleaved channels, mixed down", minimum=1, maximum=MAX_CHANNELS, default=1, changes="session"
    )
    channel_select: int | None = integer(
        "the one channel to take, counted from 0",
        minimum=0,
        maximum=MAX_CHANNELS - 1,
        changes="session",
        omitted="all, mixed",
    )
    interim: bool = flag("send text while it is spoken", default=True, changes="utterance", omitted="false for `file`")
    task: Task = string(
        "`translate` writes English", choices=("transcribe", "translate"), default="transcribe", changes="session"
    )
    model: str = name("preset for finals", default="", changes="session", omitted="as configured")
    interim_model: str = name(
        "preset for interims",
        default="",
        changes="session",
        omitted="`model` where that is given, else as configured",
    )
    words: bool = flag(
        "finals list their words with times, interims with their probabilities", default=False, changes="session"
    )
    prompt: str = string(
        "text that the speech is likely to go on from: names, style",
        max_chars=MAX_PROMPT_CHARS,
        default="",
        changes="utterance",
        omitted="none",
    )
    hotwords: tuple[str, ...] = strings(
        "words that are likely to be said",
        max_items=MAX_HOTWORDS,
        max_chars=MAX_HOTWORD_CHARS,
        default=(),
        changes="utterance",
        omitted="none",
    )
    endpointing: Endpointing | None = nested(  # None: the client finalizes
        EndpointingFields,
        "when an utterance ends by itself; false: only the client's `finalize` ends it, and `max_utterance_s`",
        or_false=True,
        default=Endpointing(),
        changes="utterance",
        omitted="as configured",
    )
    max_utterance_s: float = Endpointing().max_utterance_s  # cuts also when the client finalizes
    overflow: Overflow = string(
        "when the session is behind: `wait` reads more slowly and loses nothing, `drop` stays live",
        choices=("wait", "drop"),
        default="wait",
        changes="session",
    )
    context: Context = string(
        "what an utterance is decoded with: `auto`, also the end of what was said just before, where the speaker goes "
        "on soon; `off`, its own audio alone",
        choices=("auto", "off"),
        default="auto",
        changes="utterance",
    )
    lock_stable: bool = flag("the final keeps what interims called stable", default=False, changes="session")
    resumable: bool = flag(
        "the session outlives its connection for `limits.resume_s`, in which its client may `resume` it",
        default=False,
        changes="session",
    )
    label: str = name("what `sessions` shows for this session", default="", changes="session", omitted="empty")


class SessionChanges:
    """What `configure` changes, from the next utterance on: some of the options that it may change.

    Immutable, and equal where the same is given.
    """

    def __init__(self, **given: Any) -> None:
        rules = rules_of(SessionOptions)
        if wrong := [name for name in given if name not in rules or rules[name].changes != "utterance"]:
            raise TypeError(f"no `configure` changes {', '.join(wrong)}")
        self._given = given

    def given(self) -> dict[str, Any]:
        """The options that were named, with their values."""
        return dict(self._given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SessionChanges) and self._given == other._given

    def __hash__(self) -> int:
        return hash(frozenset(self._given))

    def __repr__(self) -> str:
        return f"SessionChanges({', '.join(f'{name}={value!r}' for name, value in self._given.items())})"


# ---------------------------------------------------------------- what the configuration sets


@attrs.frozen(kw_only=True)
class Tuning:
    """What the configuration sets for all sessions; fixed when one starts."""

    speculate_ms: int = integer(
        "silence after which the final decode starts, before the endpoint is sure; 0: never",
        minimum=0,
        maximum=2000,
        default=180,
        unit="ms",
        changes="session",
    )
    pre_roll_ms: int = integer(
        "audio kept from before the start of speech",
        minimum=0,
        maximum=1000,
        default=400,
        unit="ms",
        changes="session",
    )
    interim_min_ms: int = integer(
        "new audio between two interims, at least",
        minimum=50,
        maximum=10_000,
        default=350,
        unit="ms",
        changes="session",
    )
    hold_back_ms: int = integer(
        "words that end so close to the end of the audio are not stable yet, where a model says when they end and not "
        "how sure it is of them",
        minimum=0,
        maximum=5000,
        default=400,
        unit="ms",
        changes="session",
    )
    lag_warning_s: float = number(
        "tell a session that is this far behind", minimum=0.1, default=2.0, unit="s", changes="session"
    )
    max_window_s: float = MAX_UTTERANCE_S  # what the model takes in one call
    live_text: LiveText = LiveText()  # of the preset of the interims
    keep_margin: float = LiveText().keep_margin  # of the preset of the finals


TUNING: Final = Tuning()  # the defaults
