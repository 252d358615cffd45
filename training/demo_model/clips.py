"""Puts sentences together into training clips: pauses, several sentences, cut-off ends, rooms, noise, levels."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from training.demo_model.corpus import Item, Reader
from training.demo_model.noises import Noises
from training.demo_model.phones import IGNORED, SILENCE
from training.demo_model.speech import RATE

WINDOW_S: Final = 30.0

#: This share of the sentences is played faster or slower than it was spoken, by a factor from this range.
_OTHER_SPEED_SHARE: Final = 0.6
_SPEEDS: Final = (0.87, 1.15)

#: Speech is brought to this RMS before noise is added; the clip's level is changed afterwards.
_LEVEL: Final = 0.08

#: A word belongs to a cut-off clip when this share of it was heard. With 0.62 two thirds of the wrong interims were a
#: guess at the word that the end of the clip cuts, from the half of it that was heard.
_HEARD: Final = 0.85


@attrs.frozen(kw_only=True, eq=False)
class Placed:
    """One sentence in a clip, in seconds from the clip's start; `complete` is False when the clip ends inside it."""

    text: str
    words: list[tuple[float, float]]
    complete: bool

    @property
    def start_s(self) -> float:
        """Where the first word begins."""
        return self.words[0][0]

    @property
    def end_s(self) -> float:
        """Where the last word ends."""
        return self.words[-1][1]


@attrs.frozen(kw_only=True, eq=False)
class Clip:
    """One training example: samples in -1 .. 1, its sentences, and one phone class for each 20 ms."""

    samples: NDArray[np.float32]
    sentences: list[Placed]
    phones: NDArray[np.int64]

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return len(self.samples) / RATE


@attrs.frozen(kw_only=True)
class Style:
    """What a batch of clips is like.

    Args:
        longest_s: No clip is longer, except that a single long sentence is kept whole.
        fill_s: Clips of several sentences are filled up to a length drawn from this range; None for single sentences.
        hardness: 0 clean .. 1 all of noise, rooms and bad microphones.
        cut_share: Share of clips that end at a random time.
    """

    longest_s: float
    fill_s: tuple[float, float] | None
    hardness: float
    cut_share: float


@attrs.define(eq=False)
class ClipMaker:
    """Draws sentences from the readers (each with its share) and makes clips of them."""

    readers: Sequence[Reader]
    shares: Sequence[float]
    rng: random.Random
    noises: Noises
    _generator: np.random.Generator = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._generator = np.random.default_rng(self.rng.getrandbits(32))

    def _draw(self) -> Item:
        reader = self.rng.choices(self.readers, self.shares)[0]
        item = reader[self.rng.randrange(len(reader))]
        # A sentence comes four or five times in a training; not always from the same mouth.
        return item.at_speed(self.rng.uniform(*_SPEEDS)) if self.rng.random() < _OTHER_SPEED_SHARE else item

    def silent(self, *, longest_s: float) -> Clip:
        """Returns a clip without speech."""
        count = int(self.rng.uniform(0.2, longest_s) * RATE)
        samples = self.noises.alone(count)
        return Clip(samples=samples, sentences=[], phones=np.full(count // 320, SILENCE))

    def speech(self, style: Style) -> Clip:
        """Returns a clip of one or several sentences."""
        fill_s = self.rng.uniform(*style.fill_s) if style.fill_s else 0.0
        count = round(self._lead_s() * RATE)
        parts = [np.zeros(count, np.float32)]
        sentences: list[Placed] = []
        phones: list[tuple[int, int, int]] = []
        while True:
            item = self._draw()
            if sentences and count + len(item.samples) > style.longest_s * RATE:
                break
            gain = _LEVEL / (np.sqrt(np.mean(item.samples**2)) + 1e-6)
            gain *= 10 ** (self.rng.uniform(-4, 4) / 20) if sentences else 1.0
            words = [((count + int(start)) / RATE, (count + int(end)) / RATE) for start, end in item.words]
            sentences.append(Placed(text=item.text, words=words, complete=True))
            phones += [(int(kind), count + int(start), count + int(end)) for kind, start, end in item.phones]
            parts.append(item.samples * gain)
            count += len(item.samples)
            last = count >= fill_s * RATE
            pause = round(self._pause_s(last=last) * RATE)
            if last:
                pause = max(0, min(pause, round(style.longest_s * RATE) - count))
            parts.append(np.zeros(pause, np.float32))
            count += pause
            if last:
                break
        samples = np.concatenate(parts)
        samples, cut = self._cut(samples, sentences=sentences, style=style)
        samples = self._spoil(samples, hardness=style.hardness)
        return Clip(
            samples=samples,
            sentences=_heard(sentences, cut_s=len(samples) / RATE) if cut else sentences,
            phones=_frame_labels(phones, count=len(samples) // 320),
        )

    def _lead_s(self) -> float:
        """Quiet before the first word: mostly what an endpointer keeps, sometimes seconds."""
        return self.rng.uniform(0, self.rng.choices((0.3, 0.8, 2.5), (0.65, 0.25, 0.1))[0])

    def _pause_s(self, *, last: bool) -> float:
        if last:
            return self.rng.uniform(0, self.rng.choices((0.3, 0.8, 2.5), (0.65, 0.25, 0.1))[0])
        return self.rng.uniform(0.2, 1.2)

    def _cut(
        self, samples: NDArray[np.float32], *, sentences: list[Placed], style: Style
    ) -> tuple[NDArray[np.float32], bool]:
        """Cuts the clip at a random time (what an interim hears), or where the window ends."""
        limit = round(WINDOW_S * RATE)
        if self.rng.random() < style.cut_share:
            earliest = sentences[-1 if style.fill_s else 0].start_s + 0.1
            limit = min(limit, round(self.rng.uniform(earliest, len(samples) / RATE) * RATE))
        return samples[: max(limit, RATE // 5)], limit < len(samples)

    def _spoil(self, samples: NDArray[np.float32], *, hardness: float) -> NDArray[np.float32]:
        if self.rng.random() < 0.25 * hardness:
            samples = self._room(samples)
        if self.rng.random() < 0.5 + 0.3 * hardness:
            ratio_db = (
                self.rng.uniform(30 - 26 * hardness, 50)
                if self.rng.random() < 0.6
                else self.rng.uniform(25 - 19 * hardness, 30 - 12 * hardness)
            )
            samples = samples + self.noises.background(len(samples)) * (_LEVEL * 10 ** (-ratio_db / 20))
        samples = samples * np.float32(10 ** (self.rng.uniform(-24, 9) / 20))
        if self.rng.random() < 0.8:
            samples = np.round(np.clip(samples, -1, 1) * 32767) / np.float32(32767)
        return samples.astype(np.float32, copy=False)

    def _room(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Adds light reverberation, never louder than the voice: heavier rooms held training back."""
        length = round(RATE * self.rng.uniform(0.05, 0.3))
        decay = np.exp(-np.arange(length) * self.rng.uniform(4, 7) / length)
        response = self._generator.standard_normal(length) * decay * self.rng.uniform(0.003, 0.03)
        response[0] = 1
        size = 1 << (len(samples) + length).bit_length()
        wet = np.fft.irfft(np.fft.rfft(samples, size) * np.fft.rfft(response, size), size)
        return wet[: len(samples)].astype(np.float32)


def _heard(sentences: list[Placed], *, cut_s: float) -> list[Placed]:
    """Returns what can be known of the sentences before `cut_s`; a cut-off sentence has no full stop."""
    heard = []
    for sentence in sentences:
        if sentence.end_s <= cut_s + 0.02:
            heard.append(sentence)
            continue
        known = [i for i, (start, end) in enumerate(sentence.words) if cut_s - start > _HEARD * (end - start)]
        if known:
            text = " ".join(sentence.text.split()[: len(known)]).rstrip(".?")
            words = [(start, min(end, cut_s)) for start, end in sentence.words[: len(known)]]
            heard.append(Placed(text=text, words=words, complete=False))
    return heard


def _frame_labels(phones: list[tuple[int, int, int]], *, count: int) -> NDArray[np.int64]:
    """Returns the phone class of each 20 ms, silence where nothing is spoken."""
    labels = np.full(count, SILENCE)
    for kind, start, end in phones:
        labels[(start + 160) // 320 : (end + 160) // 320] = IGNORED if kind == IGNORED else kind
    return labels
