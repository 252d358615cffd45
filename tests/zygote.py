"""Daemons from a process that has their modules already: a fork in place of a second of imports, for each of hundreds.

    test ── arguments, environment, where its log goes ──▶ zygote ── fork ──▶ sttd serve
         ◀───────── a pipe: its pid, then how it ended ────────┘

A daemon is the zygote's child and not the test's, so `Child` has what tests use of `subprocess.Popen`. When the tests
have ended, however they did, the zygote ends what is left, and then itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
from typing import IO, Any, NoReturn

_MESSAGE_BYTES = 1024 * 1024


class Child:
    """A daemon that the zygote has started."""

    def __init__(self, arguments: list[str], report: int) -> None:
        self.args, self.returncode = arguments, None
        self._report, self._said = report, b""
        while b"\n" not in self._said:
            self._said += os.read(report, 64) or _lost()
        self.pid = int(self._said.split(b"\n")[0])

    def poll(self) -> int | None:
        """How it ended, as `subprocess` counts; None: it runs."""
        while self.returncode is None and select.select([self._report], [], [], 0)[0]:
            if said := os.read(self._report, 64):
                self._said += said
                continue
            os.close(self._report)
            self.returncode = int(self._said.split(b"\n")[1] or -signal.SIGKILL)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        while self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.poll()
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Nothing happens where it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _lost() -> NoReturn:
    raise RuntimeError("the process that starts daemons has ended")


class Zygote:
    """The test's end. One for each process of tests, from the first daemon on."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._one_at_a_time = threading.Lock()
        with theirs:
            environ = {key: value for key, value in os.environ.items() if not key.startswith("STTD_")}
            command = [sys.executable, "-m", "tests.zygote", str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], env=environ)

    def start(self, arguments: list[str], *, env: dict[str, str], log: IO[Any]) -> Child:
        """`sttd` with these arguments, and what it says to stderr in `log`."""
        ours, theirs = os.pipe()
        asked = json.dumps({"arguments": arguments, "env": env, "directory": os.getcwd()}).encode()
        with self._one_at_a_time:
            socket.send_fds(self._socket, [asked], [log.fileno(), theirs])
        os.close(theirs)
        return Child(["sttd", *arguments], ours)

    def leave(self) -> None:
        """Start no more; what was started and has not ended is killed, as when this process ends."""
        self._socket.close()
        self._process.wait()


def main(number: int) -> None:
    """The zygote, until the tests have ended."""
    from sttd.host import blas

    blas.import_numpy()
    import sttd.cli
    import sttd.daemon  # noqa: F401

    asked = socket.socket(fileno=number)
    woken, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake)
    children: dict[int, int] = {}  # pid: where to say how it ended
    try:
        while True:
            ready = select.select([asked, woken], [], [])[0]
            if woken in ready:
                os.read(woken, 4096)
                _bury(children)
            if asked in ready:
                message, descriptors, *_ = socket.recv_fds(asked, _MESSAGE_BYTES, 2)
                if not message:
                    return
                log, report = descriptors
                pid = os.fork()
                if not pid:
                    _become(log, json.loads(message))
                os.close(log)
                children[pid] = report
                _say(report, b"%d\n" % pid)
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)


def _bury(children: dict[int, int]) -> None:
    for pid in list(children):
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            report = children.pop(pid)
            _say(report, b"%d" % os.waitstatus_to_exitcode(status))
            os.close(report)


def _say(report: int, what: bytes) -> None:
    """To whoever started it, unless he has ended without a word: the others are still to be seen to."""
    with contextlib.suppress(BrokenPipeError):
        os.write(report, what)


def _become(log: int, asked: dict[str, Any]) -> NoReturn:
    """A daemon, as if it had been started so."""
    import sttd.cli

    status = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        os.dup2(log, 2)
        os.closerange(3, 4096)
        os.chdir(asked["directory"])
        os.environ.clear()
        os.environ.update(asked["env"])
        sys.argv = ["sttd", *asked["arguments"]]
        status = sttd.cli.main(asked["arguments"])
    finally:
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    main(int(sys.argv[1]))
