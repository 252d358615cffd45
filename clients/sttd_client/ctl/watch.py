"""`sttctl watch`: events of the daemon as they happen."""

from __future__ import annotations

import argparse
import json
from typing import Any

from sttd_client.control import open_control
from sttd_client.ctl.terminal import styled

_BORING = ("seq", "topic", "event", "session", "utterance", "text", "words", "timing", "preset")


def watch(arguments: argparse.Namespace) -> None:
    """Print events until Ctrl-C."""
    with open_control(arguments.socket) as control:
        try:
            for event in control.events(topics=arguments.topics or None):
                print(json.dumps(event, ensure_ascii=False) if arguments.json else line_of(event), flush=True)
        except KeyboardInterrupt:
            return


def line_of(event: dict[str, Any]) -> str:
    """One event as a line: what it is, whom it is about, and what is worth knowing."""
    topic = str(event.get("topic"))
    if topic == "lagged":
        return styled(f"{event.get('dropped')} events were lost: this terminal was too slow", "yellow")
    head = styled(f"{topic} {event.get('event', '')}".strip(), "cyan")
    about = " ".join(str(event[key]) for key in ("session", "utterance", "preset") if event.get(key) is not None)
    if event.get("event") == "final":
        return f"{head} {styled(about, 'dim')} {event.get('text', '')}"
    rest = " ".join(
        f"{key}={value}" for key, value in event.items() if key not in _BORING and value not in (None, "", [], {})
    )
    return " ".join(part for part in (head, about, styled(rest, "dim")) if part)
