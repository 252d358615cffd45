"""Waiting for the user's leave, which he gives in a dialog of the desktop when he likes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import trio

from sttd.errors import AccessError
from sttd_client.dictation.backends import HandError

PATIENCE_S = 5.0  # chosen: half of what a caller of the agent waits


async def allowed(get: Callable[[], Awaitable[object]], nursery: trio.Nursery, *, asks: str) -> None:
    """Return when `get` has the user's leave. It goes on in the nursery, with its dialog, when who asked has gone.

    Raises:
        HandError: he said no, or the desktop did.
        AccessError: he has not decided within `PATIENCE_S`; the message is `asks`.
    """
    decided, refusals = trio.Event(), list[HandError]()

    async def ask() -> None:
        try:
            await get()
        except HandError as error:
            refusals.append(error)
        decided.set()

    nursery.start_soon(ask)
    with trio.move_on_after(PATIENCE_S):
        await decided.wait()
    if refusals:
        raise refusals[0]
    if not decided.is_set():
        raise AccessError(asks)
