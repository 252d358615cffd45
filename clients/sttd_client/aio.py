"""The client library for asyncio: a session and the control plane, under the names that they have on Trio."""

from sttd_client.async_control import Control
from sttd_client.async_session import Session
from sttd_client.asyncio_control import open_control
from sttd_client.asyncio_session import open_session

__all__ = ["Control", "Session", "open_control", "open_session"]
