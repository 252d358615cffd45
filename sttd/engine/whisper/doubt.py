"""Whether what was heard in a short window must be heard again in the full one.

Nobody has trained Whisper on short windows, and where one misleads it, it says a sentence again and again, or invents
one: with as much confidence as anything. So a first answer is believed only without any of these signs, and the full
window, with all temperatures, has the last word:

1. Its text repeats itself too much (`compression_ratio_threshold`): it was in a loop.
2. Words stand in it three times running, phrases twice, or more of them than the fastest speaker says
   (`core/text.py`). People repeat themselves, too; they wait for a second decode, and nothing of theirs is lost.
   An interim that nobody can have said so quickly is cut where it begins again instead (`said_once`). Of 1,225
   (tiny.en, base) nine were in a loop; the full window heard hardly anything else than what it repeats, and took two
   to six times as long as an interim does, with finals behind it: 3.8 s for 1.2 s of CPU, and 3.3 s for a final that
   had to wait.
3. Of finals: the search came to its bound, or is less probable than `LOGPROB` a token; or silence is more probable than
   `no_speech_threshold`, or the text is empty. That nothing was said is believed in the full window only.
"""

from __future__ import annotations

import bisect
from typing import Final

import attrs

from sttd.core.text import Evidence, cut_loops, tidy, tokenise, until_repeated
from sttd.core.types import Effort
from sttd.engine.whisper.options import Settings
from sttd.engine.whisper.search import Attempt, mean_logprob
from sttd.engine.whisper.tokens import TextCodec, compression_ratio

# Chosen. It costs little and decides little: of 318 utterances of tiny.en, three quarters of them disturbed, 53 are
# heard again with it, 86 with -0.35 and 13 with -1.0, and 4 of 3,475 words are right or wrong for it. In other
# languages it mended 6 words of 652 (base).
LOGPROB: Final = -0.5


def doubtful(attempt: Attempt, text: str, *, effort: Effort, audio_s: float, settings: Settings) -> bool:
    """The rules above.

    Args:
        attempt: in the short window.
        text: of it.
        effort: an interim is asked for loops only, for the next one comes soon.
        audio_s: seconds of audio that it heard.
        settings: of the model.
    """
    tokens = tokenise(tidy(text))
    evidence = Evidence(speech_s=audio_s, compression_ratio=attempt.compression_ratio)
    if (
        attempt.compression_ratio > settings.compression_ratio_threshold
        or len(cut_loops(tokens, eager=True)) < len(tokens)
        or not evidence.has_room(tokens)
    ):
        return True
    silent = attempt.no_speech_prob > settings.no_speech_threshold or not tokens
    return effort is Effort.FULL and (silent or attempt.cut or attempt.avg_logprob < LOGPROB)


def said_once(attempt: Attempt, *, audio_s: float, codec: TextCodec) -> Attempt:
    """An interim's attempt without what it says again, where nobody can have said all of it in so many seconds."""

    def spoken(length: int) -> int:
        return len(tokenise(tidy(codec.decode(attempt.tokens[:length]))))

    tokens = tokenise(tidy(codec.decode(attempt.tokens)))
    if Evidence(speech_s=audio_s, compression_ratio=attempt.compression_ratio).has_room(tokens):
        return attempt
    first = until_repeated(tokens)
    if len(first) == len(tokens):
        return attempt
    lengths = range(1, len(attempt.tokens) + 1)
    least = bisect.bisect_left(lengths, 1, key=spoken) + 1  # a token may be of several characters, or of a part of one
    kept = max(least, bisect.bisect_right(lengths, len(first), key=spoken))
    while kept > least and codec.decode(attempt.tokens[:kept]).endswith("\ufffd"):
        kept -= 1
    said = attempt.tokens[:kept]
    known = attempt.probabilities[:kept] if attempt.probabilities is not None else ()
    return attrs.evolve(
        attempt,
        tokens=said,
        probabilities=known or None,
        avg_logprob=mean_logprob(known) if known else attempt.avg_logprob,
        compression_ratio=compression_ratio(codec.decode(said).strip()),
    )
