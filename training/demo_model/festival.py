"""Festival in batches: one process speaks many sentences, since starting it costs a third of a second."""

from __future__ import annotations

import subprocess
import tempfile
import wave
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np

from training.demo_model.speech import Mark, Speech, build

#: Our names of the Debian voices and what selects them in Festival.
VOICES: Final = {"kal": "voice_kal_diphone", "ked": "voice_ked_diphone", "slt": "voice_cmu_us_slt_arctic_hts"}

_SCRIPT: Final = """
({voice})
(Parameter.set 'Duration_Stretch {duration})
(define (mark s file)
  (format file "%s %s %s\\n" (item.name s) (item.feat s "end")
    (item.feat s "R:SylStructure.parent.parent.R:Token.parent.id")))
(define (say text name)
  (let ((u (utt.synth (eval (list 'Utterance 'Text text)))) (file (fopen (string-append name ".txt") "w")))
    (mapcar (lambda (s) (mark s file)) (utt.relation.items u 'Segment))
    (fclose file)
    (utt.save.wave u (string-append name ".wav") 'riff)))
"""


def say_all(texts: list[str], *, voice: str, duration: float, stretches: list[float]) -> Iterator[Speech]:
    """Speaks every text once; yields it resampled by each of `stretches`, leaving out what Festival could not mark.

    Raises:
        subprocess.CalledProcessError: Festival failed.
        FileNotFoundError: Festival is not installed.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        script = _SCRIPT.format(voice=VOICES[voice], duration=duration)
        script += "\n".join(f'(say "{text}" "{folder}/{index}")' for index, text in enumerate(texts))
        (folder / "say.scm").write_text(script)
        subprocess.run(["festival", "-b", str(folder / "say.scm")], check=True, capture_output=True)
        for index, text in enumerate(texts):
            lines = (folder / f"{index}.txt").read_text().splitlines()
            with wave.open(str(folder / f"{index}.wav")) as file:
                rate = file.getframerate()
                samples = np.frombuffer(file.readframes(file.getnframes()), np.int16)
            for stretch in stretches:
                words, phones = _marks(lines, stretch=stretch)
                if len(words) != len(text.split()):
                    continue
                speaker = f"festival:{voice}"
                speech = build(samples, rate=rate * stretch, text=text, speaker=speaker, words=words, phones=phones)
                if speech:
                    yield speech


def _marks(lines: list[str], *, stretch: float) -> tuple[list[Mark], list[Mark]]:
    """Reads lines of `phone end token`, where the token is `0` in pauses."""
    words: list[Mark] = []
    phones: list[Mark] = []
    tokens: list[str] = []
    start_s = 0.0
    for line in lines:
        phone, end, token = line.split()
        phones.append(Mark(what=phone, start_s=start_s))
        if token != "0" and token not in tokens:
            tokens.append(token)
            words.append(Mark(what=len(tokens) - 1, start_s=start_s))
        start_s = float(end) / stretch
    return words, phones
