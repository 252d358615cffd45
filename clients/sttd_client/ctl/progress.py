"""A progress line on standard error: only at a terminal, and gone when the work is done."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sttd_client.ctl.terminal import duration, size, styled

_BAR_CHARS = 24
_REDRAW_S = 0.1  # often enough to look alive, seldom enough to cost nothing


class ProgressLine:
    """One line that is rewritten in place."""

    def __init__(self, *, hidden: bool) -> None:
        self._hidden = hidden or not sys.stderr.isatty()
        self._drawn_at = float("-inf")
        self._started_at = time.monotonic()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self._started_at

    def show(self, label: str, *, fraction: float | None, detail: str) -> None:
        """Draw the line, unless it was drawn a moment ago. `fraction` None: nobody knows how much there is."""
        now = time.monotonic()
        if self._hidden or now - self._drawn_at < _REDRAW_S:
            return
        self._drawn_at = now
        full = round(_BAR_CHARS * min(fraction or 0.0, 1.0))
        percent = "" if fraction is None else f"{min(fraction, 1.0):4.0%} "
        bar = styled("━" * full, "cyan", stream=sys.stderr) + styled(
            "━" * (_BAR_CHARS - full), "dim", stream=sys.stderr
        )
        sys.stderr.write(f"\r{label} {bar} {percent}{detail}\x1b[K")
        sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if not self._hidden and self._drawn_at > 0:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


def time_left(elapsed_s: float, fraction: float | None) -> str:
    """What is left at the speed so far; "" while that says nothing."""
    if not fraction or elapsed_s < 1:
        return ""
    return f", {duration(elapsed_s * (1 - min(fraction, 1.0)) / fraction)} left"


@contextmanager
def bytes_progress(*, hidden: bool) -> Iterator[Callable[[int, int | None, str], None]]:
    """A line for a download: call the yielded function with bytes done, bytes in all (None: unknown), and the file."""
    line = ProgressLine(hidden=hidden)

    def show(done: int, total: int | None, file: str) -> None:
        fraction = done / total if total else None
        speed = f"{size(done / max(line.elapsed_s, 0.1))}/s"
        of = f" of {size(total)}" if total else ""
        line.show(
            file[-32:], fraction=fraction, detail=f"{size(done)}{of}, {speed}{time_left(line.elapsed_s, fraction)}"
        )

    try:
        yield show
    finally:
        line.clear()
