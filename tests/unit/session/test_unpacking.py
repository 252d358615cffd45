"""Files that lie about themselves, change as they go, or are damaged."""

from __future__ import annotations

import io
import wave
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest

from sttd.session import container, unpacking
from tests.unit.session.test_container import decode, encoded

SECOND = 50  # frames


def flac(*, rate, block, blocks):
    """A FLAC stream of constant blocks by hand: a block of any length takes 14 bytes."""
    total = block * blocks
    info = block.to_bytes(2, "big") * 2 + bytes(6)
    info += ((rate << 44) | (0 << 41) | (15 << 36) | total).to_bytes(8, "big") + bytes(16)
    stream = b"fLaC" + bytes([0x80, 0, 0, 34]) + info
    for number in range(blocks):
        head = bytes([0xFF, 0xF8, 0x70 | 0, 0x08, number]) + (block - 1).to_bytes(2, "big")
        head += bytes([crc(head, 0x07, 8)])
        frame = head + bytes([0x00, 0x12, 0x34])
        stream += frame + crc(frame, 0x8005, 16).to_bytes(2, "big")
    return stream


def crc(data, polynomial, bits):
    value, top, mask = 0, 1 << (bits - 1), (1 << bits) - 1
    for byte in data:
        value ^= byte << (bits - 8)
        for _ in range(8):
            value = ((value << 1) ^ polynomial if value & top else value << 1) & mask
    return value


async def test_the_flac_made_by_hand_is_one():
    frames, error = await decode(flac(rate=16_000, block=16_000, blocks=2))
    assert error is None
    assert len(frames) == 2 * SECOND
    assert np.abs(frames).max() > 0


@pytest.mark.parametrize("rate", [1, 100, 7_999, 192_001, 655_350])
async def test_a_rate_that_is_none_is_refused_before_anything_is_allocated(rate):
    frames, error = await decode(flac(rate=rate, block=4_096, blocks=1))
    assert len(frames) == 0
    assert error.code == "bad_audio"
    assert f"{rate} Hz" in error.message


def test_the_file_that_took_four_gigabytes_is_small():
    assert len(flac(rate=1, block=16_000, blocks=2)) < 80


async def test_more_audio_than_the_bytes_can_hold_is_refused(monkeypatch):
    data = flac(rate=8_000, block=65_535, blocks=100)
    assert len(data) < 2_000
    frames, error = await decode(data)
    assert error.code == "bad_audio"
    assert "s of audio of" in error.message
    allowed_s = unpacking.FREE_S + unpacking.SECONDS_A_BYTE * len(data)
    assert len(frames) <= (allowed_s + 20) * SECOND
    silence, error = await decode(encoded("flac", "flac", seconds=120.0, levels=(0.0,)), chunk=100_000)
    assert error is None
    assert len(silence) == 120 * SECOND


async def test_silence_of_any_usual_encoder_is_allowed():
    for form, codec, rate in (("ogg", "libopus", 48_000), ("mp3", "mp3", 16_000), ("flac", "flac", 192_000)):
        data = encoded(form, codec, seconds=150.0, levels=(0.0,), rate=rate)
        frames, error = await decode(data, chunk=100_000)
        assert (codec, error) == (codec, None)
        assert abs(len(frames) - 150 * SECOND) <= 10


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"rate": 22_050}, {"rate": 44_100}),
        ({"rate": 16_000}, {"rate": 44_100}),
        ({"levels": (0.3,)}, {"levels": (0.3, 0.3)}),
        ({"rate": 44_100, "levels": (0.3, 0.3)}, {"rate": 16_000, "levels": (0.3,)}),
    ],
)
async def test_joined_recordings_are_heard_as_they_were(first, second, live):
    data = encoded("mp3", "mp3", **{"seconds": 3.0, **first}) + encoded("mp3", "mp3", **{"seconds": 3.0, **second})
    frames, error = await decode(data, live=live)
    assert error is None
    assert abs(len(frames) - 6 * SECOND) <= 15
    loud = np.abs(np.fft.rfft(frames[-2 * SECOND :].reshape(-1)))
    assert np.argmax(loud) / 2 == pytest.approx(440, abs=5)  # the second part at its own speed


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize(("first", "second"), [((0.3,), (0.3, 0.3)), ((0.3, 0.3), (0.3,)), ((0.3,), (0.3,))])
async def test_the_links_of_an_ogg_file_may_differ(first, second, live):
    data = b"".join(
        encoded("ogg", "libopus", rate=48_000, seconds=3.0, levels=levels) for levels in (first, second) * 2
    )
    frames, error = await decode(data, live=live)
    assert error is None
    assert abs(len(frames) - 12 * SECOND) <= 15
    loud = np.abs(np.fft.rfft(frames[-2 * SECOND :].reshape(-1)))
    assert np.argmax(loud) / 2 == pytest.approx(440, abs=5)


async def test_all_links_of_a_file_are_counted_together(monkeypatch):
    monkeypatch.setattr(unpacking, "FREE_S", 5.0)
    monkeypatch.setattr(unpacking, "SECONDS_A_BYTE", 0.0)
    link = encoded("ogg", "libopus", rate=48_000, seconds=3.0)
    assert (await decode(link))[1] is None
    frames, error = await decode(link * 3)
    assert error.code == "bad_audio"
    assert len(frames) <= 6 * SECOND


async def test_there_are_only_so_many_links(monkeypatch):
    monkeypatch.setattr(container, "MAX_LINKS", 3)
    link = encoded("ogg", "libopus", rate=48_000, seconds=0.5)
    assert (await decode(link * 3))[1] is None
    assert "links" in (await decode(link * 4))[1].message


async def test_a_damaged_packet_costs_itself_and_is_told():
    data = bytearray(encoded("mp3", "mp3", seconds=6.0, rate=44_100))
    middle = len(data) // 2
    data[middle : middle + 600] = bytes(600)
    warnings = []
    frames, error = await decode(bytes(data), warnings=warnings)
    assert error is None
    assert abs(len(frames) - 6 * SECOND) < SECOND
    assert warnings == [] or warnings[0].code == "damaged_audio"


class Packet:
    def __init__(self, *outcomes):
        self.outcomes = outcomes

    def decode(self):
        import av

        if not self.outcomes:
            raise av.InvalidDataError(1, "bad")
        return list(self.outcomes)


class Source:
    """As much of a container and its stream as is read."""

    rate, channels = 16_000, 1
    start_time = None

    def __init__(self, packets, *, format_="mp3"):
        self.packets = iter(packets)
        self.format = SimpleNamespace(name=format_)
        self.codec_context = self

    def demux(self, stream):
        import av

        for packet in self.packets:
            if packet is None:
                raise av.InvalidDataError(1, "the reader stumbles")
            yield packet


def frame(samples=1_600, *, rate=16_000, layout="mono", at_s=None):
    import av

    channels = len(av.AudioLayout(layout).channels)
    made = av.AudioFrame.from_ndarray(np.full((channels, samples), 0.1, np.float32), format="fltp", layout=layout)
    made.sample_rate = rate
    if at_s is not None:
        made.time_base, made.pts = Fraction(1, 1000), round(at_s * 1000)
    return made


def unpack(packets, *, start_s=None, **options):
    source, warnings = Source(packets, **options), []
    source.start_time = None if start_s is None else round(start_s * 1_000_000)
    unpacker = unpacking.Unpacker(
        container=source, stream=source, received_bytes=lambda: 1_000_000, warn=warnings.append
    )
    planes = list(unpacker.planes())
    return sum(block.shape[1] for block in planes), warnings


def test_bad_packets_among_good_ones_are_skipped_and_counted():
    samples, warnings = unpack([Packet(frame()), Packet(), None, Packet(frame()), Packet(), Packet(frame())])
    assert samples == 3 * 1_600
    assert [warning.code for warning in warnings] == ["damaged_audio"] * 2
    assert "0.1 s" in warnings[0].message
    assert "3 damaged packets" in warnings[1].message


def test_too_many_bad_packets_in_a_row_end_it():
    bad = [Packet() for _ in range(unpacking.MAX_BAD)]
    assert unpack([Packet(frame()), *bad, Packet(frame())])[0] == 3_200
    with pytest.raises(unpacking.ProtocolError, match="cannot be decoded"):
        unpack([Packet(frame()), *bad, Packet(), Packet(frame())])


def test_nothing_but_bad_packets_is_no_audio():
    with pytest.raises(unpacking.ProtocolError, match="every packet"):
        unpack([Packet(), Packet()])


def test_a_frame_may_turn_bad_in_the_middle():
    with pytest.raises(unpacking.ProtocolError, match="4000 Hz"):
        unpack([Packet(frame()), Packet(frame(rate=4_000))])


@pytest.mark.parametrize(("rate", "channels"), [(1, 1), (7_999, 2), (192_001, 1), (16_000, 9), (16_000, 255)])
def test_what_a_stream_says_of_itself_is_checked_before_anything_is_decoded(rate, channels):
    source = Source([Packet(frame())])
    source.rate, source.channels = rate, channels
    unpacker = unpacking.Unpacker(container=source, stream=source, received_bytes=lambda: 1_000_000, warn=print)
    with pytest.raises(unpacking.ProtocolError):
        list(unpacker.planes())


async def test_an_error_of_the_library_that_is_none_of_ffmpegs_is_bad_audio(monkeypatch):
    def planes(self):
        raise ValueError("Frame does not match")
        yield

    monkeypatch.setattr(unpacking.Unpacker, "planes", planes)
    _, error = await decode(encoded("wav", "pcm_s16le"))
    assert error.code == "bad_audio"
    assert "does not match" in error.message


async def test_a_full_disk_is_said_as_what_it_is(monkeypatch):
    from sttd.errors import OverloadedError
    from sttd.session import container

    class Full(io.BytesIO):
        def __init__(self, **_):
            super().__init__()

        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.tempfile, "SpooledTemporaryFile", Full)
    _, error = await decode(encoded("ipod", "aac"))
    assert isinstance(error, OverloadedError)
    assert "No space left" in error.message


def test_a_wav_of_one_hertz_is_refused():
    file = io.BytesIO()
    with wave.open(file, "wb") as output:
        output.setnchannels(1)
        output.setsampwidth(2)
        output.setframerate(1)
        output.writeframes(bytes(60_000))
    import trio

    frames, error = trio.run(decode, file.getvalue())
    assert len(frames) == 0
    assert error.code == "bad_audio"


CLOCKED = "mov,mp4,m4a,3gp,3g2,mj2"


@pytest.mark.parametrize(
    ("times_s", "start_s", "length_s"),
    [
        ((0.0, 0.1, 0.2), 0.0, 0.3),
        ((5.0, 5.1, 5.2), 0.0, 5.3),  # behind the video
        ((5.0, 5.1, 5.2), 5.0, 0.3),  # a stream that was joined late
        ((5.0, 5.1, 5.2), None, 0.3),
        ((0.0, 20.1, 20.2), 0.0, 20.3),  # a stretch that was never recorded
        ((0.0, 20.1, 40.2), 0.0, 40.3),
        ((0.0, 0.19, 0.22), 0.0, 0.3),  # jitter
        ((9.0, 0.0, 0.1), 9.0, 0.3),  # another recording, joined
        ((0.0, 90_000.0, 90_000.1), 0.0, 0.3),  # nobody records a day of nothing
        ((None, None, None), 0.0, 0.3),
    ],
)
def test_the_clock_of_the_container_holds(times_s, start_s, length_s):
    packets = [Packet(frame(at_s=at_s)) for at_s in times_s]
    samples, warnings = unpack(packets, start_s=start_s, format_=CLOCKED)
    assert samples == pytest.approx(length_s * 16_000, abs=64)
    assert warnings == []


def test_a_format_without_a_clock_has_none():
    assert unpack([Packet(frame(at_s=5.0))], start_s=0.0, format_="mp3")[0] == 1_600


def test_silence_has_the_channels_of_what_follows_and_comes_in_pieces():
    source = Source([Packet(frame(layout="stereo", at_s=9.0))], format_="ogg")
    source.start_time = 0
    unpacker = unpacking.Unpacker(container=source, stream=source, received_bytes=lambda: 1_000, warn=print)
    planes = list(unpacker.planes())
    assert {block.shape[0] for block in planes} == {2}
    assert max(block.shape[1] for block in planes) <= 16_000


def test_a_clock_that_jumps_farther_than_the_bytes_allow_makes_no_audio():
    source = Source([Packet(frame(at_s=0.0)), Packet(frame(at_s=300.0))], format_="ogg")
    unpacker = unpacking.Unpacker(container=source, stream=source, received_bytes=lambda: 10, warn=print)
    assert sum(block.shape[1] for block in unpacker.planes()) == 3_200
