"""Download of a model from Hugging Face or a mirror. Blocking code: `ModelStore.pull` runs it in a thread.

huggingface_hub finds, names and places the files. The weights are fetched here, next to the place they are meant
for, because huggingface_hub throws an interrupted file away: they go on where they stopped, are compared with the
hub's checksum, and only then get their name. At the end every file is compared with the hash that the hub has of it:
SHA-256 of the large ones, git's own of the others.
"""

from __future__ import annotations

import errno
import fcntl
import fnmatch
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import trio

from sttd.errors import ModelError

# faster-whisper's list; preprocessor_config.json is absent from older conversions and defaults to 80 mel bands.
WANTED: Final = ("model.bin", "config.json", "tokenizer.json", "preprocessor_config.json", "vocabulary.*")
BLOCK_BYTES: Final = 1 << 20
ANSWER_S: Final = 10.0  # chosen: a hub that takes longer for its first answer is tried another time

Report = Callable[[int, int | None, str], None]  # bytes done, bytes in all, file name


class HubSilentError(ModelError):
    """The hub cannot be reached, or has troubles of its own: another source may help."""


def ignore(done: int, total: int | None, name: str) -> None:
    """A progress that nobody watches."""


def download(
    repository: str,
    *,
    revision: str,
    cache_dir: Path,
    target: Path | None,
    endpoint: str | None,
    progress: Report,
) -> tuple[Path, dict[str, str]]:
    """Fetch what a Whisper model needs, or what is still missing of it.

    Args:
        repository: `owner/name`.
        revision: branch, tag or commit.
        cache_dir: the Hugging Face cache.
        target: a plain directory to write to instead of the cache.
        endpoint: None for huggingface.co.
        progress: called on the event loop.

    Returns:
        The directory, and the SHA-256 of each file in it, all of them checked.

    Raises:
        ModelError: `model_not_found`, or `model_load_failed` when the download fails; `HubSilentError` where it was
            the hub that did not answer.

    Must run in a thread of `trio.to_thread`: it reports, and notices cancellation, through that thread.
    """
    from huggingface_hub import HfApi, hf_hub_download
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        hub = HfApi(endpoint=endpoint)
        listed = hub.model_info(repository, revision=revision, files_metadata=True, timeout=ANSWER_S).siblings
        wanted = [file for file in listed or [] if any(fnmatch.fnmatch(file.rfilename, name) for name in WANTED)]
        if not wanted:
            raise ModelError(f"{repository} has no model in it")
        tally = Tally(progress, total=sum(file.size or 0 for file in wanted))
        folder = target
        checked: dict[str, str] = {}
        for file in wanted:
            name = file.rfilename
            if file.lfs is not None:
                blobs = cache_dir / f"models--{repository.replace('/', '--')}" / "blobs"
                place = blobs / file.lfs.sha256 if target is None else target / name
                _fetch(place, repository, file, revision=revision, endpoint=endpoint, bar=tally.bar(name))
            if target is None or file.lfs is None:  # the weights are in the cache now, and only get their link
                path = hf_hub_download(
                    repository,
                    name,
                    revision=revision,
                    cache_dir=cache_dir,
                    local_dir=target,
                    endpoint=endpoint,
                    tqdm_class=tally.bar(name),
                )
                folder = Path(path).parent
            tally.finish(file.size or 0, name)
        assert folder is not None
        for file in wanted:
            checked[file.rfilename] = _checked(folder / file.rfilename, file, repository)
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise ModelError(
            f"Hugging Face has no {repository} at {revision}, or it is private", code="model_not_found"
        ) from error
    except ModelError:
        raise
    except Exception as error:  # of its HTTP client, OSError, …: what a download raises depends on the hub's version
        disk = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS)
        raise (ModelError if disk else HubSilentError)(
            f"Downloading {repository} failed: {_first_line(error)} What has arrived is kept; try again."
        ) from error
    return folder, checked


def _checked(path: Path, file: Any, repository: str) -> str:
    """The SHA-256 of a file that is what the hub says it is."""
    digest = sha256(path)
    if file.lfs is not None:
        right = digest == file.lfs.sha256
    else:  # as git hashes a blob; the hub names every file by it
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
        right = file.blob_id is None or git == file.blob_id
    if not right:
        path.resolve().unlink(missing_ok=True)
        raise ModelError(f"{path.name} of {repository} is damaged and was removed; try again")
    return digest


def _fetch(place: Path, repository: str, file: Any, *, revision: str, endpoint: str | None, bar: type[Any]) -> None:
    """Fetch one large file to its place, going on where an earlier call stopped."""
    from huggingface_hub import hf_hub_url
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

    if place.is_file() and place.stat().st_size == file.size:
        return
    place.parent.mkdir(parents=True, exist_ok=True)
    part = place.with_name(place.name + ".part")
    with part.open("ab") as unfinished:
        try:
            fcntl.flock(unfinished, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ModelError(f"another download of {repository} is under way") from None
        http_get(
            hf_hub_url(repository, file.rfilename, revision=revision, endpoint=endpoint),
            unfinished,
            resume_size=unfinished.tell(),
            headers=build_hf_headers(),
            expected_size=file.size,
            displayed_filename=file.rfilename,
            tqdm_class=bar,
        )
        unfinished.flush()
        if sha256(part) != file.lfs.sha256:
            part.unlink()
            raise ModelError(f"{file.rfilename} of {repository} arrived damaged and was removed; try again")
        part.rename(place)


def sha256(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal. Notices cancellation."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            trio.from_thread.check_cancelled()
            digest.update(block)
    return digest.hexdigest()


class Tally:
    """Adds the files of one download up for `progress`.

    A cancelled pull ends here too: huggingface_hub lets nobody into its loop but a progress bar.
    """

    def __init__(self, progress: Report, *, total: int) -> None:
        self._progress = progress
        self._total = total
        self._done = 0

    def finish(self, size: int, name: str) -> None:
        """A file is complete."""
        self._done += size
        self.report(0, name)

    def bar(self, name: str) -> type[Any]:
        """A tqdm class that draws nothing and reports here."""
        from tqdm.auto import tqdm  # type: ignore[import-untyped]

        report = self.report

        class Bar(tqdm):  # type: ignore[misc]
            # Disabled, it takes none of tqdm's locks and starts no thread: a cancelled pull leaves through `update`,
            # and tqdm would keep its global lock for ever after an exception while drawing.
            monitor_interval = 0

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                kwargs.pop("name", None)  # of huggingface_hub's own bars
                super().__init__(*args, **{**kwargs, "disable": True})
                report(int(self.n), name)

            def update(self, n: float | None = 1) -> bool | None:
                self.n += n or 0
                report(int(self.n), name)
                return None

        return Bar

    def report(self, of_file: int, name: str) -> None:
        """So many bytes of the present file are there."""
        trio.from_thread.check_cancelled()
        trio.from_thread.run_sync(self._progress, min(self._done + of_file, self._total), self._total, name)


def _first_line(error: BaseException) -> str:
    text = str(error).strip().partition("\n")[0]
    return text if text.endswith(".") else f"{text}."
