"""From the bytes of a client to frames and what the detectors say about them; one ear a session."""

from __future__ import annotations

import attrs
import numpy as np

from sttd.core.audio import AudioDecoder
from sttd.core.endpointer import Activity
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE, Samples
from sttd.engine.silero_batch import SharedSilero
from sttd.engine.vad import VoiceDetector
from sttd.options import Endpointing, SessionOptions

_NO_FRAMES: Samples = np.empty((0, FRAME_SAMPLES), np.float32)
_AGGRESSIVENESS = Endpointing().aggressiveness  # where the client finalizes


@attrs.define(eq=False)
class Ear:
    """Decodes and detects.

    Args:
        options: how the audio is encoded, and how aggressive the detector is at first.
        silero: the shared VAD network, or None for WebRTC VAD alone.
    """

    options: SessionOptions
    silero: SharedSilero | None
    _detector: VoiceDetector = attrs.field(init=False)
    _decoder: AudioDecoder | None = attrs.field(default=None, init=False)  # None: frames come from a container
    _lost_rest: float = attrs.field(default=0.0, init=False)  # samples

    def __attrs_post_init__(self) -> None:
        options = self.options
        self._detector = VoiceDetector(
            aggressiveness=options.endpointing.aggressiveness if options.endpointing else _AGGRESSIVENESS,
            silero=self.silero,
        )
        if options.encoding != "container":
            self._decoder = AudioDecoder(
                encoding=options.encoding,
                sample_rate=options.sample_rate,
                channels=options.channels,
                channel_select=options.channel_select,
            )

    @property
    def asleep(self) -> bool:
        """Whether nothing was heard for so long that only WebRTC VAD still listens."""
        return self._detector.asleep

    def decode(self, data: bytes) -> Samples:
        """Frames of shape (n, 320) of raw audio in the declared encoding. Raises ProtocolError with `bad_audio`."""
        assert self._decoder is not None, "a container is decoded by its stage"
        return self._decoder.push(data)

    def drain(self) -> Samples:
        """The frames of what was said up to a finalize, which need not fill the last one."""
        return self._decoder.drain() if self._decoder is not None else _NO_FRAMES

    def flush(self) -> Samples:
        """The frames of what the resampler still holds at the end of the audio."""
        return self._decoder.flush() if self._decoder is not None else _NO_FRAMES

    async def detect(self, frames: Samples) -> Activity:
        """What the detectors say about frames of shape (n, 320). When it is cancelled, they were not heard."""
        return (
            await self.silero.hear(self._detector, frames) if self.silero is not None else self._detector.push(frames)
        )

    def tune(self, aggressiveness: int) -> None:
        """Be so aggressive from here on."""
        self._detector.configure(aggressiveness=aggressiveness)

    def skip(self, count: int) -> int:
        """So many bytes of raw audio were dropped: the samples, at 16 kHz, by which the audio clock goes on."""
        assert self._decoder is not None, "half a container is none, so nothing of it is dropped"
        self._decoder.skip(count)
        lost = self._lost_rest + count / self._decoder.sample_bytes * SAMPLE_RATE / self.options.sample_rate
        samples = int(lost) // FRAME_SAMPLES * FRAME_SAMPLES
        self._lost_rest = lost - samples  # the clock advances by whole frames; what is over counts the next time
        return samples
