"""Raw audio to frames: the same frames however the bytes are cut, at the right places, with the right values."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.core.audio import AudioDecoder
from sttd.core.types import FRAME_SAMPLES, SAMPLE_RATE
from sttd.errors import ProtocolError

WIDTHS = {"pcm_s16le": 2, "pcm_s32le": 4, "pcm_f32le": 4, "mulaw": 1, "alaw": 1}
encodings = st.sampled_from(sorted(WIDTHS))
rates = st.sampled_from([8_000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000, 192_000])


def encode(samples: np.ndarray, *, encoding: str) -> bytes:
    """Samples in [-1, 1] as bytes (companded codes are taken as they come: any byte is a sample)."""
    if encoding == "pcm_f32le":
        return samples.astype("<f4").tobytes()
    if encoding in ("mulaw", "alaw"):
        return (np.abs(samples) * 255).astype(np.uint8).tobytes()
    dtype, scale = {"pcm_s16le": ("<i2", 2**15 - 1), "pcm_s32le": ("<i4", 2**31 - 1)}[encoding]
    return (samples.astype(np.float64) * scale).astype(dtype).tobytes()


def decode(data: bytes, *, cuts: list[int] | None = None, **options) -> np.ndarray:
    """All frames of `data`, pushed in pieces that end at `cuts`."""
    decoder = AudioDecoder(**options)
    edges = [0, *sorted(cuts or []), len(data)]
    frames = [decoder.push(data[start:end]) for start, end in pairwise(edges)]
    return np.concatenate([*frames, decoder.flush()])


@given(
    encoding=encodings,
    rate=rates,
    channels=st.integers(1, 8),
    selects=st.booleans(),
    seed=st.integers(0, 2**32 - 1),
    duration_ms=st.integers(0, 250),
    data=st.data(),
)
def test_frames_do_not_depend_on_the_cuts(encoding, rate, channels, selects, seed, duration_ms, data):
    samples = np.random.default_rng(seed).uniform(-1, 1, rate * duration_ms // 1000 * channels)
    audio = encode(samples, encoding=encoding) + b"\x00" * (WIDTHS[encoding] - 1)  # an incomplete sample at the end
    options = {"encoding": encoding, "sample_rate": rate, "channels": channels}
    if selects:
        options["channel_select"] = data.draw(st.integers(0, channels - 1))
    cuts = data.draw(st.lists(st.integers(0, len(audio)), max_size=40))
    np.testing.assert_array_equal(decode(audio, **options), decode(audio, cuts=cuts, **options))


@given(rate=rates, samples=st.integers(0, 20_000))
def test_the_last_frame_is_padded(rate, samples):
    frames = decode(bytes(2 * samples), encoding="pcm_s16le", sample_rate=rate)
    expected = samples * SAMPLE_RATE / rate
    assert -1 < frames.size - expected < FRAME_SAMPLES + 1  # soxr rounds the length to the nearest sample


def test_frames_are_read_only_float32_rows():
    frames = AudioDecoder(encoding="pcm_s16le", sample_rate=16_000).push(bytes(2 * 1000))
    assert frames.shape == (3, FRAME_SAMPLES)
    assert frames.dtype == np.float32
    assert frames.flags.c_contiguous
    assert not frames.flags.writeable


@pytest.mark.parametrize("encoding", ["pcm_s16le", "pcm_s32le", "pcm_f32le"])
def test_linear_samples_keep_their_values(encoding):
    samples = np.random.default_rng(1).uniform(-1, 1, FRAME_SAMPLES)
    frames = decode(encode(samples, encoding=encoding), encoding=encoding, sample_rate=16_000)
    np.testing.assert_allclose(frames[0], samples, atol=2**-14)


@pytest.mark.parametrize(
    ("encoding", "codes", "values"),
    [  # the ends and the middle of the tables of ITU-T G.711, in units of the 16-bit convention
        ("mulaw", b"\x00\x80\x7f\xff\x0f\x8f", [-32124, 32124, 0, 0, -16764, 16764]),
        ("alaw", b"\x2a\xaa\x55\xd5\x25\xa5", [-32256, 32256, -8, 8, -16896, 16896]),
    ],
)
def test_companded_samples_follow_g711(encoding, codes, values):
    frames = decode(codes, encoding=encoding, sample_rate=16_000)
    np.testing.assert_array_equal(frames[0, : len(values)] * 32768, values)


def test_channels_are_averaged_or_selected():
    left, right = np.full(FRAME_SAMPLES, 0.5, "<f4"), np.full(FRAME_SAMPLES, -0.25, "<f4")
    stereo = np.stack([left, right], axis=1).tobytes()
    options = {"encoding": "pcm_f32le", "sample_rate": 16_000, "channels": 2}
    assert np.all(decode(stereo, **options) == 0.125)
    assert np.all(decode(stereo, channel_select=1, **options) == -0.25)


@pytest.mark.parametrize("rate", [8_000, 11_025, 44_100, 48_000, 192_000])
def test_resampling_moves_nothing(rate):
    """A burst at 0.5 s is at 0.5 s whatever the rate: soxr compensates its own delay."""
    time = np.arange(rate) / rate
    burst = np.exp(-(((time - 0.5) / 0.002) ** 2)) * np.sin(2 * np.pi * 1000 * (time - 0.5) + np.pi / 2) * 0.9
    frames = decode(encode(burst, encoding="pcm_s16le"), encoding="pcm_s16le", sample_rate=rate)
    assert abs(int(frames.argmax()) - SAMPLE_RATE // 2) <= 1


@pytest.mark.parametrize(("rate", "late_ms"), [(8_000, 40), (11_025, 40), (44_100, 80), (48_000, 80), (192_000, 100)])
def test_resampling_holds_little_back(rate, late_ms):
    decoder = AudioDecoder(encoding="pcm_s16le", sample_rate=rate)
    frames, late = 0, 0.0
    for messages in range(1, 101):
        frames += len(decoder.push(bytes(2 * (rate // 50))))
        late = max(late, messages * 20 - frames * 20)
    assert late <= late_ms  # of which up to 20 are a frame that is not full, and 20 the message itself


def test_a_resampled_square_wave_stays_in_range():
    square = np.where(np.arange(48_000) // 50 % 2, 1.0, -1.0)
    frames = decode(encode(square, encoding="pcm_s16le"), encoding="pcm_s16le", sample_rate=48_000)
    assert np.abs(frames).max() == 1.0


def test_hot_floats_are_clamped():
    frames = decode(np.array([1.5, -3.0, 0.5], "<f4").tobytes(), encoding="pcm_f32le", sample_rate=16_000)
    assert frames[0, :3].tolist() == [1.0, -1.0, 0.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 12_000.0])
def test_floats_that_are_no_audio_are_refused_and_change_nothing(bad):
    decoder = AudioDecoder(encoding="pcm_f32le", sample_rate=16_000)
    good = np.linspace(-1, 1, FRAME_SAMPLES, dtype="<f4")
    decoder.push(good[:100].tobytes())
    with pytest.raises(ProtocolError) as caught:
        decoder.push(np.array([0.1, bad], "<f4").tobytes())
    assert caught.value.code == "bad_audio"
    np.testing.assert_array_equal(decoder.push(good[100:].tobytes())[0], good)


@pytest.mark.parametrize(
    "wrong",
    [
        {"encoding": "container"},
        {"sample_rate": 7_999},
        {"sample_rate": 192_001},
        {"channels": 0},
        {"channels": 9},
        {"channels": 2, "channel_select": 2},
        {"channel_select": -1},
    ],
)
def test_options_out_of_range_are_refused(wrong):
    with pytest.raises(ProtocolError) as caught:
        AudioDecoder(**{"encoding": "pcm_s16le", "sample_rate": 16_000} | wrong)
    assert caught.value.code == "bad_option"


@pytest.mark.parametrize(("torn", "dropped"), [(1, 5), (1, 4), (3, 0), (2, 7), (0, 6)])
def test_behind_dropped_bytes_the_next_whole_sample_is_read(torn, dropped):
    samples = np.arange(2000, dtype="<i2").reshape(-1, 2)
    data = samples.tobytes()
    decoder = AudioDecoder(encoding="pcm_s16le", sample_rate=16_000, channels=2, channel_select=1)
    head = 4 * 320 + torn
    heard = [decoder.push(data[:head])]
    decoder.skip(dropped)
    rest = data[head + dropped :]
    heard += [decoder.push(rest[start : start + 3]) for start in range(0, len(rest), 3)]
    heard.append(decoder.flush())
    found = np.round(np.concatenate([part.ravel() for part in heard]) * 32768).astype(int)
    lost = (head + dropped + 3) // 4 - 320  # samples that the hole touches
    expected = [*samples[:320, 1], *samples[320 + lost :, 1]]
    assert found[: len(expected)].tolist() == expected


@pytest.mark.parametrize("rate", [8000, 22_050, 44_100, 48_000])
def test_a_boundary_brings_out_what_the_resampler_holds_and_the_clock_does_not_drift(rate):
    decoder = AudioDecoder(encoding="pcm_s16le", sample_rate=rate)
    count = 0
    for _ in range(20):
        tone = (8000 * np.sin(2 * np.pi * 300 * np.arange(rate // 2) / rate)).astype("<i2")
        count += len(decoder.push(tone.tobytes())) + len(decoder.drain())
        assert len(decoder.drain()) == 0
    assert count == pytest.approx(500, abs=1)


@pytest.mark.parametrize("rate", [8000, 11_025, 22_050, 44_100, 48_000])
@given(pieces=st.lists(st.integers(0, 3000), min_size=1, max_size=60), seed=st.integers(0, 9))
def test_however_many_boundaries_there_are_the_clock_is_right_to_a_sample(rate, pieces, seed):
    decoder = AudioDecoder(encoding="pcm_s16le", sample_rate=rate)
    noise = np.random.default_rng(seed).integers(-9000, 9000, sum(pieces)).astype("<i2")
    frames, at = 0, 0
    for piece in pieces:
        frames += len(decoder.push(noise[at : at + piece].tobytes())) + len(decoder.drain())
        at += piece
        assert abs(frames * 320 + len(decoder._unframed) - at * 16_000 / rate) <= 1
