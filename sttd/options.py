"""Bounds that several declarations share, each with its reason."""

from __future__ import annotations

from typing import Final

MAX_CPU_THREADS: Final = 64  # of one worker; chosen: calls gain little beyond four threads
MAX_WORKERS: Final = 8  # of one model; chosen: each is a copy of its workspace

# An utterance with its pre-roll (up to 0.5 s) must fit into Whisper's window of 30 s.
MAX_UTTERANCE_S: Final = 29.0
