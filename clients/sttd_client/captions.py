"""Captions in a terminal: text that grows in place, its stable part bright, its tail dim; a line once it is final.

Where the output is no terminal, every text is a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.live import Live
from rich.text import Text

from sttd_client.events import Event, Failure, Final, Gap, Interim, Reconnected, Warn, stable_and_tail

ShowEvent = Callable[[Event], None]


@contextmanager
def captions(console: Console, *, times: bool = False) -> Iterator[ShowEvent]:
    """A function that shows events as they come.

    Args:
        times: put the place of each final on the audio clock before it, and its latency behind it.
    """
    if not console.is_terminal:
        yield lambda event: _print_line(console, event, times=times)
        return
    with Live(console=console, auto_refresh=False, transient=True) as live:

        def show(event: Event) -> None:
            if isinstance(event, Interim):
                live.update(interim_text(event), refresh=True)
            elif (line := line_of(event, times=times)) is not None:
                live.update(Text(), refresh=True)
                console.print(line)

        yield show


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
            return Text("[the connection was lost and made anew]", style="yellow")
    return None


def _cost(final: Final) -> str:
    timing = final.timing
    if timing is None or timing.decode_ms is None:
        return ""
    early = ", begun early" if timing.speculative else ""
    return f"  ({final.reason}, decoded in {timing.decode_ms:.0f} ms{early})"


def _print_line(console: Console, event: Event, *, times: bool) -> None:
    if isinstance(event, Interim):
        stable, tail = stable_and_tail(event)
        console.print(Text(f"  ... {stable}|{tail}"), soft_wrap=True)
    elif (line := line_of(event, times=times)) is not None:
        console.print(line, soft_wrap=True)
