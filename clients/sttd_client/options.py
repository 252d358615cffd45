"""The options of a session as keyword arguments of `open_session` and `configure`.

docs/reference/audio.md says what they mean.

What is left out gets the daemon's default. What an option means and which values it takes is declared in
`sttd/options.py`; these classes only tell a type checker the names and types, and a test compares them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

from sttd.options import Context, Encoding, Kind, Overflow, Task


class Endpointing(TypedDict, total=False):
    """When an utterance ends by itself."""

    silence_ms_min: int
    silence_ms_max: int
    max_utterance_s: float
    aggressiveness: int


class ConfigureOptions(TypedDict, total=False):
    """What `configure` changes, from the next utterance on."""

    lang: str | None
    languages: Sequence[str] | None
    prompt: str | None
    hotwords: Sequence[str] | None
    interim: bool | None
    endpointing: Endpointing | Literal[False] | None
    context: Context | None


class StartOptions(ConfigureOptions, total=False):
    """What `start` declares."""

    kind: Kind | None
    sample_rate: int | None
    encoding: Encoding | None
    channels: int | None
    channel_select: int | None
    task: Task | None
    model: str | None
    interim_model: str | None
    words: bool | None
    overflow: Overflow | None
    lock_stable: bool | None
    resumable: bool | None
    label: str | None
