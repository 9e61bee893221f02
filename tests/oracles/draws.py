"""Draws: the choices that make a statement, written down so that it can be made again and shrunk.

Every choice is a number; 0 is always the simplest alternative. So a shorter list of smaller numbers is a simpler
statement, and shrinking needs to know nothing about SQL.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TypeVar

T = TypeVar("T")


class Draws:
    """Choices from a random source, or from a list made earlier; past its end every choice is 0."""

    __slots__ = ("_given", "_random", "made")

    def __init__(self, source: random.Random | Sequence[int]) -> None:
        self._random = source.random if isinstance(source, random.Random) else None
        self._given: Sequence[int] = () if isinstance(source, random.Random) else source
        self.made: list[int] = []

    def below(self, n: int) -> int:
        """A number from 0 to n - 1."""
        if self._random is not None:
            value = int(self._random() * n)
        else:
            at = len(self.made)
            value = min(self._given[at], n - 1) if at < len(self._given) else 0
        self.made.append(value)
        return value

    def chance(self, percent: float) -> bool:
        """True in so many cases of a hundred; the draw 0 is False."""
        return self.below(1000) >= 1000 - percent * 10

    def pick(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def weighted(self, options: Sequence[tuple[int, T]]) -> T:
        """One of (weight, option); put the simplest first."""
        value = self.below(sum(weight for weight, _ in options))
        for weight, option in options:
            if value < weight:
                return option
            value -= weight
        raise AssertionError("unreachable")


def shrink(made: Sequence[int], fails: Callable[[list[int]], bool], tries: int = 1500) -> list[int]:
    """The shortest list found, of the smallest numbers, for which `fails` still holds."""
    best = list(made)

    def better(candidate: list[int]) -> bool:
        nonlocal best, tries
        if tries <= 0 or candidate == best:
            return False
        tries -= 1
        if fails(candidate):
            best = candidate
            return True
        return False

    improved = True
    while improved and tries > 0:
        improved = False
        size = max(len(best) // 2, 1)
        while size >= 1:
            start = 0
            while start < len(best):
                if better(best[:start] + best[start + size :]):
                    improved = True
                elif any(best[start : start + size]) and better(
                    best[:start] + [0] * len(best[start : start + size]) + best[start + size :]
                ):
                    improved = True
                    start += size
                else:
                    start += size
            size //= 2
        for i in range(len(best)):
            while i < len(best) and best[i] > 1 and better([*best[:i], best[i] // 2, *best[i + 1 :]]):
                improved = True
    while best and best[-1] == 0 and better(best[:-1]):
        pass
    return best
