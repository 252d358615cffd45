"""The index of an MP4 file, looked at as it comes."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.errors import ProtocolError
from sttd.session.iso_index import ALLOWED, MAX_BOX_BYTES, MAX_SAMPLES, IsoIndex, may_be_iso
from tests.iso import MANY, bomb, box, mp4, recorded, table, tables

SOUND = np.sin(np.arange(5 * 16_000, dtype=np.float32) / 20) / 2
FRAGMENTS = {"movflags": "frag_keyframe+empty_moov+default_base_moof", "frag_duration": "500000"}
EDITS = table(b"elst", 20_000, *[64_000, 0, 1 << 16] * 20_000)
JPEG = b"\xff\xd8\xff" + table(b"stsz", 1, MANY)


def picture(data):
    meta = box(b"meta", bytes(4), box(b"hdlr", bytes(24)), box(b"ilst", box(b"covr", box(b"data", bytes(8), data))))
    return box(b"udta", meta)


def feed(index, data, pieces):
    """All of it, in pieces; returns how much was ready after each. Raises what is against it."""
    ready = []
    for at in range(0, len(data), pieces):
        index.feed(data[at : at + pieces])
        ready.append(index.ready)
        assert index.ready <= index.received
    index.end()
    return ready


def through(data, *, waits=True, pieces=4096):
    """The same of what is all handed on in the end."""
    index = IsoIndex(waits=waits)
    ready = feed(index, data, pieces)
    assert index.ready == len(data)
    return ready


BOMBS = {
    "samples of one size": bomb(),
    "samples of a few bits": mp4(table(b"stsc", 1, 1, 1, 1), table(b"stz2", 8, MANY), table(b"stco", 1, 40)),
    "chunks": mp4(table(b"stsc", 2, 1, 1, 1, 2, 200_000, 1), table(b"stsz", 1, 4), table(b"stco", 900, *range(900))),
    "a fragment": box(b"ftyp", b"isom") + box(b"moof", table(b"trun", MANY)),
    "many fragments": box(b"ftyp", b"isom") + 500 * (box(b"moof", table(b"trun", ALLOWED)) + box(b"mdat", bytes(10))),
    "edits": mp4(*tables(1000), edits=box(b"edts", EDITS)),
    "a compressed index": mp4(box(b"cmov", bytes(100))),
    "an index in what is free": box(b"ftyp", b"isom") + box(b"free", bomb()[16:]),
    "to the end of the file": box(b"ftyp", b"isom") + bytes(4) + bomb()[20:],
    "a size of 64 bits": box(b"ftyp", b"isom") + struct.pack(">I4sQ", 1, b"moov", 1 << 40) + bomb()[24:],
    "broken off": bomb()[:-2020],
    "PCM of two minds": mp4(*tables(MANY, ticks=1), table(b"stts", 1, MANY, 1024), codec=b"sowt"),
    "PCM with a second track behind": mp4(*tables(1, ticks=1), codec=b"sowt", behind=bomb()[16:-2008]),
    "behind a picture that is none": mp4(*tables(1), behind=box(b"free", picture(JPEG)[:60]) + bomb()[24:-2008]),
}


@pytest.mark.parametrize("name", BOMBS)
@pytest.mark.parametrize("waits", [True, False])
@pytest.mark.parametrize("pieces", [7, 1 << 20])
def test_an_index_that_is_longer_than_its_file_is_never_handed_on(name, waits, pieces):
    index, data = IsoIndex(waits=waits), BOMBS[name]
    with pytest.raises(ProtocolError, match="index") as caught:
        feed(index, data, pieces)
    assert caught.value.code == "bad_audio"
    feed(IsoIndex(waits=waits), data[: index.ready], pieces)  # in what may be read there is nothing against it


@pytest.mark.parametrize(
    ("format_", "options"),
    [
        ("mp4", {}),
        ("mov", {}),
        ("ipod", {}),
        ("mp4", FRAGMENTS),
        ("mov", FRAGMENTS),
    ],
)
@pytest.mark.parametrize("waits", [True, False])
def test_what_ffmpeg_writes_goes_by(format_, options, waits):
    data = recorded(format_, SOUND, **options)
    assert may_be_iso(data)
    through(data, waits=waits, pieces=100)


def test_what_is_long_waits_for_its_bytes_where_they_can_be_waited_for():
    count = 2 * ALLOWED
    data = mp4(*tables(count))[:-2008] + box(b"mdat", bytes(count))
    ready = through(data)
    assert 16 <= ready[0] < 100, "the index is handed on before what it counts is there"
    with pytest.raises(ProtocolError, match="as a file"):
        through(data, waits=False)


def test_hours_of_pcm_go_by_however_they_are_counted():
    frames = 16_000 * 3600 * 5
    chunks = frames // 16_000
    pcm = (
        table(b"stts", 1, frames, 1), table(b"stsc", 1, 1, 16_000, 1), table(b"stsz", 2, frames),
        table(b"stco", chunks, *range(chunks)),
    )  # fmt: skip
    index = IsoIndex(waits=True)
    index.feed(mp4(*pcm, codec=b"sowt")[:-2008])
    index.feed(struct.pack(">I4sQ", 1, b"mdat", 16 + 2 * frames))
    for _ in range(5):
        index.feed(bytes(1 << 20))
    assert index.ready == index.received


def test_a_long_book_goes_by_with_the_edit_that_every_file_has():
    count = MAX_SAMPLES * 3 // 4
    book = mp4(*tables(count), edits=box(b"edts", table(b"elst", 1, 1000, 0, 1 << 16)))
    index = IsoIndex(waits=True)
    index.feed(book[:-2008])
    index.feed(struct.pack(">I4s", 8 + count, b"mdat") + bytes(count))
    assert index.ready == index.received


def test_a_picture_may_say_what_it_likes():
    through(mp4(*tables(1000), behind=picture(JPEG)))


def test_sound_may_say_what_it_likes():
    through(mp4(*tables(1000))[:-2008] + box(b"mdat", table(b"stsz", 1, MANY), bytes(2000)))


def test_what_is_no_sound_has_its_bound():
    index = IsoIndex(waits=True)
    with pytest.raises(ProtocolError, match="16 MiB"):
        index.feed(box(b"ftyp", b"isom") + struct.pack(">I4s", MAX_BOX_BYTES + 1, b"uuid"))
    index = IsoIndex(waits=True)
    with pytest.raises(ProtocolError, match="16 MiB"):
        index.feed(bytes(4) + b"moov" + bytes(MAX_BOX_BYTES))


@given(st.binary(max_size=200), st.lists(st.integers(1, 60), min_size=1), st.booleans())
def test_any_bytes_are_taken_or_refused_the_same_in_whatever_pieces_they_come(tail, pieces, waits):
    data = box(b"ftyp", b"isom") + tail
    told = set()
    for sizes in ([len(data)], pieces):
        index, at, number = IsoIndex(waits=waits), 0, 0
        try:
            while at < len(data):
                size = sizes[number % len(sizes)]
                index.feed(data[at : at + size])
                assert index.ready <= index.received <= len(data)
                at, number = at + size, number + 1
            index.end()
            told.add(index.ready)
        except ProtocolError:
            told.add("refused")
    assert len(told) == 1
