"""What is spoken leaves the daemon by its answers alone: not by the network, not by a file, not by a core."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from sttd.host.privacy import SWITCHES
from tests.running import (
    PATIENCE_S,
    RunningDaemon,
    check_promises,
    eventually,
    read_pcm,
    read_to_end,
    say,
    start,
    transcribe,
)

RECORDING = Path(__file__).parents[1] / "data" / "light.flac"
# A machine whose every way leads back to itself: whatever is sent to anybody is counted there.
WIRED = """
ip link set lo up
ip route add default dev lo
ip -6 route add default dev lo || true
exec "$@"
"""


def wired():
    """The command behind which a program has that network; the test is skipped where there can be none."""
    command = ["unshare", "--net", "sh", "-e", "-c", WIRED, "sh"]
    if os.geteuid() or not shutil.which("ip") or subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs root, iproute2 and a network namespace")
    return tuple(command)


def sent_packets(pid):
    """How many a process and those in its network have sent."""
    lines = Path(f"/proc/{pid}/net/dev").read_text().splitlines()
    return sum(int(numbers.split()[9]) for name, colon, numbers in (line.partition(":") for line in lines) if colon)


@pytest.mark.root
def test_what_is_sent_is_counted():
    """So that the next test can fail."""
    script = (
        "import socket, sys\n"
        "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('198.51.100.1', 9))\n"
        "print(flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [*wired(), "python3", "-c", script]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert sent_packets(process.pid) == 1


@pytest.mark.root
@pytest.mark.model
def test_serving_sends_no_packet_to_anybody(tmp_path):
    """With every library at work: PyAV, tokenizers, CTranslate2, the catalogue of models."""
    daemon = RunningDaemon.start(
        tmp_path, "--model", "demo", "--tcp", "off", through=wired(), env=dict.fromkeys(SWITCHES, "0")
    )
    try:
        check_promises(transcribe(daemon, read_pcm(RECORDING), model="demo"))
        with daemon.connect() as client:
            start(client, kind="file", encoding="container")
            client.send(RECORDING.read_bytes())
            say(client, "stop")
            assert [event for event in read_to_end(client) if event["type"] == "final"]
        for method in ("models", "status", "reload", "unload"):
            daemon.call(method)
        assert sent_packets(daemon.process.pid) == 0
    finally:
        assert daemon.stop() == 0
    assert "cores cannot be forbidden" not in daemon.log()


def test_what_is_uploaded_has_no_name_in_any_directory(serve, tmp_path):
    """Beyond a megabyte it is in a file, that goes with the process however it ends."""
    spools = tmp_path / "spools"
    spools.mkdir()
    daemon = serve("--model", "fake", "--tcp", "off", env={"TMPDIR": str(spools)})
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(PATIENCE_S)
        client.connect(str(daemon.audio))
        client.sendall(
            b"POST /v1/audio/transcriptions HTTP/1.1\r\nHost: x\r\nContent-Length: 9000000\r\n"
            b"Content-Type: multipart/form-data; boundary=x\r\n\r\n"
            b'--x\r\nContent-Disposition: form-data; name="file"; filename="../../a.wav"\r\n\r\n' + bytes(4 << 20)
        )
        eventually(lambda: daemon.call("status")["quotas"]["upload_bytes"]["used"] >= 3 << 20)
        assert os.listdir(spools) == []
        if os.geteuid() == 0:
            fds = Path(f"/proc/{daemon.process.pid}/fd")
            names = [os.readlink(fd) for fd in fds.iterdir() if fd.is_symlink()]
            assert [name for name in names if name.startswith(str(spools))]  # it is on disk, and
            assert all(name.endswith(" (deleted)") for name in names if name.startswith(str(spools)))


@pytest.mark.root
def test_a_daemon_writes_no_core_and_one_that_may_be_traced_might(serve):
    limits = {}
    for name, options in {"kept": (), "traceable": ("--set", "server.traceable=true")}.items():
        daemon = serve("--model", "fake", "--tcp", "off", *options, directory=name)
        lines = Path(f"/proc/{daemon.process.pid}/limits").read_text().splitlines()
        limits[name] = next(line.split()[4:6] for line in lines if line.startswith("Max core file size"))
    assert limits["kept"] == ["0", "0"]
    ours = subprocess.run(["sh", "-c", "ulimit -c"], capture_output=True, text=True, check=True).stdout.strip()
    assert (limits["traceable"][0] == "0") == (ours == "0")


def test_the_log_has_nothing_of_what_was_said(serve):
    daemon = serve("--model", "fake", "--tcp", "off", "--set", "log.level=debug")
    secret = "zebra-crossing"
    with daemon.connect() as client:
        start(client, prompt=secret, hotwords=[secret], label="a label", endpointing=False)
        client.send(read_pcm(RECORDING))
        say(client, "stop")
        events = read_to_end(client)
    words = {word for event in events if event["type"] == "final" for word in event["text"].split()}
    assert words
    log = daemon.log()
    assert "session opened" in log
    assert not [word for word in (*words, secret, json.dumps(secret)) if f" {word} " in log or f'"{word}"' in log]
