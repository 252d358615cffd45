"""Everything that is not speech: noise to mix under sentences, and clips on which the model must stay silent."""

from __future__ import annotations

import random
from typing import Final

import attrs
import numpy as np
from numpy.typing import NDArray

from training.demo_model.speech import RATE

Samples = NDArray[np.float32]

_BANK_S: Final = 40


def unit(samples: NDArray[np.floating]) -> Samples:
    """Returns `samples` scaled to an RMS of 1."""
    return np.asarray(samples / (np.sqrt(np.mean(samples**2)) + 1e-9), np.float32)


@attrs.define(eq=False)
class Noises:
    """A bank of coloured noise, and everything made from it; all random decisions come from `rng`."""

    rng: random.Random
    _generator: np.random.Generator = attrs.field(init=False)
    _bank: list[Samples] = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._generator = np.random.default_rng(self.rng.getrandbits(32))
        self._bank = [self._coloured(_BANK_S * RATE, slope=slope) for slope in (0, 0, 0, 0.5, 1, 1.5)]
        self._bank += [self._shaped(_BANK_S * RATE) for _ in range(4)]

    def _coloured(self, count: int, *, slope: float) -> Samples:
        """Returns noise whose power falls as frequency to the power of `slope`: 0 white, 1 pink, 2 brown."""
        spectrum = np.fft.rfft(self._generator.standard_normal(count))
        frequencies = np.maximum(np.fft.rfftfreq(count) * RATE, 30)
        return unit(np.fft.irfft(spectrum / frequencies ** (slope / 2), count))

    def _shaped(self, count: int) -> Samples:
        """Returns noise with a random smooth spectrum: fans, traffic, a room."""
        spectrum = np.fft.rfft(self._generator.standard_normal(count))
        knots = np.sort(self._generator.uniform(0, 1, 8))
        levels_db = self._generator.uniform(-35, 0, 8)
        gain = 10 ** (np.interp(np.linspace(0, 1, len(spectrum)), knots, levels_db) / 20)
        return unit(np.fft.irfft(spectrum * gain, count))

    def _steady(self, count: int) -> Samples:
        bank = self.rng.choice(self._bank)
        start = self.rng.randrange(len(bank) - count) if count < len(bank) else 0
        return np.resize(bank[start : start + count], count).copy()

    def background(self, count: int) -> Samples:
        """Returns `count` samples of noise with an RMS of about 1: steady, swelling, humming or with knocks in it."""
        noise = self._steady(count)
        kind = self.rng.random()
        if kind < 0.12:
            noise = 0.5 * noise + unit(self._hum(count))
        elif kind < 0.24:
            noise = 0.3 * noise + self._knocks(count, rate_hz=self.rng.uniform(0.5, 4))
        elif kind < 0.36:
            time_s = np.arange(count, dtype=np.float32) / RATE
            noise *= 1 + 0.8 * np.sin(2 * np.pi * self.rng.uniform(0.2, 4) * time_s + self.rng.uniform(0, 6))
        return noise

    def _hum(self, count: int) -> Samples:
        base = self.rng.choice((50, 60, 100, 120)) * self.rng.uniform(0.9, 1.1)
        phase = 2 * np.pi * base * np.arange(count, dtype=np.float32) / RATE
        return np.asarray(sum(np.sin(k * phase + k) / k for k in range(1, 6)), np.float32)

    def _knocks(self, count: int, *, rate_hz: float) -> Samples:
        """Returns clicks, clatter and dishes: bursts of noise and ringing modes that die away."""
        noise = np.zeros(count, np.float32)
        for _ in range(1 + int(rate_hz * count / RATE)):
            start = self.rng.randrange(count)
            length = min(self.rng.randint(60, 6000), count - start)
            time = np.arange(length, dtype=np.float32)
            decay = np.exp(-time * self.rng.uniform(3, 9) / max(length, 1))
            if self.rng.random() < 0.5:
                burst = self._generator.standard_normal(length)
            else:
                modes = self._generator.uniform(300, 7000, self.rng.randint(1, 6))
                burst = np.asarray(sum(np.sin(2 * np.pi * mode * time / RATE) for mode in modes))
            noise[start : start + length] += (self.rng.uniform(0.5, 4) * decay * burst).astype(np.float32)
        return noise

    def _tones(self, count: int) -> Samples:
        """Returns sines, chirps, bells and sequences of notes with overtones."""
        time_s = np.arange(count, dtype=np.float64) / RATE
        mixed = np.zeros(count)
        for _ in range(self.rng.randint(1, 4)):
            base = 60 * 2 ** self.rng.uniform(0, 6)
            kind = self.rng.random()
            if kind < 0.35:
                frequency = np.full(count, base)
            elif kind < 0.6:
                frequency = base * (1 + self.rng.uniform(-0.9, 3) * time_s / max(time_s[-1], 0.1))
            else:
                notes = np.array([self.rng.randint(0, 14) for _ in range(256)])
                at = time_s * self.rng.uniform(1, 8)
                frequency = base * 2 ** (notes[at.astype(int) % 256] / 12)
            phase = 2 * np.pi * np.cumsum(frequency) / RATE
            overtones = self.rng.choice((1, 1, 2, 4, 8))
            wave = sum(np.sin(k * phase) / k ** self.rng.uniform(0.5, 2) for k in range(1, overtones + 1))
            if kind >= 0.6 and self.rng.random() < 0.6:
                wave = wave * np.exp(-3 * (at % 1))  # struck: each note dies away
            elif self.rng.random() < 0.4:
                wave = wave * (0.5 + 0.5 * np.sin(2 * np.pi * self.rng.uniform(0.3, 8) * time_s))
            mixed += wave * self.rng.uniform(0.1, 1)
        return unit(mixed)

    def _music(self, count: int) -> Samples:
        """Returns something like a piece: chords that change on the beat, a bass, drums."""
        time_s = np.arange(count, dtype=np.float64) / RATE
        beat = time_s * self.rng.uniform(1.2, 3.0)
        step, within = beat.astype(int), beat % 1
        mixed = np.zeros(count)
        root = self.rng.uniform(70, 140)
        roots = np.array([self.rng.choice((0, 2, 3, 5, 7, 8, 10)) for _ in range(64)])[step // 4 % 64]
        for interval in self.rng.choice(((0, 4, 7), (0, 3, 7), (0, 5, 9), (0, 4, 7, 11))):
            phase = 2 * np.pi * np.cumsum(2 * root * 2 ** ((roots + interval) / 12)) / RATE
            mixed += np.sin(phase) + 0.5 * np.sin(2 * phase) + self.rng.uniform(0, 0.5) * np.sign(np.sin(phase))
        mixed += self.rng.uniform(0, 3) * np.sin(2 * np.pi * np.cumsum(root * 2 ** (roots / 12)) / RATE)
        hiss = self._generator.standard_normal(count)
        mixed += self.rng.uniform(0, 3) * hiss * np.exp(-self.rng.uniform(10, 40) * within)
        mixed += self.rng.uniform(0, 6) * np.sin(60 * np.exp(-20 * within)) * np.exp(-8 * within)
        return unit(mixed)

    def alone(self, count: int) -> Samples:
        """Returns a clip without speech, at any level a microphone may give."""
        kind = self.rng.random()
        if kind < 0.1:
            return np.zeros(count, np.float32)
        if kind < 0.22:  # loud steady noise alone: what a model takes for a word most readily
            return np.clip(self._steady(count) * 10 ** (self.rng.uniform(-40, -8) / 20), -1, 1).astype(np.float32)
        if kind < 0.44:
            samples = self._tones(count)
        elif kind < 0.58:
            samples = self._music(count)
        elif kind < 0.72:
            samples = unit(self._knocks(count, rate_hz=self.rng.uniform(0.5, 8)))
        else:
            samples = self.background(count)
        samples = samples * 10 ** (self.rng.uniform(-80, -8) / 20)
        if self.rng.random() < 0.5:
            samples = samples + self.background(count) * 10 ** (self.rng.uniform(-80, -30) / 20)
        return np.clip(samples, -1, 1).astype(np.float32)
