"""One way to say that two words are the same word whatever their letter case."""

from __future__ import annotations


def fold(text: str) -> str:
    """`text` without letter case: two spellings that `str.upper` or `str.lower` make equal fold to one.

    `casefold` alone keeps a few apart that share a capital (`ı` and `i`).

    >>> fold("Database:TABLE:Delete")
    'database:table:delete'
    """
    if text.isascii():
        return text.lower()
    return text.casefold().upper().casefold()


class Folded(str):
    """A text of the event that is compared without letter case: an action, a tool, a label, a field's name."""

    __slots__ = ()
