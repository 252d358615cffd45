"""Makes the recordings that ship: the bundled sample of `sttd demo` and the small clips of the tests.

    python -m training.demo_model.sample

All are espeak-ng speech; the sample has two voices, pauses of 0.5 to 1.5 s, a command, a date and a number. The JSON
beside each recording says what is spoken when.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from training.demo_model.audio_file import write_flac
from training.demo_model.espeak import Espeak, Voice
from training.demo_model.speakers import held_voice
from training.demo_model.speech import RATE

_ROOT: Final = Path(__file__).resolve().parents[2]

#: Loudness of the speech (RMS of full scale), and of the noise under it: pauses are quiet but not digital zero.
_SPEECH_RMS, _NOISE_RMS = 0.08, 1e-4


@attrs.frozen(kw_only=True)
class Line:
    """One utterance of a recording: who says what, after how long a pause."""

    pause_s: float
    voice: Voice
    text: str


_ANNA: Final = Voice(name="en-us+f2", words_per_minute=150, pitch=55)
_ALEX: Final = Voice(name="en+Alex", words_per_minute=155)

SAMPLE: Final = (
    Line(pause_s=0.6, voice=_ANNA, text="Hello world."),
    Line(pause_s=0.5, voice=_ANNA, text="This is a speech test."),
    Line(pause_s=1.5, voice=_ALEX, text="Turn on the kitchen light."),
    Line(pause_s=1.0, voice=_ANNA, text="Today is Tuesday the twenty first of May."),
    Line(pause_s=0.8, voice=_ALEX, text="The number is four hundred and seven."),
    Line(pause_s=1.2, voice=_ANNA, text="Set a timer for twenty five minutes."),
    Line(pause_s=1.4, voice=_ALEX, text="What time is it?"),
    Line(pause_s=0.7, voice=_ANNA, text="The meeting is tomorrow at half past ten."),
    Line(pause_s=1.5, voice=_ALEX, text="Thank you very much."),
)

#: The fixed small set of the tests: sentences for voices that training never heard.
_HELD_OUT: Final = (
    "The number is one hundred and fifteen.",
    "Set an alarm for eleven thirty.",
    "Nine two eight two three.",
    "Send a message to my father.",
    "Turn on the kitchen light now.",
    "Open the letter now.",
    "They like bread and tea.",
    "Buy six dogs now.",
    "It was quarter past eleven.",
    "Set the volume to nine percent.",
)

#: Small clips: each its own file under tests/data, half a second of quiet around the words.
CLIPS: Final = {
    "light": Line(pause_s=0.5, voice=_ALEX, text="Turn on the kitchen light."),
    "number": Line(pause_s=0.5, voice=_ANNA, text="The number is four hundred and seven."),
    "date": Line(pause_s=0.5, voice=_ANNA, text="Today is Tuesday the twenty first of May."),
    "question": Line(pause_s=0.5, voice=_ALEX, text="What time is it?"),
}


def held_out_lines() -> tuple[Line, ...]:
    """Returns the small set, each sentence by another speaker of evaluation set A."""
    rng = random.Random(0)
    return tuple(Line(pause_s=0.8, voice=held_voice(rng, unseen_accent=False), text=text) for text in _HELD_OUT)


def record(
    lines: tuple[Line, ...], *, espeak: Espeak, tail_s: float
) -> tuple[NDArray[np.int16], list[dict[str, float | str]]]:
    """Returns the samples of all lines one after another, and where each was spoken."""
    rng = np.random.default_rng(0)
    parts: list[NDArray[np.float64]] = []
    utterances: list[dict[str, float | str]] = []
    at = 0
    for line in lines:
        speech = espeak.say(line.text, voice=line.voice)
        assert speech is not None, f"espeak-ng says nothing for {line.text!r}"
        begin, end = (round(time_s * RATE) for time_s in (speech.words[0].start_s, speech.words[-1].end_s))
        words = speech.samples[begin:end].astype(np.float64) / 32768
        pause = round(line.pause_s * RATE)
        at += pause
        utterances.append(
            {"start_s": round(at / RATE, 3), "end_s": round((at + len(words)) / RATE, 3), "text": line.text}
        )
        at += len(words)
        parts += [np.zeros(pause), words * (_SPEECH_RMS / np.sqrt((words**2).mean()))]
    mixed = np.concatenate([*parts, np.zeros(round(tail_s * RATE))])
    mixed += rng.standard_normal(len(mixed)) * _NOISE_RMS
    return np.round(np.clip(mixed, -1, 1) * 32767).astype(np.int16), utterances


def _write(folder: Path, name: str, *, lines: tuple[Line, ...], espeak: Espeak, tail_s: float) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    samples, utterances = record(lines, espeak=espeak, tail_s=tail_s)
    write_flac(folder / f"{name}.flac", samples=samples)
    text = {"duration_s": round(len(samples) / RATE, 3), "utterances": utterances}
    (folder / f"{name}.json").write_text(json.dumps(text, indent=1) + "\n")


def main() -> None:
    """Writes `sttd/assets/sample.*` and `tests/data/*`."""
    espeak = Espeak()
    _write(_ROOT / "sttd/assets", "sample", lines=SAMPLE, espeak=espeak, tail_s=1.2)
    for name, line in CLIPS.items():
        _write(_ROOT / "tests/data", name, lines=(line,), espeak=espeak, tail_s=0.5)
    _write(_ROOT / "tests/data", "held-out", lines=held_out_lines(), espeak=espeak, tail_s=0.8)


if __name__ == "__main__":
    main()
