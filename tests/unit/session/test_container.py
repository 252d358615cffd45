"""Containers: PyAV in its thread, bytes in over a channel, frames out over another."""

import io
from functools import partial

import numpy as np
import pytest
import trio
import trio.lowlevel
import trio.testing

from sttd.core.types import FRAME_SAMPLES, Warn
from sttd.errors import OverloadedError, ProtocolError, SttdError
from sttd.host import spool
from sttd.session import container
from sttd.session.container import container_stage, decode_container
from sttd.session.formats import open_options
from tests.iso import bomb


def encoded(form, codec, *, seconds=2.0, rate=16_000, levels=(0.3,), **options):
    """A tone in each channel, as loud as its level."""
    import av

    time_s = np.arange(int(seconds * rate)) / rate
    planes = np.stack([level * np.sin(2 * np.pi * 440 * time_s) for level in levels]).astype(np.float32)
    layout = "mono" if len(levels) == 1 else "stereo"
    file = io.BytesIO()
    with av.open(file, "w", format=form, options=options) as output:
        stream = output.add_stream(codec, rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(planes, format="fltp", layout=layout)
        frame.sample_rate = rate
        fifo = av.AudioFifo()
        for piece in av.AudioResampler(format=stream.format, layout=layout, rate=rate).resample(frame):
            fifo.write(piece)
        while (piece := fifo.read(stream.codec_context.frame_size or 1024) or fifo.read(partial=True)) is not None:
            output.mux(stream.encode(piece))
        output.mux(stream.encode(None))
    return file.getvalue()


async def decode(data, *, chunk=1000, live=False, channel_select=None, warnings=None, **options):
    """All frames of a file that arrives in chunks, and the error that ended it; what it warns of goes to `warnings`."""
    to, inside = trio.open_memory_channel(0)
    out, frames = trio.open_memory_channel(4)
    blocks, error = [], None

    async def feed():
        async with to:
            for start in range(0, len(data), chunk):
                try:
                    await to.send(data[start : start + chunk])
                except trio.BrokenResourceError:
                    return

    async def collect():
        async for item in frames:
            if not isinstance(item, Warn):
                blocks.append(item)
            elif warnings is not None:
                warnings.append(item)

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(feed)
            nursery.start_soon(collect)
            try:
                await decode_container(inside, out, channel_select=channel_select, live=live, **options)
            except SttdError as exc:
                error = exc
            inside.close()
            out.close()
    return np.concatenate([np.zeros((0, FRAME_SAMPLES), np.float32), *blocks]), error


@pytest.mark.parametrize("chunk", [7, 4096, 10**9])
@pytest.mark.parametrize("live", [False, True])
async def test_frames_do_not_depend_on_how_the_bytes_arrive(chunk, live):
    frames, _ = await decode(encoded("wav", "pcm_s16le"), chunk=chunk, live=live)
    assert frames.shape == (100, FRAME_SAMPLES)
    assert frames.dtype == np.float32
    assert np.abs(frames).max() == pytest.approx(0.3, abs=0.01)


async def test_an_index_at_the_end_is_found(monkeypatch):
    monkeypatch.setattr(container, "_SPOOL_BYTES", 1000)  # so that the file goes to disk
    frames, _ = await decode(encoded("ipod", "aac", rate=44_100))
    assert len(frames) == pytest.approx(100, abs=4)


async def test_channels_are_mixed_evenly_or_one_is_taken():
    data = encoded("wav", "pcm_s16le", levels=(0.6, 0.0))
    for select, level in ((None, 0.3), (0, 0.6), (1, 0.0)):
        frames, _ = await decode(data, channel_select=select)
        assert np.abs(frames).max() == pytest.approx(level, abs=0.01)
    _, error = await decode(data, channel_select=2)
    assert error.code == "bad_option"
    assert "2 channel(s)" in error.message


async def test_the_duration_is_told_where_the_file_knows_it():
    told = []
    await decode(encoded("flac", "flac", seconds=3), on_info=told.append)
    assert [info.duration_s for info in told] == [pytest.approx(3.0)]


@pytest.mark.parametrize("data", [b"RIFF", bytes(200_000), b"\x89PNG\r\n\x1a\n" + bytes(5000)])
@pytest.mark.parametrize("live", [False, True])
async def test_what_is_no_audio_is_bad_audio(data, live):
    frames, error = await decode(data, live=live)
    assert len(frames) == 0
    assert error.code == "bad_audio"


async def test_no_bytes_are_no_audio():
    frames, error = await decode(b"", live=True)
    assert (len(frames), error) == (0, None)
    _, error = await decode(b"")  # as a file it is a mistake
    assert error.code == "bad_audio"


async def test_audio_before_the_damage_is_heard():
    data = encoded("flac", "flac", seconds=4)
    warnings = []
    frames, error = await decode(data[: len(data) * 3 // 4], warnings=warnings)
    assert error.code == "bad_audio"
    assert [warning.code for warning in warnings] == ["damaged_audio"]
    assert 100 < len(frames) < 200


async def test_a_file_may_not_be_larger_than_the_bound(monkeypatch):
    monkeypatch.setattr(container, "MAX_CONTAINER_BYTES", 10_000)
    _, error = await decode(encoded("ipod", "aac"))
    assert error.code == "too_large"


async def test_cancelling_ends_the_thread_while_it_waits_for_bytes():
    to, inside = trio.open_memory_channel(1)
    out, _frames = trio.open_memory_channel(1)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: decode_container(inside, out, channel_select=None, live=True))
            await to.send(encoded("wav", "pcm_s16le", seconds=0.2))
            await trio.sleep(0.05)
            nursery.cancel_scope.cancel()
    assert container._threads.borrowed_tokens == 0


async def test_a_listener_that_is_gone_ends_it():
    to, inside = trio.open_memory_channel(1)
    out, frames = trio.open_memory_channel(0)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: decode_container(inside, out, channel_select=None, live=True))
            frames.close()
            await to.send(encoded("wav", "pcm_s16le"))
            to.close()
    assert container._threads.borrowed_tokens == 0


async def test_the_stage_passes_on_what_is_no_audio_and_ends_with_the_error():
    to, inside = trio.open_memory_channel(10)
    out, items = trio.open_memory_channel(10)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lambda: container_stage(inside, out, channel_select=None, live=False))
            await to.send("a finalize")
            await to.send(bytes(100))
            to.close()
            received = [item async for item in items]
    assert received[0] == "a finalize"
    assert [type(item) for item in received[1:]] == [ProtocolError]


PLAYLIST = b"ffconcat version 1.0\nfile 'other.wav'\n"
DESCRIPTION = b"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=audio 50004 RTP/AVP 0\n"


@pytest.mark.parametrize("data", [PLAYLIST, DESCRIPTION, b"#EXTM3U\n#EXTINF:1,\nother.wav\n"])
@pytest.mark.parametrize("live", [False, True])
async def test_what_would_open_other_files_or_ports_is_no_container(data, live, tmp_path, monkeypatch):
    (tmp_path / "other.wav").write_bytes(encoded("wav", "pcm_s16le"))
    monkeypatch.chdir(tmp_path)
    frames, error = await decode(data.ljust(4096, b"\n"), live=live)
    assert len(frames) == 0
    assert error.code == "bad_audio"


def video_beside_sound():
    """A QuickTime file with a picture of PNG, whose format is nowhere but in the picture."""
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mov") as output:
        picture = output.add_stream("png", rate=25)
        picture.width = picture.height = 64
        picture.pix_fmt = "rgb24"
        sound = output.add_stream("pcm_s16le", rate=16_000, layout="mono")
        output.mux(picture.encode(av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")))
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 16_000), np.int16), format="s16", layout="mono")
        frame.sample_rate = 16_000
        for stream, last in ((sound, frame), (sound, None), (picture, None)):
            output.mux(stream.encode(last))
    return file.getvalue()


async def test_no_picture_is_decoded_to_see_what_is_beside_the_sound():
    """A frame of H.264 in 32 kB took 158 MB and 11 s; sixty-four of them, the machine."""
    import av

    data = video_beside_sound()
    for options, known in (({}, True), (open_options(iso=True), False)):
        with av.open(io.BytesIO(data), options=options) as opened:
            assert (opened.streams.video[0].codec_context.pix_fmt is not None) is known
    frames, error = await decode(data)
    assert error is None
    assert len(frames) == 50
    assert "flac" in open_options(iso=True)["codec_whitelist"].split(",")


@pytest.mark.parametrize("live", [False, True])
@pytest.mark.parametrize("chunk", [100, 10**9])
async def test_an_index_that_counts_more_than_there_is_never_comes_to_ffmpeg(monkeypatch, live, chunk):
    """2.5 kB took 2.1 GB and 17 s."""
    import av

    read = []

    class Seen:
        def __init__(self, file):
            self.file = file
            if file.seekable():
                self.seek, self.tell = file.seek, file.tell

        def read(self, size):
            read.append(self.file.read(size))
            return read[-1]

    plain = av.open
    monkeypatch.setattr(av, "open", lambda file, **options: plain(Seen(file), **options))
    frames, error = await decode(bomb(), live=live, chunk=chunk)
    assert error.code == "bad_audio"
    assert "counts more samples" in error.message
    assert len(frames) == 0
    assert b"stsz" not in b"".join(read)
    assert len(b"".join(read)) < 100


@pytest.mark.parametrize("form", [("matroska", "flac"), ("mov", "pcm_s16le")])
async def test_what_lies_before_the_sound_is_bounded_and_the_sound_is_not(monkeypatch, form):
    monkeypatch.setattr(container, "MAX_HEAD_BYTES", 70_000)
    data = encoded(*form, seconds=30)
    assert len(data) > 100_000
    frames, error = await decode(data)
    assert error is None
    assert len(frames) == 1500
    monkeypatch.setattr(container, "MAX_HEAD_BYTES", 0)
    frames, error = await decode(data)
    assert len(frames) == 0
    assert error.code == "bad_audio"
    assert "before its sound" in error.message


async def test_an_mp4_that_does_not_begin_like_one_is_not_read_as_one():
    _, error = await decode(bytes(4) + b"abcd" + bomb())
    assert error.code == "bad_audio"


async def stage(items, *, live=True):
    """What comes out of the stage for these items, each sent when the one before was taken."""
    to, inside = trio.open_memory_channel(0)
    out, received = trio.open_memory_channel(100)
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(container_stage, inside, out, channel_select=None, live=live))
            async with to:
                for item in items:
                    await to.send(item)
                    await trio.lowlevel.checkpoint()
        return [item async for item in received]


async def test_what_the_client_says_waits_for_the_bytes_before_it():
    data, mark = encoded("wav", "pcm_s16le", seconds=6.0), object()
    first = data[: len(data) * 2 // 3]
    found = await stage([first, mark, data[len(first) :]])
    place = [item is mark for item in found].index(True)
    before = sum(len(block) for block in found[:place])
    assert before == pytest.approx(200, abs=8)  # four of six seconds, but for what FFmpeg keeps of a packet
    assert sum(len(block) for block in found[place + 1 :]) == 300 - before


async def test_what_is_said_before_the_first_bytes_and_behind_the_end_is_passed_on():
    marks = [object(), object()]
    found = await stage([marks[0], encoded("flac", "flac", seconds=2.0), marks[1]])
    assert found[0] is marks[0]
    assert any(item is marks[1] for item in found)
    broken = await stage([b"no sound at all " * 10_000, marks[0]])
    assert any(item is marks[0] for item in broken)


async def test_a_container_too_many_is_refused_and_not_kept_waiting(monkeypatch):
    monkeypatch.setattr(container, "_threads", trio.CapacityLimiter(1))
    await container._threads.acquire()
    found = await stage([encoded("wav", "pcm_s16le")])
    assert [type(item) for item in found] == [OverloadedError]
    assert found[0].data["retry_after_s"] > 0


async def test_what_is_kept_of_containers_has_a_bound_for_a_user_and_for_all(monkeypatch):
    data = encoded("ipod", "aac", seconds=4.0)
    room = spool.Room(total_bytes=2 * len(data) - 1, uid_bytes=len(data))
    monkeypatch.setattr(container, "room", room)
    for _ in range(3):  # what was taken is given back
        frames, error = await decode(data, uid=7)
        assert (error, room.taken_bytes) == (None, 0)
        assert len(frames) > 180
    room.take(1, uid=7)
    _, error = await decode(data, uid=7)
    assert (error.code, room.taken_bytes) == ("overloaded", 1)
    assert (await decode(data, uid=8))[1] is None
    room.take(len(data) - 1, uid=7)
    _, error = await decode(data, uid=8)
    assert (error.code, room.taken_bytes) == ("overloaded", len(data))


async def test_a_full_disk_means_come_again_and_keeps_nothing(monkeypatch):
    class FullDisk(io.BytesIO):
        def write(self, data):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(container.tempfile, "SpooledTemporaryFile", lambda **_: FullDisk())
    monkeypatch.setattr(container, "room", spool.Room(total_bytes=1 << 20, uid_bytes=1 << 20))
    _, error = await decode(encoded("ipod", "aac"))
    assert error.code == "overloaded"
    assert "No space left" in error.message
    assert container.room.taken_bytes == 0


async def test_without_memory_it_means_come_again(monkeypatch):
    def planes(self):
        raise MemoryError

    monkeypatch.setattr(container.Unpacker, "planes", planes)
    _, error = await decode(encoded("wav", "pcm_s16le"))
    assert (error.code, error.data["retry_after_s"]) == ("overloaded", spool.RETRY_S)


@pytest.mark.parametrize(("form", "codec"), [("caf", "alac"), ("mov", "alac"), ("mp4", "aac")])
async def test_what_keeps_its_tables_at_the_end_is_read(form, codec):
    frames, error = await decode(encoded(form, codec))
    assert error is None
    assert len(frames) == pytest.approx(100, abs=8)


@pytest.mark.parametrize("begins", [b"wide", b"free", b"skip"])
async def test_quicktime_may_begin_with_anything(begins):
    data = encoded("mov", "alac")
    assert data[:8] == b"\0\0\0\x14ftyp"
    frames, error = await decode(b"\0\0\0\x08" + begins + b"\0\0\0\x0cfree" + data[16:])
    assert error is None
    assert len(frames) == pytest.approx(100, abs=4)


async def heard_before_the_end(data, *, until):
    """How many frames of a live container come while its client has not stopped, and what is warned of.

    `until(frames, warnings)` says when that is enough.
    """
    to, inside = trio.open_memory_channel(0)
    out, received = trio.open_memory_channel(1000)
    frames, warnings = 0, []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(container_stage, inside, out, channel_select=None, live=True))
            for start in range(0, len(data), 1000):
                await to.send(data[start : start + 1000])
            while not until(frames, warnings):
                item = await received.receive()
                if isinstance(item, Warn):
                    warnings.append(item.code)
                else:
                    frames += len(item)
            nursery.cancel_scope.cancel()
    return frames, warnings


async def test_a_live_mp4_with_its_index_in_front_is_heard_as_it_comes():
    data = encoded(
        "mp4", "aac", seconds=20.0, movflags="frag_keyframe+empty_moov+default_base_moof", frag_duration="500000"
    )
    frames, warnings = await heard_before_the_end(data, until=lambda frames, _: frames > 500)  # of 1000
    assert frames > 500
    assert warnings == []


async def test_a_live_mp4_with_its_index_at_the_end_is_told_that_its_text_comes_late():
    data = encoded("mp4", "aac", seconds=20.0)
    frames, warnings = await heard_before_the_end(data, until=lambda _, warnings: warnings)
    assert (frames, warnings) == (0, ["late_text"])


@pytest.mark.parametrize("levels", [(0.3, -0.3), (0.3, -0.297)])
async def test_channels_that_cancel_each_other_out_are_heard(levels):
    frames, _ = await decode(encoded("wav", "pcm_s16le", levels=levels))
    assert np.abs(frames).max() == pytest.approx(0.3, abs=0.01)
    assert np.sqrt(np.square(frames).mean()) == pytest.approx(0.3 / np.sqrt(2), abs=0.01)  # and not in part only


async def test_of_several_tracks_the_default_one_is_heard_and_the_others_are_told_of():
    import av
    from av.stream import Disposition

    file = io.BytesIO()
    with av.open(file, "w", format="matroska") as output:
        streams = [output.add_stream("pcm_s16le", rate=16_000, layout="mono") for _ in range(2)]
        streams[0].disposition, streams[1].disposition = Disposition(0), Disposition.default
        for stream, level in zip(streams, (0, 9830), strict=True):
            samples = np.full((1, 16_000), level, np.int16)
            frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
            frame.sample_rate = 16_000
            output.mux(stream.encode(frame))
        for stream in streams:
            output.mux(stream.encode(None))
    warnings = []
    frames, error = await decode(file.getvalue(), warnings=warnings)
    assert error is None
    assert np.abs(frames).max() == pytest.approx(0.3, abs=0.01)
    assert [warning.code for warning in warnings] == ["other_tracks"]
    assert "number 2" in warnings[0].message
