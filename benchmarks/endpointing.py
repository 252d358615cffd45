"""Early cuts against waiting: the adaptive silence time beside a fixed 400 ms and a fixed 700 ms.

Sessions are composed from the recordings. Each has one speaker profile (brisk, average, slow): sentences of real
speech, pauses put into them at their quietest gaps, longer gaps between them, recorded noise under all of it at
30 dB. The truth is known without any VAD: where pauses were put is known exactly, and where a sentence begins and ends
comes from the energy of the clean recording.

The text part is replayed, not decoded: 150 ms after a pause begins, the endpointer gets the hint that `turn_hint`
takes from the reference text up to there. Recognisers err, so of the texts inside a sentence 15 % get a wrong full
stop, of those at its end 10 % lack theirs, and half the time the hypothesis before lacks the last word, so that the
two do not agree. Real hints depend on the model; the acoustic rows do not.

Columns. `cut %`: sentences in more than one utterance. `latency`: from the true end of a sentence to the decision,
over all sentences. `end error`: reported end of speech minus the true end. `missed %`: of the sentences' audible
audio, what lies in no utterance.
"""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np

from benchmarks import report
from benchmarks.options import Options
from benchmarks.recordings import Ingest, Recording, as_bytes, load
from benchmarks.sessions import TICK, audible, loudness, runs
from sttd.core.endpointer import Activity
from sttd.core.text import turn_hint
from sttd.core.types import SAMPLE_RATE, Samples
from sttd.core.utterance import Closed, Opened, Paused, UtteranceAssembler
from sttd.options import Endpointing

SESSIONS, SENTENCES = 12, 10  # per profile
NOISE_DB = -30  # below the speech's level
HINT_FRAMES = 7  # 150 ms: a short decode
WRONG_STOP, LACKING_STOP, LACKING_WORD = 0.15, 0.10, 0.5
LONGEST_NATURAL_PAUSE_S = 0.35  # clips with longer ones may hold several sentences
BREATH_AT_THE_END = {"aishell-zh", "fleurs-en-008", "fleurs-fr-008", "wy-lamp"}  # or a click: energy ends too late


@attrs.frozen(kw_only=True)
class Profile:
    """How a speaker pauses: median and range inside sentences, range between them, seconds of speech per pause."""

    name: str
    pause_s: tuple[float, float, float]
    gap_s: tuple[float, float]
    every_s: float


PROFILES = (
    Profile(name="brisk", pause_s=(0.22, 0.15, 0.35), gap_s=(1.0, 2.0), every_s=3.0),
    Profile(name="average", pause_s=(0.35, 0.20, 0.60), gap_s=(1.2, 2.5), every_s=2.5),
    Profile(name="slow", pause_s=(0.50, 0.30, 0.80), gap_s=(1.5, 3.0), every_s=2.0),
)
FIXED = (400, 500, 600, 700)
SETTINGS = {
    **{f"fixed {ms}": (Endpointing(silence_ms_min=ms, silence_ms_max=ms), False) for ms in FIXED},
    "adaptive": (Endpointing(), False),
    "adaptive, text": (Endpointing(), True),
}


@attrs.frozen(kw_only=True, eq=False)
class Sentence:
    """A sentence in its session: where its sound begins and ends, which ticks of it are audible, its words."""

    start: int
    end: int
    audible: Samples
    words: tuple[str, ...]


@attrs.frozen(kw_only=True, eq=False)
class Session:
    """A composed session, what the detectors say about it, and the truth."""

    frames: Samples
    activity: Activity
    sentences: tuple[Sentence, ...]


# ---------------------------------------------------------------- composing


def usable(recordings: dict[str, Recording]) -> list[Recording]:
    """Clean single sentences."""
    chosen = []
    for clip in recordings.values():
        if not clip.is_speech or clip.segments or clip.duration_s > 12 or clip.name in BREATH_AT_THE_END:
            continue
        sounds = None if "noisy" in clip.tags else audible(clip.samples)
        if sounds is None:
            continue
        gaps = [after - first for first, after in runs(~sounds)[1:-1]]
        if max(gaps, default=0) * TICK <= LONGEST_NATURAL_PAUSE_S * SAMPLE_RATE:
            chosen.append(clip)
    return chosen


def with_pauses(clip: Recording, profile: Profile, rng: np.random.Generator) -> tuple[Samples, Samples]:
    """The sentence with pauses in its quietest gaps: audio from first to last sound, and which ticks are audible."""
    sounds = audible(clip.samples)
    assert sounds is not None
    first, last = np.flatnonzero(sounds)[[0, -1]]
    samples, sounds = clip.samples[first * TICK : (last + 1) * TICK], sounds[first : last + 1]
    level = loudness(samples)
    median, low, high = profile.pause_s
    pieces, heard, begin = [], [], 0
    for target in np.arange(profile.every_s, len(sounds) / 100 - 0.8, profile.every_s):
        around = slice(max(int(target * 100) - 60, begin + 50), int(target * 100) + 60)
        if around.stop - around.start < 20:
            continue
        at = around.start + int(level[around].argmin())
        length = int(np.clip(rng.lognormal(np.log(median), 0.3), low, high) * 100)
        pieces += [samples[begin * TICK : at * TICK], np.zeros(length * TICK, np.float32)]
        heard += [sounds[begin:at], np.zeros(length, np.bool_)]
        begin = at
    return (
        np.concatenate([*pieces, samples[begin * TICK :]]),
        np.concatenate([*heard, sounds[begin:]]),
    )


def compose(profile: Profile, clips: list[Recording], noise: Samples, rng: np.random.Generator) -> Session:
    """One session of a speaker, run through the detectors."""
    position, pieces, sentences = SAMPLE_RATE, [np.zeros(SAMPLE_RATE, np.float32)], []
    for index in rng.permutation(len(clips))[:SENTENCES]:
        samples, sounds = with_pauses(clips[index], profile, rng)
        samples = samples * np.float32(0.05 / np.sqrt(np.square(samples).mean()))
        words = tuple(clips[index].text.split())
        sentences.append(Sentence(start=position, end=position + len(samples), audible=sounds, words=words))
        gap = np.zeros(int(rng.uniform(*profile.gap_s) * 100) * TICK, np.float32)
        pieces += [samples, gap]
        position += len(samples) + len(gap)
    speech = np.concatenate([*pieces, np.zeros(SAMPLE_RATE, np.float32)])
    bed = np.resize(np.roll(noise, int(rng.integers(len(noise)))), len(speech))
    bed = bed * np.float32(0.05 * 10 ** (NOISE_DB / 20) / np.sqrt(np.square(bed).mean()))
    ingest = Ingest()
    frames = ingest.decoder.push(as_bytes(speech + bed))
    return Session(frames=frames, activity=ingest.detector.push(frames), sentences=tuple(sentences))


# ---------------------------------------------------------------- replaying


def hint_text(sentence: Sentence, *, end: int, rng: np.random.Generator) -> tuple[str, str]:
    """What two hypotheses running would say at a pause that begins at `end`."""
    done = end >= sentence.end - SAMPLE_RATE // 5
    spoken = sentence.audible[: max(end - sentence.start, 0) // TICK].sum() / sentence.audible.sum()
    count = len(sentence.words) if done else max(round(len(sentence.words) * float(spoken)), 1)
    text = " ".join(sentence.words[:count])
    if done:
        text = text.rstrip(".,;:!?") + ("" if rng.random() < LACKING_STOP else ".")
    elif rng.random() < WRONG_STOP:
        text = text.rstrip(".,;:!?") + "."
    before = text.rsplit(" ", 1)[0] if rng.random() < LACKING_WORD else text
    return before, text


def replay(session: Session, endpointing: Endpointing, *, text: bool) -> Iterator[tuple[Opened, Closed]]:
    """The utterances of a session under these settings."""
    machine = UtteranceAssembler(endpointing, max_utterance_s=endpointing.max_utterance_s)
    rng = np.random.default_rng(1)
    opened: Opened | None = None
    hint_at, paused_end = -1, 0
    for index in range(len(session.frames)):
        if index == hint_at and text:
            sentence = next((s for s in session.sentences if s.start <= paused_end <= s.end + SAMPLE_RATE // 2), None)
            if sentence is not None:
                machine.hint(turn_hint(*hint_text(sentence, end=paused_end, rng=rng)))
        activity = Activity(
            webrtc=session.activity.webrtc[index : index + 1],
            probability=session.activity.probability[index : index + 1],
        )
        for event in machine.push(session.frames[index : index + 1], activity):
            match event:
                case Opened():
                    opened = event
                case Paused():
                    hint_at, paused_end = index + HINT_FRAMES, event.end_sample
                case Closed():
                    assert opened is not None
                    hint_at = -1
                    yield opened, event
                case _:
                    hint_at = -1


@attrs.define
class Score:
    """What happened to the sentences."""

    sentences: int = 0
    cut: int = 0
    lost: int = 0  # no utterance ends at or after the sentence's end, before the next begins
    latency_ms: list[float] = attrs.field(factory=list)
    end_error_ms: list[float] = attrs.field(factory=list)
    audible: int = 0
    missed: int = 0

    def add(self, session: Session, utterances: list[tuple[Opened, Closed]]) -> None:
        """Count one session."""
        for sentence in session.sentences:
            parts = [
                closed
                for opened, closed in utterances
                if opened.at_sample < sentence.end and closed.end_sample > sentence.start
            ]
            self.sentences += 1
            self.cut += len(parts) > 1
            ticks = sentence.start + np.flatnonzero(sentence.audible) * TICK
            inside = np.zeros(len(ticks), np.bool_)
            for closed in parts:
                inside |= (ticks >= closed.start_sample) & (ticks < closed.start_sample + len(closed.samples))
            self.audible += len(ticks)
            self.missed += int((~inside).sum())
            if not parts:
                self.lost += 1
                continue
            self.latency_ms.append((parts[-1].decided_sample - sentence.end) / 16)
            self.end_error_ms.append((parts[-1].end_sample - sentence.end) / 16)

    def row(self) -> dict[str, float | int]:
        latency, error = np.array(self.latency_ms), np.array(self.end_error_ms)
        return {
            "sentences": self.sentences,
            "cut %": 100 * self.cut / self.sentences,
            "lost": self.lost,
            "latency ms mean": float(latency.mean()),
            "p50": float(np.percentile(latency, 50)),
            "p95": float(np.percentile(latency, 95)),
            "end error ms p50": float(np.median(error)),
            "|p95|": float(np.percentile(np.abs(error), 95)),
            "missed %": 100 * self.missed / self.audible,
        }


def main(_: Options) -> None:
    """Compose, replay under each setting, report."""
    recordings = load()
    clips = usable(recordings)
    rng = np.random.default_rng(2026)
    noise = recordings["ns-bike-b"].samples
    sessions = {profile: [compose(profile, clips, noise, rng) for _ in range(SESSIONS)] for profile in PROFILES}
    scores: dict[tuple[str, str], Score] = {}
    for name, (endpointing, text) in SETTINGS.items():
        for profile, composed in sessions.items():
            for session in composed:
                utterances = list(replay(session, endpointing, text=text))
                for speaker in (profile.name, "all"):
                    scores.setdefault((speaker, name), Score()).add(session, utterances)
    speakers = [*(profile.name for profile in PROFILES), "all"]
    rows = [
        {"speaker": speaker, "setting": name} | scores[speaker, name].row() for speaker in speakers for name in SETTINGS
    ]
    report.write(
        "endpointing",
        rows,
        {"clips": len(clips), "sessions": SESSIONS * len(PROFILES), "target": verdict(scores)},
    )


def verdict(scores: dict[tuple[str, str], Score]) -> str:
    """Whether the adaptive time earns its name, over all speakers."""
    lines = []
    for name in ("adaptive", "adaptive, text"):
        adaptive, least, most = (scores["all", key].row() for key in (name, "fixed 400", "fixed 700"))
        fewer = adaptive["cut %"] < least["cut %"]
        sooner = adaptive["latency ms mean"] < most["latency ms mean"]
        lines.append(
            f"{name}: {'fewer' if fewer else 'NOT fewer'} cuts than fixed 400, "
            f"{'sooner' if sooner else 'NOT sooner'} than fixed 700"
        )
    return "; ".join(lines)
