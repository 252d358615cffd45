"""The figures of a demo run: how soon text came, and how much of it was right."""

from __future__ import annotations

import difflib
import re
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from sttd_client.events import Event, Final, Interim


@attrs.frozen(kw_only=True)
class Utterance:
    """What is truly said, and where in the recording."""

    start_s: float
    end_s: float
    text: str


@attrs.define(eq=False, kw_only=True)
class Run:
    """What came when. Times are of the program's clock; the recording began at `started_at`."""

    truth: tuple[Utterance, ...]
    started_at: float
    live: bool  # audio was sent as it was spoken, so a delay means something
    ended_at: float = 0.0
    first_interims: dict[int, float] = attrs.field(factory=dict)  # utterance -> when its first text came
    finals: list[tuple[float, Final]] = attrs.field(factory=list)

    def note(self, event: Event, *, at: float) -> None:
        """Remember an event that arrived `at`."""
        if isinstance(event, Interim) and event.text:
            self.first_interims.setdefault(event.utterance, at)
        elif isinstance(event, Final) and event.text:
            self.finals.append((at, event))

    def final_delays_s(self) -> list[float]:
        """For each final: when it came, after the true end of what it holds."""
        delays = []
        for at, final in self.finals:
            if heard := self._heard_in(final):
                delays.append(at - self.started_at - heard[-1].end_s)
        return delays

    def first_text_delays_s(self) -> list[float]:
        """For each utterance with an interim: when the first came, after the true start of the speech."""
        delays = []
        for _, final in self.finals:
            at, heard = self.first_interims.get(final.utterance), self._heard_in(final)
            if at is not None and heard:
                delays.append(at - self.started_at - heard[0].start_s)
        return delays

    def words_right(self) -> tuple[int, int]:
        """How many words of what was said came out right, and how many there are."""
        said = words_of(" ".join(utterance.text for utterance in self.truth))
        heard = words_of(" ".join(final.text for _, final in self.finals))
        blocks = difflib.SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
        return sum(block.size for block in blocks), len(said)

    def _heard_in(self, final: Final) -> list[Utterance]:
        """What is truly said in the stretch of a final: one utterance, or neighbours with a short pause between."""
        return [u for u in self.truth if min(u.end_s, final.end_s) - max(u.start_s, final.start_s) > 0]


def words_of(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall(r"[\w']+", text.lower())


def report(run: Run, *, status: Mapping[str, Any], speech_s: float, exit_status: int | None) -> str:
    """The figures as lines."""
    right, said = run.words_right()
    lines = [("finals", f"{len(run.finals)} for {len(run.truth)} utterances")]
    if run.live:
        lines += [
            ("first words", f"{_summary(run.first_text_delays_s())} after the speech began"),
            ("final text", f"{_summary(run.final_delays_s())} after the speech ended"),
        ]
    else:
        lines.append(("speed", f"{speech_s / (run.ended_at - run.started_at):.1f} times real time"))
    rss_bytes = status.get("models", {}).get("process_rss_bytes") or 0
    lines += [
        ("words right", f"{right} of {said}"),
        ("daemon", f"{rss_bytes / 2**20:.0f} MiB resident, stopped with status {exit_status}"),
    ]
    return "\n".join(f"{name:12} {text}" for name, text in lines)


def _summary(delays_s: Sequence[float]) -> str:
    if not delays_s:
        return "none"
    return f"p50 {statistics.median(delays_s):.2f} s, max {max(delays_s):.2f} s"
