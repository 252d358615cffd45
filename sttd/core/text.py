"""What may be concluded from text alone: its words, loops in it, whether it was invented, whether a sentence ended.

The guards of a final, cheapest first. *Doubt* means weak evidence from the VAD (less than `_SPEECH_S` of speech, or
a mean probability below `_SPEECH_PROBABILITY`), or from the decoder (`no_speech_prob` above 0.6, or `avg_logprob`
below -1). A mean probability of NaN means that no VAD listened: its evidence is then unknown, not weak.

 1. Both of the decoder's signs together: nothing was said (as Whisper's own decoders decide).
 2. A run of equal n-grams is a decoding loop if **the speech has no room for it**: people repeat themselves, too, and
    that takes them time. There is no room where more words stand than the fastest speaker says in it; where the
    decoder did not believe its text either (a compression ratio above 2.4, a temperature above 0), more than brisk
    speech has; where words have times, in repetitions that take none. Of a loop one stays, of repetitions without
    time those that have some. Twelve repetitions that the decoder did not believe are a loop wherever they stand.
 3. The text is the prompt, or words of the hotwords, and nothing else: it leaked. That may also be meant, and needs
    doubt.
 4. In doubt: a phrase that Whisper is known to invent on noise and music, and nothing else.
 5. In doubt: more words than anybody says in that much speech.
 6. No word at all, only punctuation.
 7. Where the client says what an utterance is, the VAD's opinion decides nothing by itself. But if it heard no speech
    at all in it (`_UNHEARD_S`), prompt and hotwords leaked, and a decoder that is not sure (`_FAIR_LOGPROB`) made its
    text up.

What a guard rejects becomes the empty text. The thresholds are Whisper's. Why phrases: large-v3 puts text on 40 % of
non-speech clips, and much of it is a few dozen phrases (Barański et al., arXiv 2501.11378).
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import attrs

from sttd.core.endpointer import TurnHint
from sttd.core.phrases import (
    CONTINUING,
    FILLERS,
    HALF_NUMBERS,
    INVENTED,
    OPEN_ENDS,
    QUESTIONS_AND_CALLS,
    SENTENCE_ENDS,
    SHORTENED,
)
from sttd.core.types import Certainty, Hypothesis, Segment, Word

_NO_SPEECH = 0.6
_LOGPROB = -1.0
_COMPRESSION = 2.4
_SPEECH_S = 0.25  # 99 recorded utterances have 0.3 s and a mean of 0.42 at least
_SPEECH_PROBABILITY = 0.4
_UNHEARD_S = 0.1
_FAIR_LOGPROB = -0.6  # a confidence of 0.55: hotwords that keys clicked had 0.41 to 0.44 (measured with tiny.en)
_BRISK_S, _BRISK_SPACELESS_S = 1 / 5, 1 / 8  # the time that a word takes, or a character of a script without spaces
_FASTEST = 0.625  # of that, in speech that no one follows any more
_EDGES_S = 0.6  # the VAD's measure of speech is short by its edges
_TOKEN_S = 0.04  # less is no time: two steps of the alignment
_MANY = 12  # repetitions
_WORDS_PER_S = 8.0  # fast speech has 5 words or, where characters count as words, 7 to 8
_WORDS_FREE = 3  # the VAD's measure of speech is short by its edges


# ---------------------------------------------------------------- words


class Token(NamedTuple):
    """A word, or one character of a script without spaces. The pieces of a text's tokens, joined, are the text."""

    space: str  # before it: "" or " "
    core: str
    tail: str  # punctuation after it
    key: str  # what it is compared by: no case, no punctuation
    until: int  # characters of the text up to the token's end, spaces not counted

    @property
    def piece(self) -> str:
        """The token as it stands in the text."""
        return self.space + self.core + self.tail


def tidy(text: str) -> str:
    """One space between words and none around; no control characters, no remains of half a character."""
    if not text.isprintable() or not text.isascii():
        text = "".join(" " if char.isspace() else char for char in text if not _is_debris(char))
    return " ".join(text.split())


def tokenise(text: str) -> list[Token]:
    """The tokens of a tidy text. Punctuation that stands alone belongs to the token before it.

    At the very start it belongs to the first token; a text of nothing else has no tokens.
    """
    tokens: list[Token] = []
    until = 0
    lead = ""  # punctuation before the first token
    for index, word in enumerate(text.split(" ")):
        space = " " if index else ""
        for core, tail, key in _parts(word):
            until += len(core) + len(tail)
            if key:
                whole, space = (lead + space + core, "") if lead else (core, space)
                tokens.append(Token(space, whole, tail, key, until))
                lead = ""
            elif tokens:
                last = tokens[-1]
                tokens[-1] = last._replace(tail=last.tail + space + core + tail, until=until)
            else:
                lead += space + core + tail
            space = ""
    return tokens


@functools.lru_cache(maxsize=4096)  # from one hypothesis to the next nearly all words are the same
def _parts(word: str) -> tuple[tuple[str, str, str], ...]:
    """Core, tail and key of each token in a word without spaces."""
    parts = []
    for chunk in _chunks(word):
        core = chunk.rstrip("".join({char for char in chunk if _is_punctuation(char)}))
        parts.append((core, chunk[len(core) :], _key(core)))
    return tuple(parts)


def joined(tokens: Iterable[Token]) -> str:
    """The text of tokens."""
    return "".join(token.piece for token in tokens).strip()


@attrs.frozen(kw_only=True)
class Evidence:
    """What there is to tell a loop of the decoder from somebody who repeats himself (guard 2).

    Args:
        speech_s: seconds of speech that the text may have been said in.
        compression_ratio: of the text.
        temperature: that the decoder went to.
        words: with times, if there are any.
    """

    speech_s: float
    compression_ratio: float = 1.0
    temperature: float = 0.0
    words: Sequence[Word] = ()

    @classmethod
    def of(cls, hypothesis: Hypothesis, *, speech_s: float) -> Evidence:
        """The evidence that comes with a hypothesis."""
        return cls(
            speech_s=speech_s,
            compression_ratio=hypothesis.compression_ratio,
            temperature=hypothesis.temperature,
            words=hypothesis.words,
        )

    @property
    def repetitive(self) -> bool:
        """Whether the text compresses too well to be believed."""
        return self.compression_ratio > _COMPRESSION

    @property
    def disbelieved(self) -> bool:
        """Whether the decoder's own thresholds say so."""
        return self.repetitive or self.temperature > 0

    def has_room(self, tokens: Sequence[Token]) -> bool:
        """Whether somebody can have said all of it."""
        brisk_s = sum(_BRISK_SPACELESS_S if _is_spaceless(token.key[0]) else _BRISK_S for token in tokens)
        return brisk_s * (1.0 if self.disbelieved else _FASTEST) <= self.speech_s + _EDGES_S


def without_loops(tokens: Sequence[Token], evidence: Evidence) -> list[Token]:
    """The tokens without loops of the decoder (guard 2)."""
    if not evidence.has_room(tokens):
        return cut_loops(tokens, eager=evidence.repetitive)
    if evidence.disbelieved:
        tokens = cut_loops(tokens, least=_MANY)
    places = word_places(tokens, evidence.words)
    times = [evidence.words[place] for place in places]
    return cut_loops(tokens, times=times) if times else list(tokens)


def cut_loops(
    tokens: Sequence[Token], *, eager: bool = False, least: int = 0, times: Sequence[Word] = ()
) -> list[Token]:
    """Without repetitions: of a run of equal n-grams the first stays.

    Args:
        tokens: of a text.
        eager: three of a word, and two of an n-gram, are a run; else it takes six and three.
        least: it takes so many, if that is more.
        times: the word that each token is in. Then every repetition stays, up to those that take no time.
    """
    keys = [token.key for token in tokens]
    count = Counter(keys)
    kept: list[Token] = []
    at = 0
    while at < len(keys):
        often = count[keys[at]] >= max(2 if eager else 3, least)
        size, repeated = _run(keys, at, eager=eager, least=least) if often else (1, 1)
        stay = 1
        while times and stay < repeated and _takes_time(times[at + stay * size : at + (stay + 1) * size]):
            stay += 1
        kept += tokens[at : at + size * stay]
        at += size * repeated
    return kept


def until_repeated(tokens: Sequence[Token]) -> list[Token]:
    """The tokens up to where all that follows is the same again: a word thrice or a phrase twice, then its beginning.

    The last token may be a part of one.
    """
    keys = [token.key for token in tokens]
    for at in range(len(keys)):
        size, times = _run(keys, at, eager=True)
        if times > 1 and _begins(keys[at : at + size], keys[at + times * size :]):
            return list(tokens[: at + size])
    return list(tokens)


def _begins(whole: Sequence[str], part: Sequence[str]) -> bool:
    """Whether `part`, whose last token may be cut, is how `whole` begins."""
    if len(part) > len(whole):
        return False
    return not part or (part[:-1] == whole[: len(part) - 1] and whole[len(part) - 1].startswith(part[-1]))


def _takes_time(words: Sequence[Word]) -> bool:
    return words[-1].end_s - words[0].start_s >= _TOKEN_S * len(words)


def _run(keys: Sequence[str], at: int, *, eager: bool, least: int = 0) -> tuple[int, int]:
    """The size and count of the run that begins there; 1 and 1 if none does."""
    for size in range(1, min(_LONGEST_LOOP, (len(keys) - at) // 2) + 1):
        if keys[at + size] != keys[at]:
            continue
        gram = keys[at : at + size]
        times = 1
        while keys[at + times * size : at + (times + 1) * size] == gram:
            times += 1
        needed = (3 if eager else 6) if size == 1 else (2 if eager else 3)
        if times >= max(needed, least):
            return size, times
    return 1, 1


_LONGEST_LOOP = 32  # tokens: a sentence


def _chunks(word: str) -> list[str]:
    """A word without spaces, cut round every character of a script that puts none between words."""
    if word.isascii():
        return [word] if word else []
    chunks: list[str] = []
    for char in word:
        spaceless = _is_spaceless(char)
        if not chunks or spaceless or (_is_spaceless(chunks[-1][0]) and char.isalnum()):
            chunks.append(char)
        else:
            chunks[-1] += char
    return chunks


def _is_spaceless(char: str) -> bool:
    """Whether the character is a letter of Chinese, Japanese, Thai, Lao, Burmese or Khmer."""
    code = ord(char)
    if code < 0x0E00:
        return False
    inside = any(first <= code <= last for first, last in _SPACELESS)
    return inside and not unicodedata.category(char).startswith(("M", "P"))


_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Burmese
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x30FF),  # kana, iteration marks
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0xFF66, 0xFF9D),  # narrow kana
    (0x20000, 0x3FFFF),
)


def _is_punctuation(char: str) -> bool:
    return char not in "%&@#*/\\" and unicodedata.category(char).startswith("P")


def _is_debris(char: str) -> bool:
    return char in "\ufffd\ufeff" or (unicodedata.category(char) in ("Cc", "Cs") and not char.isspace())


def _key(core: str) -> str:
    folded = unicodedata.normalize("NFKC", core).casefold()
    return "".join(char for char in folded if not unicodedata.category(char).startswith("P"))


def _keys(text: str) -> list[str]:
    return [token.key for token in tokenise(tidy(text))]


# ---------------------------------------------------------------- guards


def guard(
    hypothesis: Hypothesis,
    *,
    speech_s: float,
    mean_probability: float,
    prompt: str = "",
    hotwords: Sequence[str] = (),
    heard_s: float = math.nan,
) -> Hypothesis:
    """The hypothesis with loops cut and text tidied; without text or segments where it is judged no speech.

    Args:
        hypothesis: what the engine heard.
        speech_s: seconds of speech, as the VAD says; where it was not asked, of audio.
        mean_probability: of speech, as the VAD says; NaN where it was not asked.
        prompt: that the engine was given.
        hotwords: the same.
        heard_s: seconds of speech that the VAD heard although it was not asked (guard 7); NaN if none listened.
    """
    tokens = tokenise(tidy(hypothesis.text))
    kept = without_loops(tokens, Evidence.of(hypothesis, speech_s=speech_s))
    if _is_invented(
        hypothesis,
        [token.key for token in kept],
        speech_s=speech_s,
        mean_probability=mean_probability,
        unheard=heard_s < _UNHEARD_S,
        prompt=prompt,
        hotwords=hotwords,
    ):
        return attrs.evolve(hypothesis, text="", segments=())
    if len(kept) == len(tokens):
        return attrs.evolve(hypothesis, text=tidy(hypothesis.text))
    return attrs.evolve(hypothesis, text=joined(kept), segments=_segments_of(hypothesis, tokens=tokens, kept=kept))


def says_nothing(hypothesis: Hypothesis) -> bool:
    """Guard 1 alone: for live text, of which the VAD has not said everything yet."""
    return hypothesis.no_speech_prob > _NO_SPEECH and hypothesis.avg_logprob < _LOGPROB


def _is_invented(
    hypothesis: Hypothesis,
    keys: Sequence[str],
    *,
    speech_s: float,
    mean_probability: float,
    unheard: bool,
    prompt: str,
    hotwords: Sequence[str],
) -> bool:
    silent = hypothesis.no_speech_prob > _NO_SPEECH
    unsure = hypothesis.avg_logprob < _LOGPROB
    known = not math.isnan(mean_probability)
    weak = known and (speech_s < _SPEECH_S or mean_probability < _SPEECH_PROBABILITY)
    doubt = silent or unsure or weak
    if not keys or (silent and unsure) or (unheard and hypothesis.avg_logprob < _FAIR_LOGPROB):
        return True
    leaked = list(keys) == _keys(prompt) or set(keys) <= set(_keys(" ".join(hotwords)))
    if leaked and (doubt or unheard):
        return True  # without a doubt somebody has said just that, as wake words and commands are said
    if not doubt:
        return False
    too_many = known and len(keys) > _WORDS_PER_S * speech_s + _WORDS_FREE
    return too_many or "".join(keys) in _INVENTED["en"] | _INVENTED.get(hypothesis.language, frozenset())


_INVENTED: Mapping[str, frozenset[str]] = {
    language: frozenset("".join(_keys(phrase)) for phrase in phrases) for language, phrases in INVENTED.items()
}


def _segments_of(hypothesis: Hypothesis, *, tokens: Sequence[Token], kept: Sequence[Token]) -> tuple[Segment, ...]:
    """One segment with what is left after a loop was cut from the segments."""
    if not hypothesis.segments:
        return ()
    first, last = hypothesis.segments[0], hypothesis.segments[-1]
    place_of = dict(zip((token.until for token in tokens), word_places(tokens, hypothesis.words), strict=False))
    words = tuple(hypothesis.words[place] for place in sorted({place_of[token.until] for token in kept if place_of}))
    end_s = words[-1].end_s if words else last.end_s
    return (attrs.evolve(first, text=joined(kept), end_s=end_s, words=words),)


def word_places(tokens: Sequence[Token], words: Sequence[Word | Certainty]) -> list[int]:
    """Which of the decoder's words each token of the uncut text ends in; empty if they are not of the same text."""
    ends = list(itertools.accumulate(len(tidy(word.word).replace(" ", "")) for word in words))
    if not tokens or not ends or ends[-1] != tokens[-1].until:
        return []
    return [bisect.bisect_left(ends, token.until) for token in tokens]


# ---------------------------------------------------------------- turns


def turn_hint(previous_text: str, text: str, *, language: str = "en", ending: float | None = None) -> TurnHint:
    """What two hypotheses running say about whether the speaker is done.

    ENDED when both end the same sentence, and the later is sure of it; CONTINUES when the later stops at a comma or
    dash, at a filler, at a word that hardly ends a sentence, in the middle of a number, or at a mark that it does not
    believe in; else NEUTRAL. Word lists exist for a few languages; for others punctuation alone decides.

    Whisper writes a full stop wherever the audio ends. How probable it found it, the `ending`, tells a sentence that is
    over from one that is not; where that is not known, what is written counts.
    """
    tokens = tokenise(tidy(text)[-_SENTENCE_CHARS:])
    if not tokens:
        return TurnHint.NEUTRAL
    if _goes_on(tokens[-1], language):
        return TurnHint.CONTINUES
    before = tokenise(tidy(previous_text)[-_SENTENCE_CHARS:])
    same = [token.key for token in tokens] == [token.key for token in before]
    if ending is not None and ending < _UNSURE_END and _ends_sentence(tokens[-1], language):
        return TurnHint.CONTINUES
    if ending is not None and ending < _SURE_END:
        return TurnHint.NEUTRAL
    if same and _ends_sentence(tokens[-1], language) and _ends_sentence(before[-1], language):
        return TurnHint.ENDED
    return TurnHint.NEUTRAL


# Measured (tiny.en, base): inside sentences 37 of 42 places have a mark, 16 above `_SURE_END`, 10 below `_UNSURE_END`;
# of 44 ends 41, 34 and 2.
_SURE_END, _UNSURE_END = 0.7, 0.5
_SENTENCE_CHARS = 60  # of the end of a hypothesis say enough about it


def _goes_on(last: Token, language: str) -> bool:
    tail = last.tail.rstrip(_CLOSING)
    seeking = last.key in FILLERS.get(language, ()) or last.key in CONTINUING.get(language, ())
    if seeking and not QUESTIONS_AND_CALLS.intersection(tail):
        return True
    if tail:
        return tail[-1] in OPEN_ENDS or tail.endswith("..")
    return last.key[-1].isdigit() or last.key in HALF_NUMBERS.get(language, ())


def _ends_sentence(last: Token, language: str) -> bool:
    tail = last.tail.rstrip(_CLOSING)
    if tail[-1:] not in SENTENCE_ENDS:
        return False
    initial = len(last.key) == 1 and last.key.isascii()  # "J." or "3."
    shortened = last.key in SHORTENED.get(language, ())
    return tail != "." or not (initial or shortened or last.key.isdigit())


_CLOSING = "\"'»”’)]」』 "  # noqa: RUF001
