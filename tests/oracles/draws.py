"""Draws: the choices that make a statement, written down so that it can be made again and shrunk.

Every choice is a number; 0 is always the simplest alternative. So a shorter list of smaller numbers is a simpler
statement, and shrinking needs to know nothing about SQL.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, TypeAlias, TypeVar, cast

T = TypeVar("T")
Made = TypeVar("Made", bound=Callable[..., Any])

#: first draw, the one behind the last, and what they made
Span: TypeAlias = tuple[int, int, str]


class Draws:
    """Choices from a random source, or from a list made earlier; past its end every choice is 0."""

    __slots__ = ("_given", "_random", "made", "spans")

    def __init__(self, source: random.Random | Sequence[int]) -> None:
        self._random = source.random if isinstance(source, random.Random) else None
        self._given: Sequence[int] = () if isinstance(source, random.Random) else source
        self.made: list[int] = []
        self.spans: list[Span] = []

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


def spanned(make: Made) -> Made:
    """Note which draws a method of a generator (with its draws in `self.d`) made: one part of the statement."""

    @wraps(make)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        draws: Draws = self.d
        start = len(draws.made)
        result = make(self, *args, **kwargs)
        draws.spans.append((start, len(draws.made), make.__name__))
        return result

    return cast("Made", wrapper)


def shrink(
    made: Sequence[int],
    fails: Callable[[list[int]], bool],
    spans: Callable[[list[int]], list[Span]] | None = None,
    tries: int = 1500,
) -> list[int]:
    """The shortest list found, of the smallest numbers, for which `fails` still holds.

    Args:
        spans: which draws of a list belong together; a part is dropped whole, or gives way to a part of its kind inside it.
        tries: how often to ask `fails`.
    """
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

    while tries > 0 and spans is not None and _without_parts(best, spans(best), better):
        pass
    improved = True
    while improved and tries > 0:
        improved = _without_draws(lambda: best, better) | _lowered(lambda: best, better)
        while tries > 0 and spans is not None and _without_parts(best, spans(best), better):
            improved = True
    while best and best[-1] == 0 and better(best[:-1]):
        pass
    return best


def _without_parts(best: list[int], spans: list[Span], better: Callable[[list[int]], bool]) -> bool:
    """One part dropped, the biggest that can be: the simplest of its kind takes a few zeros."""
    for start, end, kind in sorted(spans, key=lambda s: s[0] - s[1]):
        if any(best[start:end]):
            for zeros in (0, 1, 2, 4):
                if zeros < end - start and better(best[:start] + [0] * zeros + best[end:]):
                    return True
        for low, high, other in spans:
            if other == kind and start <= low and high <= end and high - low < end - start:
                if better(best[:start] + best[low:high] + best[end:]):
                    return True
    return False


def _without_draws(best: Callable[[], list[int]], better: Callable[[list[int]], bool]) -> bool:
    improved = False
    size = max(len(best()) // 2, 1)
    while size >= 1:
        start = 0
        while start < len(best()):
            now = best()
            piece = now[start : start + size]
            if better(now[:start] + now[start + size :]):
                improved = True
                continue
            if any(piece) and better(now[:start] + [0] * len(piece) + now[start + size :]):
                improved = True
            start += size
        size //= 2
    return improved


def _lowered(best: Callable[[], list[int]], better: Callable[[list[int]], bool]) -> bool:
    improved = False
    for i in range(len(best())):
        while i < len(now := best()) and now[i] > 1 and better([*now[:i], now[i] // 2, *now[i + 1 :]]):
            improved = True
    return improved
