"""The unit files by themselves: what systemd-analyze says about them. Needs systemd, no root."""

import json
import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest

from sttd.config import reader as config_reader
from sttd.config import tree as config
from sttd.host import units

pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")

REPOSITORY = Path(__file__).parent.parent.parent


@pytest.fixture
def installed(tmp_path):
    """Units with programs that exist, as `verify` wants to see them: the directory of the system's and the user's."""
    bindir = tmp_path / "bin"
    bindir.mkdir()
    for name in ("sttd", "sttctl"):
        (bindir / name).symlink_to("/bin/true")

    def install(*, gpu=False):
        for user in (False, True):
            units.install(units.Scope(user=user, bindir=bindir, destdir=tmp_path, gpu=gpu), environ={"HOME": "/u"})
        return tmp_path / "etc/systemd/system", tmp_path / "u/.config/systemd/user"

    return install


def analyze(*arguments, **environ):
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", **environ},
    )


@pytest.mark.parametrize("gpu", [False, True])
def test_verify_has_nothing_to_say(installed, tmp_path, gpu):
    system, user = installed(gpu=gpu)
    # Unknown keys and bad values are warnings with exit status 0, so silence is what counts.
    done = analyze("verify", *sorted(path for path in system.iterdir() if path.is_file()))
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    done = analyze("verify", "--user", *sorted(user.iterdir()), XDG_RUNTIME_DIR=str(tmp_path), HOME="/u")
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_verify_would_notice(installed):
    system, _ = installed()
    service = system / "sttd.service"
    service.write_text(service.read_text().replace("Type=notify", "Type=notify-again"))
    assert "notify-again" in analyze("verify", service).stderr


@pytest.mark.parametrize(("gpu", "threshold"), [(False, 15), (True, 18)])
def test_the_exposure_is_below_its_bound(installed, gpu, threshold):
    system, _ = installed(gpu=gpu)
    done = analyze("security", "--offline=true", f"--threshold={threshold}", system / "sttd.service")
    assert done.returncode == 0, done.stdout
    assert float(re.search(r"exposure level for sttd.service: ([\d.]+)", done.stdout)[1]) <= threshold / 10


def test_what_would_break_the_daemon_is_absent_with_its_reason(installed):
    system, _ = installed()
    text = (system / "sttd.service").read_text()
    for directive in ("MemoryDenyWriteExecute=", "PrivateUsers=", "ProcSubset=", "PrivateNetwork="):
        assert not re.search(rf"^{directive}", text, re.MULTILINE)
        assert re.search(rf"^# {directive}", text, re.MULTILINE), f"no reason given for leaving out {directive}"
    assert "Type=notify\n" in text  # notify-reload is not known to systemd 252


def test_a_drain_fits_into_the_time_to_stop():
    for scope in ("system", "user"):
        text = (REPOSITORY / f"systemd/{scope}/sttd.service").read_text()
        stop_s = int(re.search(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE)[1])
        assert stop_s >= config.Config().server.drain_s + 10


def test_the_gpu_drop_in_opens_the_devices_and_nothing_else(installed):
    system, _ = installed(gpu=True)
    done = analyze("security", "--offline=true", "--json=short", system / "sttd.service")
    exposed = {row["name"] for row in json.loads(done.stdout) if float(row["exposure"] or 0) > 0}
    (system / "sttd.service.d/gpu.conf").unlink()
    done = analyze("security", "--offline=true", "--json=short", system / "sttd.service")
    before = {row["name"] for row in json.loads(done.stdout) if float(row["exposure"] or 0) > 0}
    assert exposed - before == {"PrivateDevices=", "SupplementaryGroups="}


def test_every_file_of_systemd_is_installed(installed, tmp_path):
    installed(gpu=True)
    sources = {path.name for path in (REPOSITORY / "systemd").rglob("*") if path.is_file()}
    assert sources <= {path.name for path in tmp_path.rglob("*")}


def test_the_example_configuration_is_the_code_s():
    script = runpy.run_path(str(REPOSITORY / "scripts/make-config-example"))
    lines = []
    script["main"].__globals__["print"] = lambda text="": lines.append(text)
    script["main"]()
    text = "\n".join(lines) + "\n"
    assert text == (REPOSITORY / "systemd/sttd.toml").read_text(), "scripts/make-config-example > systemd/sttd.toml"


def test_the_example_configuration_holds_as_it_is_and_with_every_comment_taken_off(tmp_path):
    text = (REPOSITORY / "systemd/sttd.toml").read_text()
    for name, content in (("as-is", text), ("uncommented", re.sub(r"^#(?=[a-z_[]+)", "", text, flags=re.MULTILINE))):
        (tmp_path / name).write_text(content)
        loaded = config_reader.load(config_file=tmp_path / name, environ={})
        assert loaded.config == config.Config(presets=loaded.config.presets)
    assert loaded.config.presets["dictation"]["device"] == "cuda"
    assert loaded.origins.keys() >= {key for key, _ in config.options()}
