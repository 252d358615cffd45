"""Which language is spoken: a belief for each session, and one language for each utterance.

What Whisper guesses of one second of Spanish is wrong half the time, so a single guess decides nothing. Rules:

 1. **Evidence.** The detector's probabilities, each divided by what the detector says of silence, to the power
    `LEANING`: before it has heard anything Whisper leans to English by far. What lies below `LEAST` counts as `LEAST`,
    so no single utterance can rule a language out.
 2. **Weight.** Evidence counts to the power `weight_of(speech_s)`, which grows with the speech it rests on.
 3. **Belief.** A hidden Markov model over the utterances: in each the language stays as it was, or it changes with the
    probability `SWITCH`, half of the time to one that was spoken in the session before. The belief before an utterance
    is that after the one before it, so moved; times the evidence it is the belief after the utterance.
 4. An utterance counts once, however often it is decoded: the evidence of its longest decode replaces the earlier ones.
    Utterances count in their order, whatever the order in which their decodes come back.
 5. The client may say which languages are possible; the others then have no probability at all. With one language
    nothing is detected.
 6. **One language for an utterance.** The first interim that is shown settles it; all later decodes of the utterance
    are made in it. An interim that is not sure is not shown before `PATIENCE_S` seconds of speech. Sure is a belief of
    `SURE_FIRST` in the first utterance; `SURE` where the client named the languages, because a guess among few looks
    surer than it is. Later a belief is mostly what was spoken before, and just that is not so where somebody changes
    the language: so it must be `SURE`, and no language may fit the sound alone `CONTRADICTION` times as well. Without
    any interim the final decides.
 7. What a decode heard counts for later utterances also where the utterance's language was settled before: so a session
    follows a speaker whose change was noticed too late.

The numbers come from `benchmarks languages`, with base; the recordings are few (9 clips that are not English), so they
are round.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final

import attrs

Heard = tuple[tuple[str, float], ...]  # languages with their probabilities, the most probable first

LEANING: Final = 0.3
LEAST: Final = 0.001
SWITCH: Final = 0.1
FAMILIAR: Final = 0.5  # of the changes lead to a language that was spoken before
ENGLISH: Final = 3.0  # so many times as probable as any other language, before anything is heard
WEIGHT_MOST: Final = 1.5  # from 2.25 s of speech on
PATIENCE_S: Final = 3.0
SURE_FIRST: Final = 0.8
SURE: Final = 0.97
CONTRADICTION: Final = 6.0

_COUNT: Final = 100  # languages that Whisper has tokens for, from large-v3 on; one more or less changes nothing
_SPOKEN_MOST_S: Final = 5.0  # chosen: longer utterances say no more about which languages a speaker uses
_KEPT: Final = 32  # utterances whose evidence may still be replaced; a file has 17 at work at most


def weight_of(speech_s: float) -> float:
    """How much the evidence of so much speech counts: its power (rule 2)."""
    return min(WEIGHT_MOST, math.sqrt(max(0.0, speech_s)))


def evidence(probabilities: Mapping[str, float], *, silence: Mapping[str, float], allowed: Iterable[str] = ()) -> Heard:
    """What a sound says about its language, without the detector's leaning (rule 1).

    Args:
        probabilities: what the detector makes of the sound.
        silence: what it makes of silence.
        allowed: the languages that are possible; empty: all.

    Returns:
        The languages from `LEAST` on; all together at most 1. Empty where the detector gave no number.
    """
    possible = set(allowed)
    ratios = {
        code: probability / max(silence.get(code, 0.0), LEAST) ** LEANING
        for code, probability in probabilities.items()
        if not possible or code in possible
    }
    total = sum(ratios.values())
    if not total > 0:  # NaN too
        return ()
    shares = ((code, ratio / total) for code, ratio in ratios.items())
    return _sorted((code, share) for code, share in shares if share >= LEAST)


@attrs.frozen(kw_only=True)
class Prior:
    """What is known about an utterance's language before its audio is heard. A value: it travels to the engine.

    `likely` names languages with their probabilities, `other` is that of each language it does not name. Where
    `allowed` is not empty, only these are possible. `weight` is the power of the evidence. Without arguments: nothing
    is known, and any language is possible.
    """

    likely: Heard = (("en", ENGLISH / (_COUNT - 1 + ENGLISH)),)
    other: float = 1 / (_COUNT - 1 + ENGLISH)
    allowed: tuple[str, ...] = ()
    weight: float = 1.0

    @classmethod
    def among(cls, allowed: Iterable[str]) -> Prior:
        """Nothing is known but which languages are possible; empty: all."""
        codes = tuple(dict.fromkeys(allowed))
        if not codes:
            return cls()
        shares = {code: ENGLISH if code == "en" else 1.0 for code in codes}
        total = sum(shares.values())
        return cls(likely=_sorted((code, share / total) for code, share in shares.items()), other=0.0, allowed=codes)

    def posterior(self, heard: Heard) -> Heard:
        """The probabilities of the languages after `heard`: of those that this or `heard` names."""
        return self.after(heard).likely

    def after(self, heard: Heard) -> Prior:
        """The belief after `heard`."""
        before, sound = dict(self.likely), dict(heard)
        possible = self.allowed or tuple(dict.fromkeys((*before, *sound)))
        least = LEAST**self.weight
        raw = {
            code: before.get(code, self.other) * max(sound.get(code, 0.0), LEAST) ** self.weight for code in possible
        }
        other = self.other * least
        total = sum(raw.values()) + other * max(0, _COUNT - len(raw))
        return attrs.evolve(
            self, likely=_sorted((code, share / total) for code, share in raw.items()), other=other / total
        )


@attrs.frozen(kw_only=True)
class _Evidence:
    heard: Heard
    speech_s: float


@attrs.frozen(kw_only=True)
class _Belief:
    """What is believed after some utterances, and for how many seconds each language was spoken in them."""

    languages: Prior
    spoken_s: Mapping[str, float] = attrs.field(factory=dict)

    def before_next(self, start: Prior) -> Prior:
        """The belief before the next utterance (rule 3); `start` is that before the first."""
        total_s = sum(self.spoken_s.values())
        if not total_s:
            return start
        known, anew = dict(self.languages.likely), dict(start.likely)
        likely = []
        for code in dict.fromkeys((*known, *anew, *self.spoken_s)):
            stays = known.get(code, self.languages.other)
            familiar = self.spoken_s.get(code, 0.0) / total_s
            any_language = anew.get(code, start.other)
            likely.append((code, _moved(stays, familiar=familiar, anew=any_language)))
        return attrs.evolve(
            self.languages,
            likely=_sorted(likely),
            other=_moved(self.languages.other, familiar=0.0, anew=start.other),
        )

    def after(self, spoken: _Evidence, *, start: Prior) -> _Belief:
        """The belief after one more utterance."""
        before = attrs.evolve(self.before_next(start), weight=weight_of(spoken.speech_s))
        languages = before.after(spoken.heard)
        length_s = min(max(0.0, spoken.speech_s), _SPOKEN_MOST_S)
        spoken_s = dict(self.spoken_s)
        for code, share in languages.likely:
            spoken_s[code] = spoken_s.get(code, 0.0) + share * length_s
        return _Belief(languages=languages, spoken_s=spoken_s if length_s > 0 else self.spoken_s)


def _moved(stays: float, *, familiar: float, anew: float) -> float:
    return (1 - SWITCH) * stays + SWITCH * (FAMILIAR * familiar + (1 - FAMILIAR) * anew)


@attrs.define(eq=False)
class SessionLanguages:
    """What a session has found out about its language.

    Args:
        given: the language that the client named; nothing is detected then.
        allowed: the languages that the client says are possible; empty: all.
    """

    given: str | None = None
    allowed: tuple[str, ...] = ()
    _start: Prior = attrs.field(init=False)
    _settled: _Belief = attrs.field(init=False)  # after the utterances that are not in `_evidence` any more
    _settled_until: int = attrs.field(default=0, init=False)  # the last of them
    _evidence: dict[int, _Evidence] = attrs.field(factory=dict, init=False)  # of the newest utterances
    _known: dict[int, Prior] = attrs.field(factory=dict, init=False)  # priors that were asked for, one at most

    def __attrs_post_init__(self) -> None:
        self._start = Prior.among(self.allowed)
        self._settled = _Belief(languages=self._start)

    @property
    def only(self) -> str | None:
        """The language, where no other is possible."""
        return self.given or (self.allowed[0] if len(self.allowed) == 1 else None)

    @property
    def certain(self) -> str | None:
        """The language that is spoken now, as far as that is certain."""
        if self.only is not None:
            return self.only
        code, probability = self._after(list(self._evidence)).languages.likely[0]
        return code if self.heard_before(None) and probability >= SURE_FIRST else None

    def heard_before(self, utterance: int | None) -> bool:
        """Whether any utterance before this one was heard; before the end, for None."""
        earlier = utterance is None or any(number < utterance for number in self._evidence)
        return bool(self._settled.spoken_s) or (earlier and bool(self._evidence))

    def prior(self, utterance: int, *, speech_s: float) -> Prior:
        """What is known about the language of an utterance of which there are `speech_s` seconds."""
        if utterance not in self._known:
            earlier = [number for number in self._evidence if number < utterance]
            self._known = {utterance: self._after(earlier).before_next(self._start)}
        return attrs.evolve(self._known[utterance], weight=weight_of(speech_s))

    def hear(self, utterance: int, heard: Heard, *, speech_s: float) -> None:
        """A decode of `speech_s` seconds of an utterance says that (rule 4). Of a forgotten utterance: ignored."""
        known = self._evidence.get(utterance)
        if not heard or utterance <= self._settled_until or (known is not None and known.speech_s > speech_s):
            return
        self._evidence[utterance] = _Evidence(heard=heard, speech_s=speech_s)
        self._known = {number: prior for number, prior in self._known.items() if number <= utterance}
        while len(self._evidence) > _KEPT:
            self._settled_until = min(self._evidence)
            spoken = self._evidence.pop(self._settled_until)
            self._settled = self._settled.after(spoken, start=self._start)

    def _after(self, utterances: Iterable[int]) -> _Belief:
        belief = self._settled
        for number in sorted(utterances):
            belief = belief.after(self._evidence[number], start=self._start)
        return belief


@attrs.define(eq=False, kw_only=True)
class UtteranceLanguage:
    """The language of one utterance (rule 6).

    Args:
        utterance: its number.
        session: what its session knows.
    """

    utterance: int
    session: SessionLanguages
    code: str | None = attrs.field(default=None, init=False)  # once it is settled: it never changes again
    _probability: float | None = attrs.field(default=None, init=False)  # when an interim settled it

    def __attrs_post_init__(self) -> None:
        self.code = self.session.only

    @property
    def best(self) -> str | None:
        """The language, as far as it is known without a decode."""
        return self.code or self.session.certain

    def prior(self, *, speech_s: float) -> Prior | None:
        """For the decode of `speech_s` seconds: what to choose by, or to listen for. None: nothing is detected."""
        if self.session.only is not None:
            return None
        return self.session.prior(self.utterance, speech_s=speech_s)

    def hear(self, heard: Heard, *, speech_s: float) -> None:
        """A decode that found text heard that."""
        if self.session.only is None:
            self.session.hear(self.utterance, heard, speech_s=speech_s)

    def settle(self, code: str, *, probability: float, heard: Heard, speech_s: float) -> bool:
        """Whether the text of an interim may be shown. If so, its language is that of the utterance from now on.

        Args:
            code: the language it was decoded in.
            probability: that this is the language.
            heard: the evidence; empty where the model did not choose, because it knows one language only.
            speech_s: speech that it was decoded from.
        """
        self.hear(heard, speech_s=speech_s)
        if self.code is None:
            if heard and speech_s < PATIENCE_S and not self._sure(code, probability, heard, speech_s=speech_s):
                return False
            self.code = code or None
            self._probability = probability if heard else None
        return True

    def probability(self, decoded: float) -> float | None:
        """How probable the language of the utterance is, whose final was `decoded` with that probability; None: it was
        given, or the model knows no other."""
        return self._probability if self.code is not None else decoded

    def _sure(self, code: str, probability: float, heard: Heard, *, speech_s: float) -> bool:
        if not self.session.heard_before(self.utterance):
            return probability >= (SURE if self.session.allowed else SURE_FIRST)
        better = heard[0][1] / max(dict(heard).get(code, 0.0), LEAST)
        return probability >= SURE and better ** weight_of(speech_s) <= CONTRADICTION

    def takes(self, code: str) -> bool:
        """Whether a decode in that language can be the final of the utterance."""
        return self.code is None or not code or code == self.code


def _sorted(shares: Iterable[tuple[str, float]]) -> Heard:
    """The most probable first; of equals the first by its code."""
    return tuple(sorted(shares, key=lambda share: (-share[1], share[0])))
