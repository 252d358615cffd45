"""Audio that takes several passes: other temperatures, and the rest behind an open segment.

All passes can run in one call, or each in a call of its own: what the passes before have found travels with the item
(`DecodeItem.known`). So a call of files can be left after the pass that runs when somebody begins to speak.
"""

from __future__ import annotations

import math
from typing import Final

import attrs

from sttd.core.text import guard
from sttd.core.types import SAMPLE_RATE, DecodeItem, Hypothesis, Segment
from sttd.engine.whisper.features import MAX_SAMPLES
from sttd.engine.whisper.search import Attempt, Language
from sttd.options import SPACELESS_LANGUAGES

MAX_RESUMES: Final = 2  # how often a window may go on behind a segment that was left open


@attrs.frozen(kw_only=True, eq=False)
class Known:
    """What the passes before have found.

    `tried` are rejected attempts at the audio of the item; `head` is what was heard in the `at_s` seconds before it.
    """

    tried: tuple[Attempt, ...] = ()
    language: Language | None = None
    head: Hypothesis | None = None
    at_s: float = 0.0
    resumes: int = MAX_RESUMES

    @classmethod
    def of(cls, item: DecodeItem) -> Known:
        """Of an item; nothing, for one that is new."""
        return item.known if isinstance(item.known, cls) else cls()

    def whole(self, heard: Hypothesis) -> Hypothesis:
        """The hypothesis of the window so far, `heard` being that of the item's audio; what it invents is left out."""
        if self.head is None:
            return heard
        audio_s = heard.segments[-1].end_s if heard.segments else 0.0
        believed = guard(heard, speech_s=audio_s, mean_probability=math.nan)
        return _joined(self.head, believed, at_s=self.at_s) if believed.text else self.head

    def rest(self, item: DecodeItem, *, whole: Hypothesis, at_s: float, language: Language) -> DecodeItem:
        """What lies behind the `at_s` of an item, of which `whole` is known so far. Nothing is asked of its text."""
        known = Known(head=whole, at_s=self.at_s + at_s, resumes=self.resumes - 1, language=language)
        options = attrs.evolve(item.options, prefix="", keep="")
        samples = item.samples[round(at_s * SAMPLE_RATE) : MAX_SAMPLES]
        return attrs.evolve(item, samples=samples, options=options, recording=None, known=known, step=0)


def _joined(first: Hypothesis, rest: Hypothesis, *, at_s: float) -> Hypothesis:
    """Two hypotheses of one window as one; of the measures the worse holds."""
    segments = [_shifted(segment, by_s=at_s) for segment in rest.segments]
    certainties = None
    if first.certainties is not None and rest.certainties is not None:
        certainties = (*first.certainties, *rest.certainties)
    space = "" if first.language in SPACELESS_LANGUAGES else " "
    return attrs.evolve(
        first,
        text=f"{first.text}{space}{rest.text}".strip(),
        segments=(*first.segments, *segments),
        avg_logprob=min(first.avg_logprob, rest.avg_logprob),
        compression_ratio=max(first.compression_ratio, rest.compression_ratio),
        temperature=max(first.temperature, rest.temperature),
        certainties=certainties,
        ending=rest.ending,
    )


def _shifted(segment: Segment, *, by_s: float) -> Segment:
    words = tuple(attrs.evolve(word, start_s=word.start_s + by_s, end_s=word.end_s + by_s) for word in segment.words)
    return attrs.evolve(segment, start_s=segment.start_s + by_s, end_s=segment.end_s + by_s, words=words)
