"""The built-in presets and what `auto` means on a machine."""

from __future__ import annotations

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sttd.config.tree import Config
from sttd.defaults import session_tuning
from sttd.engine.contract import Preset, options_of
from sttd.engine.fake import FakeBackend, FakeOptions
from sttd.engine.preset_config import configured_presets
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
from sttd.engine.shelf import Shelf
from sttd.engine.whisper.options import Settings
from sttd.errors import ConfigError
from sttd.live_text import QUICK, LiveText
from sttd.options import SessionOptions

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
            assert options_of(preset, Settings)


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


def configured(tables, **defaults):
    """The presets of these tables, where fakes are all there is."""
    backends = {"whisper": FakeBackend(), "fake": FakeBackend()}
    return configured_presets(
        tables, backends=backends, **{"device": "auto", "compute_type": "auto", "cpu_threads": 0, **defaults}
    )


def test_a_table_changes_a_preset_or_makes_one():
    presets = configured(
        {"base": {"num_workers": 2, "beam_size": 3}, "mine": {"max_window_s": 10}}, device="cpu", cpu_threads=3
    )
    base, mine = presets["base"], presets["mine"]
    assert (base.model, base.num_workers, base.options) == ("base", 2, {"beam_size": 3})
    assert (mine.backend, mine.model, mine.max_window_s, mine.cpu_threads) == ("whisper", "mine", 10.0, 3)
    assert type(mine.max_window_s) is float
    assert mine.device == base.device == "cpu"


def test_the_smallest_have_quicker_live_text_and_all_others_the_defaults():
    quick = {name for name, preset in builtin_presets().items() if preset.live_text == QUICK}
    assert quick == {"demo", "tiny", "tiny.en"}
    assert {preset.live_text for name, preset in builtin_presets().items() if name not in quick} == {LiveText()}


def test_a_preset_that_says_nothing_of_live_text_has_that_of_the_model_it_means():
    @attrs.frozen
    class Found(FakeBackend):
        """`auto` is the smallest model here."""

        def describe(self, preset):
            return attrs.evolve(super().describe(preset), model="tiny.en" if preset.model == "auto" else preset.model)

    presets = configured(
        {
            "mine": {"model": "/srv/models/tiny.en"},
            "mine too": {"model": "/srv/models/ours"},
            "sure": {"model": "tiny.en", "commit": LiveText().commit},
            "tiny": {"keep_margin": 1},
        }
    )
    shelf = Shelf(presets, {"whisper": Found(), "fake": Found()})
    quick = {name for name in presets if shelf.live_text(name) == QUICK}
    assert quick == {"demo", "tiny.en", "auto", "mine"}
    assert shelf.live_text("sure") == shelf.live_text("mine too") == shelf.live_text("base") == LiveText()
    assert shelf.live_text("tiny") == attrs.evolve(QUICK, keep_margin=1.0)
    options = SessionOptions(model="base", interim_model="auto")
    tuning = session_tuning(Config(), shelf, options, whole=False)
    assert (tuning.live_text, tuning.keep_margin) == (QUICK, LiveText().keep_margin)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("backend", "wisper", "wants the backend 'wisper'"),
        ("model", 3, "`presets.mine.model` must be a string, not an integer"),
        ("num_workers", 9, "`presets.mine.num_workers` must be from 0 to 8, not 9"),
        ("cpu_threads", 65, "from 0 to 64"),
        ("cpu_threads", True, "must be an integer"),
        ("cpu_threads", 10**400, "from 0 to 64"),
        ("max_window_s", 1, "from 2 to 29"),
        (
            "commit",
            "0.8:2",
            "`presets.mine.commit` must be tiers .* such as 0.8:2:0,0.5:3:1.6,0.3:4:2.4: .* not '0.8:2'",
        ),
        ("commit", "", "must be tiers"),
        ("commit", "0.8:2:0,", "must be tiers"),
        ("commit", "1.1:2:0", "must be tiers"),
        ("commit", "0.8:0:0", "must be tiers"),
        ("commit", "0.8:2:-1", "must be tiers"),
        ("commit", "nan:2:0", "must be tiers"),
        ("commit", "0.8:2:inf", "must be tiers"),
        ("commit", ",".join(["0.8:2:0"] * 9), "8 tiers at most"),
        ("commit", 2, "must be a string"),
        ("show_from", 1.5, "from 0 to 1"),
        ("change_from", -0.1, "from 0 to 1"),
        ("show_after_s", 11, "from 0 to 10"),
        ("keep_margin", -1, "from 0 to 10"),
        ("max_window_s", float("nan"), "a finite number"),
        ("max_window_s", "10", "must be a number, not a string"),
    ],
)
def test_what_a_table_says_of_a_preset_must_hold(key, value, message):
    with pytest.raises(ConfigError, match=message):
        configured({"mine": {key: value}})


@pytest.mark.parametrize(
    ("backend", "key", "value", "message"),
    [
        ("whisper", "beam_size", 2.5, "`presets.mine.beam_size` must be an integer"),
        ("whisper", "beam_size", float("nan"), "must be an integer"),
        ("whisper", "beam_size", 100_000_000, "must be from 1 to 32, not 100000000"),
        ("whisper", "interim_beam_size", 0, "from 1 to 32"),
        ("whisper", "temperatures", [-0.2], r"temperatures\[0\]` must be from 0 to 1, not -0.2"),
        ("whisper", "temperatures", [0.0, float("inf")], r"temperatures\[1\]` must be a finite number"),
        ("whisper", "temperatures", 0.0, "must be a list of numbers"),
        ("whisper", "no_speech_threshold", float("nan"), "a finite number"),
        ("whisper", "beam_sise", 3, "there is no `presets.mine.beam_sise` here; did you mean `presets.mine.beam_size`"),
        ("whisper", "devise", "cpu", "did you mean `presets.mine.device`"),
        ("fake", "word_ms", float("inf"), "`presets.mine.word_ms` must be a finite number"),
        ("fake", "word_ms", 0, "from 1 to 60000, not 0"),
        ("fake", "decode_ms", 10**400, "a finite number"),
        ("fake", "words_ms", 100, "did you mean `presets.mine.word_ms`"),
        ("fake", "colour", "red", "known: decode_ms, word_ms"),
    ],
)
def test_an_option_of_a_backend_must_hold(backend, key, value, message):
    declared = {"whisper": Settings, "fake": FakeOptions}[backend]
    with pytest.raises(ConfigError, match=message):
        options_of(configured({"mine": {"backend": backend, key: value}})["mine"], declared)
