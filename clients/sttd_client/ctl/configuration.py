"""`sttctl config` and `reload`."""

from __future__ import annotations

import argparse
import difflib
import json
from typing import Any

from sttd.errors import NotFoundError
from sttd_client.control import open_control
from sttd_client.ctl.status import TIMEOUT_S
from sttd_client.ctl.terminal import print_json, table


def config(arguments: argparse.Namespace) -> None:
    """Print the configuration in effect, or the part of it that is asked for."""
    with open_control(arguments.socket) as control:
        values = control.call("config", timeout_s=TIMEOUT_S).get("values", {})
    if arguments.key:
        values = _under(values, arguments.key)
    if arguments.json:
        print_json({"values": values})
        return
    rows = [(key, json.dumps(row["value"], ensure_ascii=False), row["origin"]) for key, row in sorted(values.items())]
    print("\n".join(table(("KEY", "VALUE", "FROM"), rows)))


def _under(values: dict[str, Any], key: str) -> dict[str, Any]:
    """The values of one key or one section."""
    found = {name: row for name, row in values.items() if name == key or name.startswith(f"{key}.")}
    if not found:
        near = difflib.get_close_matches(key, [*values, *{name.rpartition(".")[0] for name in values}], n=1)
        raise NotFoundError(
            f"there is no `{key}` in the configuration" + (f"; did you mean `{near[0]}`?" if near else "")
        )
    return found


def reload(arguments: argparse.Namespace) -> None:
    """Make the daemon read its configuration again."""
    with open_control(arguments.socket) as control:
        result = control.call("reload")
    if arguments.json:
        print_json(result)
        return
    changed, waiting = result.get("changed", []), result.get("needs_restart", [])
    print(f"changed: {', '.join(changed)}" if changed else "nothing changed")
    if waiting:
        print(f"in effect after a restart: {', '.join(waiting)}")
