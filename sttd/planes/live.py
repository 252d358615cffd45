"""A session as the planes that serve one on a WebSocket use it."""

from __future__ import annotations

from typing import Protocol

from sttd.core.types import SessionEvent
from sttd.options import SessionChanges


class Session(Protocol):
    """What `Service.open_session` yields, as far as all of these use it; a plane declares what it needs besides."""

    close_code: int | None

    async def wait_for_room(self) -> None: ...
    def feed(self, data: bytes) -> None: ...
    def finalize(self) -> None: ...
    def configure(self, changes: SessionChanges) -> None: ...
    def stop(self) -> None: ...
    async def receive(self) -> SessionEvent: ...
