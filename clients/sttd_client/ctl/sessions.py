"""`sttctl sessions` and `close`."""

from __future__ import annotations

import argparse
from typing import Any

from sttd_client.control import Control, open_control
from sttd_client.ctl.status import TIMEOUT_S
from sttd_client.ctl.terminal import print_json, table

_PAGE = 1000  # the most rows that one answer holds


def sessions(arguments: argparse.Namespace) -> None:
    """Print the running sessions."""
    with open_control(arguments.socket) as control:
        rows = _all(control, arguments.limit)
    if arguments.json:
        print_json({"sessions": rows})
        return
    header = ("SESSION", "UID", "LABEL", "API", "KIND", "STATE", "MODEL", "LANG", "AUDIO", "UTTERANCES", "LAG")
    print("\n".join(table(header, [_row(row) for row in rows])) or "no sessions")


def _all(control: Control, limit: int | None) -> list[dict[str, Any]]:
    """The rows of all pages, or the first `limit`."""
    rows: list[dict[str, Any]] = []
    cursor: str | None = None
    while limit is None or len(rows) < limit:
        wanted = _PAGE if limit is None else min(limit - len(rows), _PAGE)
        page = control.call("sessions", limit=wanted, cursor=cursor, timeout_s=TIMEOUT_S)
        rows += page.get("sessions", [])
        cursor = page.get("next")
        if cursor is None:
            break
    return rows


def _row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(str(row.get(key, "-")) for key in ("session", "uid")),
        *(str(row.get(key) or "-") for key in ("label", "api", "kind", "state", "model", "lang")),
        f"{row.get('audio_s', 0):.1f} s",
        str(row.get("utterances", "-")),
        f"{row.get('lag_s') or 0:.1f} s",
    )


def close(arguments: argparse.Namespace) -> None:
    """End a session."""
    with open_control(arguments.socket) as control:
        result = control.call("close_session", session=arguments.session, drain=False if arguments.no_drain else None)
    if arguments.json:
        print_json(result)
    else:
        print(f"session {arguments.session} closed")
