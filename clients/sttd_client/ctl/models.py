"""`sttctl models`, `load`, `unload` and `pull`."""

from __future__ import annotations

import argparse
from typing import Any

from sttd.errors import ProtocolError
from sttd_client.control import open_control
from sttd_client.ctl.progress import bytes_progress
from sttd_client.ctl.status import TIMEOUT_S
from sttd_client.ctl.terminal import print_json, size, table


def models(arguments: argparse.Namespace) -> None:
    """Print the presets."""
    with open_control(arguments.socket) as control:
        result = control.call("models", timeout_s=TIMEOUT_S)
    if arguments.json:
        print_json(result)
        return
    header = ("PRESET", "MODEL", "BACKEND", "DEVICE", "TYPE", "ON DISK", "LOADED", "DEFAULT FOR")
    print("\n".join(table(header, [_row(preset) for preset in result["presets"]])))


def _row(preset: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(str(preset.get(key) or "-") for key in ("preset", "model", "backend", "device", "compute_type")),
        *("yes" if preset.get(key) else "no" for key in ("local", "loaded")),
        ", ".join(preset.get("default_for") or ()),
    )


def load(arguments: argparse.Namespace) -> None:
    """Load a model and say how long it took."""
    params = {name: getattr(arguments, name) for name in ("preset", "cpu_threads", "num_workers", "keep_alive_s")}
    with open_control(arguments.socket) as control:
        result = control.call("load", **params)
    if arguments.json:
        print_json(result)
    elif result.get("cache_hit"):
        print(f"{arguments.preset} was loaded already")
    else:
        entry = result.get("entry") or {}
        where = f"on {entry.get('device', '-')} as {entry.get('compute_type', '-')}"
        print(f"{arguments.preset} loaded in {result.get('load_seconds', 0):.2f} s, {where}")


def unload(arguments: argparse.Namespace) -> None:
    """Unload models and say what memory the daemon has now."""
    if arguments.all and arguments.preset:
        raise ProtocolError("name a preset or say --all, not both", code="bad_option")
    with open_control(arguments.socket) as control:
        result = control.call("unload", preset=arguments.preset, wait=False if arguments.no_wait else None)
    if arguments.json:
        print_json(result)
        return
    count = result.get("unloaded", 0)
    draining = [entry["preset"] for entry in result.get("entries", []) if entry.get("draining")]
    print(f"{count} model{'' if count == 1 else 's'} unloaded; the daemon has {size(result.get('process_rss_bytes'))}")
    if draining:
        print(f"in use, going when their users are done: {', '.join(draining)}")


def pull(arguments: argparse.Namespace) -> None:
    """Download a model, with a progress bar."""
    with open_control(arguments.socket) as control, bytes_progress(hidden=arguments.json) as show:
        result = control.call(
            "pull",
            model=arguments.model,
            revision=arguments.revision,
            on_progress=lambda fields: show(fields["done_bytes"], fields.get("total_bytes"), fields.get("file") or ""),
        )
    if arguments.json:
        print_json(result)
    else:
        print(f"{arguments.model} is in {result.get('path', '-')}")
