"""What the clients of `peers` say, and the log of what they hear."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import attrs
import numpy as np
import trio

from benchmarks import load

CHUNK_MS = 100
TAIL_S = 3.0  # of quiet after the last word, for those that wait for it


@attrs.frozen
class Spoken:
    """One utterance of a client's script: its audio from one pause to the next, and where the speech is in it."""

    pcm: bytes
    start_s: float
    end_s: float
    text: str


@attrs.define
class Heard:
    """What one client has got: (seconds since it began, final text, shown text), whenever either changed."""

    log: list[tuple[float, str, str]] = attrs.field(factory=list)
    ends_s: list[float] = attrs.field(factory=list)  # when each utterance of the script was over, on the same clock

    def note(self, at_s: float, final: str, shown: str) -> None:
        if not self.log or self.log[-1][1:] != (final, shown):
            self.log.append((at_s, final, shown))


Talk = Callable[[list[Spoken]], Awaitable[list[Heard]]]  # of each utterance, or one of all


def script_of_the_sample() -> list[Spoken]:
    """The sample, cut in the middle of its pauses."""
    pcm, truth = load.sample()
    ends = [said["end_s"] for said in truth]
    starts = [said["start_s"] for said in truth]
    cuts = [0.0, *((end + start) / 2 for end, start in zip(ends, starts[1:], strict=False)), len(pcm) / 2 / load.RATE]
    return [
        Spoken(pcm[_byte(begin) : _byte(end)], said["start_s"] - begin, said["end_s"] - begin, said["text"])
        for said, begin, end in zip(truth, cuts, cuts[1:], strict=False)
    ]


def _byte(at_s: float) -> int:
    return 2 * round(at_s * load.RATE)


def unbroken(script: list[Spoken], heard: Heard) -> bytes:
    """All utterances without a break and the quiet after them; notes where each ends."""
    at = 0
    for each in script:
        heard.ends_s.append(at / 2 / load.RATE + each.end_s)
        at += len(each.pcm)
    noise = np.random.default_rng(0).normal(0, 3.3, round(TAIL_S * load.RATE))  # that of the sample's pauses
    return b"".join(each.pcm for each in script) + noise.astype("<i2").tobytes()


async def paced(pcm: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Chunks at real-time pace, each when its last sample has been spoken."""
    size = load.RATE * 2 * CHUNK_MS // 1000
    began = trio.current_time()
    for number, at in enumerate(range(0, len(pcm), size), 1):
        await trio.sleep_until(began + number * CHUNK_MS / 1000)
        await send(pcm[at : at + size])


def told_parts(script: list[Spoken]) -> Iterator[tuple[float, bytes]]:
    """(seconds of quiet before, audio that is sent) of each utterance: a key is held from before its first word on."""
    rest_s = 0.0
    for each in script:
        begin_s = max(0.0, each.start_s - 0.2)
        yield rest_s + begin_s, each.pcm[_byte(begin_s) : _byte(each.end_s)]
        rest_s = len(each.pcm) / 2 / load.RATE - each.end_s
