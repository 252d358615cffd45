"""A transcript's file, written while people speak; what changes in it is decided in `growing_transcript.py`.

What is added is written in one piece behind the rest. What takes the place of something is a new file, which takes the
name of the old one when it is complete. So who reads the file, and who finds it after this process was killed, has a
whole transcript. What cannot be written is kept, and tried again with the next utterance and at the end.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from sttd_client.growing_transcript import Change, GrowingTranscript
from sttd_client.transcripts import Entry
from sttd_client.whole_files import replacing

_SYNC_S = 5.0  # chosen: so much may be lost when the power fails; a disk is not kept busy by every sentence
_COPIED_BYTES = 1 << 20


class TranscriptFile:
    """One file. Its methods block as long as the disk does. `add` raises nothing of the disk's: speech goes on."""

    def __init__(
        self, path: Path, transcript: GrowingTranscript, *, overwrite: bool, tell: Callable[[str], None]
    ) -> None:
        """Nothing is written before `begin`.

        Args:
            overwrite: a file of that name may go.
            tell: gets what the user should know, once for each time that writing begins to fail or to work again.
        """
        self._path = Path(os.path.realpath(path)) if overwrite else path
        self._transcript = transcript
        self._overwrite = overwrite
        self._tell = tell
        self._descriptor = -1
        self._written = self._keep = 0  # bytes in the file, and those of them that stay
        self._unwritten = b""  # what is to follow these
        self._error: OSError | None = None
        self._synced_at = time.monotonic()

    def begin(self) -> None:
        """Make the file, without an utterance.

        Raises:
            OSError: it cannot be made; or it is there, and may not be overwritten (`FileExistsError`).
        """
        change = self._transcript.begin()
        if self._overwrite:
            self._replace(change)
        else:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
            self._append(change.data)

    def add(self, entry: Entry) -> None:
        """Write an utterance or a hole."""
        change = self._transcript.add(entry)
        if change.keep >= self._keep:
            self._unwritten = self._unwritten[: change.keep - self._keep] + change.data
        else:
            self._keep, self._unwritten = change.keep, change.data
        self._try()

    def close(self) -> None:
        """Write what could not be written before, and have it all on the disk. Without `begin` it does nothing.

        Raises:
            OSError: something is missing in the file.
        """
        if self._descriptor < 0:
            return
        try:
            if self._error is not None:
                self._try()
            if self._error is not None:
                raise self._error
            os.fsync(self._descriptor)
        finally:
            os.close(self._descriptor)
            self._descriptor = -1

    # ---------------------------------------------------------------- the disk

    def _try(self) -> None:
        try:
            self._write()
        except OSError as error:
            if self._error is None:
                self._tell(f"{self._path}: {error.strerror}; captions go on, and what is missing is tried again")
            self._error = OSError(error.errno, error.strerror, str(self._path))
        else:
            if self._error is not None:
                self._tell(f"{self._path} is written again, and nothing is missing in it")
            self._error = None

    def _write(self) -> None:
        own = os.fstat(self._descriptor)
        removed = own.st_nlink == 0
        if self._path.exists() and not os.path.samestat(own, self._path.stat()):
            raise FileExistsError(errno.EEXIST, "another program put its own file there")
        if removed or self._keep != self._written:
            self._replace(Change(self._keep, self._unwritten))
        else:
            self._append(self._unwritten)
        if time.monotonic() - self._synced_at >= _SYNC_S:
            os.fsync(self._descriptor)
            self._synced_at = time.monotonic()

    def _append(self, data: bytes) -> None:
        count = 0
        try:
            while count < len(data):
                count += os.pwrite(self._descriptor, data[count:], self._written + count)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._written)  # half an utterance is none
            raise
        self._is_written(self._written + len(data))

    def _replace(self, change: Change) -> None:
        with replacing(self._path) as file:
            for at in range(0, change.keep, _COPIED_BYTES):
                file.write(os.pread(self._descriptor, min(_COPIED_BYTES, change.keep - at), at))
            file.write(change.data)
        new = os.open(self._path, os.O_RDWR | os.O_CLOEXEC)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = new
        self._is_written(change.keep + len(change.data))

    def _is_written(self, size: int) -> None:
        self._written = self._keep = size
        self._unwritten = b""
