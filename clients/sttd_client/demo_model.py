"""The model of a demo: its own daemon fetches it where it is not on disk."""

from __future__ import annotations

import trio
from rich.console import Console

from sttd.errors import SttdError
from sttd_client.ctl.progress import bytes_progress
from sttd_client.trio_control import Control


class NotFetchedError(Exception):
    """A model could not be downloaded. The message is the reason and what to do, in a line."""

    @property
    def in_short(self) -> str:
        """The reason alone: the first sentence of the message."""
        return str(self).partition(". ")[0]


async def fetch(control: Control, preset: str, console: Console) -> None:
    """Download the model of a preset that the daemon knows and has not on disk; says so, with a bar at a terminal.

    Cancellation: the daemon stops at the next block; what has come stays, and the next download goes on there.

    Raises:
        NotFetchedError: the daemon cannot get it.
    """
    rows = (await control.call("models"))["presets"]
    row = next((row for row in rows if row["preset"] == preset), None)
    if row is None or row["local"]:
        return  # of a name that it does not know, the daemon says so when it is asked to load it
    console.print(f"downloading {preset}, once; it stays in your cache ...")
    began_at = trio.current_time()
    try:
        with bytes_progress(hidden=not console.is_terminal) as show:
            await control.call(
                "pull",
                model=preset,
                on_progress=lambda fields: show(
                    fields["done_bytes"], fields.get("total_bytes"), fields.get("file") or ""
                ),
            )
    except SttdError as error:
        raise NotFetchedError(" ".join(error.message.split()).rstrip(".")) from error
    console.print(f"{preset} is on disk after {trio.current_time() - began_at:.0f} s")
