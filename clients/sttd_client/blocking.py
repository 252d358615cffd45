"""The client library for programs without an event loop: a session and the control plane, blocking."""

from sttd_client.control import Control, open_control
from sttd_client.session import Session, open_session

__all__ = ["Control", "Session", "open_control", "open_session"]
