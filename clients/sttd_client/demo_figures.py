"""The figures of a demo run: how soon text came, and how much of it was right."""

from __future__ import annotations

import difflib
import math
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
    """What came when. Times are of the program's clock; the audio began at `started_at`, which `note_captured` finds.

    Where nobody knows the truth (`truth` is empty), the times of speech are those that the daemon heard.
    """

    truth: tuple[Utterance, ...]
    live: bool  # audio was sent as it was spoken, so a delay means something
    started_at: float = math.inf
    audio_s: float = 0.0  # that was sent
    ended_at: float = 0.0
    first_interims: dict[int, float] = attrs.field(factory=dict)  # utterance -> when its first text came
    finals: list[tuple[float, Final]] = attrs.field(factory=list)

    def note(self, event: Event, *, at: float) -> None:
        """Remember an event that arrived `at`."""
        if isinstance(event, Interim) and event.text:
            self.first_interims.setdefault(event.utterance, at)
        elif isinstance(event, Final) and event.text:
            self.finals.append((at, event))

    def note_captured(self, seconds: float, *, at: float) -> None:
        """Remember that a microphone's next `seconds` came `at`.

        The recording began when it must have for none of its audio to come before it was spoken: a microphone takes a
        moment to start, and may be late now and then, but never early.
        """
        self.audio_s += seconds
        self.started_at = min(self.started_at, at - self.audio_s)

    def final_delays_s(self) -> list[float]:
        """For each final: when it came, after the end of the speech that it holds."""
        spans = ((at, self._speech_in(final)) for at, final in self.finals)
        return [at - self.started_at - span[1] for at, span in spans if span]

    def first_text_delays_s(self) -> list[float]:
        """For each utterance with an interim: when the first came, after the start of the speech."""
        delays = []
        for _, final in self.finals:
            at, span = self.first_interims.get(final.utterance), self._speech_in(final)
            if at is not None and span:
                delays.append(at - self.started_at - span[0])
        return delays

    def words_right(self) -> tuple[int, int]:
        """How many words of what was said came out right, and how many there are."""
        said = words_of(" ".join(utterance.text for utterance in self.truth))
        heard = words_of(" ".join(final.text for _, final in self.finals))
        blocks = difflib.SequenceMatcher(None, said, heard, autojunk=False).get_matching_blocks()
        return sum(block.size for block in blocks), len(said)

    def _speech_in(self, final: Final) -> tuple[float, float] | None:
        """Start and end of the speech in the stretch of a final; None where nothing is truly said.

        One utterance, or neighbours with a short pause between.
        """
        if not self.truth:
            return final.start_s, final.end_s
        heard = [u for u in self.truth if min(u.end_s, final.end_s) - max(u.start_s, final.start_s) > 0]
        return (heard[0].start_s, heard[-1].end_s) if heard else None


def words_of(text: str) -> list[str]:
    """The words of a text, without case and punctuation."""
    return re.findall(r"[\w']+", text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))


def report(
    run: Run, *, model: str, load_s: float, status: Mapping[str, Any], total_s: float, exit_status: int | None
) -> str:
    """The figures as lines.

    Args:
        model: the preset that heard it, loaded in `load_s`.
        status: the daemon's `status` before it was stopped, with `exit_status`.
        total_s: what all of the demo took, with the start of the daemon and a download.
    """
    heard = "" if run.truth else ", as heard"
    lines = [("finals", f"{len(run.finals)}" + (f" for {len(run.truth)} phrases" if run.truth else ""))]
    if run.truth:
        right, said = run.words_right()
        lines.append(("words right", f"{right} of {said}"))
    if run.live:
        lines += [
            ("first words", _summary(run.first_text_delays_s(), f"after the speech began{heard}")),
            ("final text", _summary(run.final_delays_s(), f"after the speech ended{heard}")),
        ]
    else:
        lines.append(("speed", f"{run.audio_s / (run.ended_at - run.started_at):.1f} times real time"))
    rss_bytes = status.get("models", {}).get("process_rss_bytes") or 0
    lines += [
        ("model", f"{model}, loaded in {load_s:.2f} s"),
        ("daemon", f"{rss_bytes / 2**20:.0f} MiB resident, stopped with status {exit_status}"),
        ("time in all", f"{total_s:.1f} s"),
    ]
    return "\n".join(f"{name:12} {text}" for name, text in lines)


def _summary(delays_s: Sequence[float], after: str) -> str:
    if not delays_s:
        return "none"
    return f"p50 {statistics.median(delays_s):.2f} s, max {max(delays_s):.2f} s {after}"
