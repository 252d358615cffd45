"""Packets of a container to samples at 16 kHz. What a file says of itself is not believed.

Rules:

1. **Every frame may differ from the one before**: joined recordings and radio streams change rate, channels and format
   as they go. A change gets a new resampler; what the old one still holds comes first.
2. **A rate is 8 to 192 kHz, channels are 8 at the most**, of every frame, as for raw audio: at 1 Hz a sample would
   become 16,000. A frame has `MAX_FRAME` samples at the most, which the decoder is told before it allocates one.
3. **A bad packet costs itself.** It is skipped, and said: the first at once, all of them at the end. More than
   `MAX_BAD` in a row, or nothing but bad ones, and the file is given up; bad ones at its end say that it broke off.
4. **Audio is counted against the bytes that came.** More than `FREE_S` and `SECONDS_A_BYTE` of it cannot be speech that
   somebody recorded, but would keep a session and a core busy for hours.
5. **The container's clock holds** where it has one (`_CLOCKED`): audio that begins behind the video, and stretches that
   were never recorded, become silence, so that times are those of a player. Differences below `GAP_S` are jitter. A
   clock that goes back, or farther ahead than rule 4 and `MAX_HOLE_S` allow, is another recording's, and goes on here.
6. **Channels are averaged**, but where they cancel each other out (one of a balanced pair, a wire the wrong way round)
   one of them is heard.
7. **Whatever the libraries raise means that the audio is bad**, never that the daemon has a bug.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Final

import attrs
import numpy as np
import numpy.typing as npt

from sttd.core.types import SAMPLE_RATE, Warn, seconds
from sttd.errors import ProtocolError
from sttd.options import MAX_CHANNELS, MAX_RATE, MIN_RATE

MAX_FRAME: Final = 262_144  # samples; FLAC's longest has 65,535, and no format here has longer ones
MAX_BAD: Final = 64  # packets in a row: one to three seconds of MP3 or AAC (chosen)
FREE_S: Final = 60.0
# 80 bits a second. Speech codecs take 6,000, and Opus that hears nothing about 100 (measured with its DTX); FLAC has
# 400 for digital silence at 16 kHz in blocks of 4,096.
SECONDS_A_BYTE: Final = 0.1
GAP_S: Final = 0.2  # packets are 20 to 60 ms, and Matroska rounds to 1 ms
MAX_HOLE_S: Final = 3600.0
_CANCELLED: Final = 1e-3  # of the energy of a channel is left of all: 30 dB less; two different voices leave a half
_CLOCKED: Final = frozenset({"matroska", "webm", "mov", "mp4", "ogg"})

Planes = npt.NDArray[np.float32]  # (channels, samples) at 16 kHz


@attrs.define(eq=False, kw_only=True)
class Unpacker:
    """Reads one audio stream of an open container. Blocks; lives in the thread that reads the container.

    Args:
        container: an `av.container.InputContainer`.
        stream: the audio stream in it.
        received_bytes: how many bytes of the container came so far.
        warn: told what was skipped.
        before: samples that came of the same bytes before, of another container.
    """

    container: Any
    stream: Any
    received_bytes: Callable[[], int]
    warn: Callable[[Warn], None]
    before: int = 0
    bad: int = attrs.field(default=0, init=False)  # packets, in all
    _bad_in_a_row: int = attrs.field(default=0, init=False)
    _samples: int = attrs.field(default=0, init=False)
    _resampler: Any = attrs.field(default=None, init=False)
    _setup: tuple[Any, ...] = attrs.field(default=(), init=False)
    _origin_s: float | None = attrs.field(default=None, init=False)  # what the container's clock shows at our 0

    @property
    def made(self) -> int:
        """Samples so far."""
        return self.before + self._samples

    def planes(self) -> Iterator[Planes]:
        """All audio, channels apart.

        Raises:
            ProtocolError: `bad_audio`.
        """
        self._check_shape(self.stream.rate, self.stream.channels)
        self.stream.codec_context.options = {"max_samples": str(MAX_FRAME)}
        clocked = not _CLOCKED.isdisjoint(self.container.format.name.split(","))
        for frame in self._frames():
            if clocked and frame.time is not None:
                yield from self._unrecorded(frame)
            yield from self._resampled(frame)
        yield from self._flushed()
        if self.bad and not self._samples:
            raise ProtocolError("the audio cannot be decoded: every packet of it is bad", code="bad_audio")
        if self._bad_in_a_row:
            raise ProtocolError(
                "the file breaks off in the middle; what came before it was heard",
                code="bad_audio",
                data={"breaks_off": True},
            )
        if self.bad > 1:
            self.warn(Warn(code="damaged_audio", message=f"{self.bad} damaged packets were skipped, in all"))

    def _frames(self) -> Iterator[Any]:
        """The frames of all packets that can be decoded."""
        import av

        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError as exc:
                self._skip(exc)
                packets = self.container.demux(self.stream)  # a generator ends with its error; the reader is behind it
                continue
            if packet is None:
                return
            try:
                frames = packet.decode()
            except av.EOFError:
                return
            except av.FFmpegError as exc:
                self._skip(exc)
                continue
            if frames:
                self._bad_in_a_row = 0
            yield from frames

    def _skip(self, exc: Any) -> None:
        """Rule 3."""
        self.bad += 1
        self._bad_in_a_row += 1
        if self._bad_in_a_row > MAX_BAD:
            raise ProtocolError(f"the audio cannot be decoded: {exc.strerror}", code="bad_audio") from None
        if self.bad == 1:
            at_s = seconds(self.made)
            self.warn(Warn(code="damaged_audio", message=f"a damaged packet was skipped at {at_s:.1f} s"))

    def _unrecorded(self, frame: Any) -> Iterator[Planes]:
        """Silence up to where the frame belongs (rule 5)."""
        import av

        at_s, here_s = frame.time, seconds(self._samples)
        if self._origin_s is None:
            start = self.container.start_time  # of all streams
            self._origin_s = at_s if start is None else start / av.time_base
        hole_s = at_s - self._origin_s - here_s
        room_s = FREE_S + SECONDS_A_BYTE * self.received_bytes() - seconds(self.made)
        if hole_s < -GAP_S or hole_s > min(MAX_HOLE_S, room_s):
            self._origin_s = at_s - here_s
        elif hole_s > GAP_S:
            yield from self._flushed()
            self._resampler, self._setup = None, ()
            left = round(hole_s * SAMPLE_RATE)
            while left:
                count = min(left, SAMPLE_RATE)
                yield self._counted(np.zeros((frame.layout.nb_channels, count), np.float32))
                left -= count

    def _resampled(self, frame: Any) -> Iterator[Planes]:
        import av

        setup = (frame.sample_rate, frame.format.name, frame.layout.name)
        if setup != self._setup:
            self._check_shape(frame.sample_rate, frame.layout.nb_channels)
            yield from self._flushed()
            # Channels stay apart, and are mixed after: FFmpeg's own down-mix weighs them by their layout.
            self._resampler = av.AudioResampler(format="fltp", rate=SAMPLE_RATE)
            self._setup = setup
        for block in self._resampler.resample(frame):
            yield self._counted(block.to_ndarray())

    def _flushed(self) -> Iterator[Planes]:
        if self._resampler is not None:
            for block in self._resampler.resample(None):
                yield self._counted(block.to_ndarray())

    def _counted(self, planes: Planes) -> Planes:
        """Rule 4."""
        self._samples += planes.shape[1]
        audio_s, received = seconds(self.made), self.received_bytes()
        if audio_s > FREE_S + SECONDS_A_BYTE * received:
            raise ProtocolError(f"the file makes {audio_s:.0f} s of audio of {received} bytes", code="bad_audio")
        return planes

    def _check_shape(self, rate: int, channels: int) -> None:
        """Rule 2; 0 is not known yet."""
        if rate and not MIN_RATE <= rate <= MAX_RATE:
            raise ProtocolError(
                f"the file has a sampling rate of {rate} Hz; sttd takes {MIN_RATE} to {MAX_RATE}", code="bad_audio"
            )
        if channels > MAX_CHANNELS:
            raise ProtocolError(f"the file has {channels} channels; sttd takes {MAX_CHANNELS}", code="bad_audio")


def mixed(planes: Planes, channel_select: int | None) -> npt.NDArray[np.float32]:
    """(channels, n) to (n,): the channel that was asked for, or the mean, unless that is next to nothing."""
    if channel_select is not None:
        if channel_select >= len(planes):
            raise ProtocolError(
                f"`channel_select` is {channel_select} and the file has {len(planes)} channel(s)", code="bad_option"
            )
        return np.asarray(planes[channel_select], np.float32)
    if len(planes) == 1:
        return np.asarray(planes[0], np.float32)
    mixed = np.asarray(planes.mean(axis=0, dtype=np.float32))
    energies = np.square(planes).mean(axis=1)
    loudest = float(energies.max(initial=0.0))
    if float(np.square(mixed).mean()) < _CANCELLED * loudest:
        return np.asarray(planes[int(np.argmax(energies >= loudest / 2))], np.float32)  # the same one all the time
    return mixed
