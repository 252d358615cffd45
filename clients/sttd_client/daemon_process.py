"""A daemon of one's own, for the length of a program: what demos, tests and examples start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import trio

from sttd.errors import SttdError
from sttd_client.trio_control import open_control

_START_S = 60.0  # importing the engine on a cold disk takes most of it
STOP_S = 30.0  # a decode that runs is waited for
_POLL_S = 0.05


class DaemonDiedError(Exception):
    """The daemon ended by itself, or did not start. The message has its last words."""


@attrs.define(eq=False, kw_only=True)
class DaemonProcess:
    """A running daemon; `run_daemon` makes it."""

    process: trio.Process
    control_socket: Path
    log: Path
    start_s: float = 0.0  # from the start of the process to the first answer that it is ready
    stop_s: float = STOP_S  # that it gets to stop, before it is killed

    @property
    def exit_status(self) -> int | None:
        """None while it runs; below 0 where a signal ended it."""
        return self.process.returncode

    async def stop(self) -> None:
        """Ask it to stop and wait until it has; what it was decoding is finished."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
            with trio.move_on_after(self.stop_s) as scope:
                await self.process.wait()
            if scope.cancelled_caught:
                self.process.kill()
                await self.process.wait()

    def died(self) -> DaemonDiedError:
        """The error that says how it ended."""
        words = self.log.read_text(errors="replace").strip().splitlines()[-5:]
        return DaemonDiedError("\n".join([f"the daemon ended with status {self.exit_status}", *words]))


@asynccontextmanager
async def run_daemon(directory: Path, *, model: str) -> AsyncIterator[DaemonProcess]:
    """Run `sttd serve` with its sockets and its log in `directory`, default options and no ports; yield it when ready.

    It is stopped at the end, however the end comes.

    Raises:
        DaemonDiedError: it does not become ready.
    """
    config = directory / "sttd.toml"
    config.touch()  # an empty file by name: this machine's own configuration is not meant
    command = [sys.executable, "-m", "sttd", "serve", "--config", str(config), "--runtime-dir", str(directory)]
    command += ["--tcp", "off", "--set", "server.wyoming=[]", "--model", model]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("STTD_")}
    started_at = trio.current_time()
    with (directory / "sttd.log").open("wb") as log:
        process = await trio.lowlevel.open_process(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,  # Ctrl-C in the terminal is for the program that started it
        )
    daemon = DaemonProcess(process=process, control_socket=directory / "control.sock", log=directory / "sttd.log")
    try:
        await _wait_until_ready(daemon)
        daemon.start_s = trio.current_time() - started_at
        yield daemon
    finally:
        with trio.CancelScope(shield=True):
            await daemon.stop()


async def _wait_until_ready(daemon: DaemonProcess) -> None:
    with trio.move_on_after(_START_S):
        while daemon.process.poll() is None:
            try:
                async with open_control(daemon.control_socket) as control:
                    status = await control.call("status")
                if status["server"]["state"] == "ready":
                    return
            except (OSError, SttdError):
                pass  # not listening yet
            await trio.sleep(_POLL_S)
    if daemon.process.poll() is None:
        raise DaemonDiedError(f"the daemon is not ready after {_START_S:.0f} s")
    raise daemon.died()
