"""Raw audio in any encoding, rate and channel count → 20 ms frames of 16 kHz mono float32.

Rules:
 1. The frames depend on the bytes alone, never on how they were cut into messages: an incomplete sample, an
    incomplete frame and the resampler's state wait for the next push. (Resampling is in float32 because soxr's
    int16 output depends on the chunking: it dithers per call.)
 2. Channels are averaged, or one of them (counted from 0) is selected.
 3. Integers and companded samples are scaled by their full range. Floats beyond [-1, 1] are clamped: a hot mixer
    exceeds 1 a little. NaN, infinity and values that can only be unscaled integers are `bad_audio`; that push
    changes nothing.
 4. soxr compensates its own delay, so sample k of the output lies at k / 16000 s of the input whatever the rate
    (to 0.15 ms). It comes out later, though: from higher rates in blocks of about 30 ms. From lower rates its blocks
    would be 100 ms, so there its variable-rate engine is used: 6 ms, for 0.06 % of a core instead of 0.02 %.
    `flush` fetches the rest at the end, `drain` where the client has marked a boundary. How much comes out up to a
    boundary is counted from the first sample of the session, so that boundaries move no clock.

Containers (WAV, FLAC, ...) are not for this machine: their decoder pulls and blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np
import numpy.typing as npt
import soxr

from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE, Samples
from sttd.errors import ProtocolError
from sttd.options import MAX_CHANNELS, MAX_RATE, MIN_RATE, SAMPLE_BYTES, RawEncoding

UNSCALED = 64.0  # +36 dB over full scale: no mixer does that, integers written as floats do


def _mulaw_table() -> Samples:
    """ITU-T G.711 μ-law: byte → sample in [-1, 1]."""
    code = ~np.arange(256, dtype=np.uint8)
    magnitude = (((code & 0x0F).astype(np.int32) << 3) + 0x84 << ((code & 0x70) >> 4)) - 0x84
    return (np.where(code & 0x80, -magnitude, magnitude) / 32768).astype(np.float32)


def _alaw_table() -> Samples:
    """ITU-T G.711 A-law: byte → sample in [-1, 1]."""
    code = np.arange(256, dtype=np.uint8) ^ 0x55
    exponent = ((code & 0x70) >> 4).astype(np.int32)
    mantissa = ((code & 0x0F).astype(np.int32) << 4) + 8
    magnitude = np.where(exponent > 0, mantissa + 0x100 << np.maximum(exponent - 1, 0), mantissa)
    return (np.where(code & 0x80, magnitude, -magnitude) / 32768).astype(np.float32)


def _scaled(dtype: str, *, full_scale: float) -> Callable[[bytes], Samples]:
    factor = np.float32(1 / full_scale)
    return lambda data: np.frombuffer(data, dtype).astype(np.float32) * factor


def _companded(table: Samples) -> Callable[[bytes], Samples]:
    return lambda data: table[np.frombuffer(data, np.uint8)]


def _floats(data: bytes) -> Samples:
    samples = np.frombuffer(data, "<f4")
    peak = np.max(np.abs(samples), initial=0.0)
    if not peak < UNSCALED:  # NaN is not below anything
        raise ProtocolError(
            "the float samples are not audio: they must be finite and scaled to [-1, 1]", code="bad_audio"
        )
    return _clamped(samples)


def _clamped(samples: Samples) -> Samples:
    return np.minimum(np.maximum(samples, np.float32(-1)), np.float32(1))  # faster than clip on a frame


_READERS: dict[RawEncoding, Callable[[bytes], Samples]] = {
    "pcm_s16le": _scaled("<i2", full_scale=2**15),
    "pcm_s32le": _scaled("<i4", full_scale=2**31),
    "pcm_f32le": _floats,
    "mulaw": _companded(_mulaw_table()),
    "alaw": _companded(_alaw_table()),
}


@attrs.define(eq=False, kw_only=True)
class AudioDecoder:
    """Turns the bytes of one session into frames.

    Args:
        encoding: a raw encoding.
        sample_rate: of the input, 8000 to 192000.
        channels: interleaved channels of the input, 1 to 8.
        channel_select: the one channel to use, counted from 0; None averages all.

    Raises:
        ProtocolError: `bad_option`, when a value is out of its range.
    """

    encoding: RawEncoding
    sample_rate: int
    channels: int = 1
    channel_select: int | None = None

    _unread: bytes = attrs.field(default=b"", init=False)  # the start of a sample (of all channels)
    _torn: int = attrs.field(default=0, init=False)  # bytes to come of a sample whose start was dropped
    _unframed: Samples = attrs.field(factory=lambda: np.empty(0, np.float32), init=False)  # the start of a frame
    _resampler: Any = attrs.field(default=None, init=False)
    _taken: int = attrs.field(default=0, init=False)  # samples that went into resamplers
    _made: int = attrs.field(default=0, init=False)  # samples that came out

    def __attrs_post_init__(self) -> None:
        if self.encoding not in _READERS:
            raise ProtocolError(f"{self.encoding!r} is not a raw encoding", code="bad_option")
        if not MIN_RATE <= self.sample_rate <= MAX_RATE:
            raise ProtocolError(f"sample_rate must be {MIN_RATE} to {MAX_RATE}", code="bad_option")
        if not 1 <= self.channels <= MAX_CHANNELS:
            raise ProtocolError(f"channels must be 1 to {MAX_CHANNELS}", code="bad_option")
        if self.channel_select is not None and not 0 <= self.channel_select < self.channels:
            raise ProtocolError("channel_select must name one of the channels, from 0", code="bad_option")
        self._restart()

    def _restart(self) -> None:
        if self.sample_rate != SAMPLE_RATE:
            self._resampler = soxr.ResampleStream(
                self.sample_rate,
                SAMPLE_RATE,
                1,
                dtype="float32",
                quality="HQ",
                vr=self.sample_rate < SAMPLE_RATE,  # rule 4
            )

    @property
    def sample_bytes(self) -> int:
        """The bytes of one sample, all channels together."""
        return SAMPLE_BYTES[self.encoding] * self.channels

    def push(self, data: bytes) -> Samples:
        """Take the next bytes.

        Returns:
            The frames that are complete now: float32, shape (n, 320), n >= 0, C-contiguous, read-only.

        Raises:
            ProtocolError: `bad_audio`; nothing of `data` was taken.
        """
        torn = min(self._torn, len(data))
        unread = self._unread + data[torn:] if self._unread or torn else data
        whole = len(unread) - len(unread) % self.sample_bytes
        samples = self._mono(_READERS[self.encoding](unread[:whole]))
        self._torn -= torn
        self._unread = bytes(unread[whole:])
        if self._resampler is not None:
            self._taken += len(samples)
            samples = _clamped(self._resampler.resample_chunk(samples))  # a filter overshoots at clipped peaks
            self._made += len(samples)
        return self._frames(samples)

    def skip(self, count: int) -> None:
        """So many bytes are missing here. A sample that they tear is lost, so that the next is read from its start."""
        self._torn = -(len(self._unread) + count - self._torn) % self.sample_bytes
        self._unread = b""

    def drain(self) -> Samples:
        """The frames that the resampler holds back; the start of a frame (less than 20 ms) waits for more."""
        if self._resampler is None:
            return self._frames(np.empty(0, np.float32))
        rest = _clamped(self._resampler.resample_chunk(np.empty(0, np.float32), last=True))
        due = max(round(self._taken * SAMPLE_RATE / self.sample_rate) - self._made, 0)
        if len(rest):  # each end of a resampler is rounded for itself, by a sample at the most
            rest = np.pad(rest, (0, max(due - len(rest), 0)), mode="edge")[:due]
        self._made += len(rest)
        self._restart()
        return self._frames(rest)

    def flush(self) -> Samples:
        """End the stream: what the resampler holds back, and the last, zero-padded frame."""
        frames = self.drain()
        missing = -len(self._unframed) % FRAME_SAMPLES
        return np.concatenate([frames, self._frames(np.zeros(missing, np.float32))])

    def _mono(self, samples: Samples) -> Samples:
        if self.channels == 1:
            return samples
        interleaved = samples.reshape(-1, self.channels)
        if self.channel_select is not None:
            return np.ascontiguousarray(interleaved[:, self.channel_select])
        mixed = interleaved[:, 0].copy()
        for channel in range(1, self.channels):  # faster than mean(axis=1), whose inner loop is this short axis
            mixed += interleaved[:, channel]
        mixed *= np.float32(1 / self.channels)
        return mixed

    def _frames(self, samples: Samples) -> Samples:
        if len(self._unframed):
            samples = np.concatenate([self._unframed, samples])
        whole = len(samples) - len(samples) % FRAME_SAMPLES
        self._unframed = samples[whole:].copy()  # a view would keep the whole message alive
        frames: npt.NDArray[np.float32] = samples[:whole].reshape(-1, FRAME_SAMPLES)
        frames.flags.writeable = False
        return frames
