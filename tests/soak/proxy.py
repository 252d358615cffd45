"""What stands between a client and the daemon, and is cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from pathlib import Path

import attrs


@attrs.define(eq=False)
class Proxy:
    """Passes bytes on between `listening` and `target`, both Unix sockets, until `cut` cuts all that there are.

    `listening` None is a port of loopback, `port`. While `away` it throws out who comes.
    """

    listening: Path | None
    target: Path
    cuts: int = 0
    away: bool = False
    _pairs: set[tuple[socket.socket, socket.socket]] = attrs.field(factory=set, init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _server: socket.socket = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        if self.listening is None:
            self._server = socket.create_server(("127.0.0.1", 0))
        else:
            self._server = socket.socket(socket.AF_UNIX)
            self._server.bind(str(self.listening))
        self._server.listen(64)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def port(self) -> int:
        """Where it listens, if that is loopback."""
        return int(self._server.getsockname()[1])

    def cut(self) -> int:
        """Cut every connection, in the middle of whatever it carries. Returns how many there were."""
        with self._lock:
            pairs = list(self._pairs)
            self.cuts += len(pairs)
        for pair in pairs:
            for end in pair:
                with suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)
        return len(pairs)

    def close(self) -> None:
        """No more connections; those that there are are cut."""
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._server.accept()
            except OSError:
                return
            far = socket.socket(socket.AF_UNIX)
            try:
                if self.away:
                    raise ConnectionError("away")
                far.connect(str(self.target))
            except OSError:
                near.close()
                far.close()
                continue
            pair = (near, far)
            with self._lock:
                self._pairs.add(pair)
            left = [2]  # directions that still pass something on
            for source, sink in (pair, pair[::-1]):
                threading.Thread(target=self._pass_on, args=(source, sink, pair, left), daemon=True).start()

    def _pass_on(
        self, source: socket.socket, sink: socket.socket, pair: tuple[socket.socket, socket.socket], left: list[int]
    ) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        with suppress(OSError):
            sink.shutdown(socket.SHUT_WR)
        with self._lock:
            left[0] -= 1
            if left[0]:
                return
            self._pairs.discard(pair)
        for end in pair:
            end.close()
