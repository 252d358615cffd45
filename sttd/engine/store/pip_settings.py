"""Which package index pip would use, and how: its environment variables and configuration files, read as it reads them.

Whoever has a mirror, a proxy or an index of the house has told pip already, and is not asked again. Later ones win:
pip's own default; the machine's files, the user's, the environment's (`sys.prefix/pip.conf`), the one that
`PIP_CONFIG_FILE` names; `PIP_…` variables. Within a file `[global]` comes before `[download]`. See "Configuration" in
pip's user guide.
"""

from __future__ import annotations

import configparser
import importlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import attrs

from sttd.errors import ModelError

_TIMEOUT_S = 15.0  # pip's default


@attrs.frozen(kw_only=True)
class PipSettings:
    """What of pip's configuration matters for fetching one file."""

    indexes: tuple[str, ...]  # pages of projects, without the project; the first is asked first
    find_links: tuple[str, ...] = ()  # directories or pages with files, asked before the indexes
    trusted_hosts: frozenset[str] = frozenset()  # host or host:port whose certificate is not checked
    cert: str | None = None
    client_cert: str | None = None
    proxy: str | None = None
    timeout_s: float = _TIMEOUT_S


def pip_settings(environ: Mapping[str, str] = os.environ, *, prefix: str = sys.prefix) -> PipSettings:
    """Read them.

    Args:
        environ: the environment of the process.
        prefix: of the Python environment, which may have a `pip.conf` of its own.

    Raises:
        ModelError: a file cannot be read, or nothing says where the index is.
    """
    values: dict[str, str] = {}
    for path in _files(environ, prefix):
        values |= _values(path)
    for name, value in environ.items():
        if name.startswith("PIP_") and name != "PIP_CONFIG_FILE" and value:
            values[name.removeprefix("PIP_").lower().replace("_", "-")] = value
    indexes: tuple[str, ...] = ()
    if not _truth(values.get("no-index", "")):
        main = values.get("index-url") or _default_index()
        indexes = tuple(url.rstrip("/") for url in (main, *values.get("extra-index-url", "").split()) if url)
    find_links = tuple(values.get("find-links", "").split())
    if not indexes and not find_links:
        raise ModelError("pip knows of no package index here: set PIP_INDEX_URL, or PIP_FIND_LINKS to a directory")
    return PipSettings(
        indexes=indexes,
        find_links=find_links,
        trusted_hosts=frozenset(values.get("trusted-host", "").split()),
        cert=values.get("cert"),
        client_cert=values.get("client-cert"),
        proxy=values.get("proxy"),
        timeout_s=_number(values.get("timeout") or values.get("default-timeout"), _TIMEOUT_S),
    )


def _files(environ: Mapping[str, str], prefix: str) -> Iterator[Path]:
    named = environ.get("PIP_CONFIG_FILE")
    if named == os.devnull:  # pip's way to say: none at all
        return
    for directory in (environ.get("XDG_CONFIG_DIRS") or "/etc/xdg").split(":"):
        yield Path(directory) / "pip" / "pip.conf"
    yield Path("/etc/pip.conf")
    home = Path(environ.get("HOME") or "~").expanduser()
    yield home / ".pip" / "pip.conf"
    yield Path(environ.get("XDG_CONFIG_HOME") or home / ".config") / "pip" / "pip.conf"
    yield Path(prefix) / "pip.conf"
    if named:
        yield Path(named)


def _values(path: Path) -> dict[str, str]:
    parser = configparser.RawConfigParser()
    try:
        parser.read(path, encoding="utf-8")  # one that is not there is passed over
    except (OSError, UnicodeDecodeError, configparser.Error) as error:
        raise ModelError(f"pip's configuration {path} cannot be read: {_first_line(error)}") from None
    values: dict[str, str] = {}
    for section in ("global", "download"):
        if parser.has_section(section):
            values |= {name.replace("_", "-"): value for name, value in parser.items(section)}
    return values


def _default_index() -> str:
    """The index that pip uses untold, in pip's own words; "" where there is no pip, or one of other makings."""
    try:
        return str(importlib.import_module("pip._internal.models.index").PyPI.simple_url)
    except (ImportError, AttributeError):
        return ""


def _truth(word: str) -> bool:
    return word.strip().lower() in ("1", "true", "yes", "on", "y", "t")


def _number(word: str | None, default: float) -> float:
    try:
        value = float(word or "")
    except ValueError:
        return default
    return value if 0 < value < 3600 else default


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]
