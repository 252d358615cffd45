"""The network in NumPy: it says what onnxruntime says, for one session as for many; and what a wrong file is told."""

import subprocess
import sys

import numpy as np
import pytest

from benchmarks.recordings import SILERO, load
from sttd.engine import silero
from sttd.engine.onnxfile import float_tensors
from sttd.engine.silero import CONTEXT_SAMPLES, STEP_SAMPLES, SileroModel, SileroState, Steps

CLIPS = 6


@pytest.fixture(scope="module")
def clips():
    """The steps of some recordings, speech and noise, of different lengths."""
    SILERO.load()
    recordings = sorted(load().values(), key=lambda clip: len(clip.samples))[: 2 * CLIPS : 2]
    assert len(recordings) == CLIPS
    cut = []
    for clip in recordings:
        audio = np.concatenate([np.zeros(CONTEXT_SAMPLES, np.float32), clip.samples])
        windows = np.lib.stride_tricks.sliding_window_view(audio, CONTEXT_SAMPLES + STEP_SAMPLES)
        cut.append(np.ascontiguousarray(windows[::STEP_SAMPLES]))
    return cut


def test_it_says_what_onnxruntime_says(clips):
    import onnxruntime

    network = onnxruntime.InferenceSession(str(silero._model_path()), providers=["CPUExecutionProvider"])
    zeros = np.zeros((1, 1, 128), np.float32)
    for steps in clips:
        expected, h, c = network.run(None, {"input": steps, "h": zeros, "c": zeros})
        state = SileroState()
        (answers,) = SILERO.run([Steps(steps, state)])
        np.testing.assert_allclose(answers, expected, atol=1e-4)
        np.testing.assert_allclose(state.h, h.reshape(-1), atol=1e-3)
        np.testing.assert_allclose(state.c, c.reshape(-1), atol=1e-3)


def test_a_batch_says_of_each_session_what_it_says_of_it_alone(clips):
    alone = [SILERO.run([Steps(steps, SileroState())])[0] for steps in clips]
    states = [SileroState() for _ in clips]
    together = [[] for _ in clips]
    rng, done = np.random.default_rng(3), [0] * len(clips)
    while any(at < len(steps) for at, steps in zip(done, clips, strict=True)):
        due = [index for index, steps in enumerate(clips) if done[index] < len(steps) and rng.random() < 0.7]
        batch = []
        for index in due:
            count = int(rng.integers(1, 9))
            batch.append(Steps(clips[index][done[index] : done[index] + count], states[index]))
            done[index] += count
        for index, answers in zip(due, SILERO.run(batch) if batch else [], strict=True):
            together[index] += answers
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_long_run_is_done_in_blocks(clips):
    longest = max(clips, key=len)
    state, answers = SileroState(), []
    for step in longest:
        answers += SILERO.run([Steps(step[None], state)])[0]
    (whole,) = SILERO.run([Steps(longest, SileroState())])
    assert len(whole) > silero.MAX_BLOCK
    np.testing.assert_allclose(whole, answers, atol=1e-5)


def test_loading_is_done_once_and_off_the_heavy_imports():
    script = (
        "import sys; from sttd.engine.silero import SileroModel; model = SileroModel(); assert not model.loaded;"
        "model.load(); model.load(); assert model.loaded;"
        "print('onnxruntime' in sys.modules, 'faster_whisper' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.split() == ["False", "False"]


def test_a_missing_network_says_what_brings_it(monkeypatch):
    monkeypatch.setattr(silero.util, "find_spec", lambda name: None)
    with pytest.raises(FileNotFoundError, match="faster-whisper is not installed"):
        SileroModel().load()


@pytest.fixture
def package(monkeypatch, tmp_path):
    """A faster-whisper that ships what a test puts into its assets."""
    spec = silero.util.find_spec("attrs")
    monkeypatch.setattr(spec, "submodule_search_locations", [str(tmp_path)])
    monkeypatch.setattr(silero.util, "find_spec", lambda name: spec)
    assets = tmp_path / "assets"
    assets.mkdir()
    return assets


def test_a_package_without_the_network_is_named(package):
    with pytest.raises(FileNotFoundError, match="silero_vad_v6"):
        SileroModel().load()


def test_a_file_that_is_torn_or_another_network_is_not_taken(package):
    original = silero._model_path
    file = package / "silero_vad_v6.onnx"
    file.write_bytes(b"")
    with pytest.raises(ValueError, match="another network than Silero v6"):
        SileroModel().load()
    nameless = b"\x3a\x06\x2a\x04\x10\x01\x4a\x00"
    for torn in (b"\x3a\xff", b"\x3a\x05\x2a", b"\xff", b"\x3f", nameless):
        file.write_bytes(torn)
        with pytest.raises(ValueError, match="no whole ONNX file"):
            SileroModel().load()
    assert original().name == file.name


def test_the_transform_at_its_beginning_is_looked_at(monkeypatch):
    tensors = float_tensors(silero._model_path())
    name = next(iter(silero._SHAPES))
    monkeypatch.setattr(silero, "float_tensors", lambda path: {**tensors, name: tensors[name] * 2 + 0.01})
    with pytest.raises(ValueError, match="begins with no Fourier transform"):
        SileroModel().load()


def test_whole_tensors_come_out_of_a_file_with_packed_shapes_and_other_fields(tmp_path):
    def field(number, value):
        return bytes([number << 3 | 2, len(value)]) + value

    values = np.float32([1, 2, 3, 4, 5, 6])
    tensor = field(1, b"\x02\x03") + b"\x10\x01" + field(8, b"w") + field(9, values.tobytes())
    other = field(1, b"\x01") + b"\x10\x07" + field(8, b"int64") + field(9, bytes(8))
    fixed = b"\x09" + bytes(8) + b"\x0d" + bytes(4)
    path = tmp_path / "small.onnx"
    path.write_bytes(b"\x08\x08" + field(7, fixed + field(5, tensor) + field(5, other)))
    (found,) = float_tensors(path).items()
    assert found[0] == "w"
    np.testing.assert_array_equal(found[1], values.reshape(2, 3))
