"""What the machine does to a daemon: disks are full, clocks jump, memory runs out, files of models are broken.

What must hold after each is stated once, in `tests/census.py`.
"""

from __future__ import annotations

import ast
import os
import resource
import shutil
import signal
import socket
import time

import pytest

from benchmarks.wires import wav
from tests.census import HEARD, NOISE, TOLD, process_status, unharmed
from tests.conftest import ROOT
from tests.running import RunningDaemon, eventually, read_until, say, start

DEMO = ROOT / "sttd" / "assets" / "demo-model"
NARROW_BYTES = 24 << 20  # a thread's stack and some buffers
YEAR_S = 365 * 86_400


def limited(daemon: RunningDaemon, kind: int, value: int):
    """Set a limit of the daemon; returns what takes it back."""
    pid, before = daemon.process.pid, resource.prlimit(daemon.process.pid, kind)
    resource.prlimit(pid, kind, (value, before[1]))
    return lambda: resource.prlimit(pid, kind, before)


def refused(daemon: RunningDaemon, **options: object) -> str:
    """The code with which a session is refused."""
    with daemon.connect() as client:
        assert b"hello" in client.recv().encode()
        say(client, "start", **options)
        return read_until(client, "error")[-1]["code"]


def upload(daemon: RunningDaemon, pcm: bytes) -> bytes:
    """The whole answer to an upload on the Unix socket."""
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.wav"\r\n\r\n' + wav(pcm) + b"\r\n--b--\r\n"
    head = (
        "POST /v1/audio/transcriptions HTTP/1.1\r\nHost: localhost\r\nContent-Type: multipart/form-data; boundary=b\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(daemon.audio))
        connection.sendall(head.encode() + body)
        answer = b""
        while data := connection.recv(65536):
            answer += data
    return answer


# ---------------------------------------------------------------- disks


def test_on_a_full_disk_uploads_are_refused_and_speech_goes_on(serve):
    """Not even the log can be written."""
    daemon = serve("--tcp", "off", "--model", "fake")
    long = NOISE * 60  # 2 MB: what is above 1 MiB goes to disk
    assert b" 200 OK" in upload(daemon, long)
    with unharmed(daemon) as bystander:
        relieve = limited(daemon, resource.RLIMIT_FSIZE, 0)
        bystander.wait_for_another()
        answer = upload(daemon, long)
        assert b" 429 " in answer.partition(b"\r\n")[0]
        assert b'"code": "overloaded"' in answer
        daemon.call("unload", wait=False)  # of which there is something to log
        bystander.wait_for_another()
        relieve()
        assert b" 200 OK" in upload(daemon, long)


def test_a_runtime_directory_that_was_removed_is_made_again(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with unharmed(daemon) as bystander:
        log = (daemon.directory / "log").read_text()
        shutil.rmtree(daemon.directory)
        bystander.wait_for_another()
        eventually(lambda: daemon.control.exists() and daemon.audio.exists())
        eventually(lambda: answers(daemon))
        (daemon.directory / "log").write_text(log)
    daemon.call("ping")


def answers(daemon: RunningDaemon) -> bool:
    try:
        return daemon.call("ping") == {}
    except OSError:
        return False


# ---------------------------------------------------------------- clocks

JUMPY = """
import os, pathlib, time
_jump, _time, _time_ns = pathlib.Path(os.environ["JUMP"]), time.time, time.time_ns
def _offset():
    try:
        return int(_jump.read_text() or 0)
    except OSError:
        return 0
time.time = lambda: _time() + _offset()
time.time_ns = lambda: _time_ns() + _offset() * 10**9
"""
WALL_CLOCKS = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today", "time.localtime"}
# Who may look at the wall clock, and only to tell what time it is.
TELLERS = {"sttd/planes/deepgram.py", "sttd/planes/realtime.py"}


def test_a_clock_that_jumps_by_a_year_changes_nothing(serve, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(JUMPY)
    path = os.pathsep.join(filter(None, (str(tmp_path), os.environ.get("PYTHONPATH"))))
    env = {"PYTHONPATH": path, "JUMP": str(tmp_path / "jump")}
    daemon = serve("--tcp", "off", "--model", "fake", "--set", "limits.idle_timeout_s=30", env=env)
    with unharmed(daemon) as bystander, daemon.connect() as client:
        start(client, **TOLD)
        for offset_s in (YEAR_S, -YEAR_S, 3600, 0):
            (tmp_path / "jump").write_text(str(offset_s))
            client.send(NOISE)
            say(client, "finalize")
            assert read_until(client, "final")[-1]["text"] == HEARD
            bystander.wait_for_another()
        assert daemon.call("status")["server"]["uptime_s"] < YEAR_S / 2


def test_nothing_is_decided_by_the_wall_clock():
    found = set()
    for path in (ROOT / "sttd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            if any(called == clock or called.endswith(f".{clock}") for clock in WALL_CLOCKS):
                found.add(str(path.relative_to(ROOT)))
    assert found == TELLERS


# ---------------------------------------------------------------- memory and time


def test_a_daemon_that_stands_still_again_and_again_misses_nothing(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    with unharmed(daemon) as bystander:
        for _ in range(20):
            daemon.process.send_signal(signal.SIGSTOP)
            time.sleep(0.05)
            daemon.process.send_signal(signal.SIGCONT)
        bystander.wait_for_another()


def test_without_memory_who_is_there_is_served_and_who_comes_is_told(serve, tmp_path):
    """`memory_reserve_bytes` above what any machine has."""
    config = tmp_path / "sttd.toml"
    config.write_text('[models]\nmodel = "fake"\n')
    daemon = serve("--tcp", "off", "--config", str(config))
    with unharmed(daemon) as bystander:
        config.write_text('[models]\nmodel = "fake"\n[limits]\nmemory_reserve_bytes = 1000000000000000\n')
        daemon.call("reload")
        assert refused(daemon) == "overloaded"
        bystander.wait_for_another()
        config.write_text('[models]\nmodel = "fake"\n')
        daemon.call("reload")
        with daemon.connect() as client:
            start(client, **TOLD)


def test_in_an_address_space_that_is_nearly_full_uploads_may_be_refused_and_speech_goes_on(serve):
    daemon = serve("--tcp", "off", "--model", "fake")
    assert b" 200 OK" in upload(daemon, NOISE * 60)  # the library that reads it is there
    with unharmed(daemon) as bystander:
        size = process_status(daemon.process.pid)["VmSize"] << 10
        relieve = limited(daemon, resource.RLIMIT_AS, size + NARROW_BYTES)
        bystander.wait_for_another()
        status = int(upload(daemon, NOISE * 60).split()[1])
        assert status in (200, 429), status
        bystander.wait_for_another()
        relieve()
        assert b" 200 OK" in upload(daemon, NOISE)


# ---------------------------------------------------------------- models


@pytest.mark.model
def test_models_whose_files_are_broken_fail_alone(serve, tmp_path):
    """Cut short, overwritten, empty, or no model at all: each is said, and ends nothing."""
    good = (DEMO / "model.bin").read_bytes()
    broken = {
        "empty": b"",
        "short": good[:1000],
        "half": good[: len(good) // 2],
        "head": bytes(64) + good[64:],
        "lengths": good[:20] + b"\xff" * 40 + good[60:],
        "text": b"<html>not found</html>",
    }
    tables = []
    for name, data in broken.items():
        shutil.copytree(DEMO, tmp_path / name)
        (tmp_path / name / "model.bin").write_bytes(data)
        tables.append(f'[presets.{name}]\nbackend = "whisper"\nmodel = "{tmp_path / name}"\n')
    shutil.copytree(DEMO, tmp_path / "settings")
    (tmp_path / "settings" / "config.json").write_text("{")
    (tmp_path / "settings" / "tokenizer.json").write_text("[]")
    tables.append(f'[presets.settings]\nbackend = "whisper"\nmodel = "{tmp_path / "settings"}"\n')
    config = tmp_path / "sttd.toml"
    config.write_text('[models]\nmodel = "fake"\n' + "".join(tables))
    no_spare = ("--set", "engine.spare_ttl_s=0")  # it comes when the cores are free, before the count or after it
    daemon = serve("--tcp", "off", "--config", str(config), *no_spare)
    with unharmed(daemon, memory_bytes=128 << 20):  # of the library that reads models
        for name in (*broken, "settings"):
            with pytest.raises(RuntimeError, match="model_load_failed"):
                daemon.call("load", preset=name)
