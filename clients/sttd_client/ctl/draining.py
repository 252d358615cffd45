"""`sttctl drain` and `undrain`."""

from __future__ import annotations

import argparse
import time

from sttd.errors import EXIT_BUSY, EXIT_OK, ProtocolError
from sttd_client.control import Control, open_control
from sttd_client.ctl.status import TIMEOUT_S
from sttd_client.ctl.terminal import print_json

_EVERY_S = 0.5  # chosen: who waits for people to finish speaking does not notice


def drain(arguments: argparse.Namespace) -> int:
    """Close the daemon to new sessions; with --wait, return when the last one has ended."""
    if arguments.timeout is not None and not arguments.wait:
        raise ProtocolError("--timeout goes with --wait", code="bad_option")
    with open_control(arguments.socket) as control:
        left = int(control.call("drain", timeout_s=TIMEOUT_S)["sessions"])
        if arguments.wait:
            left = _until_empty(control, left, within_s=arguments.timeout)
    if arguments.json:
        print_json({"sessions": left})
    else:
        running = "no session runs" if not left else "1 session runs" if left == 1 else f"{left} sessions run"
        print(f"no new sessions are taken; {running}")
    return EXIT_BUSY if arguments.wait and left else EXIT_OK


def undrain(arguments: argparse.Namespace) -> None:
    """Open the daemon again."""
    with open_control(arguments.socket) as control:
        result = control.call("undrain", timeout_s=TIMEOUT_S)
    if arguments.json:
        print_json(result)
    else:
        print("new sessions are taken")


def _until_empty(control: Control, left: int, *, within_s: float | None) -> int:
    """Wait until no session runs and no upload comes, for so long at most (None: as long as it takes); returns how many
    still do. Raises OSError: somebody has opened the daemon meanwhile, or it has gone."""
    deadline = None if within_s is None else time.monotonic() + within_s
    while left and (deadline is None or time.monotonic() < deadline):
        time.sleep(_EVERY_S)
        report = control.call("status", timeout_s=TIMEOUT_S)
        if report["server"]["state"] != "draining":
            raise OSError("somebody has said `undrain`: the daemon takes new sessions again, so waiting has no end")
        left = int(report["sessions"]["active"] + report["sessions"]["uploads"])
    return left
