"""`sttctl models`, `load`, `unload` and `pull`."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Iterator
from typing import Any

from sttd.errors import ProtocolError
from sttd_client.control import open_control
from sttd_client.ctl.progress import bytes_progress
from sttd_client.ctl.status import TIMEOUT_S, server_words
from sttd_client.ctl.terminal import print_json, size, styled, table


def models(arguments: argparse.Namespace) -> None:
    """Print the presets: those that can be used as a table, the others with the command that gets them."""
    with open_control(arguments.socket) as control:
        result = control.call("models", timeout_s=TIMEOUT_S)
    if arguments.json:
        print_json(result)
    else:
        print("\n".join(_lines(result)))


def _lines(result: dict[str, Any]) -> Iterator[str]:
    here = [preset for preset in result["presets"] if preset.get("local")]
    away = [preset for preset in result["presets"] if not preset.get("local")]
    header = ("PRESET", "MODEL", "DEVICE", "TYPE", "SIZE", "SOURCE", "VERIFIED", "LIVE HERE", "LOADED", "DEFAULT FOR")
    yield from table(header, [_row(preset) for preset in here])
    for preset in here:
        if remote := preset.get("remote"):
            yield ""
            yield f"{preset['preset']}: {server_words(remote)}"
    if away:
        yield ""
        yield f"Not on disk; `{_get(result, 'NAME')}` gets one:"
        names = [
            f"{preset['preset']} ({size(preset.get('size_bytes'))})" for preset in away if preset["preset"] != "auto"
        ]
        yield from textwrap.wrap(", ".join(names), width=100, initial_indent="  ", subsequent_indent="  ")
    if advice := _advice(result):
        yield ""
        yield styled(advice, "bold")


def _get(result: dict[str, Any], name: str) -> str:
    """The command that gets a model; a service without a network has a unit that does it."""
    return f"sttctl pull {name}" if result.get("network", True) else f"sudo systemctl start sttd-pull@{name}"


def _advice(result: dict[str, Any]) -> str:
    """What to get, where nothing better for this machine is on disk."""
    best = result.get("recommended")
    if not best:
        return ""
    if not result.get("auto"):
        return f"No model for people's speech is on disk. The one for this machine: {_get(result, best)}"
    there = any(preset.get("local") and preset.get("model") == best for preset in result["presets"])
    return "" if there else f"This machine can run a better one live: {_get(result, best)}"


def _row(preset: dict[str, Any]) -> tuple[str, ...]:
    return (
        *(str(preset.get(key) or "-") for key in ("preset", "model", "device", "compute_type")),
        size(preset.get("size_bytes")),
        str(preset.get("source") or "-"),
        "yes" if preset.get("verified") else "no",
        live(preset),
        "yes" if preset.get("loaded") else "no",
        ", ".join(preset.get("default_for") or ()),
    )


def live(preset: dict[str, Any]) -> str:
    """Whether this machine keeps up with a speaker, with what was measured."""
    if preset.get("remote"):
        return "-"
    if preset.get("realtime") is None:
        return "not measured"
    interim_s = preset.get("interim_s")
    word = "yes" if preset["realtime"] else "no"
    return word if interim_s is None else f"{word} ({interim_s:.2f} s an interim)"


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
            source=arguments.source,
            on_progress=lambda fields: show(fields["done_bytes"], fields.get("total_bytes"), fields.get("file") or ""),
        )
    if arguments.json:
        print_json(result)
    else:
        checked = ", every file verified" if result.get("verified") else ""
        print(f"{result.get('model', arguments.model)} is in {result.get('path', '-')}: ", end="")
        print(f"from the {result.get('source', '-')}{checked}")
