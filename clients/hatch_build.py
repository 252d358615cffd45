"""What is in the wheel of the client library: the library, and of `sttd` those modules that it imports.

They go into it as `sttd_client._sttd`, and every import of them is told so. So the wheel has no file under `sttd/`:
installed beside `sttd`, of whatever version, it cannot change a file of the daemon. In the tree they stand once.
"""

from __future__ import annotations

import ast
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

CLIENTS = Path(__file__).resolve().parent
TREE = CLIENTS.parent
CARRIED = "sttd_client._sttd"
# They start a daemon, which is not there.
LEFT_OUT = re.compile(r"sttd_client/(demo\w*|daemon_process)\.py")

_IMPORT = re.compile(r"^(\s*from )sttd(?=[. ])", re.MULTILINE)


class ClientHook(BuildHookInterface[Any]):
    """Called by hatchling."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write what goes into the wheel; an editable one finds the tree.

        Raises:
            RuntimeError: a source distribution is asked for. It could not be built from without the tree round it.
        """
        if self.target_name == "sdist":
            raise RuntimeError("the client library is built from the tree of sttd, without an sdist between: --wheel")
        if version == "editable":
            return
        self.scratch = Path(tempfile.mkdtemp())
        for name, data in contents().items():
            path = self.scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            build_data["force_include"][str(path)] = name

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """The wheel is made."""
        if self.target_name == "wheel" and version != "editable":
            shutil.rmtree(self.scratch)


def contents() -> dict[str, bytes]:
    """The files of the wheel by their names in it."""
    library = {
        path.relative_to(CLIENTS).as_posix(): path.read_bytes()
        for path in sorted((CLIENTS / "sttd_client").rglob("*"))
        if path.is_file() and "__pycache__" not in path.parts
    }
    library = {name: data for name, data in library.items() if not LEFT_OUT.fullmatch(name)}
    carried = {
        f"{CARRIED.replace('.', '/')}/{path.relative_to(TREE / 'sttd').as_posix()}": path.read_bytes()
        for path in carried_files([data.decode() for name, data in library.items() if name.endswith(".py")])
    }
    files = library | carried
    return {name: _renamed(data) if name.endswith(".py") else data for name, data in files.items()}


def carried_files(sources: list[str]) -> list[Path]:
    """The modules of `sttd` that these import, and those that they import, and so on."""
    found: set[Path] = set()
    sources = list(sources)
    while sources:
        for path in _imported(sources.pop()):
            if path not in found:
                found.add(path)
                sources.append(path.read_text())
    return sorted(found)


def _imported(source: str) -> Iterator[Path]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(alias.name.split(".")[0] == "sttd" for alias in node.names):
            raise ValueError("`import sttd...` cannot be renamed; write `from sttd... import`")
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "sttd":
            assert node.module is not None
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                yield from _files(name.split("."))


def _files(parts: list[str]) -> Iterator[Path]:
    """A module's file, and those of the packages that it is in; nothing where it is no module but a name in one."""
    for end in range(1, len(parts) + 1):
        path = TREE.joinpath(*parts[:end])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield file


def _renamed(source: bytes) -> bytes:
    return _IMPORT.sub(rf"\1{CARRIED}", source.decode()).encode()
