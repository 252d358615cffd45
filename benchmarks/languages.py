"""The language of short utterances: how many are decoded in the wrong one, by the detector's word and by the session's.

Recordings are cut into pieces of 1, 2, 3 and 5 s, which are the utterances of composed sessions: in one language (up to
ten pieces), or in two that change every three pieces, for every pair. The detector hears each piece once, alone in its
window; then the rules are replayed on what it said. Cuts fall anywhere, also within words, so a piece says a little
less than an utterance of its length.

Rules: `guess` is the detector's first choice, each time. `pinned` is what sttd did before: a guess of at least 0.5 on
at least 2 s of speech holds for the rest of the session. `session` is `core/languages.py`; `named` is the same with the
languages of the session named by its client (those spoken, and English, Spanish and German).

The second table has live sessions of pieces of 5 s, heard again as they grow: how much later than at 0.7 s the first
text is shown, and how many utterances are in the wrong language, in the first utterance (`start`), where the language
changes (`change`), and otherwise (`same`). The third has the detector alone.

The numbers of `core/languages.py` were chosen with the clips marked as `tuned`; those of when to show an interim
with all. There are nine clips that are not English: a percentage stands for few utterances.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import attrs
import numpy as np

from benchmarks import options, report
from benchmarks.options import Options
from benchmarks.recordings import Recording, load
from sttd.core.languages import Heard, SessionLanguages, UtteranceLanguage, evidence
from sttd.core.types import SAMPLE_RATE, Samples
from sttd.engine.contract import Preset
from sttd.engine.presets import builtin_presets
from sttd.engine.whisper.backend import LoadedWhisper, WhisperBackend
from sttd.engine.whisper.features import encode, log_mel, window_for

MODEL = "base"  # detection needs a model of many languages
CUTS_S = (1.0, 2.0, 3.0, 5.0)
GROWING_S = (0.7, 1.0, 1.4, 2.0, 3.0, 4.0, 5.0)  # of a piece of 5 s, as interims hear it
TUNED = {"fleurs-de-001", "mfa-mls-es", "fleurs-fr-008", "fleurs-pt-002"}
TUNED_ENGLISH = {"austen-0870", "fleurs-en-001", "jfk", "ls-1688-142285-0001", "mfa-cold", "pv-leopard-en"}
HELD_OUT_ENGLISH = {"fleurs-en-005", "lj-001-0001", "ls-2412-153948-0000", "ls-3005-163389-0000", "rh-lamp"}
ENGLISH_S = 10.0  # of each English clip: there is enough of it
QUIET_DB = -45  # a piece below that is a pause
SHORTEST = 0.6  # of its cut, what the end of a clip must have to be a piece
LONGEST_SESSION, BLOCK = 10, 3  # pieces
COMPANY = ("en", "es", "de")  # named beside what is spoken
BATCH = 4


@attrs.frozen(kw_only=True, eq=False)
class Piece:
    """A piece of a recording, and what the detector says of it."""

    clip: str
    language: str
    cut_s: float
    at_s: float
    speech_s: float
    probabilities: Mapping[str, float]

    @property
    def guess(self) -> str:
        return max(self.probabilities, key=lambda code: self.probabilities[code])


Session = Sequence[Piece]
Rule = Callable[[Session], list[str]]  # the language that each utterance is decoded in


# ---------------------------------------------------------------- hearing


@attrs.frozen(kw_only=True, eq=False)
class Detector:
    """What a model says of sounds and of silence."""

    model: LoadedWhisper
    silence: Mapping[str, float]

    @classmethod
    def of(cls, preset: Preset) -> Detector:
        model = WhisperBackend().load(preset, cpu_threads=0, num_workers=1)
        chooser = model._decoder._chooser
        if len(chooser._codec.languages) == 1:
            raise ValueError(f"{preset.name} knows one language only")
        return cls(model=model, silence=chooser._of_silence())

    def hear(self, sounds: Sequence[Samples]) -> Iterator[Mapping[str, float]]:
        """The probabilities of the languages, sound by sound."""
        decoder = self.model._decoder
        for first in range(0, len(sounds), BATCH):
            batch = sounds[first : first + BATCH]
            # As interims are heard: what the first of them says of the language is what the speaker sees.
            longest = max(len(sound) for sound in batch)
            window = window_for(longest, allowed=decoder._settings.interim_windows)
            features = np.stack([log_mel(decoder._extractor, sound, window=window) for sound in batch])
            for guesses in decoder._whisper.detect_language(encode(decoder._whisper, features).output):
                yield {token[2:-2]: probability for token, probability in guesses}


def pieces_of(clip: Recording, detector: Detector) -> Iterator[Piece]:
    """The clip in pieces of every length; those of the longest cut also as they grow."""
    samples = clip.samples[: int(ENGLISH_S * SAMPLE_RATE)] if clip.language == "en" else clip.samples
    places = [
        (cut_s, at_s, length_s)
        for cut_s in CUTS_S
        for at_s in np.arange(0, len(samples) / SAMPLE_RATE, cut_s).tolist()
        for length_s in (GROWING_S if cut_s == CUTS_S[-1] else (cut_s,))
    ]
    sounds = [samples[int(at_s * SAMPLE_RATE) : int((at_s + length_s) * SAMPLE_RATE)] for _, at_s, length_s in places]
    kept = [
        (place, sound)
        for place, sound in zip(places, sounds, strict=True)
        if len(sound) >= SHORTEST * place[2] * SAMPLE_RATE and loudness_db(sound) > QUIET_DB
    ]
    heard = detector.hear([sound for _, sound in kept])
    for ((cut_s, at_s, _), sound), probabilities in zip(kept, heard, strict=True):
        yield Piece(
            clip=clip.name,
            language=clip.language or "",
            cut_s=cut_s,
            at_s=at_s,
            speech_s=len(sound) / SAMPLE_RATE,
            probabilities=probabilities,
        )


def loudness_db(samples: Samples) -> float:
    return float(10 * np.log10(np.square(samples).mean() + 1e-10))


# ---------------------------------------------------------------- composing


def by_language(pieces: Sequence[Piece], *, cut_s: float) -> dict[str, list[Piece]]:
    """Whole pieces of one cut, in the order of their clips; of what grows the last."""
    last = {(piece.clip, piece.at_s): piece for piece in pieces if piece.cut_s == cut_s}
    found: dict[str, list[Piece]] = defaultdict(list)
    for piece in last.values():
        found[piece.language].append(piece)
    return found


def of_one_language(pieces: Sequence[Piece], *, cut_s: float) -> list[Session]:
    """Sessions in one language."""
    return [
        mine[first : first + LONGEST_SESSION]
        for mine in by_language(pieces, cut_s=cut_s).values()
        for first in range(0, len(mine), LONGEST_SESSION)
    ]


def of_two_languages(pieces: Sequence[Piece], *, cut_s: float) -> list[Session]:
    """Sessions in two languages that take turns, for every ordered pair."""
    found = by_language(pieces, cut_s=cut_s)
    sessions = []
    for one, other in itertools.permutations(sorted(found), 2):
        count = min(len(found[one]), len(found[other]), 3 * BLOCK)
        turns = (
            found[language][first : first + BLOCK] for first in range(0, count, BLOCK) for language in (one, other)
        )
        sessions.append([piece for turn in turns for piece in turn])
    return sessions


# ---------------------------------------------------------------- replaying


def guess(session: Session) -> list[str]:
    """The detector's word."""
    return [piece.guess for piece in session]


def pinned(session: Session) -> list[str]:
    """The rule before: the first guess that is good enough holds for ever."""
    pin, found = None, []
    for piece in session:
        found.append(pin or piece.guess)
        if pin is None and piece.speech_s >= 2.0 and piece.probabilities[piece.guess] >= 0.5:
            pin = piece.guess
    return found


def by_session(session: Session, *, silence: Mapping[str, float], named: bool = False) -> list[str]:
    """`core/languages.py`, with one decode an utterance."""
    languages = known_languages(session, named=named)
    found = []
    for number, piece in enumerate(session, 1):
        utterance = UtteranceLanguage(utterance=number, session=languages)
        heard = heard_in(piece, silence=silence, languages=languages)
        found.append(choice(utterance, heard, speech_s=piece.speech_s)[0])
        utterance.hear(heard, speech_s=piece.speech_s)
    return found


def known_languages(session: Session, *, named: bool) -> SessionLanguages:
    codes = {piece.language for piece in session} | set(COMPANY)
    return SessionLanguages(allowed=tuple(sorted(codes)) if named else ())


def heard_in(piece: Piece, *, silence: Mapping[str, float], languages: SessionLanguages) -> Heard:
    return evidence(piece.probabilities, silence=silence, allowed=languages.allowed)


def choice(utterance: UtteranceLanguage, heard: Heard, *, speech_s: float) -> tuple[str, float]:
    """What the engine decodes it in."""
    prior = utterance.prior(speech_s=speech_s)
    assert prior is not None
    return prior.posterior(heard)[0]


@attrs.frozen(kw_only=True)
class Shown:
    """How an utterance of a live session came out."""

    place: str  # start, same or change
    wrong: bool
    delay_s: float  # of the first text, behind the first interim


def live(session: Sequence[Sequence[Piece]], *, silence: Mapping[str, float], named: bool) -> Iterator[Shown]:
    """A session with interims: each of its utterances as it grows."""
    languages = known_languages([piece for growing in session for piece in growing], named=named)
    before = None
    for number, growing in enumerate(session, 1):
        utterance = UtteranceLanguage(utterance=number, session=languages)
        shown_s = growing[-1].speech_s
        for piece in growing:
            heard = heard_in(piece, silence=silence, languages=languages)
            code, probability = choice(utterance, heard, speech_s=piece.speech_s)
            if utterance.settle(code, probability=probability, heard=heard, speech_s=piece.speech_s):
                shown_s = piece.speech_s
                break
        whole = growing[-1]
        heard = heard_in(whole, silence=silence, languages=languages)
        decoded_in = utterance.code or choice(utterance, heard, speech_s=whole.speech_s)[0]
        utterance.hear(heard, speech_s=whole.speech_s)
        place = "start" if before is None else "same" if before == whole.language else "change"
        yield Shown(place=place, wrong=decoded_in != whole.language, delay_s=shown_s - growing[0].speech_s)
        before = whole.language


def growing_of(session: Session, pieces: Sequence[Piece]) -> list[list[Piece]]:
    """The utterances of a session of the longest cut, each as it grows."""
    found: dict[tuple[str, float], list[Piece]] = defaultdict(list)
    for piece in pieces:
        if piece.cut_s == CUTS_S[-1]:
            found[piece.clip, piece.at_s].append(piece)
    return [found[piece.clip, piece.at_s] for piece in session]


# ---------------------------------------------------------------- counting


def wrong_pct(sessions: Sequence[Session], rule: Rule) -> float | None:
    """How many utterances are decoded in another language than theirs."""
    wrong = [
        decoded_in != piece.language
        for session in sessions
        for piece, decoded_in in zip(session, rule(session), strict=True)
    ]
    return round(100 * sum(wrong) / len(wrong), 1) if wrong else None


def rules_table(pieces: Sequence[Piece], silence: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """One row a rule and half of the clips."""
    rules: dict[str, Rule] = {
        "guess": guess,
        "pinned (before)": pinned,
        "session (now)": functools.partial(by_session, silence=silence),
        "session, named": functools.partial(by_session, silence=silence, named=True),
    }
    tuned = TUNED | TUNED_ENGLISH
    halves = {
        "tuned": [piece for piece in pieces if piece.clip in tuned],
        "held out": [piece for piece in pieces if piece.clip not in tuned],
        "all": pieces,
    }
    for half, mine in halves.items():
        for name, rule in rules.items():
            row: dict[str, Any] = {"clips": half, "rule": name}
            singles = {cut_s: of_one_language(mine, cut_s=cut_s) for cut_s in CUTS_S}
            english = [session for each in singles.values() for session in each if session[0].language == "en"]
            row["English wrong %"] = wrong_pct(english, rule)
            for cut_s, sessions in singles.items():
                others = [session for session in sessions if session[0].language != "en"]
                row[f"others {cut_s:g} s wrong %"] = wrong_pct(others, rule)
            for cut_s in CUTS_S[1:]:
                row[f"mixed {cut_s:g} s wrong %"] = wrong_pct(of_two_languages(mine, cut_s=cut_s), rule)
            yield row


def live_table(pieces: Sequence[Piece], silence: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """One row a kind of session, all clips."""
    longest = CUTS_S[-1]
    single = of_one_language(pieces, cut_s=longest)
    kinds = {
        "English": [session for session in single if session[0].language == "en"],
        "other languages": [session for session in single if session[0].language != "en"],
        "two languages": of_two_languages(pieces, cut_s=longest),
    }
    for kind, sessions in kinds.items():
        for named in (False, True):
            shown = [
                each for session in sessions for each in live(growing_of(session, pieces), silence=silence, named=named)
            ]
            row: dict[str, Any] = {"sessions": kind, "languages": "named" if named else "any"}
            for place in ("start", "same", "change"):
                mine = [each for each in shown if each.place == place]
                row[f"{place}: utterances"] = len(mine)
                row[f"{place}: wrong %"] = round(100 * np.mean([e.wrong for e in mine]), 1) if mine else None
                row[f"{place}: delay s"] = round(float(np.mean([e.delay_s for e in mine])), 2) if mine else None
            yield row


def detector_table(pieces: Sequence[Piece]) -> Iterator[dict[str, Any]]:
    """How often the detector is right, by seconds of speech."""
    for length_s in sorted({*CUTS_S, *GROWING_S}):
        row: dict[str, Any] = {"speech s": length_s}
        for kind in ("English", "others"):
            mine = [
                piece
                for piece in pieces
                if (piece.language == "en") == (kind == "English") and abs(piece.speech_s - length_s) < 0.05
            ]
            row[f"{kind}: pieces"] = len(mine)
            row[f"{kind}: right %"] = round(100 * np.mean([p.guess == p.language for p in mine]), 1) if mine else None
            truth = [piece.probabilities.get(piece.language, 0.0) for piece in mine]
            row[f"{kind}: mean probability of the truth"] = round(float(np.mean(truth)), 2) if mine else None
        yield row


def main(given: Options) -> None:
    """Hear every piece once, replay the rules, report."""
    chosen = options.on_disk(given.named or MODEL)
    preset = builtin_presets().get(chosen.preset) or Preset(name=chosen.name, backend="whisper", model=str(chosen.path))
    detector = Detector.of(preset)
    clips = [
        clip
        for clip in load().values()
        if clip.is_speech
        and not clip.is_derived
        and (clip.language != "en" or clip.name in TUNED_ENGLISH | HELD_OUT_ENGLISH)
    ]
    pieces = [piece for clip in clips for piece in pieces_of(clip, detector)]
    detector.model.close()
    meta = {"clips": len(clips), "pieces": len(pieces)}
    report.write("languages_detector", list(detector_table(pieces)), meta, model=chosen.name)
    report.write("languages_live", list(live_table(pieces, detector.silence)), meta, model=chosen.name)
    report.write("languages", list(rules_table(pieces, detector.silence)), meta, model=chosen.name)
