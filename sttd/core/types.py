"""The values that the parts of sttd hand to each other. All are frozen; none knows IO.

Audio time is an integer sample index at 16 kHz since the first sample of the session; `_s` values are that
index divided by `SAMPLE_RATE`. Audio itself is a read-only float32 numpy array in [-1, 1], mono, 16 kHz.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from typing import Any, Literal

import attrs
import numpy as np
import numpy.typing as npt

from sttd.core.languages import Heard, Prior
from sttd.errors import SttdError
from sttd.options import Task

SAMPLE_RATE = 16_000
FRAME_MS = 20
FRAME_SAMPLES = SAMPLE_RATE * FRAME_MS // 1000  # 320

Samples = npt.NDArray[np.float32]
FinalReason = Literal["endpoint", "finalize", "max_length", "stop", "disconnect", "drain"]


def seconds(samples: int) -> float:
    """Samples on the 16 kHz clock as seconds."""
    return samples / SAMPLE_RATE


class JobClass(enum.IntEnum):
    """The four classes of decoding work, most urgent first."""

    FINAL = 0
    SPECULATIVE = 1
    INTERIM = 2
    FILE = 3


# ---------------------------------------------------------------- decoding: what goes in, what comes out
# These are values: an engine in another process could be sent them.


class Effort(enum.Enum):
    """How a piece of audio is decoded. When it is decoded is `JobClass`'s business."""

    QUICK = "quick"  # live text: soon, and right more often than not
    FULL = "full"  # the final text of an utterance
    TIMED = "timed"  # the same for a window of a file, with the times of its segments


@attrs.frozen(kw_only=True)
class DecodeOptions:
    """How one piece of audio is to be decoded. Hashable: it is part of the batch key.

    Without a `language` the one is taken that is the most probable by `languages` and the sound. With one, `languages`
    asks what the sound says all the same.
    """

    effort: Effort = Effort.FULL
    language: str | None = None  # ISO 639-1; None detects
    languages: Prior | None = None
    task: Task = "transcribe"
    words: bool = False  # word timestamps asked for
    prompt: str = ""
    hotwords: tuple[str, ...] = ()
    prefix: str = ""  # text that the result must start with
    keep: str = ""  # text whose words the result is to start with, if that costs no more than the margin
    keep_margin: float = 0.0  # mean log probability of a token; looked at by `Effort.FULL`


@attrs.frozen(kw_only=True)
class Lead:
    """The end of what was said before an item, in front of its audio, so that what it goes on from is heard with it.

    Args:
        samples: so many at the beginning of the item's are not of it.
        text: what was heard in them when they were decoded.
    """

    samples: int
    text: str


@attrs.frozen(kw_only=True, eq=False)
class DecodeItem:
    """One piece of audio on its way to the engine.

    Args:
        samples: at most 30 s: whoever cuts utterances and files sees to that.
        options: how.
        recording: names a recording that is decoded again and again while it grows: items of the same name begin at the
            same sample, so a model may keep what it computed of the beginning. None: it is decoded once.
        complete: the speaker was done at its end, although no quiet follows in it.
        known: what earlier calls found out about an item that they left unfinished; a value in the words of its model.
        step: tries that were made of it before; items of different steps are not decoded alike.
        lead: what stands in front of it. What is heard is of the item alone, and so are its times.
    """

    samples: Samples
    options: DecodeOptions
    recording: str | None = None
    complete: bool = False
    known: object = None
    step: int = 0
    lead: Lead | None = None

    def alone(self) -> DecodeItem:
        """Without what stands in front of it."""
        if self.lead is None:
            return self
        return attrs.evolve(self, samples=self.samples[self.lead.samples :], recording=None, lead=None)


@attrs.frozen(kw_only=True)
class Word:
    """One word with its place; times in seconds from the start of the decoded audio."""

    word: str
    start_s: float
    end_s: float
    probability: float


@attrs.frozen(kw_only=True)
class Certainty:
    """A piece of a text, and how sure the decoder was where it was least sure of it."""

    word: str
    least: float  # probability of the least probable of its tokens; those of punctuation do not count


@attrs.frozen(kw_only=True)
class Segment:
    """A timed piece of a hypothesis; times in seconds from the start of the decoded audio."""

    text: str
    start_s: float
    end_s: float
    avg_logprob: float = 0.0
    no_speech_prob: float = 0.0
    compression_ratio: float = 1.0
    words: tuple[Word, ...] = ()


@attrs.frozen(kw_only=True)
class Hypothesis:
    """What the engine heard: raw text, before any guard or stabiliser."""

    text: str
    segments: tuple[Segment, ...] = ()
    language: str = ""
    language_probability: float = 0.0  # by the sound and what was known before; 1 where it was given
    languages: Heard = ()  # what the sound says of its language; empty where nobody asked, or the model knows one only
    avg_logprob: float = 0.0  # mean over tokens; confidence is its exponential
    no_speech_prob: float = 0.0
    compression_ratio: float = 1.0
    temperature: float = 0.0  # above 0: the first tries were rejected by the engine's own thresholds
    certainties: tuple[Certainty, ...] | None = None  # of the whole text, in order; None: the engine does not say
    ending: float | None = None  # probability of the mark that the text ends with; None: of none, or not known

    @property
    def words(self) -> tuple[Word, ...]:
        """All words of all segments, in order."""
        return tuple(word for segment in self.segments for word in segment.words)


@attrs.frozen(kw_only=True)
class Outcome:
    """What became of a decoding job, and where its time went."""

    hypothesis: Hypothesis
    queue_s: float
    started: float  # on the dispatcher's clock
    decode_s: float
    batch_size: int


# ---------------------------------------------------------------- what a session tells its client


@attrs.frozen(kw_only=True)
class SpeechStart:
    """An utterance was opened; from here on it is owed exactly one `Final`."""

    utterance: int
    at_s: float


@attrs.frozen(kw_only=True)
class InterimWord:
    """A word of live text. `probability` is that of its least probable token."""

    word: str
    probability: float
    stable: bool


@attrs.frozen(kw_only=True)
class Interim:
    """Text so far; its first `stable_chars` code points never change in later interims."""

    utterance: int
    seq: int
    text: str
    stable_chars: int
    start_s: float
    end_s: float
    words: tuple[InterimWord, ...] | None = None  # joined they are the text; None: not asked for


@attrs.frozen(kw_only=True)
class SpeechEnd:
    """Where the speech ended (not where that was decided). `silence_ms` is the wait that decided it.

    `reason` is that of the final. It is for planes whose clients name what they end; the audio plane does not send it.
    """

    utterance: int
    at_s: float
    silence_ms: int
    reason: FinalReason = "endpoint"


@attrs.frozen(kw_only=True)
class Timing:
    """Where the time between end of speech and final went."""

    endpoint_ms: float
    queue_ms: float
    decode_ms: float
    speculative: bool


@attrs.frozen(kw_only=True)
class Final:
    """The text of an utterance. Nothing follows it."""

    utterance: int
    text: str
    start_s: float
    end_s: float
    language: str
    confidence: float
    reason: FinalReason
    model: str
    words: tuple[Word, ...] | None  # None: not asked for
    timing: Timing
    language_probability: float | None = None  # None: it was not detected


@attrs.frozen(kw_only=True)
class Progress:
    """How far a file is."""

    done_s: float
    total_s: float | None


@attrs.frozen(kw_only=True)
class Gap:
    """Audio that was dropped, on the audio clock."""

    from_s: float
    to_s: float
    reason: str


@attrs.frozen(kw_only=True)
class Warn:
    """Something the client should know and can live with."""

    code: str
    message: str
    lag_s: float | None = None


@attrs.frozen(kw_only=True)
class Failure:
    """An error of this session; fatal ends it. `data` holds what programs may want to know, such as `retry_after_s`."""

    code: str
    message: str
    retryable: bool
    fatal: bool
    data: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, error: SttdError, *, fatal: bool) -> Failure:
        """The event that tells of an error."""
        return cls(
            code=error.code, message=error.message, retryable=error.retryable, fatal=fatal, data=error.data or None
        )


@attrs.frozen(kw_only=True)
class Stopped:
    """The last event of a session that ended in good order."""

    audio_s: float
    utterances: int
    dropped_s: float


SessionEvent = SpeechStart | Interim | SpeechEnd | Final | Progress | Gap | Warn | Failure | Stopped
