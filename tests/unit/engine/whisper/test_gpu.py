"""What differs on a GPU: parking, and the memory that bounds a batch."""

from __future__ import annotations

import attrs
import pytest

from sttd.engine.contract import EngineLostError
from sttd.engine.memory import GpuMemory
from sttd.engine.presets import Machine
from sttd.engine.whisper.backend import WhisperBackend, detect_machine
from sttd.errors import DecodeError, ModelError
from tests.unit.engine.whisper.loaded import DEMO, item, load

pytestmark = pytest.mark.model


@attrs.define
class OnGpu:
    """What parking needs of CTranslate2, without a GPU."""

    model_is_loaded: bool = True
    busy: bool = False
    error: str = ""

    def unload_model(self, to_cpu=False):
        assert to_cpu
        self.model_is_loaded = self.busy

    def load_model(self):
        if self.error:
            raise RuntimeError(self.error)
        self.model_is_loaded = True


@pytest.fixture
def on_gpu():
    model = load()
    real, model._device = model._whisper, "cuda:0"
    model._whisper, model._sharing = OnGpu(), attrs.evolve(model._sharing, device="cuda:0")
    yield model
    model._whisper, model._device = real, "cpu"
    model.close()


def test_a_gpu_model_moves_its_weights_to_main_memory_and_back(on_gpu):
    weights = on_gpu.vram_bytes
    assert (weights > 0, on_gpu.ram_bytes) == (True, 0)
    assert on_gpu.park()
    assert (on_gpu.vram_bytes, on_gpu.ram_bytes) == (0, weights)
    on_gpu.unpark()
    assert (on_gpu.vram_bytes, on_gpu.ram_bytes) == (weights, 0)


def test_parking_says_when_nothing_happened(on_gpu):
    """CTranslate2 silently keeps the weights while a call is active."""
    on_gpu._whisper.busy = True
    assert on_gpu.park() is False
    assert on_gpu.vram_bytes > 0


@pytest.mark.parametrize(
    ("error", "code"), [("CUDA failed with error out of memory", "out_of_memory"), ("gone", "model_load_failed")]
)
def test_a_parked_model_that_does_not_come_back_says_why(on_gpu, error, code):
    on_gpu.park()
    on_gpu._whisper.error = error
    with pytest.raises(ModelError) as caught:
        on_gpu.unpark()
    assert caught.value.code == code
    assert on_gpu.ram_bytes > 0


@pytest.mark.parametrize(
    ("error", "lost"),
    [
        ("CUDA failed with error an illegal memory access was encountered", True),
        ("cuBLAS failed with status CUBLAS_STATUS_EXECUTION_FAILED", True),
        ("CUDA failed with error out of memory", False),
        ("the prompt is too long", False),
    ],
)
def test_a_fault_of_the_gpu_is_no_fault_of_the_audio(on_gpu, clips, monkeypatch, error, lost):
    calls = []

    def fail(self, batch, **_):
        calls.append(len(batch))
        raise RuntimeError(error)

    monkeypatch.setattr("sttd.engine.whisper.decoder.Decoder.decode", fail)
    results = on_gpu.decode([item(clips["light"][0])] * 2)
    assert [isinstance(result, EngineLostError) for result in results] == [lost] * 2
    assert all(isinstance(result, DecodeError) for result in results)
    assert len(calls) == 1 or not lost, "it is not tried item by item"


def test_a_gpu_batch_is_bounded_by_what_the_driver_says(on_gpu, clips, monkeypatch):
    key = on_gpu.batch_key(item(clips["light"][0]))
    known = GpuMemory(total_bytes=1 << 40, free_bytes=1 << 40)
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: known)
    assert on_gpu.max_batch(key) == 32
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: None)
    assert 1 <= on_gpu.max_batch(key) <= 8


def test_a_gpu_too_small_refuses_before_it_loads(monkeypatch):
    gpu = WhisperBackend(machine=lambda: Machine(cores=2, gpu_bytes=(1_000_000,)))
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: GpuMemory(total_bytes=10, free_bytes=5))
    with pytest.raises(ModelError, match="int8_float16 on cuda:0") as caught:
        gpu.load(DEMO, cpu_threads=0, num_workers=1)
    assert caught.value.data["available_bytes"] == 5


@pytest.mark.gpu
def test_a_gpu_hears_parks_and_comes_back(clips):
    model = WhisperBackend().load(attrs.evolve(DEMO, device="cuda"), cpu_threads=0, num_workers=1)
    assert model.device == "cuda:0"
    for _ in range(2):
        items = [item(samples, words=True) for samples, *_ in clips.values()]
        assert [outcome.text for outcome in model.decode(items)] == [text for _, text, *_ in clips.values()]
        assert model.park()
        model.unpark()
    model.close()


def test_the_machine_is_asked_for_gpus_only_where_there_is_a_device(monkeypatch):
    detect_machine.cache_clear()
    monkeypatch.setattr("pathlib.Path.glob", lambda *_: iter(["/dev/nvidia0"]))
    monkeypatch.setattr("ctranslate2.get_cuda_device_count", lambda: 1)
    monkeypatch.setattr("sttd.engine.memory.gpu_memory", lambda index: None)
    assert detect_machine().gpu_bytes == (0,)
    detect_machine.cache_clear()
    monkeypatch.undo()
    assert detect_machine().cores >= 1
    detect_machine.cache_clear()
