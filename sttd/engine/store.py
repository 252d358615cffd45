"""Models on disk: where they are, how large they are, and how to get them.

A preset's `model` is looked for in this order, without ever touching the network:

1. `demo`: the model embedded in the package;
2. a directory, when it is written as a path (`/…`, `./…`, `~/…`);
3. `models_dir/<name>`, when the configuration names such a directory;
4. sttd's own cache, where models from the package index are put;
5. the Hugging Face cache, under the repository of that name.

A directory counts only when it is complete. That includes `tokenizer.json`: without it faster-whisper would
fetch one from the network while loading.
"""

from __future__ import annotations

import functools
import os
import re
from importlib import resources
from pathlib import Path
from typing import Final

import attrs
import trio

from sttd.engine.download import Report, download, ignore
from sttd.engine.presets import REPOSITORIES, pull_unit
from sttd.errors import AccessError, ModelError

REQUIRED: Final = ("model.bin", "config.json", "tokenizer.json")
MAX_DOWNLOADS: Final = 2
# owner/name as the hub allows it: no part begins or ends with a dash or dot, none has two in a row.
_PART: Final = r"(?=[^/]{1,96}(?:/|$))\w+(?:[.-]\w+)*"
_REPOSITORY: Final = re.compile(f"{_PART}/{_PART}", re.ASCII)


@attrs.frozen(kw_only=True, eq=False)
class ModelStore:
    """The places where models lie.

    Args:
        models_dir: a directory with one subdirectory a model; `pull` writes there when it is set.
        own_dir: the directory of models from the package index; None for `$XDG_CACHE_HOME/sttd/models`.
        cache_dir: the Hugging Face cache; None for the one that huggingface_hub itself would use.
        network: False where the service is denied the network, so that `pull` can say so at once.
        endpoint: a mirror of huggingface.co; None for what huggingface_hub itself would use.
    """

    models_dir: Path | None = None
    own_dir: Path | None = None
    cache_dir: Path | None = None
    network: bool = True
    endpoint: str | None = None
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_DOWNLOADS), init=False)

    def locate(self, model: str, *, revision: str | None = None) -> Path | None:
        """The complete directory of a model, or None. A few `stat` calls."""
        candidates = [embedded_model() if model == "demo" else None]
        if is_path(model):
            candidates.append(Path(model).expanduser())
        else:
            if self.models_dir is not None:
                candidates.append(self.models_dir / model.replace("/", "--"))
            candidates.append((self.own_dir or default_own_dir()) / model.replace("/", "--"))
            candidates.append(self._cached(model, revision))
        return next((path for path in candidates if path is not None and is_complete(path)), None)

    async def pull(self, model: str, *, revision: str | None = None, progress: Report = ignore) -> Path:
        """Download a model, or complete one that an earlier call left unfinished.

        Args:
            model: a name such as `base`, or a repository `owner/name`.
            revision: branch, tag or commit; None for the newest.
            progress: called on the event loop with bytes done and in all, over all files, and the present file.

        Raises:
            ModelError: `model_not_found` for an unknown name, `model_load_failed` when the download fails or
                brings something else than a model.
            AccessError: the service may not use the network.

        Cancellation: takes effect at the next block received; what has come stays, and the next call goes on there.
        """
        if model == "demo":
            await trio.lowlevel.checkpoint()
            return embedded_model()
        repository = repository_of(model)
        if not self.network:
            raise AccessError(
                f"This service has no network. Download with: systemctl start {pull_unit(model)}.service",
                data={"model": model},
            )
        work = functools.partial(
            download,
            repository,
            revision=revision or "main",
            cache_dir=self.cache_dir or default_cache_dir(),
            target=None if self.models_dir is None else self.models_dir / _folder_name(repository),
            endpoint=self.endpoint,
            progress=progress,
        )
        path = await trio.to_thread.run_sync(work, limiter=self._limiter)
        if not is_complete(path):
            missing = ", ".join(name for name in REQUIRED if not (path / name).is_file())
            raise ModelError(f"{repository} is no CTranslate2 Whisper model: it lacks {missing}.")
        return path

    def _cached(self, model: str, revision: str | None) -> Path | None:
        """The snapshot in the Hugging Face cache, found by its documented layout so that nothing is imported."""
        repository = REPOSITORIES.get(model, model)
        folder = (self.cache_dir or default_cache_dir()) / f"models--{repository.replace('/', '--')}"
        revision = revision or "main"
        try:
            commit = (folder / "refs" / revision).read_text().strip()
        except OSError:
            commit = revision
        return folder / "snapshots" / commit


def is_path(model: str) -> bool:
    """Whether a model is named by its directory."""
    return model.startswith(("/", "./", "../", "~"))


def is_complete(path: Path) -> bool:
    """Whether a directory holds all that loading needs."""
    return all((path / name).is_file() for name in REQUIRED)


def size_bytes(path: Path) -> int:
    """Size of the weights on disk."""
    return (path / "model.bin").stat().st_size


def embedded_model() -> Path:
    """The demo model that the package carries."""
    return Path(str(resources.files("sttd"))) / "assets" / "demo-model"


def default_own_dir() -> Path:
    """Where sttd keeps the models that come from the package index."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "sttd" / "models"


def default_cache_dir() -> Path:
    """Where huggingface_hub keeps its cache, by its own environment variables."""
    if cache := os.environ.get("HF_HUB_CACHE"):
        return Path(cache)
    home = os.environ.get("HF_HOME")
    if home is None:
        home = str(Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "huggingface")
    return Path(home).expanduser() / "hub"


def repository_of(model: str) -> str:
    """The repository to download.

    Raises:
        ModelError: the name is no repository and none of the known models.
    """
    if model in REPOSITORIES:
        return REPOSITORIES[model]
    if _REPOSITORY.fullmatch(model):
        return model
    raise ModelError(
        f"{model!r} cannot be downloaded; give a repository as owner/name, or one of: {', '.join(REPOSITORIES)}.",
        code="model_not_found",
    )


def _folder_name(repository: str) -> str:
    """The directory below `models_dir`: the short name where there is one, as `locate` looks for it."""
    short = next((name for name, known in REPOSITORIES.items() if known == repository), repository)
    return short.replace("/", "--")
