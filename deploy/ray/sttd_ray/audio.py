"""A short recording of any format that sttd takes, to samples. Blocks; for a thread.

The rules are those of `sttd/session/unpacking.py`: of what a file says of itself nothing is believed.
"""

from __future__ import annotations

import io
from typing import Any, Final

import numpy as np

from sttd.core.types import SAMPLE_RATE, Samples, seconds
from sttd.errors import ProtocolError, SttdError
from sttd.session.formats import open_options
from sttd.session.iso_index import IsoIndex, may_be_iso
from sttd.session.unpacking import Unpacker, mixed
from sttd.wire.http import Denial
from sttd.wire.openai_answers import Refused

SHORTEST_S: Final = 0.1  # as sttd itself
_SLACK_S: Final = 0.1  # chosen: MP3 and AAC add up to that at the ends


def read_audio(data: bytes, *, most_s: float) -> Samples:
    """The samples, 16 kHz, of one channel, at most 30 s. Raises Refused; what is too long is not decoded to its end."""
    import av

    # Tags that are not UTF-8 are nobody's concern here. PyAV 19 takes them as they are and has no such option.
    tolerant: Any = {"metadata_errors": "ignore"} if int(av.__version__.partition(".")[0]) < 19 else {}
    blocks, count = list[Samples](), 0
    try:
        with av.open(io.BytesIO(data), mode="r", options=_options(data), **tolerant) as container:
            stream = container.streams.best("audio") if container.streams.audio else None
            if stream is None:
                raise ProtocolError("the file has no audio stream", code="bad_audio")
            unpacker = Unpacker(
                container=container, stream=stream, received_bytes=lambda: len(data), warn=lambda warning: None
            )
            for planes in unpacker.planes():
                blocks.append(mixed(planes, None))
                count += len(blocks[-1])
                if seconds(count) > most_s + _SLACK_S:
                    message = f"the recording is longer than {most_s:g} s; a daemon of sttd cuts longer ones"
                    raise Refused(Denial("audio_too_long", message, status=413), param="file")
    except (Refused, MemoryError):
        raise
    except Exception as error:  # PyAV raises ValueError and more where FFmpeg's own errors would do
        if isinstance(error, SttdError):
            # One that breaks off in its last packets is heard as far as it goes, as by sttd itself.
            if not error.data.get("breaks_off"):
                raise Refused.of(error) from None
        else:
            raise Refused.of(ProtocolError("the audio cannot be decoded", code="bad_audio")) from None
    if seconds(count) < SHORTEST_S:
        message = f"there must be {SHORTEST_S} s of audio at least, and there are {seconds(count):.2f}"
        raise Refused(Denial("audio_too_short", message, status=400), param="file")
    samples = np.clip(np.concatenate(blocks), -1.0, 1.0)[: round(most_s * SAMPLE_RATE)]
    samples.flags.writeable = False
    return samples


def _options(data: bytes) -> dict[str, str]:
    """What FFmpeg may do with it. Raises ProtocolError where the index of an MP4 cannot be."""
    iso = may_be_iso(data)
    if iso:
        index = IsoIndex(waits=True)
        index.feed(data)
        index.end()
    return open_options(iso=iso)
