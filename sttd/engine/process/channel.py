"""Messages over a socket that both sides hold. Blocking, for one thread at a time."""

from __future__ import annotations

import math
import socket
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import attrs

from sttd.engine.process.wire import Frames, pack

_READ_BYTES = 256 * 1024  # what a socket holds at most, by default


class ClosedError(Exception):
    """The other side is gone."""


@attrs.define(eq=False)
class Channel:
    """One end. Every method raises ClosedError where the other end is gone, and WireError where it talks rubbish."""

    socket: socket.socket
    _frames: Frames = attrs.field(factory=Frames, init=False)
    _came: deque[list[Any]] = attrs.field(factory=deque, init=False)

    def send(self, message: Sequence[Any], *, descriptors: Sequence[int] = ()) -> None:
        """Write a message, with descriptors for the other side. Blocks for as long as that does not read."""
        data = memoryview(pack(message))
        try:
            self.socket.settimeout(None)
            sent = socket.send_fds(self.socket, [data], list(descriptors)) if descriptors else 0
            self.socket.sendall(data[sent:])
        except OSError as error:
            raise ClosedError from error

    def receive(self, *, until: float = math.inf) -> list[Any]:
        """The next message. Raises TimeoutError where none is complete by then, on the monotonic clock."""
        while not self._came:
            self._take(self._read(until))
        return self._came.popleft()

    def receive_with_descriptors(self, most: int) -> tuple[list[Any], list[int]]:
        """The next message and the descriptors that came with it, which are the caller's."""
        descriptors: list[int] = []
        while not self._came:
            try:
                data, more, _, _ = socket.recv_fds(self.socket, _READ_BYTES, most)
            except OSError as error:
                raise ClosedError from error
            descriptors += more
            self._take(data)
        return self._came.popleft(), descriptors

    def close(self) -> None:
        """Close this end. The other one sees it."""
        self.socket.close()

    def _read(self, until: float) -> bytes:
        left_s = None if until == math.inf else until - time.monotonic()
        if left_s is not None and left_s <= 0:
            raise TimeoutError
        try:
            self.socket.settimeout(left_s)
            return self.socket.recv(_READ_BYTES)
        except TimeoutError:
            raise
        except OSError as error:
            raise ClosedError from error

    def _take(self, data: bytes) -> None:
        if not data:
            raise ClosedError
        self._frames.feed(data)
        self._came.extend(self._frames.messages())


def channel_pair() -> tuple[Channel, socket.socket]:
    """A channel, and the other end, which is to be given away. Raises OSError without descriptors."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
    return Channel(ours), theirs
