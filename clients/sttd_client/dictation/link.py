"""The session that an agent holds ready, and what it was opened for."""

from __future__ import annotations

import attrs
import trio

from sttd_client.options import StartOptions
from sttd_client.trio_session import Session


@attrs.define(eq=False, kw_only=True)
class Link:
    """A session, or one that is being opened."""

    options: StartOptions
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    ready: trio.Event = attrs.field(factory=trio.Event)  # it is open, or never will be
    session: Session | None = None
    hold: bool = False  # as it is configured: the client ends utterances
