"""Files to samples."""

import io
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sttd_ray.audio import _index_is_too_long, read_audio

from sttd.engine.remote.asking import wav
from sttd.wire.openai_answers import Refused
from tests.unit.ray.recordings import silence

DATA = Path(__file__).parents[2] / "data"


def refused(data, *, most_s=30.0):
    with pytest.raises(Refused) as caught:
        read_audio(data, most_s=most_s)
    return caught.value.answer.status, caught.value.error["code"]


def test_what_a_daemon_sends_arrives_to_the_sample():
    sent = np.sin(np.arange(16_000, dtype=np.float32) / 20) / 2
    heard = read_audio(wav(sent), most_s=30)
    assert len(heard) == len(sent)
    assert np.abs(heard - sent).max() < 2 / 32768
    assert not heard.flags.writeable


def test_thirty_seconds_are_taken_and_more_are_not():
    assert len(read_audio(wav(silence(30)), most_s=30)) == 30 * 16_000
    assert refused(wav(silence(30.5))) == (413, "audio_too_long")


def test_another_format_is_taken():
    assert len(read_audio((DATA / "light.flac").read_bytes(), most_s=30)) > 16_000


def test_what_is_too_short_is_said():
    assert refused(wav(silence(0.1))[: 44 + 400])[0] == 400


@given(st.binary(max_size=300))
def test_what_is_no_audio_is_refused(data):
    assert refused(data) == (400, "invalid_audio")
    assert refused(wav(silence(1))[:44] + data)[0] == 400


def box(name, *parts):
    inside = b"".join(parts)
    return struct.pack(">I", 8 + len(inside)) + name + inside


def table(name, *numbers):
    return box(name, bytes(4), struct.pack(f">{len(numbers)}I", *numbers))


def mp4(*tables):
    """A track of AAC with these tables, of which nothing but the size matters."""
    sound = bytes(6) + b"\0\1" + bytes(8) + struct.pack(">HHHHI", 2, 16, 0, 0, 16_000 << 16)
    description = box(b"stsd", bytes(4), struct.pack(">I", 1), box(b"mp4a", sound))
    media = box(b"mdia", table(b"mdhd", 0, 0, 16_000, 1000, 0), box(b"hdlr", bytes(8), b"soun", bytes(14)),
                box(b"minf", box(b"stbl", description, *tables)))  # fmt: skip
    return box(b"ftyp", b"isom", bytes(4)) + box(b"moov", box(b"trak", media)) + box(b"mdat", bytes(2000))


MANY = 100_000_000


@pytest.mark.parametrize(
    "tables",
    [
        (table(b"stts", 1, MANY, 1024), table(b"stsc", 1, 1, MANY, 1), table(b"stsz", 1, MANY), table(b"stco", 1, 40)),
        (table(b"stsc", 1, 1, 1, 1), table(b"stz2", 8, MANY), table(b"stco", 1, 40)),
        (table(b"stsc", 2, 1, 1, 1, 2, 200_000, 1), table(b"stsz", 1, 4), table(b"stco", 900, *range(900))),
        (table(b"trun", MANY),),
        (box(b"cmov", bytes(100)),),
        (65 * table(b"stsc", 1, 1, 1, 1),),
        (2 * table(b"stsz", 1, 2000),),
    ],
)
def test_an_index_that_is_longer_than_the_file_gets_no_memory(tables):
    """Each would have FFmpeg make room for up to 2.4 GB."""
    data = mp4(*tables)
    assert _index_is_too_long(data)
    assert refused(data) == (400, "invalid_audio")


@pytest.mark.parametrize("format_", ["mp4", "mov"])
def test_an_honest_index_is_read_whatever_the_sound_looks_like(format_):
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=format_) as container:
        stream = container.add_stream("aac" if format_ == "mp4" else "pcm_s16le", rate=16_000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    data = file.getvalue()
    assert 16_000 <= len(read_audio(data, most_s=30)) < 18_000
    assert not _index_is_too_long(box(b"mdat", table(b"stsz", 1, MANY)) + data)


def test_in_other_formats_such_bytes_are_sound():
    sound = wav(silence(1)).replace(bytes(20), table(b"stsz", 1, MANY), 1)
    assert _index_is_too_long(sound)
    assert len(read_audio(sound, most_s=30)) == 16_000
