"""A speaker's uplink as PCM and as Opus: bytes a second on the wire, and what Opus does to the words.

Every English clip goes through an Opus encoder and back, and is decoded by the model as one utterance, as it is and at
each bit rate, without a daemon between. Ten Ogg pages a second are a message each; TLS, TCP, IP and Ethernet are
counted.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from benchmarks import load, report
from benchmarks.fleet_times import OPUS_KBIT, on_the_wire, opus
from benchmarks.options import Options
from benchmarks.recordings import english
from benchmarks.words import Errors, errors
from sttd.core.types import SAMPLE_RATE, DecodeItem, DecodeOptions, Samples
from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.whisper.backend import WhisperBackend


def main(options: Options) -> None:
    """A row for PCM and one for each bit rate."""
    chosen, clips = options.model, english()
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    backend = WhisperBackend()
    model = backend.load(backend.resolve(preset), cpu_threads=len(os.sched_getaffinity(0)), num_workers=1)
    rows = []
    for kbit in (None, *OPUS_KBIT):
        found, sent = Errors(), 0.0
        for clip in clips:
            samples, size = _sent(clip.samples, kbit)
            sent += size
            (hypothesis,) = model.decode([DecodeItem(samples=samples, options=DecodeOptions(language="en"))])
            found += errors(clip.text, hypothesis.text)  # type: ignore[union-attr]
        bytes_per_s = sent / sum(clip.duration_s for clip in clips)
        rows.append(
            {
                "sent as": "PCM, 16 bits" if kbit is None else f"Opus, {kbit} kbit/s",
                "kbit_per_s": round(8e-3 * on_the_wire(bytes_per_s / 10) * 10, 1),
                "word_errors_pct": round(found.rate_pct, 1),
                "words": found.said,
            }
        )
    model.close()
    report.write("uplink", rows, {"clips": len(clips)}, model=chosen.name)


def _sent(samples: Samples, kbit: int | None) -> tuple[Samples, int]:
    """What arrives of it, and the bytes that it takes."""
    if kbit is None:
        return samples, 2 * len(samples)
    data = opus(samples, kbit)
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "clip.ogg"
        file.write_bytes(data)
        heard = np.frombuffer(load.pcm(file), "<i2").astype(np.float32) / np.float32(32768)
    return heard[: 30 * SAMPLE_RATE], len(data)
