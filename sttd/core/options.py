"""What a client may ask of a session, after the wire has validated it and the configuration has filled the gaps."""

from __future__ import annotations

from typing import Any, Literal

import attrs

from sttd.core.types import Task

Kind = Literal["live", "file"]
Encoding = Literal["pcm_s16le", "pcm_s32le", "pcm_f32le", "mulaw", "alaw", "container"]
Overflow = Literal["wait", "drop"]


@attrs.frozen(kw_only=True)
class Endpointing:
    """When an utterance ends by itself."""

    silence_ms_min: int = 400
    silence_ms_max: int = 700
    max_utterance_s: float = 28.0  # below Whisper's 30 s window, so that an utterance with its pre-roll always fits
    aggressiveness: int = 2  # of WebRTC VAD, 0..3


@attrs.frozen(kw_only=True)
class SessionOptions:
    """The effective options of a session, as `started` reports them."""

    kind: Kind = "live"
    sample_rate: int = 16_000
    lang: str | None = None  # None: detect
    languages: tuple[str, ...] = ()  # that are possible where it is detected; empty: all
    encoding: Encoding = "pcm_s16le"
    channels: int = 1
    channel_select: int | None = None
    interim: bool = True
    task: Task = "transcribe"
    model: str = ""
    interim_model: str = ""
    words: bool = False
    prompt: str = ""
    hotwords: tuple[str, ...] = ()
    endpointing: Endpointing | None = Endpointing()  # None: the client finalizes
    max_utterance_s: float = 28.0  # cuts also when the client finalizes
    overflow: Overflow = "wait"
    lock_stable: bool = False
    label: str = ""


@attrs.frozen(kw_only=True)
class Tuning:
    """Settings of the configuration that shape a session; fixed when it starts."""

    speculate_ms: int = 180  # 0: nothing is decoded before the end is certain
    pre_roll_ms: int = 400
    interim_min_ms: int = 350
    hold_back_s: float = 0.4
    lag_warning_s: float = 2.0
    max_window_s: float = 29.0  # what the model takes in one call


class Unchanged:
    """The type of `UNCHANGED`: a field that `configure` did not name."""

    def __repr__(self) -> str:
        return "UNCHANGED"


UNCHANGED = Unchanged()


@attrs.frozen(kw_only=True)
class SessionChanges:
    """What `configure` changes, from the next utterance on."""

    lang: str | Unchanged | None = UNCHANGED
    languages: tuple[str, ...] | Unchanged = UNCHANGED
    prompt: str | Unchanged = UNCHANGED
    hotwords: tuple[str, ...] | Unchanged = UNCHANGED
    interim: bool | Unchanged = UNCHANGED
    endpointing: Endpointing | Unchanged | None = UNCHANGED

    def given(self) -> dict[str, Any]:
        """The fields that were named."""
        return {
            field.name: value
            for field in attrs.fields(type(self))
            if (value := getattr(self, field.name)) is not UNCHANGED
        }
