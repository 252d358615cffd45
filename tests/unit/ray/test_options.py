"""The options of the application."""

import pytest
from sttd_ray.engine import find_backends
from sttd_ray.options import AppOptions, read_options, read_preset, read_token, settle_preset

from sttd.engine.process.crew import Crew
from sttd.errors import ConfigError


@pytest.fixture(scope="module")
def backends():
    return find_backends(Crew(), models_dir="")


def test_nothing_need_be_said():
    assert read_options({}) == AppOptions()


@pytest.mark.parametrize(
    "args",
    [{"modle": "base"}, {"audio_s": 31}, {"body_bytes": "16 MB"}, {"tries": 0}, {"preset": "base"}, {"patience_s": 0}],
)
def test_what_is_wrong_is_said_before_anything_starts(args):
    with pytest.raises(ConfigError):
        read_options(args)


def test_a_preset_has_the_threads_that_ray_has_set_aside(backends):
    options = read_options({"model": "base"})
    preset = settle_preset(read_preset(options, backends), backends, cpus=3)
    assert (preset.model, preset.cpu_threads, preset.num_workers) == ("base", 3, 1)


def test_a_preset_says_itself_what_it_wants(backends):
    options = read_options({"model": "mine", "preset": {"model": "small", "cpu_threads": 2, "device": "cpu"}})
    preset = settle_preset(read_preset(options, backends), backends, cpus=8)
    assert (preset.name, preset.backend, preset.model, preset.cpu_threads) == ("mine", "whisper", "small", 2)


def test_an_unknown_backend_is_said_by_the_name_of_the_preset(backends):
    with pytest.raises(ConfigError, match="remote"):
        read_preset(read_options({"model": "far", "preset": {"backend": "remote"}}), backends)


def test_the_token_is_that_of_the_file_or_else_of_the_environment(tmp_path):
    file = tmp_path / "token"
    file.write_text("secret\n")
    environ = {"STTD_RAY_TOKEN": "other"}
    assert read_token(AppOptions(token_file=str(file)), environ) == "secret"
    assert read_token(AppOptions(), environ) == "other"
    assert read_token(AppOptions(), {}) == ""
    file.write_text("\n")
    for path in (file, tmp_path / "none"):
        with pytest.raises(ConfigError):
            read_token(AppOptions(token_file=str(path)), environ)


@pytest.mark.parametrize("value", ["", " \n"])
def test_a_variable_with_nothing_in_it_does_not_open_the_cluster_to_everybody(value):
    with pytest.raises(ConfigError, match="STTD_RAY_TOKEN"):
        read_token(AppOptions(), {"STTD_RAY_TOKEN": value})
