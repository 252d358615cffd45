"""A final that keeps a text must not lose its end for it.

With a text forced on it that it would not have written, Whisper may stop where it would have gone on, and the words
that it wrote are as probable as any. Where the forced attempt has `LOST_WORDS` fewer behind the text than the free one,
it is given the words that the free one has there: behind the last word of the text, which must be at about its place.

Measured with tiny.en on 33 clips: one final ended seven words early, with 0.08 less of mean log probability than the
free one, where 0.2 is allowed.
"""

from __future__ import annotations

from typing import Final

import attrs

from sttd.core.text import tidy, tokenise
from sttd.engine.whisper.search import Attempt
from sttd.engine.whisper.tokens import TextCodec, compression_ratio

LOST_WORDS: Final = 2  # chosen: "do for them" may become "for them", and no more
_SPREAD: Final = 2  # chosen: words that the free one may have more or fewer in place of the text


def completed(forced: Attempt, free: Attempt, *, wanted: str, codec: TextCodec) -> Attempt | None:
    """The attempt to which `wanted` was forced; with the free one's words behind that, if it has lost some.

    None: it has, and they cannot be put together.
    """
    kept = [token.key for token in tokenise(tidy(wanted))]
    said = tokenise(tidy(codec.decode(free.tokens)))
    if not kept:
        return forced
    ends = [end for end, token in enumerate(said, 1) if token.key == kept[-1] and abs(end - len(kept)) <= _SPREAD]
    past = min(ends, key=lambda end: abs(end - len(kept)), default=None)
    written = len(tokenise(tidy(codec.decode(forced.tokens))))
    if written - len(kept) > len(said) - (past or len(kept)) - LOST_WORDS:
        return forced
    behind = _behind(free.tokens, said[past - 1].until, codec=codec) if past else None
    if behind is None:
        return None
    first = [token for token in free.tokens[:1] if token >= codec.timestamp_begin]
    tokens = (*first, *codec.encode(wanted), *behind)
    ratio = compression_ratio(codec.decode(tokens).strip())
    return attrs.evolve(free, tokens=tokens, compression_ratio=ratio, probabilities=None)


def _behind(tokens: tuple[int, ...], until: int, *, codec: TextCodec) -> tuple[int, ...] | None:
    """The tokens behind so many characters, spaces not counted; None where one of them is on both sides."""
    for index in range(len(tokens) + 1):
        length = sum(not char.isspace() for char in codec.decode(tokens[:index]))
        if length >= until:
            return tokens[index:] if length == until else None
    return None
