"""Comparing what was said with what was heard, word by word."""

from __future__ import annotations

import re

import attrs


def words(text: str) -> list[str]:
    """The words without case and punctuation."""
    return re.findall(r"[a-z0-9']+", text.lower())


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
    def rate_pct(self) -> float:
        """The word error rate."""
        return round(100 * (self.lost + self.replaced + self.added) / max(1, self.said), 1)


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


def errors(said: str, heard: str) -> Errors:
    """The word errors of a text."""
    wanted, got = words(said), words(heard)
    places = align(wanted, got)
    found = [place for place in places if place is not None]
    replaced = sum(wanted[index] != got[place] for index, place in enumerate(places) if place is not None)
    return Errors(len(wanted), len(wanted) - len(found), replaced, len(got) - len(found))
