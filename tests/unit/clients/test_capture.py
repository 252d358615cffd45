"""Where live audio comes from."""

import fcntl
import os
import time
import wave

import pytest
from sttd_client.capture import microphone, recording
from sttd_client.sound import NoMicrophoneError, recorder

HELP = "#!/bin/sh\nif [ \"$1\" = --help ]; then echo '{help}'; exit; fi\nprintf 'PCM'; exec sleep 60\n"


def install(directory, name, *, told=""):
    program = directory / name
    program.write_text(HELP.format(help=told))
    program.chmod(0o755)


@pytest.fixture
def programs(tmp_path, monkeypatch):
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "sleep"):
        (tmp_path / "bin" / tool).symlink_to(f"/bin/{tool}")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    return tmp_path / "bin"


def test_the_best_recorder_that_is_installed_is_taken(programs):
    assert recorder() is None
    install(programs, "arecord")
    assert recorder()[0] == "arecord"
    install(programs, "parec")
    assert recorder("mic")[0] == "parec"
    assert "--device=mic" in recorder("mic")
    install(programs, "pw-record")
    assert recorder()[0] == "pw-record"
    assert recorder()[-1] == "-"
    assert "--raw" not in recorder()


def test_a_newer_pw_record_is_told_to_write_bare_samples(programs):
    install(programs, "pw-record", told="  -a, --raw   RAW mode")
    assert recorder("x")[-3:] == ["--target=x", "--raw", "-"]


def test_the_recorder_runs_as_long_as_it_is_listened_to(programs):
    install(programs, "arecord")
    with microphone() as audio:
        assert audio.name == "arecord"
        assert audio.options == {"sample_rate": 16000}
        assert os.read(audio.descriptor, 3) == b"PCM"
        assert fcntl.fcntl(audio.descriptor, fcntl.F_GETPIPE_SZ) == 1 << 20  # for the time of a lost connection
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.read(audio.descriptor, 1)


def test_no_recorder_says_what_to_install(programs):
    with pytest.raises(NoMicrophoneError, match="pipewire-bin"), microphone():
        pass


def write_wav(path, *, width=2, seconds=0.2):
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(width)
        file.setframerate(8000)
        file.writeframes(bytes(range(256)) * round(seconds * 8000 * 2 * width / 256))
    return path


def test_a_recording_plays_as_fast_as_it_was_spoken(tmp_path):
    began = time.monotonic()
    with recording(str(write_wav(tmp_path / "a.wav"))) as audio:
        assert audio.options == {"sample_rate": 8000, "channels": 2, "encoding": "pcm_s16le"}
        data = b"".join(iter(lambda: os.read(audio.descriptor, 4096), b""))
    assert 0.19 <= time.monotonic() - began < 30
    assert len(data) == len(bytes(range(256)) * 25)


def test_a_recording_can_be_left_early(tmp_path):
    began = time.monotonic()
    with recording(str(write_wav(tmp_path / "a.wav", seconds=60))) as audio:
        assert os.read(audio.descriptor, 10)
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("data", [b"", b"fLaC and more of it", b"RIFF"])
def test_what_is_no_recording_is_refused_with_a_word_on_what_reads_it(tmp_path, data):
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    with pytest.raises(NoMicrophoneError, match="is no WAV file"), recording(str(path)):
        pass


def test_a_recording_of_another_width_is_refused(tmp_path):
    with pytest.raises(NoMicrophoneError, match="16-bit"), recording(str(write_wav(tmp_path / "a.wav", width=1))):
        pass
