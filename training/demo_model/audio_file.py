"""Writes and reads the small FLAC files of the bundled sample and the test clips."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from training.demo_model.speech import RATE


def write_flac(path: Path, *, samples: NDArray[np.int16]) -> None:
    """Writes mono 16 kHz, 16 bit."""
    import av

    with av.open(str(path), "w", format="flac") as container:
        stream = container.add_stream("flac", rate=RATE)
        stream.layout = "mono"
        frame = av.AudioFrame.from_ndarray(samples[None, :], format="s16", layout="mono")
        frame.sample_rate = RATE
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)


def read_flac(path: Path) -> NDArray[np.float32]:
    """Returns mono 16 kHz samples in -1 .. 1, of whatever the file holds."""
    import av

    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    with av.open(str(path)) as container:
        frames = [out for frame in container.decode(audio=0) for out in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray()[0] for frame in frames]) / np.float32(32768)
