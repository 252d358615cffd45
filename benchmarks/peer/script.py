"""What the clients of `peers` say, the log of what they hear, and what a server offers them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator

import attrs
import trio

from benchmarks import load
from benchmarks.recordings import as_bytes, room_noise
from benchmarks.sessions import Session

CHUNK_MS = 100
TAIL_S = 3.0  # of quiet after the last word, for those that wait for it
STILL_S = 4  # without anything new, a server has nothing more to say; chosen, as twice what a decode takes at worst
STILL_AT_MOST_S = 40
KEY_S = 0.2  # a key is held from so long before the first word on; chosen


@attrs.frozen
class Spoken:
    """One utterance of a client's script: its audio from one pause to the next, and where the speech is in it."""

    pcm: bytes
    start_s: float
    end_s: float
    text: str


@attrs.define
class Heard:
    """What one client has got: (seconds since it began, final text, shown text), whenever either changed.

    `starts_s` and `ends_s` are where each utterance that was said began and ended, on the same clock.
    """

    log: list[tuple[float, str, str]] = attrs.field(factory=list)
    starts_s: list[float] = attrs.field(factory=list)
    ends_s: list[float] = attrs.field(factory=list)

    def note(self, at_s: float, final: str, shown: str) -> None:
        if not self.log or self.log[-1][1:] != (final, shown):
            self.log.append((at_s, final, shown))


# Says a script and fills the list with a log of each utterance, or with one of all: what came stays if it is cancelled.
Talk = Callable[[list[Spoken], list[Heard]], Awaitable[None]]


@attrs.frozen(kw_only=True)
class Server:
    """A server that runs.

    Args:
        pids: its processes; their descendants belong to it too.
        talks: how a client speaks to it, by mode: `told` or `heard`.
    """

    pids: tuple[int, ...]
    talks: dict[str, Talk]

    def cpu_s(self) -> float:
        return sum(load.tree_cpu_s(pid) for pid in self.pids)


def cut(session: Session) -> list[Spoken]:
    """A session, cut in the middle of its pauses."""
    ends = [said["end_s"] for said in session.truth]
    starts = [said["start_s"] for said in session.truth]
    middles = [(end + start) / 2 for end, start in zip(ends, starts[1:], strict=False)]
    cuts = [0.0, *middles, session.audio_s]
    return [
        Spoken(session.pcm[_byte(begin) : _byte(end)], said["start_s"] - begin, said["end_s"] - begin, said["text"])
        for said, begin, end in zip(session.truth, cuts, cuts[1:], strict=False)
    ]


def _byte(at_s: float) -> int:
    return 2 * round(at_s * load.RATE)


def unbroken(script: list[Spoken], heard: Heard) -> bytes:
    """All utterances without a break and the quiet after them; notes where each begins and ends."""
    at = 0
    for each in script:
        heard.starts_s.append(at / 2 / load.RATE + each.start_s)
        heard.ends_s.append(at / 2 / load.RATE + each.end_s)
        at += len(each.pcm)
    return b"".join(each.pcm for each in script) + as_bytes(room_noise(TAIL_S))


async def paced(pcm: bytes, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Chunks at real-time pace, each when its last sample has been spoken."""
    size = load.RATE * 2 * CHUNK_MS // 1000
    began = trio.current_time()
    for number, at in enumerate(range(0, len(pcm), size), 1):
        await trio.sleep_until(began + number * CHUNK_MS / 1000)
        await send(pcm[at : at + size])


async def until_still(heard: Heard, send: Callable[[bytes], Awaitable[None]]) -> None:
    """Quiet at real-time pace, as of a microphone that stays open, until the log has not changed for a while."""
    log_length, still_s = len(heard.log), 0.0
    for _ in range(STILL_AT_MOST_S):
        await paced(as_bytes(room_noise(1.0)), send)
        still_s = still_s + 1 if len(heard.log) == log_length else 0.0
        log_length = len(heard.log)
        if still_s >= STILL_S:
            return


def told_parts(script: list[Spoken]) -> Iterator[tuple[float, bytes, float]]:
    """(seconds of quiet before, audio that is sent, where speech begins in it) of each utterance."""
    rest_s = 0.0
    for each in script:
        begin_s = max(0.0, each.start_s - KEY_S)
        yield rest_s + begin_s, each.pcm[_byte(begin_s) : _byte(each.end_s)], each.start_s - begin_s
        rest_s = len(each.pcm) / 2 / load.RATE - each.end_s
