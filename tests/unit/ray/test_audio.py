"""Files to samples."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sttd_ray.audio import read_audio

from sttd.engine.remote.asking import wav
from sttd.wire.openai_answers import Refused
from tests.iso import MANY, bomb, recorded, table
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


def test_an_index_that_is_longer_than_the_file_gets_no_memory():
    """FFmpeg would make room for 3.5 GB."""
    assert refused(bomb()) == (400, "invalid_audio")


@pytest.mark.parametrize("format_", ["mp4", "mov"])
def test_an_honest_index_is_read(format_):
    assert 16_000 <= len(read_audio(recorded(format_, silence(1)), most_s=30)) < 18_000


def test_in_other_formats_such_bytes_are_sound():
    sound = wav(silence(1)).replace(bytes(20), table(b"stsz", 1, MANY), 1)
    assert len(read_audio(sound, most_s=30)) == 16_000
