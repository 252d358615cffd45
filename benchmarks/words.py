"""Comparing what was said with what was heard, word by word.

Texts are compared after one normaliser, `words`: two ways to write the same speech must not count as an error, and
nothing that is heard differently may be made equal. In order:

- case, punctuation and hyphens go; an apostrophe inside a word stays (`it's` is not `it is`);
- hesitations go (`uh`, `um`), since a transcript has them or not by its own rules;
- a few words with two spellings get one (`Mr.` and `mister`, `OK` and `okay`, `alright` and `all right`);
- numbers become digits (`eighteen thirteen` and `1813`, `two hundred and five` and `205`), ordinals up to twentieth
  too. Numbers that follow each other are one word: `one two three`, `1, 2, 3` and `123` are the same.
"""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterator

import attrs


def _counted(names: str, *, start: int = 0, step: int = 1) -> dict[str, int]:
    return {name: start + step * index for index, name in enumerate(names.split())}


HESITATIONS = frozenset(["uh", "uhh", "uhm", "um", "umm", "er", "erm", "hm", "hmm", "mm", "mhm"])
SAME = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "ok": "okay",
    "alright": "all right",
    "yknow": "you know",
    "y'know": "you know",
    "%": "percent",
    "&": "and",
}
SMALL = _counted(
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen"
)
TENS = _counted("twenty thirty forty fifty sixty seventy eighty ninety", start=20, step=10)
LARGE = {"thousand": 10**3, "million": 10**6, "billion": 10**9}
SCALES = {"hundred": 100, **LARGE}
NUMBERS = {**SMALL, **TENS, **SCALES}
ORDINALS = _counted(
    "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth "
    "sixteenth seventeenth eighteenth nineteenth twentieth",
    start=1,
)
ORDINAL_OF_DIGITS = re.compile(r"\d{1,2}(?:st|nd|rd|th)")
# Ideographs have no spaces between them, so each is a word.
TOKEN = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+(?:'[^\W_\u3400-\u9fff]+)*|[%&]")


def words(text: str, *, language: str | None = "en") -> list[str]:
    """The words of a text as they are compared; hesitations, spellings and numbers are those of English only."""
    text = unicodedata.normalize("NFKC", text).lower()
    text = re.sub("[\u2018\u2019]", "'", text)  # typographic apostrophes
    if language != "en":
        return TOKEN.findall(text)
    text = re.sub(r"(?<=\d),(?=\d{3}\b)", "", text)  # 1,000
    text = re.sub(r"(?<=\d)\.(?=\d)", " point ", text)  # 2.5
    text = re.sub(r"(?<=\d):(?=\d\b)", " to ", text)  # the ratio 3:2; a time such as 9:30 has two digits there
    text = re.sub(r"[$](\d+)", r"\1 dollars", text)
    spoken = [word for token in TOKEN.findall(text) if token not in HESITATIONS for word in _same(token)]
    return list(_joined(_with_digits(spoken)))


def _same(token: str) -> list[str]:
    if ORDINAL_OF_DIGITS.fullmatch(token):
        return [name for name, value in ORDINALS.items() if value == int(token[:-2])] or [token]
    return SAME.get(token, token).split()


def _with_digits(spoken: list[str]) -> Iterator[str]:
    """Spelt numbers as digits."""
    at = 0
    while at < len(spoken):
        scaled = spoken[at].isdecimal() and SCALES.keys() & spoken[at + 1 : at + 2]  # 5 million
        if spoken[at] in NUMBERS or scaled:
            value, at = _number(spoken, at)
            yield str(value)
        else:
            yield spoken[at]
            at += 1


def _number(spoken: list[str], at: int) -> tuple[int, int]:
    """The longest number that begins at `at`, and where it is over: `twenty one` is one, `one two` are two."""
    began, total, part, least_scale = at, 0, 0, 10**12
    while at < len(spoken):
        word, before = spoken[at], spoken[at - 1]
        if word == "and" and before in SCALES and (SMALL | TENS).keys() & spoken[at + 1 : at + 2]:
            word, at = spoken[at + 1], at + 1
        if word in LARGE and LARGE[word] < least_scale:
            total, part, least_scale = total + max(part, 1) * LARGE[word], 0, LARGE[word]
        elif word == "hundred" and part < 100:
            part = max(part, 1) * 100
        elif at == began:
            part = NUMBERS[word] if word in NUMBERS else int(word)
        elif word in NUMBERS and word not in SCALES and NUMBERS[word] < _room_behind(before):
            part += NUMBERS[word]
        else:
            break
        at += 1
    return total + part, at


def _room_behind(word: str) -> int:
    """What is too large to follow in a number: ten after `twenty`, a hundred after `hundred`, anything after `six`."""
    if word in TENS:
        return 10
    return 100 if word in (*SCALES, "and") else 0


def _joined(tokens: Iterator[str]) -> Iterator[str]:
    """Numbers that follow each other as one."""
    digits = ""
    for token in tokens:
        if token.isdecimal():
            digits += token
            continue
        if digits:
            yield digits
        digits = ""
        yield token
    if digits:
        yield digits


@attrs.frozen
class Errors:
    """Word errors: said words that are gone, said words that came as others, words that nobody said."""

    said: int = 0
    lost: int = 0
    replaced: int = 0
    added: int = 0

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.said + other.said,
            self.lost + other.lost,
            self.replaced + other.replaced,
            self.added + other.added,
        )

    @property
    def count(self) -> int:
        """Edits from what was said to what was heard."""
        return self.lost + self.replaced + self.added

    @property
    def rate_pct(self) -> float:
        """The word error rate."""
        return round(100 * self.count / max(1, self.said), 1)


def align(said: list[str], heard: list[str]) -> list[int | None]:
    """Where in `heard` each said word is, right or replaced; None where it is gone. Fewest edits (Levenshtein)."""
    costs = [list(range(len(heard) + 1))]
    for row, word in enumerate(said, 1):
        before, line = costs[-1], [row]
        for column, other in enumerate(heard, 1):
            line.append(min(before[column - 1] + (word != other), before[column] + 1, line[-1] + 1))
        costs.append(line)
    places: list[int | None] = [None] * len(said)
    row, column = len(said), len(heard)
    while row and column:
        if costs[row][column] == costs[row - 1][column - 1] + (said[row - 1] != heard[column - 1]):
            row, column = row - 1, column - 1
            places[row] = column
        elif costs[row][column] == costs[row - 1][column] + 1:
            row -= 1
        else:
            column -= 1
    return places


def vanished(before: list[str], after: list[str]) -> int:
    """Words that the next text does not have any more, wherever it has the others."""
    matcher = difflib.SequenceMatcher(a=before, b=after, autojunk=False)
    return len(before) - sum(block.size for block in matcher.get_matching_blocks())


def errors(said: str, heard: str, *, language: str | None = "en") -> Errors:
    """The word errors of a text."""
    wanted, got = words(said, language=language), words(heard, language=language)
    places = align(wanted, got)
    found = [place for place in places if place is not None]
    replaced = sum(wanted[index] != got[place] for index, place in enumerate(places) if place is not None)
    return Errors(len(wanted), len(wanted) - len(found), replaced, len(got) - len(found))


def word_errors(reference: str, heard: str, *, language: str | None = "en") -> tuple[int, int]:
    """How far a text is from its reference.

    Args:
        reference: what was said.
        heard: what a recogniser wrote.
        language: of both; anything but `en` is compared without the rules that are for English.

    Returns:
        (word errors: lost, replaced and added ones; words of the reference), both counted after `words`. The word
        error rate of many texts is the sum of the first over the sum of the second.
    """
    found = errors(reference, heard, language=language)
    return found.count, found.said
