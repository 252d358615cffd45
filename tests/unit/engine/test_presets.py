"""The built-in presets and what `auto` means on a machine."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.engine.contract import Preset
from sttd.engine.presets import (
    COMPUTE_LADDER,
    Machine,
    builtin_presets,
    not_found,
    not_local,
    resolve,
    share_cores,
    smaller_presets,
)
from sttd.engine.whisper.options import Settings
from sttd.errors import ConfigError

LAPTOP = Machine(cores=8)
SMALL_GPU = Machine(cores=8, gpu_bytes=(4 * 1024**3,))
WORKSTATION = Machine(cores=16, gpu_bytes=(24 * 1024**3, 8 * 1024**3))
UNREADABLE_GPU = Machine(cores=4, gpu_bytes=(0,))
AUTO = builtin_presets()["auto"]


def test_the_table_names_itself_and_its_smaller_ones():
    presets = builtin_presets()
    assert {"demo", "fake", "auto", "tiny", "base.en", "large-v3", "large-v3-turbo", "distil-large-v3"} <= set(presets)
    for name, preset in presets.items():
        assert preset.name == name
        assert preset.summary
        assert preset.smaller is None or preset.smaller in presets


def test_the_options_of_built_in_presets_hold():
    for preset in builtin_presets().values():
        if preset.backend == "whisper":
            assert Settings.parse(preset.options)


def test_smaller_ends_at_the_smallest_without_loops():
    presets = builtin_presets()
    for preset in presets.values():
        chain = [small.name for small in smaller_presets(preset, presets)]
        assert len(chain) == len(set(chain))
        assert preset.name not in chain
    assert [small.name for small in smaller_presets(presets["large-v3"], presets)] == [
        "large-v3-turbo",
        "small",
        "base",
        "tiny",
    ]


def test_a_loop_in_a_configuration_ends():
    presets = {
        "a": Preset(name="a", backend="x", smaller="b"),
        "b": Preset(name="b", backend="x", smaller="a"),
        "c": Preset(name="c", backend="x", smaller="gone"),
    }
    assert [small.name for small in smaller_presets(presets["a"], presets)] == ["b"]
    assert smaller_presets(presets["c"], presets) == []


@pytest.mark.parametrize(
    ("machine", "device", "compute_type"),
    [
        (LAPTOP, "cpu", "int8"),
        (SMALL_GPU, "cuda:0", "int8_float16"),
        (WORKSTATION, "cuda:0", "float16"),
        (UNREADABLE_GPU, "cuda:0", "float16"),
    ],
)
def test_auto_fits_the_machine_and_leaves_the_model_open(machine, device, compute_type):
    resolved = resolve(AUTO, machine=machine)
    assert (resolved.device, resolved.model, resolved.compute_type) == (device, "auto", compute_type)


def test_what_is_named_stays():
    named = attrs.evolve(AUTO, device="cpu", model="small", compute_type="float32", cpu_threads=3, num_workers=2)
    assert resolve(named, machine=WORKSTATION) == named
    assert resolve(attrs.evolve(AUTO, device="cuda:1"), machine=WORKSTATION).device == "cuda:1"
    assert resolve(attrs.evolve(AUTO, device="cuda"), machine=WORKSTATION).device == "cuda:0"


@pytest.mark.parametrize(
    ("device", "machine", "message"),
    [
        ("cuda", LAPTOP, "no usable NVIDIA GPU"),
        ("cuda:2", WORKSTATION, r"only 2 GPU\(s\)"),
        ("rocm", WORKSTATION, "none of auto, cpu, cuda"),
        ("cuda:x", WORKSTATION, "none of auto, cpu, cuda"),
    ],
)
def test_a_device_that_is_not_there_is_one_clear_error(device, machine, message):
    with pytest.raises(ConfigError, match=message):
        resolve(attrs.evolve(AUTO, device=device), machine=machine)


@given(cores=st.integers(1, 256), num_workers=st.integers(0, 8), cpu_threads=st.integers(0, 64), on_gpu=st.booleans())
def test_workers_and_threads_chosen_never_exceed_the_cores(cores, num_workers, cpu_threads, on_gpu):
    workers, threads = share_cores(cores, num_workers=num_workers, cpu_threads=cpu_threads, on_gpu=on_gpu)
    assert 1 <= workers <= 8
    assert threads >= 1
    assert num_workers in (0, workers)
    assert cpu_threads in (0, threads)
    if not cpu_threads and not on_gpu:
        assert workers * threads <= max(cores, workers)


def test_the_compute_ladder_ends():
    for kind in COMPUTE_LADDER:
        seen = [kind]
        while seen[-1] in COMPUTE_LADDER:
            seen.append(COMPUTE_LADDER[seen[-1]])
            assert len(seen) < 5


def test_errors_say_what_to_do():
    assert "there are: base, demo" in not_found("bass", ["demo", "base"]).message
    base = builtin_presets()["base"]
    assert "sttctl pull base" in not_local(base, wanted="base").message
    assert "systemctl start sttd-pull@base" in not_local(base, wanted="base", network=False).message
    nothing = not_local(AUTO, wanted="small")
    assert "No model for people" in nothing.message
    assert "sttctl pull small" in nothing.message
    assert nothing.data["recommended"] == "small"
    assert "\n" not in nothing.message
    own = Preset(name="own", backend="whisper", model="/srv/model")
    assert "into /srv/model" in not_local(own, wanted="").message
