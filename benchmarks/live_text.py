"""Live text by each rule, on a clock of its own: how much is taken back, how soon is it stable and shown?

Every English clip of up to 20 s goes through a session's own machine (`core/hearing.py`) with room noise behind it. A
model decodes what the machine asks for, and the clock of the replay moves as if an interim took the seconds of the
column `decode_s` and anything else twice that, so that no figure but `cpu_s` depends on the machine. All ways hear the
same decodes, each made once. The ways:

- `agreed twice`: words are stable when two hypotheses running have them, and all that is heard is shown;
- `now`: the rules that the model's preset declares;
- `locked`: with `lock_stable`; `finals free`: they are not told the stable text.

The columns:

- `contradicted_pct`: utterances whose stable words are not the beginning of the final's, of those with stable text.
- `retracted`: interims that change a stable character of an earlier one. Promised: 0.
- `ne`: normalised erasure, words that an update takes back, the final included, over the words of the finals
  (Arivazhagan et al. 2020); `words` compares.
- `ne_written`: the same where case and punctuation are part of a word.
- `commit_mean_s`, `commit_p95_s`: from the end of a word, as the final is aligned, to the update that has it stable.
- `stable_pct`: words that were stable before the final.
- `shown_s`: from the end of a word to the update from which it is rightly shown on, the mean.
- `first_s`: from the onset of speech to the first text, the median.
- `wer_pct`, `minus_offline`: word errors of the finals, and less those of whole clips in one decode, points.
"""

from __future__ import annotations

import hashlib
import math
import statistics
import time
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import attrs
import numpy as np

from benchmarks import report
from benchmarks.options import Options
from benchmarks.recordings import Recording, english, room_noise
from benchmarks.words import Errors, errors, words
from sttd.core.actions import Cancel, JobId, Lease, Say, Submit
from sttd.core.forms import keeps
from sttd.core.hearing import Hearing
from sttd.core.types import (
    FRAME_SAMPLES,
    SAMPLE_RATE,
    DecodeItem,
    DecodeOptions,
    Final,
    Hypothesis,
    Interim,
    JobClass,
    Lead,
    Outcome,
    Samples,
)
from sttd.engine.contract import Model, Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.silero import SileroModel
from sttd.engine.vad import VoiceDetector
from sttd.engine.whisper.backend import WhisperBackend
from sttd.live_text import LiveText
from sttd.options import Endpointing, SessionOptions, Tuning

LONGEST_S = 20.0
DECODES_S = (0.12, 0.4)  # an interim every 0.4 and every 0.8 s
LEAD_S, TAIL_S = 0.5, 2.0  # of room noise: before a clip, and longer than the longest wait for an endpoint
STEP_FRAMES = 2  # 40 ms, as a client sends them


@attrs.define(eq=False, kw_only=True)
class Recogniser:
    """A model that decodes each thing once, whoever asks for it."""

    model: Model
    known: dict[tuple[object, ...], Hypothesis] = attrs.field(factory=dict)
    cpu_s: dict[tuple[object, ...], float] = attrs.field(factory=dict)  # of each decode, on a core
    spent_s: float = 0.0  # the newest answer's

    def hear(self, samples: Samples, options: DecodeOptions, *, lead: Lead | None = None) -> Hypothesis:
        """As an engine does; batches and what was computed of a recording before are left out.

        A final that is told to keep a text, and does so by itself, is decoded as any other.
        """
        if options.keep:
            free = self.hear(samples, attrs.evolve(options, **FREE), lead=lead)
            if options.keep_margin < 0 or keeps(options.keep, free.text, language=free.language):
                return free
        else:
            options = attrs.evolve(options, keep_margin=0.0)
        key = (hashlib.sha1(samples.tobytes()).digest(), options, lead)
        if key not in self.known:
            began_s = time.process_time()
            (heard,) = self.model.decode([DecodeItem(samples=samples, options=options, lead=lead)])
            if not isinstance(heard, Hypothesis):
                raise TypeError(f"no hypothesis: {heard}")
            self.known[key], self.cpu_s[key] = heard, time.process_time() - began_s
        self.spent_s = self.cpu_s[key]
        return self.known[key]


@attrs.frozen(kw_only=True)
class Utterance:
    """What the wire log says of one, its interims as (when, event), and when the words of its final ended."""

    interims: Sequence[tuple[float, Interim]]
    final: str
    ends: Sequence[tuple[str, float]]
    onset_s: float


@attrs.define(eq=False, kw_only=True)
class Replay:
    """One session: its machine, and whoever does what it wants, on a clock that the audio moves."""

    hearing: Hearing
    recogniser: Recogniser
    decode_s: float
    now: float = 0.0
    said: list[tuple[float, Any]] = attrs.field(factory=list)  # when, and what event
    last: dict[int, Submit] = attrs.field(factory=dict)  # the newest job of each utterance that is no interim
    _jobs: dict[JobId, tuple[float, Submit]] = attrs.field(factory=dict)  # when each is done

    def play(self, samples: Samples, detector: VoiceDetector) -> None:
        """All of it, and wait for what is owed."""
        frames = samples[: len(samples) // FRAME_SAMPLES * FRAME_SAMPLES].reshape(-1, FRAME_SAMPLES)
        for first in range(0, len(frames), STEP_FRAMES):
            block = frames[first : first + STEP_FRAMES]
            self.now += block.size / SAMPLE_RATE
            self._answer()
            self._do(self.hearing.hear(block, detector.push(block), now=self.now))
        self._do(self.hearing.end("stop", now=self.now))
        while self._jobs:
            self.now = min(done for done, _ in self._jobs.values())
            self._answer()

    def _answer(self) -> None:
        """Jobs that are done by now have their outcome."""
        for job, (done, submit) in sorted(self._jobs.items(), key=lambda item: item[1][0]):
            if done > self.now or job not in self._jobs:
                continue
            del self._jobs[job]
            item = submit.item
            hypothesis = self.recogniser.hear(item.samples, item.options, lead=item.lead)
            took_s = self._takes_s(submit)
            outcome = Outcome(hypothesis=hypothesis, queue_s=0.0, started=done - took_s, decode_s=took_s, batch_size=1)
            self._do(self.hearing.decoded(job, outcome, now=self.now))

    def _takes_s(self, submit: Submit) -> float:
        return self.decode_s if submit.job_class is JobClass.INTERIM else 2 * self.decode_s

    def _do(self, actions: Sequence[Any]) -> None:
        waiting = list(actions)
        while waiting:
            action = waiting.pop(0)
            match action:
                case Say():
                    self.said.append((self.now, action.event))
                case Lease():
                    waiting += self.hearing.leased(action.utterance, action.role, preset=action.model, now=self.now)
                case Submit():
                    self._jobs[action.job] = (self.now + self._takes_s(action), action)
                    if action.job_class is not JobClass.INTERIM:
                        self.last[action.job[0]] = action
                case Cancel():
                    self._jobs.pop(action.job, None)
                case _:
                    pass

    # ------------------------------------------------------------------ what came of it

    def utterances(self) -> list[Utterance]:
        """What was said to the client of each, and when its words were spoken."""
        finals = {event.utterance: event for _, event in self.said if isinstance(event, Final)}
        found = []
        for number, submit in self.last.items():
            options = attrs.evolve(submit.item.options, words=True, **FREE)
            heard = self.recogniser.hear(submit.item.samples, options, lead=submit.item.lead)
            start_s = max(0.0, finals[number].start_s - self.hearing.tuning.pre_roll_ms / 1000)
            found.append(
                Utterance(
                    interims=[(at, each) for at, each in self.said if _is_interim(each, number)],
                    final=finals[number].text,
                    ends=[(word, start_s + each.end_s) for each in heard.words for word in words(each.word)],
                    onset_s=finals[number].start_s,
                )
            )
        return found


def _is_interim(event: Any, utterance: int) -> bool:
    return isinstance(event, Interim) and event.utterance == utterance


# ------------------------------------------------------------------------------------------------ figures


@attrs.define(kw_only=True)
class Figures:
    """Of many utterances."""

    utterances: int = 0
    with_stable: int = 0
    contradicted: int = 0
    retracted: int = 0
    updates: int = 0
    erased: int = 0
    erased_written: int = 0
    words: int = 0
    stable: int = 0
    delays_s: list[float] = attrs.field(factory=list)
    shown_s: list[float] = attrs.field(factory=list)
    firsts_s: list[float] = attrs.field(factory=list)

    def add(self, utterance: Utterance) -> None:
        """Count one."""
        final, shown = words(utterance.final), [words(event.text) for _, event in utterance.interims]
        stable, at_s, before = list[str](), list[float](), ""
        for when_s, event in utterance.interims:
            self.retracted += not event.text.startswith(before)
            before = event.text[: event.stable_chars]
            stable = words(before)
            at_s += [when_s] * (len(stable) - len(at_s))
        kept = _common(stable, final)
        self.utterances += 1
        self.with_stable += bool(stable)
        self.contradicted += kept < len(stable) and not _goes_on(before, utterance.final)
        self.updates += len(shown)
        self.erased += sum(len(old) - _common(old, new) for old, new in pairwise([*shown, final]))
        written = [event.text.split() for _, event in utterance.interims] + [utterance.final.split()]
        self.erased_written += sum(len(old) - _common(old, new) for old, new in pairwise(written))
        self.words += len(final)
        self.stable += len(stable)
        for index, (word, end_s) in enumerate(utterance.ends[:kept]):
            if final[index] == word:
                self.delays_s.append(at_s[index] - end_s)
        right = [_common(text, final) for text in shown]
        for index, (_, end_s) in enumerate(utterance.ends[: len(final)]):
            wrong = max((number for number, length in enumerate(right) if length <= index), default=-1)
            if wrong + 1 < len(right):
                self.shown_s.append(utterance.interims[wrong + 1][0] - end_s)
        first_s = next((when_s for (when_s, _), text in zip(utterance.interims, shown, strict=True) if text), None)
        if first_s is not None:
            self.firsts_s.append(first_s - utterance.onset_s)

    def row(self) -> dict[str, object]:
        """As columns."""
        return {
            "utterances": self.utterances,
            "updates": self.updates,
            "contradicted_pct": round(100 * self.contradicted / max(1, self.with_stable), 1),
            "retracted": self.retracted,
            "ne": round(self.erased / max(1, self.words), 3),
            "ne_written": round(self.erased_written / max(1, self.words), 3),
            "commit_mean_s": round(statistics.fmean(self.delays_s or [float("nan")]), 2),
            "commit_p95_s": round(float(np.quantile(self.delays_s or [float("nan")], 0.95)), 2),
            "stable_pct": round(100 * self.stable / max(1, self.words)),
            "shown_s": round(statistics.fmean(self.shown_s or [float("nan")]), 2),
            "first_s": round(statistics.median(self.firsts_s or [float("nan")]), 2),
        }


def _goes_on(stable: str, final: str) -> bool:
    """Whether a final begins with a text to the letter, and with whole words of it.

    Numbers that follow each other are one word to `words`: "2" is none of "2, 3", and yet it was kept.
    """
    return final.startswith(stable) and not final[len(stable) : len(stable) + 1].isalnum()


def _common(before: Sequence[str], after: Sequence[str]) -> int:
    """How many words both begin with."""
    pairs = enumerate(zip(before, after, strict=False))
    return next((index for index, (old, new) in pairs if old != new), min(len(before), len(after)))


# ------------------------------------------------------------------------------------------------ the runs


def main(options: Options) -> None:
    """A row for each way and cadence."""
    chosen = options.model
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    recogniser = Recogniser(model=WhisperBackend().load(preset, cpu_threads=0, num_workers=1))
    clips = english(longest_s=LONGEST_S)
    rows = measure(recogniser, clips, preset=preset)
    report.write("live_text", rows, {"clips": len(clips)}, model=chosen.name)


def measure(recogniser: Recogniser, clips: Sequence[Recording], *, preset: Preset) -> list[dict[str, object]]:
    """All ways at all cadences."""
    offline = sum((_offline(recogniser, clip) for clip in clips), Errors())
    silero = SileroModel()
    silero.load()
    rows = []
    for decode_s in DECODES_S:
        for way, (changes, tuning) in ways(preset).items():
            figures, wrong = Figures(), Errors()
            for clip in clips:
                replay = Replay(
                    hearing=Hearing(attrs.evolve(OPTIONS, **changes), tuning, clip.name),
                    recogniser=recogniser,
                    decode_s=decode_s,
                )
                replay.play(_with_room(clip), VoiceDetector(aggressiveness=2, silero=silero))
                said = replay.utterances()
                for utterance in said:
                    figures.add(utterance)
                wrong += errors(clip.text, " ".join(utterance.final for utterance in said))
            points = 100 * (wrong.count - offline.count) / max(1, offline.said)
            row = {"way": way, "decode_s": decode_s, **figures.row()}
            rows.append({**row, "wer_pct": wrong.rate_pct, "minus_offline": round(points, 2)})
    return rows


def _with_room(clip: Recording) -> Samples:
    return np.concatenate([room_noise(LEAD_S), clip.samples, room_noise(TAIL_S, seed=1)])


def _offline(recogniser: Recogniser, clip: Recording) -> Errors:
    return errors(clip.text, recogniser.hear(clip.samples, DecodeOptions(language="en")).text)


OPTIONS = SessionOptions(model="m", interim_model="m", lang="en", endpointing=Endpointing())
FREE: Mapping[str, Any] = {"prefix": "", "keep": "", "keep_margin": 0.0}
AGREED_TWICE = LiveText(commit="0:2:0", show_from=0, change_from=0)


def ways(preset: Preset) -> Mapping[str, tuple[Mapping[str, Any], Tuning]]:
    """Options of the session and of its live text, by name."""
    rules, margin = preset.live_text, preset.keep_margin
    free, locked = {"lock_stable": False}, {"lock_stable": True}
    return {
        "agreed twice": (free, Tuning(live_text=AGREED_TWICE, keep_margin=-math.inf)),
        "agreed twice, locked": (locked, Tuning(live_text=AGREED_TWICE)),
        "now": (free, Tuning(live_text=rules, keep_margin=margin)),
        "now, locked": (locked, Tuning(live_text=rules)),
        "now, finals free": (free, Tuning(live_text=rules, keep_margin=-math.inf)),
    }
