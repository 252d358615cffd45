"""Sessions of real speech whose truth is known: where each utterance begins and ends, and what is said in it.

A session is composed of single clips. Where speech begins and ends in a clip is read from its energy, not from a voice
detector: the one that is measured must not be its own judge. The quiet around it is cut off, and faint room noise lies
under all of the session, so that neither its pauses nor its end are digital silence.

The embedded demo model knows the voices and sentences of the bundled sample only, so for it the session is that.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import attrs
import numpy as np

from benchmarks import load, recordings
from benchmarks.load import Truth
from benchmarks.options import Model
from benchmarks.recordings import Recording, as_bytes, room_noise
from sttd.core.types import SAMPLE_RATE, Samples

# Nine speakers, commands and sentences, 45 s of speech; taken for where their energy says the same about the end of
# speech as Silero does, within 0.1 s.
SCRIPT = (
    "az-weather",
    "ls-another-engineer",
    "rh-lamp",
    "austen-0920",
    "ps-cards-005",
    "pv-leopard-en",
    "lj-001-0004",
    "arctic-axb-a0004",
    "ls-3005-163389-0000",
    "lj-001-0001",
)
GAPS_S = (0.9, 1.4, 2.0, 1.2)  # between utterances, in turn; chosen: as between the sentences of a dictation
LEAD_S = 0.6  # quiet before the first word and behind the last one; chosen
TAIL_S = 2.0  # longer than the longest wait for an endpoint, 1.2 s
EDGE_S = 0.15  # of each clip that stays around its speech: soft sounds lie below what energy tells from noise; chosen
FADE_S = 0.01
TICK = 160  # 10 ms: the resolution of the truth


@attrs.frozen(kw_only=True, eq=False)
class Session:
    """What one speaker says: 16 kHz PCM, and its utterances as `{start_s, end_s, text}`."""

    name: str
    pcm: bytes
    truth: Truth

    @property
    def audio_s(self) -> float:
        return len(self.pcm) / 2 / SAMPLE_RATE

    @property
    def speech_s(self) -> float:
        """Without the pauses between utterances."""
        return float(sum(each["end_s"] - each["start_s"] for each in self.truth))

    @property
    def text(self) -> str:
        return " ".join(each["text"] for each in self.truth)

    def utterances(self, *, before_s: float = 0.3) -> list[bytes]:
        """The audio of each, from a little before its first word to the end of its last."""
        return [self.pcm[_byte(max(0.0, each["start_s"] - before_s)) : _byte(each["end_s"])] for each in self.truth]


def session_for(model: Model) -> Session:
    """The usual session for a model."""
    if model.is_demo:
        pcm, truth = load.sample()
        return Session(name="sample", pcm=pcm, truth=truth)
    return script()


def script() -> Session:
    """The clips of `SCRIPT`: a minute."""
    clips = recordings.load(names=SCRIPT)
    return compose([clips[name] for name in SCRIPT], name="script")


def compose(clips: Sequence[Recording], *, name: str) -> Session:
    """Clips one after another with pauses between; the same for the same clips, to the bit.

    Raises:
        ValueError: speech and background of a clip cannot be told apart by energy.
    """
    pieces, truth, at = [np.zeros(round(LEAD_S * SAMPLE_RATE), np.float32)], [], round(LEAD_S * SAMPLE_RATE)
    for number, clip in enumerate(clips):
        samples, start_s, end_s = trimmed(clip)
        begin_s = at / SAMPLE_RATE
        truth.append({"start_s": begin_s + start_s, "end_s": begin_s + end_s, "text": clip.text})
        gap_s = TAIL_S if number == len(clips) - 1 else GAPS_S[number % len(GAPS_S)] - 2 * EDGE_S
        gap = np.zeros(round(gap_s * SAMPLE_RATE), np.float32)
        pieces += [samples, gap]
        at += len(samples) + len(gap)
    audio = np.concatenate(pieces)
    return Session(name=name, pcm=as_bytes(audio + room_noise(len(audio) / SAMPLE_RATE)), truth=truth)


def untrimmed(clips: Sequence[Recording], *, name: str) -> Session:
    """Whole clips, each with the next gap behind it: the truth says where clips begin and end, not their speech."""
    pieces: list[Samples] = []
    truth, at = [], 0
    for number, clip in enumerate(clips):
        gap = np.zeros(round(GAPS_S[number % len(GAPS_S)] * SAMPLE_RATE), np.float32)
        truth.append({"start_s": at / SAMPLE_RATE, "end_s": at / SAMPLE_RATE + clip.duration_s, "text": clip.text})
        pieces += [clip.samples, gap]
        at += len(clip.samples) + len(gap)
    audio = np.concatenate(pieces)
    return Session(name=name, pcm=as_bytes(audio + room_noise(len(audio) / SAMPLE_RATE)), truth=truth)


def trimmed(clip: Recording) -> tuple[Samples, float, float]:
    """A clip without the quiet around it, and where in that its speech begins and ends, seconds.

    Raises:
        ValueError: speech and background cannot be told apart by energy.
    """
    start_s, end_s = speech_bounds_s(clip)
    first = max(0, round((start_s - EDGE_S) * SAMPLE_RATE))
    last = min(len(clip.samples), round((end_s + EDGE_S) * SAMPLE_RATE))
    samples = clip.samples[first:last].copy()
    ramp = np.linspace(0, 1, round(FADE_S * SAMPLE_RATE), dtype=np.float32)
    samples[: len(ramp)] *= ramp
    samples[-len(ramp) :] *= ramp[::-1]
    return samples, start_s - first / SAMPLE_RATE, end_s - first / SAMPLE_RATE


def speech_bounds_s(clip: Recording) -> tuple[float, float]:
    """Where the first sound of a clip begins and its last one ends.

    Raises:
        ValueError: speech and background cannot be told apart by energy.
    """
    sounds = audible(clip.samples)
    if sounds is None:
        raise ValueError(f"{clip.name}: speech and background are less than 25 dB apart")
    heard = np.flatnonzero(sounds)
    return float(heard[0] * TICK / SAMPLE_RATE), float((heard[-1] + 1) * TICK / SAMPLE_RATE)


def repeated(session: Session, *, at_least_s: float) -> Session:
    """The session again and again, until it is long enough."""
    times = max(1, math.ceil(at_least_s / session.audio_s))
    truth = [
        {
            **each,
            "start_s": each["start_s"] + number * session.audio_s,
            "end_s": each["end_s"] + number * session.audio_s,
        }
        for number in range(times)
        for each in session.truth
    ]
    return Session(name=session.name, pcm=session.pcm * times, truth=truth)


def _byte(at_s: float) -> int:
    return 2 * round(at_s * SAMPLE_RATE)


# ------------------------------------------------------------------------------------------------ energy


def loudness(samples: Samples) -> Samples:
    """Level of each tick in dB, smoothed over three."""
    ticks = samples[: len(samples) // TICK * TICK].reshape(-1, TICK)
    level = 10 * np.log10(np.square(ticks).mean(axis=1) + 1e-10)
    smooth: Samples = np.convolve(np.pad(level, 1, mode="edge"), np.ones(3) / 3, "valid").astype(np.float32)
    return smooth


def audible(samples: Samples) -> Samples | None:
    """Which ticks hold speech, by energy; None where speech and background are less than 25 dB apart."""
    level = loudness(samples)
    peak, floor = np.percentile(level, 95), np.percentile(level, 3)
    if peak - floor < 25:
        return None
    return level > max(peak - 30, floor + 8)


def runs(flags: Samples) -> list[tuple[int, int]]:
    """First and after-last of each run of ones."""
    edges = np.flatnonzero(np.diff(flags.astype(np.int8), prepend=0, append=0))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))
