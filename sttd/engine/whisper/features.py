"""Audio to what the encoder takes: log-mel windows of a fixed length, and the encoded batch.

Three facts about CTranslate2 shape this module (shown in its `layers/whisper.h` and by experiment):

- The encoder has no length mask, so a result depends on the window length. Windows are therefore a few fixed
  sizes, and one batch has one size.
- Padding is zeros after the mel spectrum is normalised, as faster-whisper 1.2 and OpenAI do. Another padding
  value costs words.
- Encoder output as long as the number of mel bands is taken for a spectrum and encoded again, silently.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from sttd.core.types import SAMPLE_RATE, Samples

FULL_WINDOW: Final = 3000  # mel frames of 10 ms
WINDOW_BUCKETS: Final = (1000, 1500, 2000, FULL_WINDOW)
WINDOW_SLACK: Final = 250  # frames of silence that must follow the audio in a short window: it ends texts cleanly
HOP: Final = SAMPLE_RATE // 100
MAX_SAMPLES: Final = FULL_WINDOW * HOP
FFT: Final = 400  # samples that a frame looks at, half of them on either side
# Frames in one matrix product. With more OpenBLAS wakes threads of its own, which fight CTranslate2's for the cores
# (seen beside a decode: 13 ms for what takes 0.1 ms).
BLOCK: Final = 16
UNSETTLED: Final = 3  # frames at either end that see padding where more audio would be: FFT / 2 of 160, and one of pad
MIN_SAMPLES: Final = 400  # one Fourier window; less cannot be analysed

Features = npt.NDArray[np.float32]  # (mels, frames)


def content_frames(samples: int) -> int:
    """Mel frames that an audio of so many samples fills, at most one full window."""
    return min(samples // HOP, FULL_WINDOW)


def window_for(samples: int, *, allowed: Sequence[int]) -> int:
    """The smallest allowed window that holds the audio and the slack; the full one when none does."""
    needed = content_frames(samples) + WINDOW_SLACK
    return next((window for window in sorted(allowed) if window >= needed), FULL_WINDOW)


@attrs.define(eq=False)
class Recordings:
    """What was computed of recordings that are decoded again while they grow, by their names.

    At most `most_bytes` are kept; the least recently used goes first, and is computed anew if it comes again. Several
    threads may call.
    """

    most_bytes: int = 32 * 1024**2  # chosen: about thirty utterances of the longest kind
    _spectra: OrderedDict[str, Features] = attrs.field(factory=OrderedDict, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def spectrum(self, name: str | None) -> Features | None:
        """What is known of a recording."""
        with self._lock:
            found = self._spectra.get(name) if name is not None else None
            if found is not None and name is not None:
                self._spectra.move_to_end(name)
            return found

    def keep(self, name: str | None, spectrum: Features) -> None:
        """Remember it, in place of what was known."""
        if name is None:
            return
        with self._lock:
            before = self._spectra.pop(name, None)
            self._spectra[name] = spectrum
            self._bytes += spectrum.nbytes - (before.nbytes if before is not None else 0)
            while self._bytes > self.most_bytes:
                _, forgotten = self._spectra.popitem(last=False)
                self._bytes -= forgotten.nbytes


def log_mel(extractor: Any, samples: Samples, *, window: int) -> Features:
    """The normalised log-mel spectrum in a window, as faster-whisper computes and pads it: (mels, window)."""
    return normalised(log_power(extractor, samples, window=window), samples=len(samples), window=window)


def log_power(extractor: Any, samples: Samples, *, window: int, known: Features | None = None) -> Features:
    """The log-mel spectrum of samples before it is normalised and padded.

    Args:
        extractor: faster-whisper's `FeatureExtractor`.
        samples: mono, 16 kHz; what exceeds the window is left out, less than 25 ms is filled up with zeros.
        window: frames of the window that it is for.
        known: the spectrum of fewer samples of the same recording; what can be is taken from there. Equal to a
            computation from nothing but for rounding.
    """
    samples = samples[: window * HOP + FFT]
    if len(samples) < MIN_SAMPLES:
        samples = np.pad(samples, (0, MIN_SAMPLES - len(samples)))
    return _continued(extractor, samples, known=known)


def normalised(spectrum: Features, *, samples: int, window: int) -> Features:
    """A spectrum of so many samples, normalised as the whole window is, and filled up with zeros: (mels, window)."""
    frames = min(content_frames(max(samples, MIN_SAMPLES)), window)
    features = np.zeros((spectrum.shape[0], window), np.float32)
    # The loudest band of the loudest frame decides what is quiet; the extractor looks at one frame beyond the content.
    floor = spectrum[:, : frames + 1].max() - 8.0
    np.maximum(spectrum[:, :frames], floor, out=features[:, :frames])
    features[:, :frames] += 4.0
    features[:, :frames] /= 4.0
    return features


def _continued(extractor: Any, samples: Samples, *, known: Features | None) -> Features:
    """The log power of all frames of `samples`, of which `known` were computed from fewer samples of the same."""
    settled = 0 if known is None else min(known.shape[1], len(samples) // HOP) - UNSETTLED
    if known is None or settled <= UNSETTLED:
        return _log_power(extractor, samples)
    # What follows is computed from a few frames earlier, whose left context is real there and padding here.
    fresh = _log_power(extractor, samples[(settled - UNSETTLED) * HOP :])
    return np.concatenate([known[:, :settled], fresh[:, UNSETTLED:]], axis=1)


def _log_power(extractor: Any, samples: Samples) -> Features:
    """(mels, samples // 160 + 1): the extractor's spectrum before it is normalised over the whole recording."""
    window = np.hanning(extractor.n_fft + 1)[:-1].astype(np.float32)
    padded = np.pad(samples, (0, HOP))
    stft = extractor.stft(padded, extractor.n_fft, HOP, window=window, return_complex=True)
    stft = stft.astype(np.complex64, copy=False)
    frames = stft.shape[1] - 1
    power = np.zeros((-(-frames // BLOCK), BLOCK, stft.shape[0]), np.float32)
    np.square(np.abs(stft[:, :-1].T), out=power.reshape(-1, stft.shape[0])[:frames])
    mel = (power @ extractor.mel_filters.T).reshape(-1, len(extractor.mel_filters))[:frames].T
    log_power: Features = np.log10(np.maximum(mel, 1e-10))
    return log_power


@attrs.frozen(kw_only=True, eq=False)
class Encoded:
    """A batch after the encoder. Its output is used for language detection, every temperature and the alignment."""

    whisper: Any  # ctranslate2.models.Whisper
    features: Features  # (items, mels, frames)
    output: Any  # ctranslate2.StorageView, (items, frames / 2, width)

    def take(self, items: Sequence[int]) -> Encoded:
        """The same for some of the items.

        On a CPU the rows are copied; on a GPU a view cannot be cut from Python, and encoding a few items
        again costs less than a way round through main memory for every batch.
        """
        if list(items) == list(range(len(self.features))):
            return self
        features = self.features[list(items)]
        if self.whisper.device != "cpu":
            return encode(self.whisper, features)
        return Encoded(whisper=self.whisper, features=features, output=_view(np.asarray(self.output)[list(items)]))


def encode(whisper: Any, features: Features) -> Encoded:
    """Run the encoder on a batch of equal windows."""
    assert features.shape[-1] // 2 != whisper.n_mels, "this window length would be encoded twice"
    return Encoded(whisper=whisper, features=features, output=whisper.encode(_view(features)))


def _view(array: npt.NDArray[Any]) -> Any:
    import ctranslate2

    return ctranslate2.StorageView.from_array(np.ascontiguousarray(array))
