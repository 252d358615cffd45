"""A speaker who does not pause: what becomes of the words where an utterance is cut at its limit, and of live text.

The English recordings, one after another by reader, every pause in and between them pressed to less than what a cut
looks for, go as one session through a session's own machine (`core/hearing.py`) on the clock of `cut_sentences`: what
is decoded takes as long as it does on one core. The ways:

- `uncut`: every recording in one decode by itself, which is how well the model hears these readers;
- `alone`: as it is said, `context` off, without interims; `auto`: with it;
- `live`: with interims and `context`.

The columns:

- `utterances`, and `longest_s` of audio.
- `wer_pct`; `lost`, `replaced` and `added`: its words; `at_cuts`: errors within `NEAR` words of a cut, of so many cuts.
- `contradicted_pct`, `ne`: of live text, as in `live_text`.
- `behind_p50_s`, `behind_p95_s`: how old the newest live text is, at any moment in an utterance: the time since the
  audio that it was heard in had come.
- `final_p95_s`: from the end of an utterance to its final.
- `cpu`: CPU seconds of all decodes for a second of speech.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import attrs
import numpy as np

from benchmarks import load, report
from benchmarks.cut_sentences import Timed, figures_of
from benchmarks.live_text import OPTIONS, Recogniser
from benchmarks.options import Options
from benchmarks.recordings import Recording, english, room_noise
from benchmarks.sessions import TICK, audible, runs, trimmed
from benchmarks.words import Errors, align, errors, words
from sttd.core.hearing import Hearing
from sttd.core.types import SAMPLE_RATE, DecodeOptions, Final, Interim, Samples, SpeechEnd, SpeechStart
from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.vad import SileroModel, VoiceDetector
from sttd.engine.whisper.backend import WhisperBackend
from sttd.options import SessionOptions, Tuning

LONGEST_S = 16.0  # of a recording; longer ones are spontaneous speech with pauses of seconds
PRESSED_S = 0.06  # what is left of a pause
NEAR = 4  # words on either side of a cut
TAIL_S = 2.0
LOOK_S = 0.1  # how often it is looked how old the live text is
WAYS: dict[str, SessionOptions] = {
    "alone": attrs.evolve(OPTIONS, interim=False, context="off"),
    "auto": attrs.evolve(OPTIONS, interim=False),
    "live": OPTIONS,
}


def main(options: Options) -> None:
    """A row for each way."""
    chosen = options.model
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    recogniser = Recogniser(model=WhisperBackend().load(preset, cpu_threads=1, num_workers=1))
    clips = sorted(
        (clip for clip in english(longest_s=LONGEST_S) if audible(clip.samples) is not None),
        key=lambda clip: clip.name.partition("-")[0],
    )
    spoken = [_pressed(clip) for clip in clips]
    said = " ".join(clip.text for clip in clips)
    tuning = Tuning(live_text=preset.live_text, keep_margin=preset.keep_margin)
    samples = np.concatenate([*spoken, np.zeros(round(TAIL_S * SAMPLE_RATE), np.float32)])
    samples = samples + room_noise(len(samples) / SAMPLE_RATE)
    silero = SileroModel()
    silero.load()
    rows: list[dict[str, object]] = [{"way": "uncut", **_counted(_uncut(recogniser, clips))}]
    for way, asked in WAYS.items():
        replay = Timed(hearing=Hearing(asked, tuning, way), recogniser=recogniser)
        replay.play(samples, VoiceDetector(aggressiveness=2, silero=silero))
        rows.append({"way": way, **_row(replay, said, speech_s=len(samples) / SAMPLE_RATE - TAIL_S)})
    rows = [{key: row.get(key) for key in rows[-1]} for row in rows]
    report.write("monologue", rows, {"speech_s": round(len(samples) / SAMPLE_RATE - TAIL_S)}, model=chosen.name)


def _pressed(clip: Recording) -> Samples:
    """The speech of a recording without its pauses."""
    samples, start_s, end_s = trimmed(clip)
    samples = samples[round(start_s * SAMPLE_RATE) : round(end_s * SAMPLE_RATE)]
    sounds = audible(samples)
    if sounds is None:
        return samples
    keep = np.ones(len(sounds), np.bool_)
    left = round(PRESSED_S * SAMPLE_RATE / TICK)
    for first, after in runs(~sounds):
        keep[first + left : after] = False
    whole: Samples = samples[: len(sounds) * TICK].reshape(-1, TICK)[keep].reshape(-1)
    return whole


def _uncut(recogniser: Recogniser, clips: Sequence[Recording]) -> Errors:
    return sum(
        (errors(clip.text, recogniser.hear(clip.samples, DecodeOptions(language="en")).text) for clip in clips),
        Errors(),
    )


def _row(replay: Timed, said: str, *, speech_s: float) -> dict[str, object]:
    finals = [(at_s, event) for at_s, event in replay.said if isinstance(event, Final)]
    texts = [final.text for _, final in finals]
    ends_s = {event.utterance: event.at_s for _, event in replay.said if isinstance(event, SpeechEnd)}
    longest_s = max(end_s - begin_s for begin_s, end_s in ((f.start_s, f.end_s) for _, f in finals))
    row: dict[str, object] = {
        "utterances": len(finals),
        "longest_s": round(longest_s, 1),
        **_counted(errors(said, " ".join(texts))),
        "at_cuts": f"{errors_at_cuts(said, texts)} of {len(texts) - 1}",
        "final_p95_s": round(load.percentile([at_s - ends_s[f.utterance] for at_s, f in finals], 0.95) or 0, 2),
        "cpu": round(sum(replay.cpu_s.values()) / speech_s, 3),
    }
    if replay.hearing.options.interim:
        found = figures_of(replay).row()
        behind_s = ages(replay.said)
        row |= {
            "contradicted_pct": found["contradicted_pct"],
            "ne": found["ne"],
            "behind_p50_s": round(load.percentile(behind_s, 0.5) or 0, 2),
            "behind_p95_s": round(load.percentile(behind_s, 0.95) or 0, 2),
        }
    return row


def _counted(total: Errors) -> dict[str, object]:
    return {"wer_pct": total.rate_pct, "lost": total.lost, "replaced": total.replaced, "added": total.added}


def errors_at_cuts(said: str, texts: Sequence[str]) -> int:
    """Lost, replaced and added words next to where one text ends and another begins."""
    wanted, parts = words(said), [words(text) for text in texts]
    heard = [word for part in parts for word in part]
    places = align(wanted, heard)
    cuts = np.cumsum([len(part) for part in parts])[:-1]

    def near(place: float) -> bool:
        return any(abs(place + 0.5 - cut) <= NEAR for cut in cuts)

    found = [place for place in places if place is not None]
    added = sum(near(place) for place in set(range(len(heard))) - set(found))
    wrong, last = 0, -1
    for index, place in enumerate(places):
        if place is None:
            wrong += near(last + 0.5)
        else:
            wrong += wanted[index] != heard[place] and near(place)
            last = place
    return wrong + added


def ages(said: Sequence[tuple[float, object]]) -> list[float]:
    """How old the newest live text of an utterance is, looked at every `LOOK_S` while it is spoken."""
    found: list[float] = []
    heard_s = 0.0
    speaking = False
    for (at_s, event), (next_s, _) in pairwise([*said, (said[-1][0], None)]):
        match event:
            case SpeechStart():
                speaking, heard_s = True, event.at_s
            case Interim():
                heard_s = event.end_s
            case SpeechEnd():
                speaking = False
        if speaking:
            found += [when_s - heard_s for when_s in np.arange(at_s, next_s, LOOK_S).tolist()]
    return found
