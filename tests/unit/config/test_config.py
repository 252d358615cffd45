"""The configuration: sources, their order, and refusals that help."""

import pytest

from sttd.config import reader as config_reader
from sttd.config import tree as config
from sttd.errors import ConfigError


def load(tmp_path=None, *, toml="", environ=None, flags=None):
    file = None
    if toml:
        file = tmp_path / "sttd.toml"
        file.write_text(toml)
    return config_reader.load(config_file=file, environ=environ or {}, flags=flags)


def test_the_documented_defaults_hold():
    values = load().values()
    expected = {
        "models.model": "auto",
        "models.device": "auto",
        "models.compute_type": "auto",
        "vad.aggressiveness": 2,
        "interim.interim_min_ms": 350,
        "endpointing.silence_ms_min": 400,
        "endpointing.silence_ms_max": 700,
        "server.tcp": "127.0.0.1:7788",
    }
    assert {key: values[key][0] for key in expected} == expected
    assert {origin for _, origin in values.values()} == {"default"}


def test_later_sources_win_and_are_remembered(tmp_path):
    toml = "[vad]\naggressiveness = 1\n[endpointing]\nsilence_ms_min = 300\nsilence_ms_max = 900\n"
    loaded = load(
        tmp_path,
        toml=toml,
        environ={"STTD_ENDPOINTING__SILENCE_MS_MIN": "310", "STTD_ENDPOINTING__SILENCE_MS_MAX": "910"},
        flags={"endpointing.silence_ms_max": "920"},
    )
    assert loaded.config.vad.aggressiveness == 1
    assert loaded.config.endpointing.silence_ms_min == 310
    assert loaded.config.endpointing.silence_ms_max == 920
    origins = [loaded.origins[f"endpointing.silence_ms_{end}"] for end in ("min", "max")]
    assert origins == ["environment", "flag"]


def test_without_a_file_option_the_users_file_comes_after_the_systems(tmp_path):
    files = config_reader.config_files(None, {"XDG_CONFIG_HOME": str(tmp_path)})
    assert files == [config_reader.SYSTEM_CONFIG, tmp_path / "sttd" / "sttd.toml"]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("endpointing.silence_msmin", "1", "did you mean `endpointing.silence_ms_min`"),
        ("server.aggressiveness", "1", "did you mean `vad.aggressiveness`"),
        ("vad.aggressiveness", "4", "must be from 0 to 3, not 4"),
        ("vad.aggressiveness", "true", "must be an integer, not true or false"),
        ("vad.aggressiveness", "1.5", "must be an integer, not a number with a fraction"),
        ("vad.silero", "1", "true or false"),
        ("log.level", "loud", "one of debug, info, warning, error"),
        ("server.tcp", "7788", "HOST:PORT or `off`"),
        ("server.drain_s", "nan", "a finite number"),
        ("server.drain_s", "inf", "a finite number"),
        ("server.drain_s", "1" + "0" * 400, "a finite number"),
        ("server.drain_s", "1" * 5000, "a number, not a string"),
        ("server.drain_s", "[" * 5000, "a number, not a string"),
        ("server.tcp", "localhost:" + "1" * 5000, "HOST:PORT or `off`"),
        ("server.allowed_hosts", "[1]", "`server.allowed_hosts[0]` must be a string"),
        ("limits.memory_reserve_bytes", "0x" + "f" * 8000, "not a number of that size"),
        ("endpointing.silence_ms_min", "701", "is above"),
        ("models.interim_model", "tiny", None),
    ],
)
def test_a_wrong_value_is_refused_with_what_would_be_right(key, value, message):
    if message is None:
        assert load(flags={key: value}).config.models.interim_model == value
        return
    with pytest.raises(ConfigError) as caught:
        load(flags={key: value})
    assert message in caught.value.message
    assert caught.value.row.exit_status == 2


def test_default_presets_must_fit_the_slots():
    with pytest.raises(ConfigError, match="max_loaded_models"):
        load(flags={"models.model": "base", "models.interim_model": "tiny", "models.max_loaded_models": "1"})


def test_a_broken_or_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="no such file"):
        config_reader.load(config_file=tmp_path / "absent.toml", environ={})
    with pytest.raises(ConfigError, match="not valid TOML"):
        load(tmp_path, toml="[vad\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[server]\ndrain_s = 1" + b"0" * 400, "must be a finite number"),
        (b"[server]\ndrain_s = 1" + b"0" * 5000, "not valid TOML"),
        (b"x = " + b"[" * 5000, "nested too deeply"),
        (b"x = " + b"{a=" * 5000, "nested too deeply"),
        (b".".join([b"a"] * 5000) + b" = 1", "cannot be read|nested too deeply"),
        (b"[server]\ntoken = '\xff'", "not valid TOML"),
        (b"[server]\ntoken = '\0'", "not valid TOML"),
        (b"[server]\ndrain_s = 1979-05-27", "must be a number"),
        (b"server = 3", "unknown option `server`"),
    ],
    ids=lambda value: value[-30:].decode(errors="replace") if isinstance(value, bytes) else "",
)
def test_whatever_is_in_a_file_is_an_error_of_the_configuration(tmp_path, content, message):
    file = tmp_path / "sttd.toml"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        config_reader.load(config_file=file, environ={})


def test_a_file_that_cannot_be_read_is_an_error_of_the_configuration(tmp_path):
    with pytest.raises(ConfigError, match="directory"):
        config_reader.load(config_file=tmp_path, environ={})
    with pytest.raises(ConfigError, match="null byte"):
        config_reader.load(config_file=tmp_path / "\0", environ={})


def test_what_is_no_text_is_refused():
    with pytest.raises(ConfigError, match=r"STTD_SERVER__TOKEN: `server\.token` holds a lone surrogate"):
        load(environ={"STTD_SERVER__TOKEN": "\udcff"})


@pytest.mark.parametrize(
    ("variable", "meant"),
    [("STTD_MODELS_MODEL", "STTD_MODELS__MODEL"), ("STTD_INTERIM_INTERIM_MIN_MS", "STTD_INTERIM__INTERIM_MIN_MS")],
)
def test_a_variable_that_can_only_mean_an_option_is_an_error(variable, meant):
    with pytest.raises(ConfigError, match=f"{variable}: .* two underscores; did you mean `{meant}`"):
        load(environ={variable: "base"})


def test_other_variables_may_be_somebody_elses_and_are_a_warning():
    environ = {"STTD_FOO": "1", "STTD_MODELS_MODLE": "1", "STTD_SOCKET": "/run/sttd/control.sock", "PATH": "/bin"}
    loaded = load(environ=environ)
    assert loaded.config == load().config
    assert loaded.warnings == (
        "the variable STTD_FOO is no option and ignored; options are STTD_SECTION__OPTION, with two underscores",
        "the variable STTD_MODELS_MODLE is no option and ignored; did you mean `STTD_MODELS__MODEL`?",
    )


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
def test_a_file_may_begin_with_a_byte_order_mark(tmp_path, ending):
    file = tmp_path / "sttd.toml"
    file.write_bytes(b"\xef\xbb\xbf" + f'[models]{ending}model = "fake"{ending}'.encode())
    assert config_reader.load(config_file=file, environ={}).config.models.model == "fake"
    file.write_bytes('[models]\nmodel = "fake"\n'.encode("utf-16"))
    with pytest.raises(ConfigError, match=r"sttd\.toml: this is UTF-16; save it as UTF-8"):
        config_reader.load(config_file=file, environ={})


def test_lists_may_be_written_with_commas_in_variables():
    loaded = load(environ={"STTD_SERVER__ALLOWED_HOSTS": "a.example, b.example"})
    assert loaded.config.server.allowed_hosts == ("a.example", "b.example")


def test_preset_tables_are_kept_as_written():
    loaded = load(flags={"presets.fake.decode_ms": "50", "presets.mine.model": "/models/mine"})
    assert loaded.config.presets == {"fake": {"decode_ms": 50}, "mine": {"model": "/models/mine"}}
    assert loaded.values()["presets.fake.decode_ms"] == (50, "flag")


def test_the_options_of_a_backend_may_have_a_table_of_their_own(tmp_path):
    loaded = load(tmp_path, toml="[presets.fake.options]\nword_ms = 200\n")
    assert loaded.config.presets == {"fake": {"word_ms": 200}}
    assert loaded.values()["presets.fake.word_ms"] == (200, "file")


@pytest.mark.parametrize("table", ['[presets."base.en"]', "[presets.base.en]", '[presets."base.en".options]'])
def test_a_preset_whose_name_has_a_dot_is_one_preset(tmp_path, table):
    assert load(tmp_path, toml=f"{table}\nbeam_size = 1\n").config.presets == {"base.en": {"beam_size": 1}}


def test_a_preset_table_needs_a_name(tmp_path):
    with pytest.raises(ConfigError, match=r"unknown option `presets\.model`"):
        load(tmp_path, toml='[presets]\nmodel = "base"\n')


def test_secrets_are_masked():
    assert load(flags={"server.token": "hush"}).values()["server.token"][0] == "***"


def test_changes_are_told_apart_by_what_they_need():
    old = load().config
    new = load(flags={"server.tcp": "off", "limits.sessions": "3", "presets.fake.decode_ms": "1"}).config
    assert config.changed(old, new) == (["limits.sessions", "presets.fake"], ["server.tcp"])


def test_every_option_says_what_it_is():
    for key, rule in config.options():
        assert rule.summary, key
        assert not rule.summary.endswith("."), key
        if rule.type == "int":  # MessagePack has no larger ones, and the control plane shows them
            assert rule.bounds["maximum"] < 2**63, key


def test_every_default_holds():
    for key, rule, default in config.walk(config.Config()):
        assert rule.check(key, default) == default


@pytest.mark.parametrize(
    ("text", "address"), [("off", None), ("127.0.0.1:0", ("127.0.0.1", 0)), ("[::1]:77", ("::1", 77))]
)
def test_addresses(text, address):
    assert config.parse_tcp(text) == address
