"""Real recordings for benchmarks and tests, and a session's ingest path to run them through.

The recordings are those of `tests/data/speech`; `$STTD_TESTDATA` names another folder of that layout.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import soxr

from sttd.core.audio import AudioDecoder
from sttd.core.types import SAMPLE_RATE, Samples
from sttd.core.utterance import UtteranceAssembler, UtteranceEvent
from sttd.engine.silero import SileroModel
from sttd.engine.vad import VoiceDetector
from sttd.options import Endpointing

ROOT = Path(__file__).parents[1]
SILERO = SileroModel()  # one for all, as in the daemon; loaded with the first `Ingest`


@attrs.frozen(kw_only=True, eq=False)
class Recording:
    """One clip: 16 kHz mono, and what its manifest says."""

    name: str
    samples: Samples
    text: str
    language: str | None  # None without speech
    tags: tuple[str, ...]
    is_speech: bool
    is_derived: bool  # mixed or joined from other clips
    segments: tuple[tuple[float, float], ...]  # start and end of each utterance, in seconds; empty if not known

    @property
    def duration_s(self) -> float:
        return len(self.samples) / SAMPLE_RATE


def testdata() -> Path:
    """Where the recordings are.

    Raises:
        FileNotFoundError: they are not there.
    """
    path = Path(os.environ.get("STTD_TESTDATA") or ROOT / "tests" / "data")
    if not (path / "speech" / "manifest.jsonl").is_file():
        raise FileNotFoundError(f"no recordings in {path}; set STTD_TESTDATA")
    return path


def load(path: Path | None = None, *, names: Collection[str] | None = None) -> dict[str, Recording]:
    """Recordings by name, all or those named.

    Raises:
        FileNotFoundError: they are not there.
    """
    folder = (path or testdata()) / "speech"
    rows = map(json.loads, (folder / "manifest.jsonl").read_text().splitlines())
    recordings = [_recording(folder, row) for row in rows if names is None or Path(row["file"]).stem in names]
    return {recording.name: recording for recording in recordings}


def english(path: Path | None = None, *, longest_s: float = 30.0) -> list[Recording]:
    """The English speech as it was recorded: nothing mixed or joined, nothing longer than one window of Whisper."""
    return [
        clip
        for clip in load(path).values()
        if clip.language == "en" and not clip.is_derived and clip.duration_s <= longest_s
    ]


def _recording(folder: Path, row: dict[str, Any]) -> Recording:
    return Recording(
        name=Path(row["file"]).stem,
        samples=read_audio(folder / row["file"]),
        text=row["text"],
        language=row["language"],
        tags=tuple(row["tags"]),
        is_speech=row["kind"] == "speech",
        is_derived="derived_from" in row["source"],
        segments=tuple((segment["start"], segment["end"]) for segment in row.get("segments", ())),
    )


def read_audio(file: Path) -> Samples:
    """A file of 16-bit mono 16 kHz audio."""
    import av

    with av.open(str(file)) as container:
        blocks = [frame.to_ndarray().reshape(-1) for frame in container.decode(audio=0)]
    samples: Samples = np.concatenate(blocks).astype(np.float32) / np.float32(32768)
    return samples


def as_bytes(samples: Samples, *, rate: int = SAMPLE_RATE, channels: int = 1) -> bytes:
    """Audio as a client would send it: 16-bit, at another rate, with the same on all channels."""
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, SAMPLE_RATE, rate)
    pcm = np.clip(np.round(samples * 32768), -32768, 32767).astype("<i2")
    return np.repeat(pcm, channels).tobytes()


def room_noise(seconds: float, *, level: float = 3e-4, seed: int = 0) -> Samples:
    """A quiet room: no recording ends in digital zeros."""
    samples = np.random.default_rng(seed).normal(0, level, int(seconds * SAMPLE_RATE))
    return samples.astype(np.float32)


@attrs.define(eq=False, kw_only=True)
class Ingest:
    """The stages from bytes to utterances, as a session runs them."""

    rate: int = SAMPLE_RATE
    channels: int = 1
    endpointing: Endpointing | None = attrs.field(factory=Endpointing)
    silero: SileroModel | None = SILERO
    message_ms: int = 100
    decoder: AudioDecoder = attrs.field(init=False)
    detector: VoiceDetector = attrs.field(init=False)
    assembler: UtteranceAssembler = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.decoder = AudioDecoder(encoding="pcm_s16le", sample_rate=self.rate, channels=self.channels)
        mode = (self.endpointing or Endpointing()).aggressiveness
        if self.silero is not None:
            self.silero.load()
        self.detector = VoiceDetector(aggressiveness=mode, silero=self.silero)
        self.assembler = UtteranceAssembler(self.endpointing, max_utterance_s=Endpointing().max_utterance_s)

    def messages(self, data: bytes) -> Iterator[bytes]:
        """The bytes cut as a live client cuts them."""
        size = self.rate * self.message_ms // 1000 * 2 * self.channels
        return (data[start : start + size] for start in range(0, len(data), size))

    def run(self, data: bytes) -> list[UtteranceEvent]:
        """Everything that happens until `stop`."""
        events: list[UtteranceEvent] = []
        for message in self.messages(data):
            frames = self.decoder.push(message)
            events += self.assembler.push(frames, self.detector.push(frames))
        frames = self.decoder.flush()
        events += self.assembler.push(frames, self.detector.push(frames))
        return events + self.assembler.finalize("stop")
