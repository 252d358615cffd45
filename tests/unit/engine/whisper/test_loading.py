"""What is refused before, and while, a model loads."""

from __future__ import annotations

import attrs
import pytest

from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.store.models import ModelStore, embedded_model
from sttd.errors import ConfigError, ModelError
from sttd.options import COMPUTE_TYPES
from tests.unit.engine.whisper.loaded import DEMO, backend, load

pytestmark = pytest.mark.model


@pytest.mark.parametrize(
    "options", [{"beam_siz": 3}, {"beam_size": 0}, {"temperatures": []}, {"interim_windows": [160]}]
)
def test_wrong_options_are_refused_before_anything_loads(options):
    with pytest.raises(ConfigError, match=f"presets.demo.{next(iter(options))}"):
        backend().resolve(attrs.evolve(DEMO, options=options))


def test_what_a_loaded_model_says_of_itself(demo):
    assert (demo.device, demo.compute_type, demo.workers, demo.vram_bytes) == ("cpu", "int8_float32", 1, 0)
    assert demo.ram_bytes > embedded_model().joinpath("model.bin").stat().st_size / 2
    assert demo.park() is False


def test_a_model_that_is_absent_says_how_to_get_it(tmp_path):
    store = ModelStore(hub_dir=tmp_path, own_dir=tmp_path)
    base = builtin_presets()["base"]
    assert backend(store=store).locate(base) is None
    assert backend(store=store).describe(base).path is None
    with pytest.raises(ModelError, match="sttctl pull base") as caught:
        backend(store=store).load(base, cpu_threads=0, num_workers=1)
    assert caught.value.code == "model_not_local"


def test_a_broken_model_is_a_load_failure(tmp_path):
    for name in ("config.json", "tokenizer.json", "vocabulary.json"):
        (tmp_path / name).write_bytes((embedded_model() / name).read_bytes())
    (tmp_path / "model.bin").write_bytes(b"not a model")
    with pytest.raises(ModelError) as caught:
        backend().load(Preset(name="broken", backend="whisper", model=str(tmp_path)), cpu_threads=1, num_workers=1)
    assert caught.value.code == "model_load_failed"
    assert "broken" in caught.value.message


def test_a_compute_type_that_the_machine_lacks_is_an_error_of_the_configuration_and_of_a_load():
    ours, wanted = backend(compute_types=lambda device: ["int8", "float32"]), attrs.evolve(DEMO, compute_type="float16")
    with pytest.raises(ConfigError, match=r"'demo': cpu does not compute in 'float16'.* auto, int8, float32, default"):
        ours.resolve(wanted)
    with pytest.raises(ModelError, match="float16") as caught:
        ours.load(wanted, cpu_threads=1, num_workers=1)
    assert caught.value.code == "model_load_failed"


@pytest.mark.parametrize("compute_type", COMPUTE_TYPES)
def test_what_the_configuration_lets_through_loads(compute_type):
    """CTranslate2 says of every name what the device makes of it, and is then as good as its word."""
    ours, wanted = backend(), attrs.evolve(DEMO, compute_type=compute_type)
    try:
        ours.resolve(wanted)
    except ConfigError:
        with pytest.raises(ModelError):
            ours.load(wanted, cpu_threads=1, num_workers=1)
    else:
        ours.load(wanted, cpu_threads=1, num_workers=1).close()


def test_ctranslate2_knows_no_other_name():
    import ctranslate2

    assert ctranslate2.get_supported_compute_types("cpu") <= set(COMPUTE_TYPES)


def test_a_model_larger_than_memory_is_refused_before_it_loads(monkeypatch):
    monkeypatch.setattr("sttd.engine.memory.available_bytes", lambda: 1_000_000)
    with pytest.raises(ModelError) as caught:
        load()
    assert caught.value.code == "out_of_memory"
    assert caught.value.data["compute_type"] == "int8"
    assert caught.value.data["needed_bytes"] > caught.value.data["available_bytes"] == 1_000_000
