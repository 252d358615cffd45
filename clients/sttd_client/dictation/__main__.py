"""The agent as a process: `python -m sttd_client.dictation [CONTROL_SOCKET]`; `sttctl dictate` starts it."""

from __future__ import annotations

import fcntl
import os
import socket
import sys
from pathlib import Path

import trio

from sttd_client.dictation import call
from sttd_client.dictation.agent import CLIENTS, Agent


def listen_on(path: str) -> socket.socket | None:
    """The agent's socket, for its user only; None where another agent has it.

    The lock says which of two agents that start at once it is; the kernel lets go of it when the process ends.
    """
    lock = os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        listener.bind(path)
    finally:
        os.umask(mask)
    listener.listen(CLIENTS)
    return listener


def main() -> int:
    """Run the agent; "ready" on standard output says that it listens."""
    path = call.socket_path()
    listener = listen_on(path)
    if listener is None:
        return 0
    agent = Agent(environ=dict(os.environ), control_socket=sys.argv[1] if len(sys.argv) > 1 else None)
    print("ready", flush=True)
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    try:
        trio.run(agent.run, trio.SocketListener(trio.socket.from_stdlib_socket(listener)))
    finally:
        Path(path).unlink(missing_ok=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
