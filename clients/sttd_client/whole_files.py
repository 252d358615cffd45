"""Files that are there complete or not at all."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file that takes the place of `path`, on the disk, when the block ends well; otherwise `path` stays as it is.

    Raises:
        OSError: it cannot be written.
    """
    # A name as long as it may be has room for no ending.
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".sttctl-")
    try:
        with open(descriptor, "w+b") as file:
            os.fchmod(descriptor, _mode(path))  # mkstemp makes it private, which a transcript need not be
            yield file
            file.flush()
            os.fsync(descriptor)
            os.replace(draft, path)
    except BaseException:
        os.unlink(draft)
        raise


def _mode(path: Path) -> int:
    """That of the file whose place it takes, else what the user's mask leaves."""
    try:
        return path.stat().st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask
