"""Captions in a terminal: text that grows in place, its stable part bright, its tail dim; a line once it is final.

Where the output is no terminal, every text is a line of its own. Where several channels are shown, each has a line that
grows, and every line says whose it is.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from sttd_client.events import Event, Failure, Final, Gap, Interim, Reconnected, Warn, stable_and_tail

_COLOURS = ("cyan", "magenta")  # of the channels


class ShowEvent(Protocol):
    """Shows an event; `channel` says whose it is, where there are several."""

    def __call__(self, event: Event, channel: str = "") -> None: ...


@contextmanager
def captions(console: Console, *, times: bool = False) -> Iterator[ShowEvent]:
    """A function that shows events as they come.

    Args:
        times: put the place of each final on the audio clock before it, and its latency behind it.
    """
    if not console.is_terminal:
        yield partial(_print_line, console, times=times)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:
        yield _Screen(live, times=times).show


class _Screen:
    """What grows at the foot of a terminal: a text for each channel in which somebody speaks."""

    def __init__(self, live: Live, *, times: bool) -> None:
        self._live = live
        self._times = times
        self._colours: dict[str, str] = {}  # of the channels that were heard
        self._growing: dict[str, Text] = {}

    def show(self, event: Event, channel: str = "") -> None:
        colour = self._colours.setdefault(channel, _COLOURS[len(self._colours) % len(_COLOURS)])
        name = Text(f"{channel}: ", colour) if channel else Text()
        if isinstance(event, Interim):
            self._growing[channel] = name + interim_text(event)
            self._refresh()
            return
        line = line_of(event, times=self._times)
        if line is not None or isinstance(event, Final):
            self._growing.pop(channel, None)
            self._refresh()
        if line is not None:
            self._live.console.print(name + line)

    def _refresh(self) -> None:
        self._live.update(Group(*self._growing.values()), refresh=True)


def interim_text(interim: Interim) -> Text:
    """An interim with its two parts told apart."""
    stable, tail = stable_and_tail(interim)
    return Text.assemble((stable, "bold"), (tail, "dim"))


def line_of(event: Event, *, times: bool) -> Text | None:
    """What stays on the screen of an event; None for one that leaves nothing."""
    match event:
        case Final(text=""):
            return None
        case Final() if times:
            place = f"{event.start_s:6.2f}-{event.end_s:5.2f} s  "
            return Text.assemble((place, "cyan"), event.text, (_cost(event), "dim"))
        case Final():
            return Text(event.text)
        case Gap():
            return Text(f"[{event.to_s - event.from_s:.1f} s of audio lost: {event.reason}]", style="yellow")
        case Warn() | Failure():
            return Text(f"[{event.message}]", style="red" if isinstance(event, Failure) else "yellow")
        case Reconnected():
            missing = "" if event.lost_bytes else "; nothing is missing"
            return Text(f"[the session was lost and begun anew{missing}]", style="yellow")
    return None


def _cost(final: Final) -> str:
    timing = final.timing
    if timing is None or timing.decode_ms is None:
        return ""
    early = ", begun early" if timing.speculative else ""
    return f"  ({final.reason}, decoded in {timing.decode_ms:.0f} ms{early})"


def _print_line(console: Console, event: Event, channel: str = "", *, times: bool) -> None:
    name = f"{channel}: " if channel else ""
    if isinstance(event, Interim):
        stable, tail = stable_and_tail(event)
        console.print(Text(f"  ... {name}{stable}|{tail}"), soft_wrap=True)
    elif (line := line_of(event, times=times)) is not None:
        console.print(Text(name) + line, soft_wrap=True)
