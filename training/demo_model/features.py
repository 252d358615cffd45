"""Log-mel features exactly as faster-whisper 1.2.1 computes them, in torch, without the frame that it cuts off."""

from __future__ import annotations

import functools
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from training.demo_model.speech import RATE

MELS: Final = 80
HOP: Final = 160
_FFT: Final = 400


@functools.cache
def _constants() -> tuple[Tensor, Tensor]:
    from faster_whisper.feature_extractor import FeatureExtractor

    filters = torch.from_numpy(FeatureExtractor.get_mel_filters(RATE, _FFT, MELS).astype("float32"))
    return filters, torch.hann_window(_FFT, periodic=True)


def log_mel(samples: NDArray[np.float32], *, equalizer: Tensor | None = None) -> Tensor:
    """Returns 80 x (samples // 160) features; `equalizer` scales the power of each mel band, as a microphone would."""
    filters, window = _constants()
    count = len(samples) // HOP
    padded = torch.nn.functional.pad(torch.from_numpy(samples), (0, HOP))
    spectrum = torch.stft(padded, _FFT, HOP, window=window, center=True, pad_mode="reflect", return_complex=True)
    power = filters @ (spectrum[:, :count].abs() ** 2)
    if equalizer is not None:
        power = power * equalizer[:, None]
    log_power = power.clamp(min=1e-10).log10()
    return (torch.maximum(log_power, log_power.max() - 8.0) + 4.0) / 4.0
