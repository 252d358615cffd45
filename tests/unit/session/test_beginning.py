"""The first seconds of a recording, and whether they are all of it."""

import numpy as np
import pytest
import trio

from sttd.errors import ProtocolError
from sttd.session.beginning import decode_beginning
from tests.unit.session.test_container import encoded


class Cut:
    """Bytes in pieces of this size."""

    def __init__(self, data, size=5000):
        self.data, self.size, self.read = data, size, 0

    def __aiter__(self):
        return self

    async def __anext__(self):
        await trio.lowlevel.checkpoint()
        piece = self.data[self.read : self.read + self.size]
        if not piece:
            raise StopAsyncIteration
        self.read += len(piece)
        return piece


@pytest.mark.parametrize(("form", "codec"), [("wav", "pcm_s16le"), ("mp3", "mp3"), ("ipod", "aac"), ("ogg", "libopus")])
async def test_a_short_recording_is_all_there(form, codec):
    made = await decode_beginning(Cut(encoded(form, codec)), most_s=30.0, uid=7)
    assert made.whole
    assert made.duration_s == pytest.approx(2.0, abs=0.15)
    samples = np.frombuffer(made.pcm, "<f4")
    assert len(samples) / 16000 == made.duration_s
    assert 0.01 < np.abs(samples).max() <= 1.0


async def test_of_a_long_one_no_more_is_read_than_is_needed():
    pieces = Cut(encoded("wav", "pcm_s16le", seconds=60.0))
    made = await decode_beginning(pieces, most_s=3.0, uid=7)
    assert not made.whole
    assert 3.0 < made.duration_s < 4.0
    assert pieces.read < len(pieces.data) / 2


async def test_what_is_no_recording_is_refused():
    for data in (b"", b"no sound at all " * 1000):
        with pytest.raises(ProtocolError) as caught:
            await decode_beginning(Cut(data), most_s=30.0, uid=7)
        assert caught.value.code == "bad_audio"


async def test_one_that_breaks_off_ends_there():
    data = encoded("flac", "flac")
    made = await decode_beginning(Cut(data[: len(data) * 2 // 3]), most_s=30.0, uid=7)
    assert made.whole
    assert 0.5 < made.duration_s < 2.0
