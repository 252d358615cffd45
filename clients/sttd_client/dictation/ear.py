"""The microphone of the agent: opened at the press, and drained to its last sample at the release."""

from __future__ import annotations

import subprocess
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

import attrs
import trio

from sttd_client.capture import widen
from sttd_client.sound import NoMicrophoneError

_READ_BYTES = 4096
_END_S = 2.0  # for the recorder to end, before it is killed


@attrs.define(eq=False, kw_only=True)
class Ear:
    """One recorder process. `run` sends what it hears until `close`, or until it ends by itself."""

    command: Sequence[str]
    opened: trio.Event = attrs.field(factory=trio.Event, init=False)
    done: trio.Event = attrs.field(factory=trio.Event, init=False)  # all that was heard is sent
    closing: bool = attrs.field(default=False, init=False)
    heard_bytes: int = attrs.field(default=0, init=False)
    _process: trio.Process | None = attrs.field(default=None, init=False)

    async def run(self, ready: Callable[[], Awaitable[Callable[[bytes], Awaitable[None]]]]) -> None:
        """Record. `ready` waits until somebody takes audio and returns who does.

        Raises:
            NoMicrophoneError: the recorder does not start.
            Whatever `ready` and who takes raise. The recorder has ended in any case.
        """
        try:
            if not self.closing:
                await self._record(ready)
        finally:
            self.opened.set()
            self.done.set()

    def close(self) -> None:
        """Hear no more; `run` goes on until what was heard is sent."""
        self.closing = True
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.terminate()

    async def _record(self, ready: Callable[[], Awaitable[Callable[[bytes], Awaitable[None]]]]) -> None:
        try:
            process = await trio.lowlevel.open_process(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise NoMicrophoneError(f"{self.command[0]} does not start: {error.strerror}") from error
        self._process, output = process, process.stdout
        assert isinstance(output, trio.lowlevel.FdStream)
        try:
            widen(output.fileno())
            self.opened.set()
            if self.closing:
                process.terminate()
            take = await ready()
            while data := await output.receive_some(_READ_BYTES):
                self.heard_bytes += len(data)
                await take(bytes(data))
        finally:
            with trio.CancelScope(shield=True):
                await _end(process)
                await output.aclose()


async def _end(process: trio.Process) -> None:
    with suppress(ProcessLookupError):
        process.terminate()
    with trio.move_on_after(_END_S) as scope:
        await process.wait()
    if scope.cancelled_caught:
        process.kill()
        await process.wait()
