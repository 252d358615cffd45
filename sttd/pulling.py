"""`sttd pull` as a person sees it: a bar on a terminal, and one line at the end."""

from __future__ import annotations

import sys

from sttd.engine.store.models import ModelStore, Pulled, WantedSource


async def watched_pull(store: ModelStore, model: str, *, revision: str | None, source: WantedSource) -> Pulled:
    """`store.pull` with its progress on standard error, if that is a terminal. Raises what it raises."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(model, total=None)

        def show(done_bytes: int, total_bytes: int | None, file: str) -> None:
            bar.update(task, completed=done_bytes, total=total_bytes, description=file)

        return await store.pull(model, revision=revision, source=source, progress=show)
