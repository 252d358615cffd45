"""How to ask the agent: one line of JSON, or one word, on its socket; lines of JSON come back.

A key press runs this, so it imports what a press needs and nothing else. The socket lies in the user's runtime
directory and is for its owner only.
"""

from __future__ import annotations

import json
import os
import socket
import sys

WORDS = ("start", "stop", "cancel", "toggle", "bind", "status", "quit")  # what the agent understands
_ANSWER_S = 10.0  # chosen: the microphone of a busy machine takes a moment to open
_MAX_LINE_BYTES = 1 << 16
DISPLAY = ("WAYLAND_DISPLAY", "DISPLAY", "XAUTHORITY")  # where the words go may change under a running agent


def socket_path() -> str:
    """Where the agent listens."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return f"{runtime}/sttd-dictate.sock"


def request(do: str, *, wait: bool = False, **wish: object) -> bytes:
    """The line that asks for something; None means not wished for."""
    display = {name: os.environ[name] for name in DISPLAY if name in os.environ}
    given = {name: value for name, value in wish.items() if value is not None}
    return json.dumps({"do": do, "wait": wait, "display": display, "wish": given}).encode() + b"\n"


class Call:
    """A connection to the agent. Raises OSError where there is none, and TimeoutError where it does not answer."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._data = b""
        try:
            self._socket.settimeout(_ANSWER_S)
            self._socket.connect(socket_path())
        except BaseException:
            self._socket.close()
            raise

    def __enter__(self) -> Call:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, line: bytes) -> None:
        """Send a request."""
        self._socket.sendall(line)

    def answer(self, *, patient: bool = False) -> dict[str, object] | None:
        """The next line; None at the end. With `patient` it may take as long as it takes."""
        self._socket.settimeout(None if patient else _ANSWER_S)
        while b"\n" not in self._data and len(self._data) < _MAX_LINE_BYTES:
            try:
                more = self._socket.recv(4096)
            except TimeoutError:
                raise TimeoutError("the agent of the dictation does not answer") from None
            if not more:
                return None
            self._data += more
        line, _, self._data = self._data.partition(b"\n")
        answer: dict[str, object] = json.loads(line)
        return answer


def press(arguments: list[str]) -> int | None:
    """Do what a key binding asks for where an agent runs. The exit status; None where there is more to do than that."""
    words = [word for word in arguments if word != "--hold"]
    if words[:1] != ["dictate"] or len(words) != 2 or words[1].removeprefix("--") not in ("start", "stop", "toggle"):
        return None
    hold = True if "--hold" in arguments else None
    try:
        with Call() as call:
            call.ask(request(words[1].removeprefix("--"), hold=hold))
            answer = call.answer()
    except TimeoutError as error:  # it may have done it: asked once more, a toggle would undo itself
        from sttd.errors import EXIT_BUSY

        print(f"sttctl: {error}", file=sys.stderr)
        return EXIT_BUSY
    except (OSError, ValueError):
        return None
    return 0 if answer is not None and "error" not in answer else None
