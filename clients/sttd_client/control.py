"""The control plane for programs without an event loop: one blocking connection over a Unix socket.

    with open_control() as control:
        print(control.call("status")["server"]["version"])

It needs neither trio nor numpy, and takes a few milliseconds to import: `sttctl` is made of it.
"""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sttd.wire.rpc import MAX_REPLY_BYTES, Notification, Response, RpcDecoder
from sttd_client.addresses import connect_first, connect_unix, control_sockets, lost_error
from sttd_client.calls import ProgressCallback, fields_of, request_of, result_of, sorted_out

_READ_BYTES = 1 << 16


@contextmanager
def open_control(socket_path: str | os.PathLike[str] | None = None) -> Iterator[Control]:
    """Connect to a daemon's control plane; the connection is closed at the end, and what it asked for is given up.

    Args:
        socket_path: the control socket of the daemon that is meant; None looks for one as every client does.

    Raises:
        NoDaemonError: nobody listens.
        AccessError: a daemon may be there, and its socket is not for this user.
    """
    control = Control(connect_first(control_sockets(socket_path), connect_unix))
    try:
        yield control
    finally:
        control.close()


class Control:
    """A connection to the control plane; `open_control` makes it. It belongs to one thread."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        self._decoder = RpcDecoder(max_message_bytes=MAX_REPLY_BYTES)
        self._received: deque[Response | Notification] = deque()
        self._events: deque[dict[str, Any]] = deque()  # came while an answer was waited for
        self._last_msgid = 0

    def call(
        self,
        method: str,
        *,
        timeout_s: float | None = None,
        on_progress: ProgressCallback | None = None,
        **params: Any,
    ) -> dict[str, Any]:
        """Call a method and return its result; `sttd.wire.verbs` declares the methods. None means omitted.

        Args:
            timeout_s: for the whole call; None waits for as long as the daemon takes (`load` and `pull` may take long).
            on_progress: is given the fields of each `progress` notification that belongs to this call.

        Raises:
            SttdError: the daemon's error, in the class of its code.
            TimeoutError: no answer in time. The connection stays usable, a late answer is skipped.
            ConnectionLostError: the daemon went away.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        msgid = self.request(method, **params)
        while True:
            message = self._next(deadline)
            if isinstance(message, Notification):
                if message.method == "event":
                    self._events.append(fields_of(message))
                elif on_progress is not None and fields_of(message).get("msgid") == msgid:
                    on_progress(fields_of(message))
            elif message.msgid == msgid:
                return result_of(message)

    def events(self, *, topics: Sequence[str] | None = None) -> Iterator[dict[str, Any]]:
        """Subscribe and yield events, for ever. Raises as `call` does."""
        self.call("subscribe", topics=None if topics is None else list(topics))
        while True:
            while self._events:
                yield self._events.popleft()
            message = self._next(None)
            if isinstance(message, Notification) and message.method == "event":
                yield fields_of(message)

    def request(self, method: str, **params: Any) -> int:
        """Send a request without waiting for its answer, which `receive` gives in its time; returns its msgid."""
        self._last_msgid += 1
        try:
            self._socket.settimeout(None)
            self._socket.sendall(request_of(self._last_msgid, method, params))
        except OSError as error:
            raise lost_error() from error
        return self._last_msgid

    def receive(self, *, timeout_s: float | None = None) -> Response | Notification:
        """The next message of the daemon; raises TimeoutError or ConnectionLostError."""
        return self._next(None if timeout_s is None else time.monotonic() + timeout_s)

    @property
    def waiting(self) -> int:
        """How many messages `receive` would return without reading from the socket."""
        return len(self._received)

    def fileno(self) -> int:
        """For `select`: readable when the daemon said something."""
        return self._socket.fileno()

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()

    def _next(self, deadline: float | None) -> Response | Notification:
        while not self._received:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("the daemon does not answer")
            self._socket.settimeout(left)
            try:
                data = self._socket.recv(_READ_BYTES)
            except TimeoutError:
                continue
            except OSError as error:
                raise lost_error() from error
            if not data:
                raise lost_error()
            self._received.extend(sorted_out(self._decoder.receive_data(data)))
        return self._received.popleft()
