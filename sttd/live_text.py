"""The options of live text, which every preset may have for itself: how sure of a word one must be to show it, and to
call it stable.

`core/stabiliser.py` has the rules.
"""

from __future__ import annotations

import math

import attrs

from sttd.fields import number, string


@attrs.frozen(kw_only=True)
class Tier:
    """A way for a word to become stable: so sure, in so many hypotheses running, over so many seconds of audio."""

    probability: float
    hypotheses: int
    over_s: float

    def __str__(self) -> str:
        return f"{self.probability:g}:{self.hypotheses}:{self.over_s:g}"


_MAX_TIERS = 8  # chosen: more than anybody tells apart


def tiers(text: str) -> tuple[Tier, ...]:
    """What `commit` says. Raises ValueError with what it should be."""
    found = [_tier(part) for part in text.split(",")]
    kept = tuple(tier for tier in found if tier is not None)
    if len(kept) < len(found) or len(kept) > _MAX_TIERS:
        raise ValueError(
            f"tiers PROBABILITY:HYPOTHESES:SECONDS with commas between, such as {LiveText().commit}: "
            f"0 to 1, at least 1, at least 0, and {_MAX_TIERS} tiers at most, not {text!r}"
        )
    return kept


def _tier(part: str) -> Tier | None:
    try:
        probability, hypotheses, over_s = part.split(":")
        tier = Tier(probability=float(probability), hypotheses=int(hypotheses), over_s=float(over_s))
    except ValueError:
        return None
    held = 0 <= tier.probability <= 1 and tier.hypotheses >= 1 and 0 <= tier.over_s < math.inf
    return tier if held else None


@attrs.frozen(kw_only=True)
class LiveText:
    """When words of live text are shown, and when they are stable; `core/stabiliser.py` has the rules.

    How sure a model is of a word it has right differs from model to model, so every preset may have its own. The
    defaults were tuned with base on some of the recordings and held out on others; `QUICK` is for the smallest models.
    """

    # Measured with base and an interim every 0.4 s, beside those of `QUICK`: contradicted finals 1 -> 0 of 33, erasure
    # 0.17 -> 0.15, a word error of 25 less, for stable after 1.45 -> 1.65 s (p95 2.8 -> 3.1). Held out, on long clips
    # and in other languages: erasure 0.22 -> 0.18 and 0.25 -> 0.23. Fewer hypotheses or less time leave the one that
    # is contradicted; no third tier, or a surer one, has more erasure on what was held out.
    commit: str = string(
        "when words are stable: tiers PROBABILITY:HYPOTHESES:SECONDS, any of which must hold: so probable in the two "
        "newest hypotheses, the same in so many running, and for so long",
        one_line=True,
        read=tiers,
        default="0.8:2:0,0.5:3:1.6,0.3:4:2.4",
    )
    show_from: float = number(
        "a new word is shown when it is so probable, or was heard for `show_after_s`; 0: at once",
        minimum=0,
        maximum=1,
        default=0.9,
    )
    change_from: float = number(
        "a shown word gives way to one that is so probable, or was heard twice; 0: to any",
        minimum=0,
        maximum=1,
        default=0.9,
    )
    show_after_s: float = number(
        "a new word is shown when all hypotheses of so long agree on it, two at least; in the first 1.5 s of an "
        "utterance this and `show_from` are less, in proportion",
        minimum=0,
        maximum=10,
        default=0.6,
        unit="s",
    )
    # Measured: 0.1 and 0.2 leave none of 195 finals contradicting, at no more than 0.5 points of word errors.
    keep_margin: float = number(
        "a final that contradicts the stable text gives way to one that keeps it, unless that is less probable than "
        "this: mean log probability of a token",
        minimum=0,
        maximum=10,
        default=0.2,
    )


# Measured with tiny.en and an interim every 0.4 s: none of 33 contradicted, erasure 0.07, stable after 1.5 s (p95 3.4;
# on another processor 2.9). By the defaults it takes back twice as much.
QUICK = LiveText(commit="0.8:2:0,0.5:2:1.2,0.2:3:2", show_from=0.8, change_from=0.8)
