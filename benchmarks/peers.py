"""Beside four neighbours: the same real speech, model, machine and number of threads for all, in one run.

Each server gets an environment of its own under `build/peers`, made here from the package index; each is spoken to in
its own protocol by a small client (`benchmarks/peer`), and what all clients show is kept in one kind of log. The speech
is the usual session (`sessions.script`), spoken at real-time pace by 1, 2 and 4 speakers, each beginning with another
utterance. There are two ways to know that an utterance is over, and a server is measured in those that it has:

- `told`: the client says so (sttd: `finalize`; Wyoming: `audio-stop`). Latency counts from there.
- `heard`: the server hears it. Audio goes on without a break; latency counts from the true end of speech.

Columns. A `final` is text that will not change: sttd's `final`, Wyoming's `transcript`, WhisperLive's completed
segments, RealtimeSTT's `text()`, WhisperLiveKit's lines. `final_*_ms` is when the last word of an utterance is in it,
`first_*_ms` when the first right word of an utterance is shown, from the true start of its speech. `lost_pct`: said
words in whose place no word stands, right or wrong; they are among the `word_errors_pct`. `taken_back_pct`: words that
were shown and are not there in the next text, per 100 words of the final text. `finals`: utterances of which something
became final. `server_cpu_s`: CPU time of the server and all its children for each second of speech.

A server that does not start, dies or hangs costs its row: the `note` says so, and what it did not say counts as lost.
"""

from __future__ import annotations

import itertools
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial

import attrs
import trio

from benchmarks import load, report
from benchmarks.options import PEERS, Model, Options
from benchmarks.peer import realtimestt, sttd, whisper_live, whisperlivekit, wyoming
from benchmarks.peer.environment import THREADS
from benchmarks.peer.script import Heard, Server, Spoken, Talk, cut
from benchmarks.sessions import session_for
from benchmarks.words import Errors, align, errors, vanished, words

PATIENCE_S = 60  # beyond the length of its speech, before a client gives up; chosen
APART_S = 0.37  # nobody begins together; chosen, and no multiple of a chunk
Serve = Callable[[Model, int], AbstractContextManager[Server]]
SERVERS: dict[str, tuple[tuple[str, Serve], ...]] = {
    "sttd": (("sttd", sttd.serve),),
    "wyoming": (("wyoming-faster-whisper", wyoming.serve),),
    "whisperlive": tuple(
        (f"WhisperLive, {batching}", partial(whisper_live.serve, batching=batching))
        for batching in ("serial", "batched")
    ),
    "realtimestt": (("RealtimeSTT", realtimestt.serve),),
    "whisperlivekit": (("WhisperLiveKit", whisperlivekit.serve),),
}
ABOUT = {
    "sttd": sttd,
    "wyoming": wyoming,
    "whisperlive": whisper_live,
    "realtimestt": realtimestt,
    "whisperlivekit": whisperlivekit,
}


@attrs.frozen(kw_only=True)
class Scores:
    """What the logs of some clients say; latencies in seconds."""

    final_s: list[float] = attrs.field(factory=list)
    first_s: list[float] = attrs.field(factory=list)
    errors: Errors = attrs.field(factory=Errors)
    taken_back: int = 0
    final_words: int = 0
    notes: tuple[str, ...] = ()

    def __add__(self, other: Scores) -> Scores:
        return Scores(
            final_s=self.final_s + other.final_s,
            first_s=self.first_s + other.first_s,
            errors=self.errors + other.errors,
            taken_back=self.taken_back + other.taken_back,
            final_words=self.final_words + other.final_words,
            notes=self.notes + other.notes,
        )


def main(options: Options) -> None:
    """All servers that are asked for, and all numbers of speakers, one after the other."""
    model = options.model
    rows: list[dict[str, object]] = []
    for key in options.only:
        for name, serve in SERVERS[key]:
            rows += _rows(name, serve, model, options.speakers)
    about = {
        "weights": f"the same directory for all, int8, {THREADS} threads",
        **{key: f"{ABOUT[key].VERSION}; {ABOUT[key].NOTE}" for key in options.only},
    }
    name = "peers" if set(options.only) == set(PEERS) else f"peers_{'_'.join(options.only)}"
    report.write(name, rows, about, model=model.name)


def _rows(name: str, serve: Serve, model: Model, counts: tuple[int, ...]) -> Iterator[dict[str, object]]:
    """A row for each mode and number of speakers, or one that says why there is none."""
    script = cut(session_for(model))
    try:
        with serve(model, max(counts)) as server:
            for mode, talk in server.talks.items():
                for speakers in counts:
                    trio.run(_all_speakers, talk, script[:1], speakers)  # warms every server up
                    cpu_s = server.cpu_s()
                    scores = trio.run(_all_speakers, talk, script, speakers)
                    speech_s = speakers * sum(each.end_s - each.start_s for each in script)
                    said = speakers * len(script)
                    row = _row(name, mode, speakers, scores, said, (server.cpu_s() - cpu_s) / speech_s)
                    print("  " + " ".join(f"{key}={value}" for key, value in row.items()), file=sys.stderr, flush=True)
                    yield row
    except Exception as error:
        yield _row(name, "-", None, Scores(notes=(report.reason(error),)), 0, None)


def _row(
    name: str, mode: str, speakers: int | None, scores: Scores, said: int, cpu_s: float | None
) -> dict[str, object]:
    found = scores.errors
    measured = found.said > 0
    return {
        "server": name,
        "mode": mode,
        "speakers": speakers,
        "word_errors_pct": found.rate_pct if measured else None,
        "lost_pct": round(100 * found.lost / found.said, 1) if measured else None,
        "final_p50_ms": _ms(scores.final_s, 0.5),
        "final_p95_ms": _ms(scores.final_s, 0.95),
        "first_p50_ms": _ms(scores.first_s, 0.5),
        "first_p95_ms": _ms(scores.first_s, 0.95),
        "taken_back_pct": round(100 * scores.taken_back / max(1, scores.final_words), 1) if measured else None,
        "finals": f"{len(scores.final_s)}/{said}",
        "server_cpu_s": None if cpu_s is None else round(cpu_s, 2),
        "load_1m": round(os.getloadavg()[0], 1),
        "note": "; ".join(sorted(set(scores.notes))) or "-",
    }


def _ms(values: list[float], share: float) -> int | None:
    value = load.percentile(values, share)
    return None if value is None else round(1000 * value)


async def _all_speakers(talk: Talk, script: list[Spoken], speakers: int) -> Scores:
    total: list[Scores] = []
    patience_s = sum(len(each.pcm) / 2 / load.RATE for each in script) + PATIENCE_S

    async def one(number: int) -> None:
        await trio.sleep(number * APART_S)
        mine = script[number % len(script) :] + script[: number % len(script)]
        logs: list[Heard] = []
        try:
            with trio.fail_after(patience_s):
                await talk(mine, logs)
        except trio.TooSlowError:
            total.append(Scores(notes=(f"not done {PATIENCE_S} s after the end",)))
        except Exception as error:
            total.append(Scores(notes=(report.reason(error),)))
        parts = [[each] for each in mine] if len(logs) > 1 else [mine]
        total.extend(score(part, log) for part, log in zip(parts, logs or [Heard()], strict=True))

    async with trio.open_nursery() as nursery:
        for number in range(speakers):
            nursery.start_soon(one, number)
    return sum(total, Scores())


# ------------------------------------------------------------------------------------------------ the log


def score(script: list[Spoken], heard: Heard) -> Scores:
    """Latencies and words of one client. An utterance without any final word has no latency: its words are lost.

    Final text only grows, so a word is final when the text first has as many words as up to it in the end.
    """
    said = [words(each.text) for each in script]
    texts = [(at_s, words(final), words(shown)) for at_s, final, shown in heard.log]
    final = texts[-1][1] if texts else []
    places = align([word for utterance in said for word in utterance], final)
    final_s, first_s = [], []
    at = 0
    for index, utterance in enumerate(said):
        found = [place for place in places[at : at + len(utterance)] if place is not None]
        if found:
            became_s = next(at_s for at_s, text, _ in texts if len(text) > found[-1])
            final_s.append(became_s - heard.ends_s[index])
            before = [word for each in said[:index] for word in each]
            shown_s = _first_right_word_s(texts, before, utterance, heard.starts_s[index])
            if shown_s is not None:
                first_s.append(shown_s - heard.starts_s[index])
        at += len(utterance)
    shown = [text for _, _, text in texts]
    return Scores(
        final_s=final_s,
        first_s=first_s,
        errors=errors(" ".join(each.text for each in script), heard.log[-1][1] if heard.log else ""),
        taken_back=sum(vanished(old, new) for old, new in itertools.pairwise(shown)),
        final_words=len(final),
    )


def _first_right_word_s(
    texts: list[tuple[float, list[str], list[str]]], before: list[str], utterance: list[str], since_s: float
) -> float | None:
    """When a word of an utterance first stands where it belongs, behind what was said before."""
    for at_s, _, shown in texts:
        if at_s >= since_s:
            places = align([*before, *utterance], shown)[len(before) :]
            if any(place is not None and shown[place] == word for word, place in zip(utterance, places, strict=True)):
                return at_s
    return None
