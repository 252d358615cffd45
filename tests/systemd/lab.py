"""A real systemd in namespaces of its own, over an overlay of this machine: up in a third of a second.

    with Lab.up(directory) as lab:
        lab.systemctl("start", "sttd")
        assert "ready" in lab.systemctl("status", "sttd").stdout

It needs root, systemd and iproute2, and no download: the program under test is this checkout and the packages of the
interpreter that runs the tests, shown read-only under /opt/sttd, where any user can read them.

Another release of systemd is tested by naming the root of a system that has it:

    debootstrap --include=systemd,dbus,iproute2,libpam-systemd trixie /var/tmp/trixie
    STTD_LAB_BASE=/var/tmp/trixie pytest tests/systemd
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

from sttd.host import units

HERE = Path(__file__).parent
REPOSITORY = HERE.parent.parent
OPT = Path("/opt/sttd")
BASE = os.environ.get("STTD_LAB_BASE", "/")
BOOT_TIMEOUT_S = 120  # a third of a second on an idle machine
COMMAND_TIMEOUT_S = 600  # dpkg writes half a gigabyte through to a disk that others use, too
# With the first, nothing is left behind when the tests are killed.
NAMESPACES = [
    *("setpriv", "--pdeathsig", "KILL"),
    *("unshare", "-m", "-p", "-C", "-i", "-u", "-n", "--fork", "--kill-child=KILL", "--propagation", "private"),
]

ENTRY = """\
#!/opt/sttd/venv/bin/python3
import sys
from {module} import main
sys.exit(main())
"""


def why_not():
    """The reason why no lab can be had here, or None."""
    if os.geteuid() != 0:
        return "a private systemd needs root"
    for program in ("/lib/systemd/systemd", "setpriv", "unshare", "nsenter", "dbus-daemon", "ip"):
        if not shutil.which(program):
            return f"a private systemd needs {program}"
    probe = ["unshare", "-m", "-p", "-C", "-i", "-u", "-n", "--fork", "mount", "-t", "tmpfs", "probe", "/mnt"]
    denied = subprocess.run(probe, capture_output=True, text=True)
    return f"namespaces are denied here: {denied.stderr.strip()}" if denied.returncode else None


class Lab:
    """One running system. `systemctl`, `run` and `python` act inside; paths of the inside are under `root`."""

    def __init__(self, *, pid, config):
        self.pid, self._config = pid, config

    @classmethod
    @contextlib.contextmanager
    def up(cls, directory, *, config="", units_installed=True, files=None):
        """Boot with the units of the system installed and `config` as /etc/sttd/sttd.toml.

        `files` maps more absolute paths to their text; they can be executed.
        """
        tree = directory / "tree"
        directory.chmod(0o755)
        (directory / "binds").write_text(_program(tree))
        if units_installed:
            units.install(units.Scope(bindir=OPT / "bin", destdir=tree), environ={})
            (tree / "etc/sttd/sttd.toml").write_text(config)
        for path, text in (files or {}).items():
            target = tree / str(path).lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text)
            target.chmod(0o755)
        with _cgroup(directory) as cgroup:
            process = _boot(directory, cgroup)
            try:
                pid = _wait_until_up(directory, process)
                lab = cls(pid=pid, config=config)
                if units_installed:
                    lab.run("systemd-sysusers")
                    lab.run("systemd-tmpfiles", "--create", "sttd.conf")
                    # A machine with other work to do takes more than the unit's half a minute to import everything.
                    lab.drop_in(f"[Service]\nTimeoutStartSec={COMMAND_TIMEOUT_S}\n", name="patience")
                yield lab
            finally:
                # Killing the process 1 of a namespace kills all in it, and its mounts go with it.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait(COMMAND_TIMEOUT_S)

    @property
    def root(self):
        """The file system of the inside, as seen from here; its Unix sockets can be connected to."""
        return Path(f"/proc/{self.pid}/root")

    @property
    def control(self):
        return self.root / "run/sttd/control.sock"

    @property
    def audio(self):
        return self.root / "run/sttd/audio.sock"

    def configure(self, text):
        """Replace /etc/sttd/sttd.toml; None is the one of the start."""
        (self.root / "etc/sttd/sttd.toml").write_text(self._config if text is None else text)

    def drop_in(self, text, *, unit="sttd.service", name="test"):
        """Add a drop-in to a unit; one named `test` until the next `reset`."""
        directory = self.root / f"run/systemd/system/{unit}.d"
        directory.mkdir(parents=True, exist_ok=True)
        (directory / f"{name}.conf").write_text(text)
        self.systemctl("daemon-reload")

    def reset(self):
        """Everything of sttd stopped, no failure remembered, the configuration and the units as installed."""
        self.systemctl(
            "stop", "sttd.socket", "sttd-audio.socket", "sttd-tcp.socket", "sttd-wyoming.socket", "sttd.service"
        )
        for drop_in in (self.root / "run/systemd/system").glob("sttd*.d/test.conf"):
            drop_in.unlink()
        self.systemctl("daemon-reload")
        self.systemctl("reset-failed")
        self.configure(None)

    def main_pid(self, unit="sttd"):
        """The number of the daemon's process, inside."""
        return int(self.show(unit, "MainPID"))

    def argv(self, *argv, user=None):
        """The command line that runs `argv` inside, as root or as `user`."""
        inside = ["nsenter", "-t", str(self.pid), "-m", "-p", "-C", "-i", "-u", "-n", "-r", "-w"]
        path = "PATH=/opt/sttd/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        as_user = ["runuser", "-u", user, "--"] if user else []
        own = [f"XDG_RUNTIME_DIR=/run/user/{self.uid(user)}", f"HOME=/home/{user}"] if user else ["HOME=/root"]
        return [*inside, *as_user, "env", "-i", path, "LANG=C.UTF-8", *_library_path(), *own, *map(str, argv)]

    def run(self, *argv, user=None, check=True, timeout_s=COMMAND_TIMEOUT_S, **options):
        """Run a command inside and return it with its output; a failure shows the output too."""
        done = subprocess.run(self.argv(*argv, user=user), capture_output=True, text=True, timeout=timeout_s, **options)
        if check and done.returncode:
            raise AssertionError(f"{argv} failed with {done.returncode}:\n{done.stdout}{done.stderr}\n{self.log()}")
        return done

    def systemctl(self, *argv, check=True):
        return self.run("systemctl", "--no-pager", *argv, check=check)

    def python(self, script, *argv, user=None, check=True):
        """Run Python source inside, with sttd importable."""
        return self.run("/opt/sttd/venv/bin/python3", "-c", script, *argv, user=user, check=check)

    def show(self, unit, name):
        """A property of a unit."""
        return self.systemctl("show", "--value", "-p", name, unit).stdout.strip()

    def status_text(self, unit="sttd"):
        """The STATUS line as `systemctl status` shows it."""
        return self.show(unit, "StatusText")

    def journal(self, unit="sttd", *matches):
        """The entries of a unit as maps of fields."""
        lines = self.run("journalctl", "-o", "json", "-u", unit, "--no-pager", *matches).stdout.splitlines()
        return [json.loads(line) for line in lines]

    def log(self):
        """The whole journal as text, for a failed test's message."""
        command = self.argv("journalctl", "--no-pager", "-o", "short-monotonic", "-n", "200")
        return subprocess.run(command, capture_output=True, text=True).stdout

    def wait_until(self, condition, *, what, timeout_s=90):
        """Poll `condition` until it is true; a failure shows `what` and the journal."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}\n{self.log()}"
            time.sleep(0.05)

    def add_user(self, name, *, groups=()):
        """A person, with a runtime directory as logind would make it."""
        self.run("useradd", "--create-home", *(("--groups", ",".join(groups)) if groups else ()), name)
        self.run("install", "-d", "-m", "0700", "-o", name, f"/run/user/{self.uid(name)}")

    def uid(self, name):
        for line in (self.root / "etc/passwd").read_text().splitlines():
            if line.split(":")[0] == name:
                return int(line.split(":")[2])
        raise KeyError(name)


def _program(tree):
    """Lay out /opt/sttd in `tree`; the text of the bind list."""
    site = sysconfig.get_path("purelib")
    binds = {site: OPT / "site", REPOSITORY: OPT / "src"}
    home = Path(sys.base_prefix)
    if home != Path("/usr"):
        binds[home] = OPT / "python"
        home = OPT / "python"
    version = f"python3.{sys.version_info[1]}"
    venv, programs = tree / "opt/sttd/venv", tree / "opt/sttd/bin"
    (venv / f"lib/{version}/site-packages").mkdir(parents=True)
    (venv / "bin").mkdir()
    (venv / "bin/python3").symlink_to(home / "bin" / version)
    (venv / "pyvenv.cfg").write_text(f"home = {home}/bin\ninclude-system-site-packages = false\n")
    (venv / f"lib/{version}/site-packages/lab.pth").write_text(f"{OPT}/src\n{OPT}/src/clients\n{OPT}/site\n")
    programs.mkdir()
    for name, module in (("sttd", "sttd.cli"), ("sttctl", "sttd_client.ctl.main")):
        (programs / name).write_text(ENTRY.format(module=module))
        (programs / name).chmod(0o755)
    if _library_path():
        # An interpreter built with --enable-shared looks for its library where it was built.
        conf = tree / "etc/systemd/system.conf.d/lab.conf"
        conf.parent.mkdir(parents=True)
        conf.write_text(f"[Manager]\nDefaultEnvironment={' '.join(_library_path())}\n")
    return "".join(f"{source} {target}\n" for source, target in binds.items())


def _library_path():
    shared = sysconfig.get_config_var("Py_ENABLE_SHARED") and Path(sys.base_prefix) != Path("/usr")
    return [f"LD_LIBRARY_PATH={OPT}/python/lib"] if shared else []


@contextlib.contextmanager
def _cgroup(directory):
    """A cgroup of version 2 for the system to delegate from; mounted for the occasion where it is not mounted."""
    find = ["findmnt", "-n", "-o", "TARGET", "-t", "cgroup2"]
    mounts = subprocess.run(find, capture_output=True, text=True).stdout.split()
    own_mount = None
    if not mounts:
        own_mount = directory / "cgroup2"
        own_mount.mkdir()
        subprocess.run(["mount", "-t", "cgroup2", "none", own_mount], check=True)
    cgroup = Path(mounts[0] if mounts else own_mount) / f"sttd-lab-{os.getpid()}-{directory.name}"
    cgroup.mkdir()
    try:
        yield cgroup
    finally:
        deadline = time.monotonic() + 10
        while cgroup.exists() and time.monotonic() < deadline:
            for path, _, _ in os.walk(cgroup, topdown=False):
                with contextlib.suppress(OSError):  # busy until the killed processes are reaped
                    os.rmdir(path)
            time.sleep(0.02)
        if own_mount:
            subprocess.run(["umount", own_mount], check=True)


def _boot(directory, cgroup):
    """Start boot.sh in new namespaces and in `cgroup`."""
    enter = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'
    with open(directory / "boot.log", "w") as log:
        return subprocess.Popen(
            ["bash", "-c", enter, "enter", str(cgroup), *NAMESPACES, "bash", HERE / "boot.sh", directory, BASE],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )


def _wait_until_up(directory, process):
    """The process 1 of the inside, by its number here, once it says that the system runs."""
    deadline = time.monotonic() + BOOT_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if children and Path(f"/proc/{children[0]}/comm").read_text() == "systemd\n":
            state = ["nsenter", "-t", children[0], "-a", "systemctl", "is-system-running"]
            if subprocess.run(state, capture_output=True, text=True).stdout.strip() in ("running", "degraded"):
                return int(children[0])
        time.sleep(0.02)
    raise AssertionError(f"the private systemd did not come up:\n{(directory / 'boot.log').read_text()}")
