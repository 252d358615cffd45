"""A short recording of any format that sttd takes, to samples. Blocks; for a thread.

The rules are those of `sttd/session/unpacking.py`: of what a file says of itself nothing is believed.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np

from sttd.core.types import SAMPLE_RATE, Samples, seconds
from sttd.errors import ProtocolError, SttdError
from sttd.session.formats import open_options
from sttd.session.unpacking import Unpacker, mixed
from sttd.wire.http import Denial
from sttd.wire.openai_answers import Refused

SHORTEST_S: Final = 0.1  # as sttd itself
_SLACK_S: Final = 0.1  # chosen: MP3 and AAC add up to that at the ends
# Boxes of MP4 with a number of samples, and how far behind the name it stands.
_COUNTS: Final = ((b"stsz", 12), (b"stz2", 12), (b"trun", 8))
_CHUNKS: Final = ((b"stco", 8), (b"co64", 8))
_MAX_TRACKS: Final = 64  # chosen
_MAX_BOXES: Final = 10_000  # chosen: of a name; 30 s in fragments of 20 ms have 1,500
_SAMPLES_A_BYTE: Final = 64  # chosen: the densest sound there has 5, and chunks differ in length
_MP4: Final = frozenset({"mov", "mp4", "m4a", "3gp", "3g2", "mj2"})  # to FFmpeg they are one


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
    """What FFmpeg may do with it: MP4 is read only where its index is one of this file.

    FFmpeg makes room for every sample that the index counts before it reads one: 60 million, in a file of 2.5 kB, took
    2.1 GB and 17 s (measured). In other formats such bytes mean nothing, so those are still read.
    """
    options = open_options()
    if not _index_is_too_long(data):
        return options
    formats = [name for name in options["format_whitelist"].split(",") if name not in _MP4]
    return {**options, "format_whitelist": ",".join(formats)}


def _index_is_too_long(data: bytes) -> bool:
    index = _without_sound(data)
    if b"cmov" in index:  # an index that is compressed, of QuickTime 3; nobody writes it
        return True
    if any(index.count(name) > _MAX_BOXES for name, _ in (*_COUNTS, *_CHUNKS)):
        return True
    if index.count(b"stsc") > _MAX_TRACKS:  # each may say that it has all the bytes behind it
        return True
    if sum(_numbers(index, _COUNTS)) > len(data):  # a sample has a byte at least, whatever track it is of
        return True
    chunks = max(_numbers(index, _CHUNKS), default=0)
    most = max((_chunk_samples(index, at) for at in _places(index, b"stsc")), default=0)
    return most * min(chunks, len(data)) > _SAMPLES_A_BYTE * len(data)


def _without_sound(data: bytes) -> bytes:
    """All but the insides of `mdat`, where any bytes may be, as long as one box follows the other."""
    parts, at = list[bytes](), 0
    while at + 8 <= len(data) and len(parts) < _MAX_BOXES:
        size = int.from_bytes(data[at : at + 4], "big")
        if not 8 <= size <= len(data) - at:
            break
        if data[at + 4 : at + 8] != b"mdat":
            parts.append(data[at : at + size])
        at += size
    return b"".join([*parts, data[at:]])


def _places(data: bytes, name: bytes) -> Iterator[int]:
    at = data.find(name)
    while at >= 0:
        yield at
        at = data.find(name, at + 1)


def _numbers(data: bytes, tables: Sequence[tuple[bytes, int]]) -> Iterator[int]:
    for name, behind in tables:
        for at in _places(data, name):
            yield int.from_bytes(data[at + behind : at + behind + 4], "big")


def _chunk_samples(data: bytes, at: int) -> int:
    """How many samples a chunk has at most by such a box, as far as there are bytes of it."""
    count = int.from_bytes(data[at + 8 : at + 12], "big")
    known = data[at + 12 : at + 12 + 12 * count]
    rows = np.frombuffer(known[: len(known) // 12 * 12], ">u4").reshape(-1, 3)
    return int(rows[:, 1].max(initial=0))
