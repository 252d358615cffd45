"""How still the live text is: retractions, flicker and word errors of whole sessions, from the wire log alone.

Every session is spoken at real-time pace twice, with and without `lock_stable`. For the embedded demo model the
sessions are synthesised, for all others they are of real people: `script` (single sentences), `session-a` (several
speakers, with pauses) and `spontaneous` (free speech with hesitations and pauses). The columns:

- `interim_retractions`: interims that change a character before the `stable_chars` of an earlier one. Promised: 0.
- `final_retractions`: finals that do, in percent of the utterances that had stable text. Target: at most 0.5 %, and
  0 with `lock_stable`.
- `ne`: normalised erasure, words that an update deletes (all behind the first difference count) over the words of
  the finals (Arivazhagan et al. 2020). Target: at most 0.20.
- `upwr`: unstable partial words, shown words that the next update changes or removes, over the words of the finals
  (Shangguan et al. 2020). Target: at most 0.10. `upwr_words` leaves case and punctuation out.
- `interim_wer_pct`, `final_wer_pct`: word errors of the last interims and of the finals against what was spoken.
"""

from __future__ import annotations

import json
import random
from itertools import pairwise
from pathlib import Path

import attrs
import trio

from benchmarks import load, recordings, report
from benchmarks.options import Options
from benchmarks.sessions import Session, script, untrimmed
from benchmarks.words import Errors, errors, vanished, words

CHUNK_MS = 20
PAUSE_S = 1.2
CLIPS = Path(__file__).parents[1] / "tests" / "data"
SYNTHESISED = 12  # sentences that espeak-ng speaks, where it is installed
SPONTANEOUS = ("mfa-acoustic", "mfa-cold", "mfa-cold3")


@attrs.frozen
class Counts:
    """What the wire log of some utterances says."""

    utterances: int = 0
    updates: int = 0
    with_stable: int = 0
    interim_retractions: int = 0
    final_retractions: int = 0
    final_words: int = 0
    erased: int = 0
    unstable: int = 0
    unstable_plain: int = 0

    def __add__(self, other: Counts) -> Counts:
        pairs = zip(attrs.astuple(self), attrs.astuple(other), strict=True)
        return Counts(*(mine + theirs for mine, theirs in pairs))


def main(options: Options) -> None:
    """Both modes; a table with a row for each session and one for all."""
    model = options.model
    sessions = {session.name: session for session in (_synthesised_sessions() if model.is_demo else _real_sessions())}
    rows = []
    for lock_stable in (False, True):
        with load.daemon(*model.serve) as directory:
            load.call(directory, "load", preset=model.preset, keep_alive_s=-1)
            found = trio.run(_speak_all, directory, sessions, lock_stable)
        total, total_last, total_final = Counts(), Errors(), Errors()
        for name, talk in found.items():
            counts, (last, final) = count(talk), _word_errors(talk, sessions[name].text)
            rows.append(_row(name, lock_stable, counts, last, final))
            total, total_last, total_final = total + counts, total_last + last, total_final + final
        rows.append(_row("all", lock_stable, total, total_last, total_final))
    report.write(
        "stability",
        rows,
        {
            "targets": "interim_retractions 0; final_retractions at most 0.5 %, 0 with lock_stable; ne 0.20; upwr 0.10",
        },
        model=model.name,
    )


async def _speak_all(directory: Path, sessions: dict[str, Session], lock_stable: bool) -> dict[str, load.Talk]:
    """One session after another: the cadence of interims depends on the load."""
    options = {"lang": "en", "lock_stable": lock_stable}
    return {
        name: await load.talk(
            directory, load.chunked(session.pcm, chunk_ms=CHUNK_MS), chunk_ms=CHUNK_MS, options=options
        )
        for name, session in sessions.items()
    }


def _row(name: str, lock_stable: bool, counts: Counts, last: Errors, final: Errors) -> dict[str, object]:
    spoken = max(1, counts.final_words)
    return {
        "session": name,
        "lock_stable": "yes" if lock_stable else "no",
        "utterances": counts.utterances,
        "updates": counts.updates,
        "interim_retractions": counts.interim_retractions,
        "final_retractions_pct": round(100 * counts.final_retractions / max(1, counts.with_stable), 1),
        "ne": round(counts.erased / spoken, 3),
        "upwr": round(counts.unstable / spoken, 3),
        "upwr_words": round(counts.unstable_plain / spoken, 3),
        "interim_wer_pct": last.rate_pct,
        "final_wer_pct": final.rate_pct,
    }


# ------------------------------------------------------------------------------------------------ the wire log


def count(talk: load.Talk) -> Counts:
    """The figures of one session."""
    total = Counts()
    for final in talk.events("final"):
        interims = [heard.event for heard in _interims(talk, final.event["utterance"])]
        total += of_utterance([(event["text"], event["stable_chars"]) for event in interims], final.event["text"])
    return total


def _interims(talk: load.Talk, utterance: int) -> list[load.Heard]:
    return [heard for heard in talk.events("interim") if heard.event["utterance"] == utterance]


def of_utterance(interims: list[tuple[str, int]], final: str) -> Counts:
    """The figures of one utterance: its interims, as (text, stable characters), and its final."""
    stable, retractions = "", 0
    erased = unstable = plain = 0
    texts = [text for text, _ in interims]
    for text, chars in interims:
        retractions += not text.startswith(stable)
        stable = text[:chars]
    for before, after in pairwise([*texts, final]):
        erased += len(before.split()) - _common_prefix(before.split(), after.split())
        unstable += vanished(before.split(), after.split())
        plain += vanished(words(before), words(after))
    return Counts(
        utterances=1,
        updates=len(interims),
        with_stable=bool(stable),
        interim_retractions=retractions,
        final_retractions=not final.startswith(stable),
        final_words=len(final.split()),
        erased=erased,
        unstable=unstable,
        unstable_plain=plain,
    )


def _common_prefix(before: list[str], after: list[str]) -> int:
    return next(
        (index for index, (old, new) in enumerate(zip(before, after, strict=False)) if old != new),
        min(len(before), len(after)),
    )


def _word_errors(talk: load.Talk, said: str) -> tuple[Errors, Errors]:
    """Of the last interims and of the finals."""
    finals = [heard.event for heard in talk.events("final")]
    shown = [_interims(talk, final["utterance"]) for final in finals]
    last = " ".join(interims[-1].event["text"] for interims in shown if interims)
    return errors(said, last), errors(said, " ".join(final["text"] for final in finals))


# ------------------------------------------------------------------------------------------------ the sessions


def _real_sessions() -> list[Session]:
    clips = recordings.load(names=("session-a", *SPONTANEOUS))
    return [
        script(),
        untrimmed([clips["session-a"]], name="session-a"),
        untrimmed([clips[name] for name in SPONTANEOUS], name="spontaneous"),
    ]


def _synthesised_sessions() -> list[Session]:
    paths = sorted(path for path in CLIPS.glob("*.flac") if path.stem != "held-out")
    sessions = {
        "sample": load.sample(),
        "held-out": load.clip(CLIPS / "held-out.flac"),
        "clips": _joined([load.clip(path) for path in paths]),
    }
    if (synthesised := _synthesised()) is not None:
        sessions["espeak-ng"] = synthesised
    return [Session(name=name, pcm=pcm, truth=truth) for name, (pcm, truth) in sessions.items()]


def _joined(clips: list[tuple[bytes, load.Truth]]) -> tuple[bytes, load.Truth]:
    """Clips one after another. Their own quiet ends are repeated between them: no pause is digital silence."""
    pcm, truth = b"", []
    for data, utterances in clips:
        at_s = len(pcm) / 2 / load.RATE
        truth += [{**said, "start_s": said["start_s"] + at_s, "end_s": said["end_s"] + at_s} for said in utterances]
        quiet = data[-load.RATE * 2 // 4 :]
        pcm += data + quiet * round(PAUSE_S * 4)
    return pcm, truth


def _synthesised() -> tuple[bytes, load.Truth] | None:
    """Sentences that neither the model nor the other sessions have; None where espeak-ng is not installed."""
    from training.demo_model.corpus import evaluation_texts
    from training.demo_model.espeak import Espeak
    from training.demo_model.sample import Line, record
    from training.demo_model.speakers import held_voice

    try:
        espeak = Espeak()
    except OSError:
        return None
    rng = random.Random(7)
    texts = evaluation_texts()[1][:SYNTHESISED]
    lines = tuple(
        Line(pause_s=rng.uniform(0.9, 1.6), voice=held_voice(rng, unseen_accent=False), text=text) for text in texts
    )
    samples, truth = record(lines, espeak=espeak, tail_s=1.2)
    return samples.tobytes(), json.loads(json.dumps(truth))
