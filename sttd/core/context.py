"""What an utterance goes on from: the end of what was said just before it, as sound and as the text that was sent.

A pause inside a sentence makes two utterances of it, and Whisper mishears both where it hears each alone. The first is
out by then; the second is decoded with the first in front of it, and what is new of the text is its own (`Lead`; who
decodes does the cutting). Rules:

 1. **Near.** An utterance goes on from the one before it if that ended by itself, by silence or at its limit, at most
    `NEAR_S` before this one begins; if its text is known by then; and if both are in one language. Whoever ends an
    utterance himself has said what he meant to say.
 2. **How much.** The one before and, while each is near the next, those before that, as long as they fit into `LEAD_S`
    and with the utterance into what costs no more than that and the one before (`LIMITS_S`). One that does not fit is
    not cut: its end without its beginning misleads (measured on free speech in long utterances: base had 5 more of 116
    words wrong with the last 8 s in front), and so long a piece has sense enough by itself.
 3. **Interims** have it too where it costs them no longer window (`INTERIM_LIMITS_S`). What words mean is known sooner
    with it, and less is taken back (`docs/explanation/figures.md`), for tokens that are decoded once more: one takes
    1.4 times as long (base, 3 s in front of 0.8 to 3.2 s).
 4. **Forgotten** is what was said once the silence after it is too long, once an utterance has no text or none that a
    decode made, and by `configure` with another language: a session that changes its language begins anew.

Nothing of it leaves the session, and no more than `LEAD_S` of sound is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from sttd.core.types import SAMPLE_RATE, Final, Lead, Samples, seconds

NEAR_S = 1.5
LEAD_S = 8.0
# What encoder windows of 15, 20 and 30 s hold, with the quiet that short ones must have behind the audio.
LIMITS_S = (12.4, 17.4, 29.9)
INTERIM_LIMITS_S = (7.4,)  # the shortest window of interims, 10 s, likewise
_LATE_S = 1.5  # an onset is known so long after it was, at most (`core/utterance.py`)
_GOES_ON = frozenset(["endpoint", "max_length"])  # reasons of utterances that ended by themselves


@attrs.frozen(eq=False)
class _Part:
    """One utterance."""

    samples: Samples
    text: str


@attrs.define(eq=False)
class SessionContext:
    """What the newest utterance of a session leaves to the next one."""

    _utterance: int = attrs.field(default=0, init=False)
    _end_s: float = attrs.field(default=0.0, init=False)
    _language: str = attrs.field(default="", init=False)
    _parts: tuple[_Part, ...] = attrs.field(default=(), init=False)  # oldest first

    @property
    def kept_s(self) -> float:
        """Seconds of audio that are kept."""
        return seconds(sum(len(part.samples) for part in self._parts))

    def said(self, final: Final, samples: Samples, *, decoded: bool) -> None:
        """An utterance has its final. `samples` are its audio; `decoded`: a decode made its text."""
        if final.utterance <= self._utterance:
            return  # it comes late: more has been said since
        near = self._is_near(final.utterance, begin_s=final.start_s, language=final.language)
        before = self._parts if near else ()
        self._utterance, self._end_s, self._language = final.utterance, final.end_s, final.language
        self._parts = ()
        if decoded and final.text and final.reason in _GOES_ON:
            kept = _fitting((*before, _Part(samples, final.text)), round(LEAD_S * SAMPLE_RATE))
            # Copies: what is handed out of an utterance is a view of all of it.
            self._parts = tuple(attrs.evolve(part, samples=part.samples.copy()) for part in kept)

    def passed(self, position: int) -> None:
        """The audio clock is there, and no utterance is under way (rule 4)."""
        if self._parts and seconds(position) - self._end_s > NEAR_S + _LATE_S:
            self._parts = ()

    def before(
        self,
        utterance: int,
        samples: Samples,
        *,
        begin_s: float,
        language: str | None,
        limits_s: Sequence[float] = LIMITS_S,
    ) -> tuple[Samples, Lead] | None:
        """The audio of an utterance with what it goes on from in front of it; None: it goes on from nothing.

        Args:
            utterance: its number.
            samples: its audio.
            begin_s: where its speech begins.
            language: its own, if that is settled.
            limits_s: what both may be long, from window to window (rules 2 and 3).
        """
        if not self._is_near(utterance, begin_s=begin_s, language=language):
            return None
        least = len(self._parts[-1].samples) + len(samples)
        limits = (round(limit_s * SAMPLE_RATE) for limit_s in limits_s)
        limit = next((limit for limit in limits if limit >= least), None)
        if limit is None:
            return None
        parts = _fitting(self._parts, limit - len(samples))
        audio = np.concatenate([part.samples for part in parts])
        lead = Lead(samples=len(audio), text=" ".join(part.text for part in parts))
        return np.concatenate([audio, samples]), lead

    def _is_near(self, utterance: int, *, begin_s: float, language: str | None) -> bool:
        return (
            bool(self._parts)
            and utterance == self._utterance + 1
            and language == self._language
            and begin_s - self._end_s <= NEAR_S
        )


def _fitting(parts: tuple[_Part, ...], limit: int) -> tuple[_Part, ...]:
    """The newest that are of at most so many samples together."""
    kept: list[_Part] = []
    for part in reversed(parts):
        limit -= len(part.samples)
        if limit < 0:
            break
        kept.append(part)
    return tuple(kept[::-1])
