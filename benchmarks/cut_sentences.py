"""Sentences with pauses inside that end an utterance: what is made of the pieces, with context and without.

English recordings, each cut at the quietest place of its middle and put together again with a pause of 0.5, 1.0 or
1.5 s; longer gaps between them, room noise under it all. In a last session they are whole and a second apart, most of
them read by somebody else than the one before: what context may spoil. A session for each pause goes through a
session's own machine (`core/hearing.py`) on a clock of its own, as in `live_text`: an interim takes `INTERIM_S`,
anything else as long as its decode took on one core, so that load beside it changes no figure. Both ways hear the same
audio and share what they decode alike. The ways:

- `alone`: `context` off, every piece by itself;
- `auto`: a piece that goes on from the one before is decoded with that in front of it.

The columns:

- `pause_s`: none for whole sentences; `pieces`: utterances a sentence; `continued_pct`: of the finals, those that were
  decoded with something in front.
- `wer_pct`: word errors of the finals; `uncut_pct`: of the same sentences without the pauses, in one decode.
- `contradicted_pct`: utterances whose stable words are not the beginning of the final's, of those with stable text.
- `final_p50_s`, `final_p95_s`: from the end of speech to the final, on one core.
- `cpu_finals`: CPU seconds of finals and speculations for a second of speech; `cpu`: interims included.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from benchmarks import load, report
from benchmarks.live_text import OPTIONS, Figures, Recogniser, Replay, Utterance
from benchmarks.options import Options
from benchmarks.pauses import quietest
from benchmarks.recordings import Recording, english, room_noise
from benchmarks.sessions import audible, trimmed
from benchmarks.words import Errors, errors
from sttd.core.actions import JobId, Submit
from sttd.core.hearing import Hearing
from sttd.core.types import SAMPLE_RATE, DecodeOptions, Final, Interim, JobClass, Samples, SpeechEnd
from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.vad import SileroModel, VoiceDetector
from sttd.engine.whisper.backend import WhisperBackend
from sttd.options import Context, Tuning

PAUSES_S = (0.5, 1.0, 1.5)
GAP_S = 2.5  # between sentences; longer than what counts as near
WHOLE_GAP_S = 1.0  # between those that have no pause
SHORTEST_S, LONGEST_S = 4.0, 14.0  # of a recording; chosen: two pieces of two seconds at least
OPENING_S = 0.3  # of room noise round what is decoded whole
INTERIM_S = 0.4  # a decode of an interim: one every 0.8 s
WAYS: dict[str, Context] = {"alone": "off", "auto": "auto"}


@attrs.frozen(kw_only=True, eq=False)
class Composed:
    """A session, and where each of its sentences begins and ends, with its text."""

    samples: Samples
    sentences: Sequence[tuple[float, float, str]]

    @property
    def speech_s(self) -> float:
        return sum(end_s - begin_s for begin_s, end_s, _ in self.sentences)


@attrs.define(eq=False, kw_only=True)
class Timed(Replay):
    """A replay in which finals and speculations take the time of their decode, and all of it is counted.

    Interims do, too, where no `decode_s` is given for them.
    """

    decode_s: float = 0.0
    cpu_s: dict[bool, float] = attrs.field(factory=lambda: {True: 0.0, False: 0.0})  # by whether it was an interim
    _heard: dict[JobId, float] = attrs.field(factory=dict)

    def _takes_s(self, submit: Submit) -> float:
        if submit.job not in self._heard:
            self.recogniser.hear(submit.item.samples, submit.item.options, lead=submit.item.lead)
            interim = submit.job_class is JobClass.INTERIM
            self.cpu_s[interim] += self.recogniser.spent_s
            self._heard[submit.job] = (interim and self.decode_s) or self.recogniser.spent_s
        return self._heard[submit.job]


def main(options: Options) -> None:
    """A row for each pause and way."""
    chosen = options.model
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    recogniser = Recogniser(model=WhisperBackend().load(preset, cpu_threads=1, num_workers=1))
    found = sentences()
    rows = measure(recogniser, found, preset=preset)
    report.write("cut_sentences", rows, {"sentences": len(found)}, model=chosen.name)


def sentences() -> list[tuple[Samples, str]]:
    """From the first sound of each to its last, and what is said."""
    clips = [clip for clip in english(longest_s=LONGEST_S) if clip.duration_s >= SHORTEST_S]
    return [(_speech(clip), clip.text) for clip in clips if audible(clip.samples) is not None]


def _speech(clip: Recording) -> Samples:
    samples, start_s, end_s = trimmed(clip)
    return samples[round(SAMPLE_RATE * start_s) : round(SAMPLE_RATE * end_s)]


def measure(
    recogniser: Recogniser, spoken: Sequence[tuple[Samples, str]], *, preset: Preset
) -> list[dict[str, object]]:
    """All pauses, all ways."""
    silero = SileroModel()
    silero.load()
    uncut = sum((_uncut(recogniser, samples, text) for samples, text in spoken), Errors())
    rows = []
    for pause_s in (*PAUSES_S, None):
        session = compose(spoken, pause_s=pause_s)
        for way, context in WAYS.items():
            replay = Timed(
                hearing=Hearing(
                    attrs.evolve(OPTIONS, context=context),
                    Tuning(live_text=preset.live_text, keep_margin=preset.keep_margin),
                    way,
                ),
                recogniser=recogniser,
                decode_s=INTERIM_S,
            )
            replay.play(session.samples, VoiceDetector(aggressiveness=2, silero=silero))
            rows.append({"pause_s": pause_s, "way": way, **_row(replay, session), "uncut_pct": uncut.rate_pct})
    return rows


def _row(replay: Timed, session: Composed) -> dict[str, object]:
    finals = [(at_s, event) for at_s, event in replay.said if isinstance(event, Final)]
    ends_s = {event.utterance: event.at_s for _, event in replay.said if isinstance(event, SpeechEnd)}
    waits_s = [at_s - ends_s[final.utterance] for at_s, final in finals]
    wrong = Errors()
    for begin_s, end_s, text in session.sentences:
        wrong += errors(text, " ".join(f.text for _, f in finals if f.start_s < end_s and begin_s < f.end_s))
    continued = sum(submit.item.lead is not None for submit in replay.last.values())
    return {
        "pieces": round(len(finals) / len(session.sentences), 2),
        "continued_pct": round(100 * continued / max(1, len(finals))),
        "wer_pct": wrong.rate_pct,
        "contradicted_pct": figures_of(replay).row()["contradicted_pct"],
        "final_p50_s": round(load.percentile(waits_s, 0.5) or 0, 2),
        "final_p95_s": round(load.percentile(waits_s, 0.95) or 0, 2),
        "cpu_finals": round(replay.cpu_s[False] / session.speech_s, 3),
        "cpu": round(sum(replay.cpu_s.values()) / session.speech_s, 3),
    }


def figures_of(replay: Replay) -> Figures:
    """What the client was shown, but for when words were spoken."""
    figures = Figures()
    shown = [(at_s, event) for at_s, event in replay.said if isinstance(event, Interim)]
    for _, final in replay.said:
        if isinstance(final, Final):
            mine = [(at_s, each) for at_s, each in shown if each.utterance == final.utterance]
            figures.add(Utterance(interims=mine, final=final.text, ends=(), onset_s=final.start_s))
    return figures


def compose(spoken: Sequence[tuple[Samples, str]], *, pause_s: float | None) -> Composed:
    """A session of sentences, each with a pause at the quietest place of its middle; None: without, and near."""
    pieces, truth, at = [np.zeros(SAMPLE_RATE // 2, np.float32)], [], SAMPLE_RATE // 2
    gap_s = WHOLE_GAP_S if pause_s is None else GAP_S
    pause, gap = (np.zeros(round(SAMPLE_RATE * each), np.float32) for each in (pause_s or 0.0, gap_s))
    for samples, text in spoken:
        cut = quietest(samples)
        pieces += [samples[:cut], pause, samples[cut:], gap]
        length = len(samples) + len(pause)
        truth.append((at / SAMPLE_RATE, (at + length) / SAMPLE_RATE, text))
        at += length + len(gap)
    audio = np.concatenate(pieces)
    return Composed(samples=audio + room_noise(len(audio) / SAMPLE_RATE), sentences=truth)


def _uncut(recogniser: Recogniser, samples: Samples, text: str) -> Errors:
    quiet = room_noise(OPENING_S)
    audio = np.concatenate([quiet, samples, quiet])
    return errors(text, recogniser.hear(audio, DecodeOptions(language="en")).text)
