"""Whether two texts say the same words, however they are written.

An interim and the final of the same speech differ in form: "I'll" and "I will", "twenty one" and "21", "Mr." and
"mister", "light house" and "lighthouse". That is no contradiction, and what was shown as stable can stay as it is. What
is folded, in order: case and punctuation; hyphens; contractions of which it is clear what they stand for (n't, 'm, 're,
'll, 've; an 's or 'd may stand for two things); titles; numbers below 100; spaces between words. Contractions, titles
and spelt numbers are those of English. Measured: of 195 finals form alone differed in one; nearly always it is a
contraction.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Mapping, Sequence

from sttd.core.text import Token, tidy, tokenise

_CONTRACTIONS: Mapping[str, str] = {"'m": " am", "'re": " are", "'ll": " will", "'ve": " have", "n't": " not"}
_IRREGULAR: Mapping[str, str] = {"won't": "will not", "can't": "can not", "cannot": "can not", "shan't": "shall not"}
_TITLES: Mapping[str, str] = {"mr": "mister", "mrs": "missus", "dr": "doctor"}
_SMALL: Mapping[str, int] = {
    "zero": 0,
    "one": 1,
    "two": 2,
    "three": 3,
    "four": 4,
    "five": 5,
    "six": 6,
    "seven": 7,
    "eight": 8,
    "nine": 9,
    "ten": 10,
    "eleven": 11,
    "twelve": 12,
    "thirteen": 13,
    "fourteen": 14,
    "fifteen": 15,
    "sixteen": 16,
    "seventeen": 17,
    "eighteen": 18,
    "nineteen": 19,
}
_TENS: Mapping[str, int] = {
    "twenty": 20,
    "thirty": 30,
    "forty": 40,
    "fifty": 50,
    "sixty": 60,
    "seventy": 70,
    "eighty": 80,
    "ninety": 90,
}
_SPELT: Mapping[str, str] = {str(value): word for word, value in {**_SMALL, **_TENS}.items()} | {
    str(tens + ones): ten + one for ten, tens in _TENS.items() for one, ones in _SMALL.items() if 0 < ones < 10
}
_SPREAD = 8  # chosen: words that one of the texts may have more, by all contractions and numbers in it


def same_words(wanted: Sequence[Token], tokens: Sequence[Token], *, language: str) -> int | None:
    """How many of `tokens` say the words of `wanted`; None where they do not begin with those."""
    if [token.key for token in tokens[: len(wanted)]] == [token.key for token in wanted]:
        return len(wanted)
    english = language == "en"
    folded = _folded(wanted, english=english)
    fewest, most = max(0, len(wanted) - _SPREAD), min(len(tokens), len(wanted) + _SPREAD)
    lengths = sorted(range(fewest, most + 1), key=lambda length: abs(length - len(wanted)))
    return next((length for length in lengths if _folded(tokens[:length], english=english) == folded), None)


def keeps(wanted: str, text: str, *, language: str) -> bool:
    """Whether a text begins with the words of another."""
    return same_words(tokenise(tidy(wanted)), tokenise(tidy(text)), language=language) is not None


def spelt(key: str) -> str:
    """A number below 100 in letters, as it is said in English; anything else as it is."""
    return _SPELT.get(key, key)


def _folded(tokens: Sequence[Token], *, english: bool) -> str:
    words = [word for token in tokens for word in _words(token, english=english)]
    return "".join(_with_digits(words) if english else words)


def _words(token: Token, *, english: bool) -> list[str]:
    text = unicodedata.normalize("NFKC", token.core).casefold().replace("\u2019", "'")
    if english:
        text = _IRREGULAR.get(text, text)
        for short, full in _CONTRACTIONS.items():
            if text.endswith(short):
                text = text.removesuffix(short) + full
    split = "".join(char if char == "'" or not unicodedata.category(char).startswith("P") else " " for char in text)
    plain = [word.replace("'", "") for word in split.split()]
    return [_TITLES.get(word, word) for word in plain] if english else plain


def _with_digits(words: Sequence[str]) -> Iterator[str]:
    """Spelt numbers below 100 as digits."""
    at = 0
    while at < len(words):
        word, following = words[at], words[at + 1] if at + 1 < len(words) else ""
        if word in _TENS and 0 < _SMALL.get(following, 0) < 10:
            yield str(_TENS[word] + _SMALL[following])
            at += 1
        elif word in _TENS or word in _SMALL:
            yield str({**_TENS, **_SMALL}[word])
        else:
            yield word
        at += 1
