"""`sttd install-units`: where the files go, what is left alone, and that it undoes itself."""

import sys
from pathlib import Path

import attrs
import pytest

from sttd.errors import AccessError, ConfigError
from sttd.host import units
from sttd.host.units import Scope, install, uninstall

USER_UNITS = ["sttd-audio.socket", "sttd-wyoming.socket", "sttd.service", "sttd.socket"]
SYSTEM_FILES = [
    "etc/sttd/sttd.toml",
    "usr/lib/systemd/system/sttd-audio.socket",
    "usr/lib/systemd/system/sttd-pull@.service",
    "usr/lib/systemd/system/sttd-tcp.socket",
    "usr/lib/systemd/system/sttd-wyoming.socket",
    "usr/lib/systemd/system/sttd.service",
    "usr/lib/systemd/system/sttd.socket",
    "usr/lib/sysusers.d/sttd.conf",
    "usr/lib/tmpfiles.d/sttd.conf",
]


def files(root):
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir())


@pytest.fixture
def bindir(tmp_path):
    directory = tmp_path / "bin"
    directory.mkdir()
    for name in ("sttd", "sttctl"):
        (directory / name).write_text("#!/bin/sh\n")
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture
def home(tmp_path):
    directory = tmp_path / "home"
    directory.mkdir()
    return directory


@pytest.fixture
def user(home, bindir):
    """Install for one person: the scope and the environment."""
    return Scope(user=True, bindir=bindir), {"HOME": str(home)}


def test_a_person_s_units_name_the_program_and_say_what_is_next(user, home, bindir):
    scope, environ = user
    lines = install(scope, environ=environ)
    directory = home / ".config/systemd/user"
    assert files(directory) == USER_UNITS
    service = (directory / "sttd.service").read_text()
    assert f"ExecStart={bindir}/sttd serve" in service
    assert f"ExecReload={bindir}/sttctl " in service
    assert "@" not in service.replace("SystemCallFilter=@system-service", "").replace("~@privileged", "")
    assert f"wrote      {directory}/sttd.service" in lines
    assert "  systemctl --user enable --now sttd.service sttd.socket sttd-audio.socket" in lines


def test_xdg_config_home_is_respected(bindir, tmp_path):
    install(Scope(user=True, bindir=bindir), environ={"XDG_CONFIG_HOME": str(tmp_path / "xdg"), "HOME": "/nowhere"})
    assert files(tmp_path / "xdg/systemd/user") == USER_UNITS


def test_a_second_time_changes_nothing_and_an_upgrade_is_written(user, home):
    scope, environ = user
    install(scope, environ=environ)
    service = home / ".config/systemd/user/sttd.service"
    before = service.stat().st_mtime_ns
    assert f"unchanged  {service}" in install(scope, environ=environ)
    assert service.stat().st_mtime_ns == before
    written = service.read_text()
    service.write_text(written + "# of an older version\n")
    assert f"updated    {service}" in install(scope, environ=environ)
    assert service.read_text() == written


def test_a_dry_run_writes_and_removes_nothing(user, home):
    scope, environ = user
    lines = install(scope, environ=environ, dry_run=True)
    assert lines[0].startswith("(dry run")
    assert f"wrote      {home}/.config/systemd/user/sttd.service" in lines
    assert files(home) == []
    install(scope, environ=environ)
    before = files(home)
    assert f"removed    {home}/.config/systemd/user/sttd.service" in uninstall(scope, environ=environ, dry_run=True)
    assert files(home) == before


def test_it_undoes_itself_with_the_links_of_enable(user, home):
    scope, environ = user
    install(scope, environ=environ)
    directory = home / ".config/systemd/user"
    (directory / "sockets.target.wants").mkdir()
    (directory / "sockets.target.wants/sttd.socket").symlink_to(directory / "sttd.socket")
    (directory / "other.service").write_text("[Unit]\n")
    lines = uninstall(scope, environ=environ)
    assert f"removed    {directory}/sttd.service" in lines
    assert lines[-2:] == [
        "  systemctl --user stop sttd.service sttd.socket sttd-audio.socket",
        "  systemctl --user daemon-reload",
    ]
    assert files(home) == [".config/systemd/user/other.service"]
    assert uninstall(scope, environ=environ) == ["nothing to remove"]


def test_somebody_s_own_unit_is_neither_overwritten_nor_removed(user, home):
    scope, environ = user
    own = home / ".config/systemd/user/sttd.service"
    own.parent.mkdir(parents=True)
    own.write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(ConfigError, match=r"not written by install-units.*sttd\.service"):
        install(scope, environ=environ)
    assert files(own.parent) == ["sttd.service"]
    assert uninstall(scope, environ=environ) == [f"kept       {own}", "nothing to remove"]
    assert own.read_text() == "[Service]\nExecStart=/bin/true\n"


def test_a_package_is_staged_under_destdir_and_names_the_final_paths(tmp_path):
    stage = tmp_path / "stage"
    scope = Scope(prefix=Path("/usr"), destdir=stage)
    lines = install(scope, environ={})
    assert files(stage) == SYSTEM_FILES
    service = (stage / "usr/lib/systemd/system/sttd.service").read_text()
    assert "ExecStart=/usr/bin/sttd serve --runtime-dir /run/sttd\n" in service
    assert str(stage) not in service
    assert (stage / "usr/lib/systemd/system/sttd.service").stat().st_mode & 0o777 == 0o644
    assert not any("systemctl" in line for line in lines)
    uninstall(scope, environ={})
    assert files(stage) == []


def test_user_units_of_a_package_are_for_everybody(tmp_path):
    install(Scope(prefix=Path("/usr"), user=True, destdir=tmp_path), environ={"HOME": "/root"})
    assert files(tmp_path) == [f"usr/lib/systemd/user/{name}" for name in USER_UNITS]


def test_the_administrator_s_place_is_etc_and_the_gpu_drop_in_is_asked_for(tmp_path):
    scope = Scope(bindir=Path("/opt/sttd/bin"), destdir=tmp_path, gpu=True)
    install(scope, environ={})
    staged = files(tmp_path)
    assert "etc/systemd/system/sttd.service.d/gpu.conf" in staged
    assert all(name.startswith("etc/") for name in staged)
    uninstall(attrs.evolve(scope, gpu=False), environ={})
    assert not (tmp_path / "etc/systemd/system/sttd.service.d").exists()


def test_with_a_local_prefix_users_and_directories_are_still_declared_where_they_are_read(tmp_path):
    install(Scope(prefix=Path("/usr/local"), destdir=tmp_path), environ={})
    staged = files(tmp_path)
    assert "usr/local/lib/systemd/system/sttd.service" in staged
    assert "etc/sysusers.d/sttd.conf" in staged


def test_a_configuration_that_was_changed_outlives_everything(tmp_path):
    scope = Scope(prefix=Path("/usr"), destdir=tmp_path)
    install(scope, environ={})
    config = tmp_path / "etc/sttd/sttd.toml"
    config.write_text("[models]\nmodel = 'tiny'\n")
    assert f"kept       {config}" in install(scope, environ={})
    assert f"kept       {config}" in uninstall(scope, environ={})
    assert config.read_text() == "[models]\nmodel = 'tiny'\n"


def test_links_of_enable_for_a_package_s_unit_are_in_etc(tmp_path):
    scope = Scope(prefix=Path("/usr"), destdir=tmp_path)
    install(scope, environ={})
    link = tmp_path / "etc/systemd/system/sockets.target.wants/sttd.socket"
    link.parent.mkdir(parents=True)
    link.symlink_to("/usr/lib/systemd/system/sttd.socket")
    uninstall(scope, environ={})
    assert not link.is_symlink()


def test_an_absent_program_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"no program .*--bindir"):
        install(Scope(user=True, bindir=tmp_path), environ={"HOME": str(tmp_path)})


def test_the_programs_are_beside_the_interpreter_by_default(home):
    scope = Scope(user=True)
    assert any("sttd.service" in line for line in install(scope, environ={"HOME": str(home)}))
    service = (home / ".config/systemd/user/sttd.service").read_text()
    assert f"ExecStart={Path(sys.executable).parent}/sttd serve" in service


@pytest.mark.parametrize("where", ["/home", "/root", "/tmp"])
def test_the_system_service_is_not_pointed_at_what_it_cannot_see(bindir, where, monkeypatch):
    monkeypatch.setattr(units, "_HIDDEN", (str(bindir),))
    with pytest.raises(ConfigError, match="the system service sees no"):
        install(Scope(bindir=bindir), environ={})
    monkeypatch.undo()
    assert where in units._HIDDEN


def test_an_interpreter_behind_a_closed_home_is_found_out(bindir, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed/python3").write_text("")
    (bindir / "python3").symlink_to(tmp_path / "closed/python3")
    monkeypatch.setattr(units, "_HIDDEN", (str(tmp_path / "closed"),))
    with pytest.raises(ConfigError, match="closed/python3"):
        install(Scope(bindir=bindir), environ={})


@pytest.mark.parametrize("method", ["mkdir", "read_text", "unlink"])
def test_a_directory_of_somebody_else_is_a_clear_refusal(user, home, method, monkeypatch):
    scope, environ = user
    original = getattr(Path, method)

    def refuse(path, *arguments, **options):
        if path.is_relative_to(home):
            raise PermissionError(13, "Permission denied")
        return original(path, *arguments, **options)

    if method == "unlink":
        install(scope, environ=environ)
    monkeypatch.setattr(Path, method, refuse)
    with pytest.raises(AccessError, match="run it as root, or with --user"):
        (uninstall if method == "unlink" else install)(scope, environ=environ)


def test_templates_of_a_built_package_are_inside_it(tmp_path, monkeypatch):
    (tmp_path / "assets/systemd").mkdir(parents=True)
    monkeypatch.setattr("sttd.__file__", str(tmp_path / "__init__.py"))
    assert units.templates() == tmp_path / "assets/systemd"
