"""What sttd remembers of models between two runs, in one JSON file beside its cache.

- **receipts**: where a model came from, and the hash that each of its files had when it was verified. It holds as long
  as size and time of every file are what they were; after that it says nothing.
- **speeds**: how long this machine takes for a model (`engine/speed.py`), by everything that the time depends on.

Several processes may write (`sttd pull` beside a daemon): each reads, changes and replaces the file under a lock. It is
a cache: a file that is damaged or cannot be written costs what it remembers, and nothing else.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Literal, TypeVar

import attrs
import cattrs

from sttd.host import logs

log = logs.get(__name__)

Source = Literal["hub", "index", "directory", "embedded", "remote"]

_MAX_BYTES: Final = 4 * 1024 * 1024  # a file beyond that is none of ours
_MAX_ENTRIES: Final = 500  # of each kind; the oldest go (chosen: nobody has as many models)

Entry = TypeVar("Entry")


@attrs.frozen(kw_only=True)
class FileReceipt:
    """One file as it was when it was verified."""

    size_bytes: int
    mtime_ns: int
    sha256: str


@attrs.frozen(kw_only=True)
class Receipt:
    """One model: where it came from, and its files."""

    source: Literal["hub", "index"]
    files: Mapping[str, FileReceipt]

    def holds(self, folder: Path) -> bool:
        """Whether the files are still those that were verified. A `stat` call a file."""
        try:
            return bool(self.files) and all(
                (found := (folder / name).stat()).st_size == file.size_bytes and found.st_mtime_ns == file.mtime_ns
                for name, file in self.files.items()
            )
        except OSError:
            return False


@attrs.frozen(kw_only=True)
class Speed:
    """How long this machine takes for a model. `window_s` is None where the interim was too slow already."""

    interim_s: float
    window_s: float | None = None
    takes: int = 1  # measurements that this is the best of


@attrs.define(eq=False)
class Ledger:
    """The file. Every method may be called from any thread; reading costs a `stat` while nothing has changed."""

    path: Path
    _seen: tuple[int, int] | None = attrs.field(default=None, init=False)  # mtime_ns and inode of what was read
    _receipts: dict[str, Receipt] = attrs.field(factory=dict, init=False)
    _speeds: dict[str, Speed] = attrs.field(factory=dict, init=False)

    def receipt(self, folder: Path) -> Receipt | None:
        """What is known of the model in a directory, if it still holds."""
        self._read()
        found = self._receipts.get(str(folder))
        return found if found is not None and found.holds(folder) else None

    def speed(self, key: str) -> Speed | None:
        """What was measured under that key."""
        self._read()
        return self._speeds.get(key)

    def note_receipt(self, folder: Path, *, source: Literal["hub", "index"], hashes: Mapping[str, str]) -> None:
        """Remember that the files of a directory had these SHA-256 just now."""
        files = {}
        for name, digest in hashes.items():
            found = (folder / name).stat()
            files[name] = FileReceipt(size_bytes=found.st_size, mtime_ns=found.st_mtime_ns, sha256=digest)
        receipt = Receipt(source=source, files=files)
        self._change(lambda content: content.setdefault("receipts", {}).update({str(folder): attrs.asdict(receipt)}))

    def note_speed(self, key: str, speed: Speed) -> None:
        """Remember a measurement."""
        self._change(lambda content: content.setdefault("speeds", {}).update({key: attrs.asdict(speed)}))

    # ------------------------------------------------------------------ the file

    def _read(self) -> None:
        try:
            found = self.path.stat()
        except OSError:
            self._seen, self._receipts, self._speeds = None, {}, {}
            return
        seen = (found.st_mtime_ns, found.st_ino)
        if seen != self._seen:
            content = self._content()
            self._receipts = _entries(content.get("receipts"), Receipt)
            self._speeds = _entries(content.get("speeds"), Speed)
            self._seen = seen

    def _content(self) -> dict[str, Any]:
        try:
            with self.path.open("rb") as file:
                content = json.loads(file.read(_MAX_BYTES))
        except (OSError, ValueError, RecursionError):
            return {}
        return content if isinstance(content, dict) else {}

    def _change(self, change: Callable[[dict[str, Any]], object]) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.with_suffix(".lock").open("ab") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                content = self._content()
                for kind in ("receipts", "speeds"):
                    known = content.get(kind)
                    content[kind] = dict(list(known.items())[-_MAX_ENTRIES:]) if isinstance(known, dict) else {}
                change(content)
                fresh = self.path.with_suffix(f".{os.getpid()}")
                try:
                    fresh.write_text(json.dumps(content, indent=1), encoding="utf-8")
                    fresh.replace(self.path)
                finally:
                    with contextlib.suppress(OSError):
                        fresh.unlink(missing_ok=True)
        except OSError as error:
            log.warning("what was found out about the models is not kept", path=str(self.path), reason=error.strerror)


def _entries(content: Any, kind: type[Entry]) -> dict[str, Entry]:
    """Those entries that are what they should be."""
    entries: dict[str, Entry] = {}
    for key, value in content.items() if isinstance(content, dict) else ():
        with contextlib.suppress(
            Exception
        ):  # cattrs raises what it finds, and whoever edits this file may put anything
            entries[key] = cattrs.structure(value, kind)
    return entries
