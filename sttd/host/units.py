"""`sttd install-units`: put the units of systemd in place with the right paths in them, and take them away again.

The templates are in ``systemd/`` at the root of the source, and inside the package once it is built. In them
``@bindir@`` stands for the directory of the programs. Every file written begins with a line that says so; a file
without it is somebody's own and is neither overwritten nor removed.
"""

import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

import sttd
from sttd.errors import AccessError, ConfigError

_MARK = "# Written by `sttd install-units`. Your own changes go beside it: `systemctl edit` makes the place.\n"
_SYSTEM_UNITS = (
    "sttd.service",
    "sttd.socket",
    "sttd-audio.socket",
    "sttd-tcp.socket",
    "sttd-wyoming.socket",
    "sttd-pull@.service",
)
_USER_UNITS = ("sttd.service", "sttd.socket", "sttd-audio.socket", "sttd-wyoming.socket")
_STARTED = "sttd.service sttd.socket sttd-audio.socket"
# ProtectHome= and PrivateTmp= hide these from the system service, so a program there could not even start.
_HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")
_CONFIG = Path("/etc/sttd/sttd.toml")


@attrs.frozen(kw_only=True)
class Scope:
    """Whose units, where they go and where the programs are.

    Args:
        user: the units of one person's own manager instead of the system's.
        prefix: a package's place (``/usr``, ``/usr/local``); None is the administrator's or the user's own directory.
        bindir: where ``sttd`` and ``sttctl`` are; None is ``prefix/bin``, or beside the running interpreter.
        gpu: also the drop-in for an NVIDIA GPU (system only).
        destdir: prepended to every path written, and in no file: the ``DESTDIR`` of packagers.
    """

    user: bool = False
    prefix: Path | None = None
    bindir: Path | None = None
    gpu: bool = False
    destdir: Path | None = None


@attrs.frozen(kw_only=True)
class _Target:
    path: Path  # on the machine where it will run
    content: str
    is_config: bool = False  # written once, then the administrator's


def install(scope: Scope, *, environ: Mapping[str, str], dry_run: bool = False) -> list[str]:
    """Write the units; a second call changes nothing. Returns one line for each file, then what to type next.

    Raises:
        AccessError: a directory is not writable for this user.
        ConfigError: a file of the same name is somebody's own, or the service could not run the program there.
    """
    bindir = _bindir(scope)
    targets = list(_targets(scope, environ=environ, bindir=bindir))
    lines, foreign = [], []
    for target in targets:
        path = _placed(target.path, scope)
        found = _read(path)
        if found == target.content:
            lines.append(f"unchanged  {path}")
        elif found is not None and target.is_config:
            lines.append(f"kept       {path}")
        elif found is not None and not found.startswith(_MARK):
            foreign.append(str(path))
        else:
            lines.append(f"{'updated' if found is not None else 'wrote':<10} {path}")
    if foreign:
        raise ConfigError(f"not written by install-units, move it away first: {', '.join(foreign)}")
    if dry_run:
        return ["(dry run, nothing is written)", *lines]
    for line, target in zip(lines, targets, strict=True):
        if line.startswith(("wrote", "updated")):
            _write(_placed(target.path, scope), target.content)
    return lines if scope.destdir else [*lines, *_next_after_install(scope)]


def uninstall(scope: Scope, *, environ: Mapping[str, str], dry_run: bool = False) -> list[str]:
    """Remove what `install` wrote, and the links of ``systemctl enable``; a changed configuration file stays.

    Raises:
        AccessError: a directory is not writable for this user.
    """
    lines: list[str] = ["(dry run, nothing is removed)"] if dry_run else []
    removed: list[Path] = []
    for target in _targets(attrs.evolve(scope, gpu=True), environ=environ, bindir=Path("/")):
        path = _placed(target.path, scope)
        found = _read(path)
        if found is None:
            continue
        ours = found == target.content if target.is_config else found.startswith(_MARK)
        lines.append(f"{'removed' if ours else 'kept':<10} {path}")
        if ours:
            removed += [*_enablement_links(path, scope), path]
    if not dry_run:
        for path in removed:
            _remove(path)
    if not removed:
        return [*lines, "nothing to remove"]
    return lines if scope.destdir else [*lines, *_next_after_uninstall(scope)]


def templates() -> Path:
    """The directory of the templates: inside the built package, or at the root of a checkout."""
    package = Path(sttd.__file__).parent
    packaged = package / "assets" / "systemd"
    return packaged if packaged.is_dir() else package.parent / "systemd"


def _targets(scope: Scope, *, environ: Mapping[str, str], bindir: Path) -> Iterator[_Target]:
    def unit(source: str, directory: Path) -> _Target:
        content = (templates() / source).read_text().replace("@bindir@", str(bindir))
        return _Target(path=directory / source.partition("/")[2], content=_MARK + content)

    if scope.user:
        own = Path(environ.get("XDG_CONFIG_HOME") or Path(environ.get("HOME", "/")) / ".config") / "systemd/user"
        directory = scope.prefix / "lib/systemd/user" if scope.prefix else own
        yield from (unit(f"user/{name}", directory) for name in _USER_UNITS)
        return
    directory = scope.prefix / "lib/systemd/system" if scope.prefix else Path("/etc/systemd/system")
    yield from (unit(f"system/{name}", directory) for name in _SYSTEM_UNITS)
    if scope.gpu:
        yield unit("system/sttd.service.d/gpu.conf", directory)
    # Unlike units, these are read from /usr/lib and /etc only.
    base = Path("/usr/lib") if scope.prefix == Path("/usr") else Path("/etc")
    yield unit("sysusers.d/sttd.conf", base / "sysusers.d")
    yield unit("tmpfiles.d/sttd.conf", base / "tmpfiles.d")
    yield _Target(path=_CONFIG, content=(templates() / "sttd.toml").read_text(), is_config=True)


def _bindir(scope: Scope) -> Path:
    """The directory for ExecStart=, checked unless it is a package's."""
    bindir = scope.bindir or (scope.prefix / "bin" if scope.prefix else Path(sys.executable).parent)
    if scope.destdir:
        return bindir
    program = bindir / "sttd"
    if not os.access(program, os.X_OK):
        raise ConfigError(f"there is no program {program}; name its directory with --bindir")
    if not scope.user:
        interpreter = (bindir / "python3").resolve()
        for needed in (program.absolute(), program.resolve(), interpreter):
            if any(needed.is_relative_to(hidden) for hidden in _HIDDEN):
                raise ConfigError(
                    f"the system service sees no {needed}: install sttd where all users can read it, "
                    "with the system's Python (python3 -m venv /opt/sttd), or use --user"
                )
    return bindir.absolute()


def _placed(path: Path, scope: Scope) -> Path:
    return scope.destdir / path.relative_to("/") if scope.destdir else path


def _read(path: Path) -> str | None:
    try:
        return path.read_text(errors="replace")
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _denied(path) from error


def _write(path: Path, content: str) -> None:
    """Atomically: a manager that reads at this moment sees the old file or the new one."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(content)
        temporary.chmod(0o644)
        temporary.replace(path)
    except PermissionError as error:
        raise _denied(path) from error


def _remove(path: Path) -> None:
    try:
        path.unlink()
        if path.parent.name in ("sttd", "sttd.service.d") and not any(path.parent.iterdir()):
            path.parent.rmdir()
    except PermissionError as error:
        raise _denied(path) from error


def _denied(path: Path) -> AccessError:
    return AccessError(f"no permission for {path.parent}: run it as root, or with --user")


def _enablement_links(unit: Path, scope: Scope) -> list[Path]:
    """The links that `systemctl enable` made: beside the unit, or in /etc for a unit of a package."""
    places = {unit.parent, _placed(Path("/etc/systemd/user" if scope.user else "/etc/systemd/system"), scope)}
    links = (wants / unit.name for place in places for wants in place.glob("*.wants"))
    return [link for link in links if link.is_symlink()]


def _next_after_install(scope: Scope) -> list[str]:
    if scope.user:
        return ["", "Next:", "  systemctl --user daemon-reload", f"  systemctl --user enable --now {_STARTED}"]
    return [
        "",
        "Next, as root:",
        "  systemd-sysusers && systemd-tmpfiles --create sttd.conf",
        f"  systemctl daemon-reload && systemctl enable --now {_STARTED}",
        "and for everyone who may use it:",
        "  usermod --append --groups sttd USER",
    ]


def _next_after_uninstall(scope: Scope) -> list[str]:
    systemctl = "systemctl --user" if scope.user else "systemctl"
    return ["", "Next:", f"  {systemctl} stop {_STARTED}", f"  {systemctl} daemon-reload"]
