"""What the sandbox does, tried from the inside: effects, not directives."""

import json

import pytest

pytestmark = pytest.mark.root

# Runs as the ExecStart of a copy of the service, so with exactly its sandbox.
PROBE = r"""
import ctypes, json, os, socket, subprocess, sys

def outcome(action):
    try:
        action()
    except OSError as error:
        return error.__class__.__name__ if not isinstance(error, TimeoutError) else "TimeoutError"
    return "done"

def write(path):
    def action():
        with open(path, "w") as file:
            file.write("x")
        os.unlink(path)
    return action

def connect(family, address):
    def action():
        with socket.socket(family) as sock:
            sock.settimeout(1)
            sock.connect(address)
    return action

def inference():
    import ctranslate2, faster_whisper, numpy, onnxruntime
    from pathlib import Path
    import sttd
    model = ctranslate2.models.Whisper(str(Path(sttd.__file__).parent / "assets/demo-model"), compute_type="int8")
    features = ctranslate2.StorageView.from_array(numpy.zeros((1, model.n_mels, 3000), dtype=numpy.float32))
    assert model.encode(features).shape

def unshare():
    if ctypes.CDLL(None, use_errno=True).unshare(0x10000000):
        raise OSError(ctypes.get_errno(), "unshare")

server = socket.create_server(("127.0.0.1", 0))
print("PROBE " + json.dumps({
    "write /etc": outcome(write("/etc/probe")),
    "write /usr": outcome(write("/usr/probe")),
    "write the program": outcome(write("/opt/sttd/bin/probe")),
    "write /run/sttd": outcome(write("/run/sttd/probe")),
    "write the state": outcome(write(os.environ["STATE_DIRECTORY"] + "/probe")),
    "write the cache": outcome(write(os.environ["CACHE_DIRECTORY"] + "/probe")),
    "list /home": outcome(lambda: os.listdir("/home/anna")),
    "list /root": outcome(lambda: os.listdir("/root")),
    "see /tmp of others": os.path.exists("/tmp/of-others"),
    "devices": sorted(set(os.listdir("/dev")) & {"sda", "vda", "mem", "kmsg", "fuse", "tty0"}),
    "processes of others": sum(name.isdigit() and os.stat(f"/proc/{name}").st_uid == 0 for name in os.listdir("/proc")),
    "loopback": outcome(connect(socket.AF_INET, server.getsockname())),
    "foreign address": outcome(connect(socket.AF_INET, ("192.0.2.1", 9))),
    "foreign datagram": outcome(lambda: socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", ("192.0.2.1", 9))),
    "packet socket": outcome(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)),
    "user namespace": outcome(unshare),
    "set-uid file": outcome(lambda: os.open(os.environ["STATE_DIRECTORY"] + "/suid", os.O_CREAT, 0o4755)),
    "realtime": outcome(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "inference": outcome(inference),
    "core limit": __import__("resource").getrlimit(__import__("resource").RLIMIT_CORE)[0],
    "telemetry": os.environ.get("ORT_DISABLE_TELEMETRY"),
}))
"""


@pytest.fixture(scope="module")
def probed(system):
    """The outcomes, from a run with the sandbox of sttd.service."""
    system.add_user("anna")
    (system.root / "tmp/of-others").write_text("x")
    # An address that is not loopback and yet answers, so that it is the sandbox that stops a packet.
    system.run("ip", "address", "add", "192.0.2.1/32", "dev", "lo")
    service = (system.root / "etc/systemd/system/sttd.service").read_text()
    other = ("ExecStart=", "ExecReload=", "Sockets=", "Type=", "WatchdogSec=", "Restart=", "Also=")
    sandbox = "\n".join(line for line in service.splitlines() if not line.startswith(other))
    (system.root / "run/systemd/system/probe.service").write_text(
        sandbox.replace("[Service]\n", "[Service]\nType=oneshot\nExecStart=/opt/sttd/venv/bin/python3 /run/probe.py\n")
    )
    (system.root / "run/probe.py").write_text(PROBE)
    (system.root / "run/probe.py").chmod(0o644)
    system.systemctl("daemon-reload")
    system.systemctl("start", "probe")
    lines = [str(entry["MESSAGE"]) for entry in system.journal("probe")]
    return json.loads(next(line for line in lines if line.startswith("PROBE ")).removeprefix("PROBE "))


def test_only_its_own_directories_can_be_written(probed):
    assert probed["write /etc"] == probed["write /usr"] == probed["write the program"] == "OSError"  # read-only
    assert probed["write /run/sttd"] == probed["write the state"] == probed["write the cache"] == "done"


def test_nothing_of_the_users_can_be_seen(probed):
    assert probed["list /home"] in ("PermissionError", "FileNotFoundError")
    assert probed["list /root"] == "PermissionError"
    assert probed["see /tmp of others"] is False
    assert probed["processes of others"] == 0
    assert probed["devices"] == []


def test_no_packet_leaves_the_machine(probed, system):
    assert probed["loopback"] == "done"
    assert probed["foreign address"] in ("TimeoutError", "PermissionError")
    assert probed["foreign datagram"] == "PermissionError"
    assert probed["packet socket"] != "done"
    # The same without the sandbox is not stopped, so the test would notice.
    script = "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 9))"
    assert system.python(script).returncode == 0


def test_no_privilege_can_be_won(probed):
    assert probed["user namespace"] == probed["set-uid file"] == probed["realtime"] == "PermissionError"


def test_the_engine_works_in_it_and_leaves_no_trace(probed):
    assert probed["inference"] == "done"
    assert probed["core limit"] == 0
    assert probed["telemetry"] == "1"
