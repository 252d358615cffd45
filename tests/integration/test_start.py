"""Starting, failing to start, and stopping, as a user meets them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request

import pytest

from tests.running import PATIENCE_S, check_promises, read_to_end, read_until, say, start, transcribe

SILENCE = bytes(32_000)
NOISE = bytes(range(256)) * 125  # a second of something, for sessions without VAD


def run_sttd(*arguments, env=None):
    return subprocess.run(
        [sys.executable, "-m", "sttd", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        env={**os.environ, **(env or {})},
        check=False,
    )


def refuse(*arguments):
    result = run_sttd("serve", *arguments)
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("sttd: ")]
    assert len(lines) == 1, result.stderr
    assert "Traceback" not in result.stderr
    return result.returncode, lines[0]


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_a_second_daemon_on_the_same_sockets_is_refused(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    status, line = refuse("--runtime-dir", str(daemon.directory), "--tcp", "off", "--model", "fake")
    assert status == 6
    assert str(daemon.process.pid) in line
    assert daemon.call("ping") == {}


def test_a_stale_socket_is_replaced(serve, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(directory / "control.sock"))
    daemon = serve("--tcp", "off", "--model", "fake")
    assert daemon.call("ping") == {}
    assert "stale" in daemon.log()


def test_a_configured_port_that_is_taken_is_an_error(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, line = refuse("--runtime-dir", str(tmp_path), "--tcp", address, "--model", "fake")
    assert status == 6
    assert address in line
    assert "--tcp" in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model", "bsae"), ("bsae", "did you mean `base`")),
        (("--model", "base", "--set", "models.device=cuda"), ("cuda", "GPU")),
        (("--set", "vad.agressiveness=1"), ("agressiveness", "did you mean `vad.aggressiveness`")),
        (("--set", "presets.fake.word_ms=0", "--model", "fake"), ("word_ms",)),
        (("--tcp", "0.0.0.0:0", "--model", "fake"), ("token",)),
        (("--config", "/nowhere/sttd.toml"), ("/nowhere/sttd.toml",)),
    ],
)
def test_a_wrong_start_is_one_line_that_says_what_to_do(tmp_path, arguments, words):
    status, line = refuse("--runtime-dir", str(tmp_path), *arguments)
    assert status == 2
    for word in words:
        assert word in line


def test_a_missing_model_does_not_stop_the_daemon(serve, tmp_path):
    port = free_port()
    nothing = {"HF_HOME": str(tmp_path / "empty"), "XDG_CACHE_HOME": str(tmp_path / "empty")}
    daemon = serve("--tcp", f"127.0.0.1:{port}", "--model", "base", env=nothing)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=PATIENCE_S)
    assert caught.value.code == 503
    assert "sttctl pull base" in caught.value.read().decode()
    caught.value.close()
    with daemon.connect() as client:
        client.recv()
        say(client, "start")
        refusal = json.loads(client.recv())
        assert (refusal["type"], refusal["code"]) == ("error", "model_not_local")
        assert "sttctl pull base" in refusal["message"]
    events = transcribe(daemon, NOISE, model="fake", endpointing=False)
    check_promises(events)


def test_sigterm_gives_every_open_utterance_its_final(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=200")
    with daemon.connect() as client:
        start(client, endpointing=False)
        client.send(NOISE)
        read_until(client, "speech_start")
        daemon.terminate()
        events = read_to_end(client)
        assert client.close_code == 1001
    assert [event["type"] for event in events[-2:]] == ["final", "stopped"]
    assert events[-2]["reason"] == "drain"
    assert daemon.stop() == 0
    assert not daemon.control.exists()


def test_new_sessions_are_refused_while_it_stops(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=1500")
    with daemon.connect() as busy, daemon.connect() as late:
        start(busy, endpointing=False)
        busy.send(NOISE)
        read_until(busy, "speech_start")
        late.recv()
        daemon.terminate()
        events = read_to_end(late)
        assert late.close_code == 1001
        assert all(event.get("code") == "shutting_down" for event in events)
        read_until(busy, "stopped")


def test_a_second_signal_is_immediate(serve):
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "presets.fake.decode_ms=8000")
    with daemon.connect() as client:
        start(client, endpointing=False)
        client.send(NOISE)
        read_until(client, "speech_start")
        daemon.terminate()
        read_until(client, "speech_end")
        daemon.terminate()
        assert daemon.process.wait(5) == 128 + signal.SIGTERM
    daemon.expected_status = 128 + signal.SIGTERM


def test_check_config_shows_values_and_their_origin(tmp_path):
    file = tmp_path / "sttd.toml"
    file.write_text("[vad]\naggressiveness = 3\n")
    result = run_sttd("check-config", "--config", str(file))
    assert result.returncode == 0
    assert "vad.aggressiveness = 3  (file)" in result.stdout
    result = run_sttd("check-config", "--config", str(file), env={"STTD_FOO": "1"})
    assert (result.returncode, "STTD_FOO is no option" in result.stderr) == (0, True)
    file.write_text("[vad]\naggressiveness = 4\n")
    result = run_sttd("check-config", "--config", str(file))
    assert result.returncode == 2
    assert "0 to 3" in result.stderr


@pytest.mark.parametrize(
    ("toml", "words"),
    [
        ('tcp = "0.0.0.0:0"', "open to other machines"),
        ('token_file = "/nowhere/token"', "No such file"),
    ],
)
def test_check_config_and_reload_refuse_what_could_not_start(tmp_path, serve, toml, words):
    file = tmp_path / "sttd.toml"
    file.write_text('[server]\ntcp = "off"\n')
    daemon = serve("--config", str(file), "--model", "fake")
    file.write_text(f"[server]\n{toml}\n")
    result = run_sttd("check-config", "--config", str(file), "--runtime-dir", str(tmp_path))
    assert result.returncode == 2
    assert words in result.stderr
    with pytest.raises(RuntimeError, match=words):
        daemon.call("reload")


def test_help_and_version_answer_without_the_engine():
    result = run_sttd("--version", env={"PYTHONPROFILEIMPORTTIME": "1"})
    assert result.stdout.startswith("sttd 0.")
    for heavy in ("numpy", "trio", "ctranslate2", "onnxruntime"):
        assert f" {heavy}\n" not in result.stderr
