"""A configuration is read and checked whole, and what is wrong with it is a `ConfigError`, whoever reads it."""

import signal
import socket
import time
from contextlib import closing
from pathlib import Path

import pytest

from sttd.engine.fake import FakeBackend, FakeModel
from sttd.engine.process.backend import IsolatedBackend
from sttd.engine.remote.backend import RemoteBackend
from sttd.engine.whisper.backend import WhisperBackend, supported_compute_types
from sttd.errors import ConfigError
from sttd.host.rundir import SYSTEM_DIR
from sttd.host.systemd import InheritedSocket
from sttd.plan import Sources, make_plan, place, read_token
from tests.running import PATIENCE_S

GOOD = b'[models]\nmodel = "fake"\n'
BAD = {
    "a number with 400 digits": GOOD + b"[server]\ndrain_s = 1" + b"0" * 400,
    "a number of 400 digits for a preset": GOOD + b"[presets.fake]\ndecode_ms = 1" + b"0" * 400,
    "5000 brackets": GOOD + b"x = " + b"[" * 5000,
    "bad UTF-8": GOOD + b"[server]\ntoken = '\xff'",
    "an unknown option of a preset": GOOD + b"[presets.fake]\nwords_ms = 1",
    "a compute type that nobody has": GOOD + b"compute_type = 'int7'",
    "the same of a preset": GOOD + b"[presets.fake]\ncompute_type = 'int7'",
}


def plan(file):
    return make_plan(Sources(config_file=file, environ={}, flags={}))


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_a_bad_file_is_an_error_of_the_configuration(tmp_path, content):
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD)
    assert plan(file).config.models.model == "fake"
    file.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        plan(file)
    assert "__init__" not in caught.value.message
    assert "unexpected" not in caught.value.message


@pytest.mark.parametrize(
    ("isolation", "kinds"),
    [
        ("thread", {"whisper": WhisperBackend, "fake": FakeBackend}),
        ("process", {"whisper": IsolatedBackend, "fake": IsolatedBackend}),
        ("auto", {"whisper": IsolatedBackend, "fake": IsolatedBackend}),
    ],
)
def test_the_configuration_says_where_models_decode(tmp_path, isolation, kinds):
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD + f'[engine]\nisolation = "{isolation}"\nspare_ttl_s = 7\n'.encode())
    made = plan(file)
    assert {name: type(backend) for name, backend in made.backends.items()} == {**kinds, "remote": RemoteBackend}
    assert made.crew.spare_ttl_s == 7


def test_by_itself_it_puts_models_into_processes_but_not_the_demo_and_the_fake(tmp_path):
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD)
    made = plan(file)
    isolated = {
        name
        for name in ("fake", "demo", "tiny.en", "base", "auto")
        if made.backends[made.presets[name].backend].inner.isolates(made.presets[name])
    }
    assert isolated == {"tiny.en", "base", "auto"}
    loaded = made.backends["fake"].load(made.presets["fake"], cpu_threads=1, num_workers=1)
    assert isinstance(loaded, FakeModel)
    assert made.crew.pids() == ()


def test_a_home_that_nobody_has_is_a_directory_that_is_not_there(tmp_path):
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD + b'models_dir = "~nobody-of-that-name/models"\n')
    assert plan(file).store.locate("nobody/has-this") is None


def test_a_running_daemon_outlives_every_bad_file(serve, tmp_path):
    """By `reload` the error is told, by SIGHUP it is in the log; the configuration stays as it was."""
    file = tmp_path / "sttd.toml"
    file.write_bytes(GOOD)
    daemon = serve("--tcp", "off", "--config", str(file))

    def refused():
        return daemon.log().count("reload refused")

    def check():
        before = refused()
        with pytest.raises(RuntimeError, match="config_invalid"):
            daemon.call("reload")
        daemon.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + PATIENCE_S
        while refused() < before + 2:
            assert time.monotonic() < deadline, daemon.log()
            time.sleep(0.02)
        assert daemon.call("config")["values"]["models.model"]["value"] == "fake"

    for content in BAD.values():
        file.write_bytes(content)
        check()
    file.unlink()
    check()
    file.mkdir()
    check()
    file.rmdir()
    file.write_bytes(GOOD)
    assert daemon.call("reload") == {"changed": [], "needs_restart": []}


@pytest.mark.parametrize("table", ["models", "presets.mine"])
def test_a_compute_type_that_is_none_is_named_with_the_one_that_was_meant(tmp_path, table):
    file = tmp_path / "sttd.toml"
    file.write_text(f"[{table}]\ncompute_type = 'int7'\n")
    with pytest.raises(ConfigError, match=rf"`{table}.compute_type` must be one of .*`int7`; did you mean `int8`"):
        plan(file)


@pytest.mark.model
def test_so_is_one_that_this_machine_cannot_compute_in(tmp_path, monkeypatch):
    monkeypatch.setattr("ctranslate2.get_supported_compute_types", lambda device, index: {"int8", "float32"})
    supported_compute_types.cache_clear()
    file = tmp_path / "sttd.toml"
    for text in (
        "[models]\nmodel = 'demo'\ndevice = 'cpu'\ncompute_type = 'float16'\n",
        "[models]\nmodel = 'fake'\n[presets.demo]\ndevice = 'cpu'\ncompute_type = 'float16'\n",
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"'demo'.* 'float16'.*auto, int8, float32"):
            plan(file)
    file.write_text("[models]\nmodel = 'demo'\ndevice = 'cpu'\ncompute_type = 'float32'\n")
    assert plan(file).presets["demo"].compute_type == "float32"
    supported_compute_types.cache_clear()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cpu_thread = 2", "`presets.t.cpu_thread` here; did you mean `presets.t.cpu_threads`?"),
        ("cpu_threads = 'two'", "`presets.t.cpu_threads` must be an integer"),
        ("temperatures = [0.0, 2.0]", "`presets.t.temperatures[1]` must be"),
        ("[presets.t.options]\nbeam_siz = 2", "`presets.t.beam_siz` here; did you mean `presets.t.beam_size`?"),
    ],
)
def test_what_is_wrong_in_a_preset_is_named_with_its_place(tmp_path, text, message):
    file = tmp_path / "sttd.toml"
    file.write_text(f"[presets.t]\nmodel = './tiny.en'\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        plan(file)
    assert caught.value.message.startswith(f"{file}: ")
    assert message in caught.value.message
    with pytest.raises(ConfigError, match=r"^--set presets.t.cpu_thread: "):
        make_plan(Sources(config_file=None, environ={}, flags={"presets.t.cpu_thread": "2"}))


def test_a_token_may_be_written_by_an_editor_that_marks_its_byte_order(tmp_path):
    token, file = tmp_path / "token", tmp_path / "sttd.toml"
    token.write_bytes(b"\xef\xbb\xbfsesame\r\n")
    file.write_text(f"[server]\ntoken_file = '{token}'\n")
    assert read_token(plan(file).config) == "sesame"


def test_a_token_that_no_browser_can_show_is_warned_of(tmp_path):
    assert wyoming(token="0f3b-Az_9~").warnings == ()
    for token in ("b64/with=", "two words", "schlüssel"):
        (warning,) = wyoming(token=token).warnings
        assert "browser" in warning
        assert token not in warning


def test_a_token_file_may_be_named_from_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "token").write_text("sesame")
    (tmp_path / "sttd.toml").write_text("[server]\ntoken_file = '~/token'\n")
    assert read_token(plan(tmp_path / "sttd.toml").config) == "sesame"


# ------------------------------------------------------------------ where Wyoming listens


def wyoming(*addresses, directory="/run/user/1/sttd", inherited=(), **server):
    flags = {"models.model": "fake", "server.runtime_dir": str(directory), "server.tcp": "off"}
    if addresses:
        flags["server.wyoming"] = ",".join(addresses) or "[]"
    flags |= {f"server.{name}": value for name, value in server.items()}
    return place(Sources(config_file=None, environ={}, flags=flags).read(), environ={}, inherited=inherited)


def test_wyoming_is_on_for_a_users_daemon_unless_there_is_a_token_and_off_for_the_machines():
    assert (wyoming().wyoming, wyoming().wyoming_is_default) == (("127.0.0.1:10300",), True)
    assert wyoming(token="s3cret").wyoming == ()
    assert wyoming(directory=SYSTEM_DIR).wyoming == ()
    assert wyoming(token="s3cret").warnings == wyoming().warnings == ()


def test_a_configured_wyoming_that_is_open_to_more_than_its_user_is_warned_of():
    own = wyoming("127.0.0.1:1", "unix://w.sock", token="s3cret")
    assert own.wyoming == ("127.0.0.1:1", "unix://w.sock")
    assert not own.wyoming_is_default
    assert "no token" in own.warnings[0]
    assert "every user" in wyoming("localhost:1", directory=SYSTEM_DIR).warnings[0]
    assert wyoming("unix://w.sock", directory=SYSTEM_DIR, token="s3cret").warnings == ()


@pytest.mark.parametrize("address", ["0.0.0.0:10300", "tcp://[::]:10300", "box.lan:1", "127.0.0.1:1,192.168.1.5:1"])
def test_beyond_loopback_wyoming_wants_to_know_from_where(address):
    with pytest.raises(ConfigError, match="wyoming_allowed"):
        wyoming(address)
    with pytest.raises(ConfigError, match="wyoming_allowed"):
        wyoming(address, token="s3cret")  # which it does not know
    assert wyoming(address, wyoming_allowed="192.168.1.0/24, ::1").wyoming == tuple(address.split(","))


def test_a_wyoming_socket_of_systemd_is_looked_at_too():
    with closing(socket.create_server(("0.0.0.0", 0))) as passed:
        inherited = [InheritedSocket(name="wyoming", socket=passed)]
        with pytest.raises(ConfigError, match="wyoming_allowed"):
            wyoming(inherited=inherited)
        assert wyoming(inherited=inherited, wyoming_allowed="10.0.0.0/8").warnings == ()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("wyoming", "localhost"),
        ("wyoming", "127.0.0.1:123456"),
        ("wyoming", "unix://"),
        ("wyoming", "udp://127.0.0.1:1"),
        ("wyoming", "http://127.0.0.1:1/"),
        ("wyoming_allowed", "everybody"),
        ("wyoming_allowed", "10.0.0.0/33"),
    ],
)
def test_an_address_that_is_none_is_an_error_of_the_configuration(option, value):
    with pytest.raises(ConfigError, match=rf"`server\.{option}` must list"):
        wyoming(value) if option == "wyoming" else wyoming(wyoming_allowed=value)


CERTIFICATES = Path(__file__).parents[1] / "data" / "tls"


def placed(tcp, **server):
    flags = {"models.model": "fake", "server.tcp": tcp, "server.token": "s3cret"}
    made = make_plan(Sources(config_file=Path("/dev/null"), environ={}, flags=flags | server))
    return made, place(made.loaded, environ={"XDG_RUNTIME_DIR": "/nowhere"}).warnings


def test_tcp_beyond_loopback_without_tls_is_warned_of():
    tls = {"server.tls_cert": str(CERTIFICATES / "one.pem"), "server.tls_key": str(CERTIFICATES / "one.key")}
    assert any("without TLS" in warning for warning in placed("0.0.0.0:1")[1])
    secured = placed("0.0.0.0:1", **tls)
    assert secured[0].tls is not None
    assert not any("TLS" in warning for warning in (*placed("127.0.0.1:1")[1], *secured[1]))


@pytest.mark.parametrize("half", ["tls_cert", "tls_key"])
def test_a_certificate_without_its_key_is_an_error_of_the_configuration(half):
    with pytest.raises(ConfigError, match="belong together"):
        placed("127.0.0.1:1", **{f"server.{half}": str(CERTIFICATES / "one.pem")})


def test_a_preset_that_a_server_decodes_has_its_fallback_and_an_address_in_the_clear_is_warned_of(tmp_path):
    file = tmp_path / "sttd.toml"
    table = b"[presets.cluster]\nbackend = 'remote'\nurl = 'http://gpu.example:8000/v1'\nmax_in_flight = 5\n"
    file.write_bytes(GOOD + table + b"fallback = 'base'\n")
    made = plan(file)
    preset = made.presets["cluster"]
    assert (preset.device, preset.num_workers, preset.model) == ("remote", 5, "cluster")
    assert preset.fallback.name == "base"
    assert preset.fallback.device != "auto"
    assert [("cluster" in warning, "https" in warning) for warning in made.warnings] == [(True, True)]
    file.write_bytes(GOOD + table + b"fallback = 'bass'\n")
    with pytest.raises(ConfigError, match="'bass'"):
        plan(file)
    file.write_bytes(GOOD + table.replace(b"http://", b"http://me:sesame@"))
    with pytest.raises(ConfigError, match=str(file)) as caught:
        plan(file)
    assert "sesame" not in caught.value.message


def test_the_token_of_a_server_that_everybody_can_read_is_warned_of(tmp_path):
    token, file = tmp_path / "token", tmp_path / "sttd.toml"
    token.write_text("sesame")
    file.write_bytes(
        GOOD + f"[presets.cluster]\nbackend = 'remote'\nurl = 'https://gpu/v1'\ntoken_file = '{token}'\n".encode()
    )
    for mode, warned in ((0o644, True), (0o600, False)):
        token.chmod(mode)
        made = plan(file)
        found = place(made.loaded, environ={"XDG_RUNTIME_DIR": "/nowhere"}).warnings
        assert any(str(token) in warning for warning in found) == warned
