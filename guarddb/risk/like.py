"""SQL's LIKE in linear time: whatever the text and the pattern, no search goes back over what it has seen."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

#: A pattern's piece between two `%`: its characters, None for `_`.
_Piece = tuple[str | None, ...]


class BadPattern(ValueError):
    """The pattern ends in the escape character, which PostgreSQL refuses as well."""


@lru_cache(maxsize=256)
def like(pattern: str) -> Callable[[str], bool]:
    r"""A function that says whether a text is LIKE `pattern`: `%` any run, `_` one character, `\` the escape.

    >>> like("a%_c")("abbc")
    True

    Raises:
        BadPattern: the pattern ends with a single backslash.
    """
    pieces = _pieces(pattern)
    if len(pieces) == 1:
        only = pieces[0]
        return lambda text: len(text) == len(only) and _at(text, 0, only)
    first, *middle, last = pieces
    searches = [_search(piece) for piece in middle if piece]

    def matches(text: str) -> bool:
        end = len(text) - len(last)
        if len(first) > end or not _at(text, 0, first) or not _at(text, end, last):
            return False
        # Each piece at its first place: a later one would only leave less room for those behind it.
        position = len(first)
        for search in searches:
            position = search(text, position, end)
            if position < 0:
                return False
        return True

    return matches


def _pieces(pattern: str) -> list[_Piece]:
    pieces: list[list[str | None]] = [[]]
    characters = iter(pattern)
    for character in characters:
        if character == "%":
            pieces.append([])
        elif character == "_":
            pieces[-1].append(None)
        elif character == "\\":
            escaped = next(characters, None)
            if escaped is None:
                raise BadPattern("the pattern ends with the escape character")
            pieces[-1].append(escaped)
        else:
            pieces[-1].append(character)
    return [tuple(piece) for piece in pieces]


def _at(text: str, start: int, piece: _Piece) -> bool:
    return all(wanted is None or text[start + i] == wanted for i, wanted in enumerate(piece))


def _search(piece: _Piece) -> Callable[[str, int, int], int]:
    """Where the piece ends that is found first in `text[start:end]`; -1 when it is not there."""
    length = len(piece)
    if None not in piece:
        wanted = "".join(c for c in piece if c is not None)

        def find(text: str, start: int, end: int) -> int:
            found = text.find(wanted, start, end)
            return found + length if found >= 0 else -1

        return find

    # Shift-And: bit i says that the last i + 1 characters fit the first i + 1 of the piece.
    anything = sum(1 << i for i, c in enumerate(piece) if c is None)
    masks: dict[str, int] = {}
    for i, character in enumerate(piece):
        if character is not None:
            masks[character] = masks.get(character, anything) | 1 << i
    accepted = 1 << (length - 1)

    def shift_and(text: str, start: int, end: int) -> int:
        state = 0
        for position in range(start, end):
            state = (state << 1 | 1) & masks.get(text[position], anything)
            if state & accepted:
                return position + 1
        return -1

    return shift_and
