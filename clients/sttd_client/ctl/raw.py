"""`sttctl raw`: the control protocol for shells, one JSON object a line each way."""

from __future__ import annotations

import argparse
import json
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

from sttd.errors import EXIT_FAILED, EXIT_OK, EXIT_USAGE, ProtocolError, from_map
from sttd.wire.rpc import Notification, Response
from sttd_client.calls import fields_of
from sttd_client.control import Control, open_control

_READ_BYTES = 1 << 16


def raw(arguments: argparse.Namespace) -> int:
    """Call one method, or one for each line of standard input; print what comes back."""
    with open_control(arguments.socket) as control:
        if arguments.method:
            lines = [json.dumps({"method": arguments.method, "params": _parameters(arguments.params)})]
            return _Conversation(control).run(iter(lines))
        return _Conversation(control).run(_lines_of_stdin(control))


def _parameters(text: str | None) -> Any:
    try:
        return json.loads(text) if text else {}
    except ValueError as error:
        raise ProtocolError(f"PARAMS is not JSON: {error}", code="bad_option") from error


def _lines_of_stdin(control: Control) -> Iterator[str | None]:
    """The lines of standard input as they come; None whenever the daemon said something in between.

    Read without Python's buffer, of which `select` knows nothing.
    """
    stdin, rest = sys.stdin.fileno(), b""
    while True:
        ready, _, _ = select.select([stdin, control], [], [])
        if control in ready:
            yield None
        if stdin in ready:
            data = os.read(stdin, _READ_BYTES)
            *lines, rest = (rest + data).split(b"\n")
            yield from (line.decode(errors="replace") for line in (lines if data else [rest]))
            if not data:
                return


class _Conversation:
    """The requests that are under way, by msgid, with the id that the user gave each."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._ids: dict[int, Any] = {}
        self._status = EXIT_OK

    def run(self, lines: Iterator[str | None]) -> int:
        """Serve all lines and every answer; returns the exit status of the first error, if there was one."""
        for line in lines:
            if line is None:
                self._print_message()
                while self._control.waiting:
                    self._print_message()
            elif line.strip():
                self._request(line)
        while self._ids:
            self._print_message()
        return self._status

    def _request(self, line: str) -> None:
        try:
            request = json.loads(line)
            method, params = request["method"], request.get("params") or {}
            msgid = self._control.request(method, **params)
        except (ValueError, KeyError, TypeError, AttributeError):
            self._fail(EXIT_USAGE)
            _print(
                {"error": {"code": "bad_request", "message": 'a line is {"method": str, "params": {...}, "id": any}'}}
            )
            return
        self._ids[msgid] = request.get("id", msgid)

    def _print_message(self) -> None:
        message = self._control.receive()
        if isinstance(message, Notification):
            fields = dict(fields_of(message))
            if "msgid" in fields:
                fields["id"] = self._ids.get(fields.pop("msgid"))
            _print({"notification": message.method, **fields})
        else:
            self._answer(message)

    def _answer(self, response: Response) -> None:
        name = self._ids.pop(response.msgid, response.msgid)
        if response.error is None:
            _print({"id": name, "result": response.result})
            return
        _print({"id": name, "error": response.error})
        self._fail(from_map(response.error).row.exit_status if isinstance(response.error, dict) else EXIT_FAILED)

    def _fail(self, status: int) -> None:
        self._status = self._status or status


def _print(message: dict[str, Any]) -> None:
    print(json.dumps(message, ensure_ascii=False, default=repr), flush=True)
