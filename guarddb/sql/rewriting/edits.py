"""Edits to a text at token boundaries, and how to find a place in it.

Offsets of the tree are bytes, those of the scanner characters; `TextEdits` knows both.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from functools import cached_property
from typing import Generic, TypeVar

from pglast import parser

T = TypeVar("T")
_COMMENTS = frozenset(("SQL_COMMENT", "C_COMMENT"))

AFTER_WHERE = frozenset(
    [
        "GROUP_P",
        "HAVING",
        "WINDOW",
        "ORDER",
        "LIMIT",
        "OFFSET",
        "FETCH",
        "FOR",
        "UNION",
        "INTERSECT",
        "EXCEPT",
        "RETURNING",
        "ON",
        "ASCII_59",
        "WITH",
    ]
)

#: What WITH says of a statement around a query: CREATE TABLE … AS … WITH NO DATA, CREATE VIEW … WITH CHECK OPTION.
_OF_THE_WHOLE = frozenset(("NO", "DATA_P", "CHECK", "CASCADED", "LOCAL"))

OPEN, CLOSE, COMMA, DOT, SEMICOLON, STAR = (
    "ASCII_40",
    "ASCII_41",
    "ASCII_44",
    "ASCII_46",
    "ASCII_59",
    "ASCII_42",
)

#: The order of edits at one place in the text: what closes something, then clauses that are appended, in the grammar's
#: order, then what opens something, the outermost first.
CLOSES, WHERE, LIMIT, RETURNING, OPENS_ALL, OPENS, REPLACES = range(7)


class RewriteError(Exception):
    """An edit found no place, or the edited text does not parse to the edited tree."""


class _Scanned(Generic[T]):
    """What the tokens of a text are called, where they start and what their last characters are: known once one is asked for.

    (A `cached_property` would take a lock, and the tokens would be gone through once for each.)
    """

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, edits: TextEdits, owner: type) -> Sequence[T]:
        tokens = [t for t in parser.scan(edits.sql) if t[2] not in _COMMENTS]
        starts, ends, names, _ = zip(*tokens, strict=True) if tokens else ((),) * 4
        edits.__dict__.update(names=names, starts=starts, _lasts=ends)
        found: Sequence[T] = edits.__dict__[self._name]
        return found


class TextEdits:
    """A text, its tokens without comments, and edits that are applied in one go."""

    def __init__(self, sql: str) -> None:
        self.sql = sql
        # (start, rank among the edits at one place, order of making, end, text)
        self._edits: list[tuple[int, int, int, int, str]] = []

    names = _Scanned[str]()
    starts = _Scanned[int]()
    _lasts = _Scanned[int]()

    @cached_property
    def _bytes(self) -> list[int] | None:
        """Character index -> byte offset; None where they are the same."""
        if self.sql.isascii():
            return None
        offsets, position = [], 0
        for character in self.sql:
            offsets.append(position)
            position += len(character.encode())
        offsets.append(position)
        return offsets

    def at(self, location: int) -> int:
        """The index of the token that starts at a byte offset of the tree."""
        if self._bytes is not None:
            location = bisect_left(self._bytes, location)
        index = bisect_left(self.starts, location)
        if index >= len(self.starts) or self.starts[index] != location:
            raise RewriteError(f"no token starts at {location}")
        return index

    def _end(self, index: int) -> int:
        return self._lasts[index] + 1

    def _edit(self, start: int, end: int, text: str, rank: int = REPLACES) -> None:
        self._edits.append((start, rank, len(self._edits), end, text))

    def _before(self, index: int, text: str, *, outermost: bool = False) -> None:
        place = self.starts[index]
        self._edit(place, place, text, OPENS_ALL if outermost else OPENS)

    def _after(self, index: int, text: str, rank: int = CLOSES) -> None:
        place = self._end(index)
        self._edit(place, place, text, rank)

    def _characters(self, location: int) -> int:
        return bisect_left(self._bytes, location) if self._bytes is not None else location

    def _name_end(self, index: int) -> int:
        """The last token of a dotted name (or `a.*`) that starts at `index`."""
        names = self.names
        while True:
            if index + 2 < len(names) and names[index + 1] == "UESCAPE":
                index += 2  # U&"d!0061ta" UESCAPE '!'
            if index + 2 >= len(names) or names[index + 1] != DOT:
                return index
            index += 2

    def _is_word(self, index: int) -> bool:
        """The keyword at `index` is one, and not a column label: `AS from`, `t.order`."""
        return index == 0 or self.names[index - 1] not in ("AS", DOT) or index in self._command_starts

    @cached_property
    def _command_starts(self) -> frozenset[int]:
        """Where the query of PREPARE … AS and CREATE … AS begins: the one AS that is followed by no label."""
        found: set[int] = set()
        depth, begins, waiting = 0, True, False
        for position, name in enumerate(self.names):
            if begins and name in ("PREPARE", "CREATE"):
                waiting = True
            begins = (
                name == SEMICOLON
                or (begins and name in ("EXPLAIN", "VERBOSE", "ANALYZE", CLOSE))
                or (depth > 0 and begins)
            )
            if name == OPEN:
                depth += 1
                begins = begins or (position > 0 and self.names[position - 1] == "EXPLAIN")
            elif name == CLOSE:
                depth -= 1
            elif waiting and depth == 0 and name == "AS":
                found.add(position + 1)
                waiting = False
        return frozenset(found)

    def _forward(self, index: int, stop: frozenset[str]) -> int:
        """The first token after `index` at its depth that is in `stop`, or the closing parenthesis; len(tokens) at the end."""
        depth = 0
        names = self.names
        count = len(names)
        position = index + 1
        while position < count:
            name = names[position]
            if name in ("ASCII_40", "ASCII_91"):
                depth += 1
            elif name in ("ASCII_41", "ASCII_93"):
                depth -= 1
                if depth < 0:
                    return position
            elif depth == 0 and name in stop and self._is_word(position):
                if name == "GROUP_P" and names[position - 1] == "WITHIN":
                    position += 1
                    continue
                if name == "ON" and (position + 1 >= count or names[position + 1] != "CONFLICT"):
                    position += 1  # a join's, or DISTINCT ON's
                    continue
                if name == "WITH" and (position + 1 >= count or names[position + 1] not in _OF_THE_WHOLE):
                    position += 1  # WITH ORDINALITY, of a function
                    continue
                if name == "FROM" and names[position - 1] == "DISTINCT":
                    position += 1
                    continue
                if name == "FOR" and names[position - 1] == "COLLATION":
                    position += 1
                    continue
                return position
            position += 1
        return count

    def _matching(self, index: int) -> int:
        """The parenthesis that closes the first one behind `index`."""
        position, depth = index, 0
        while position < len(self.names):
            if self.names[position] == OPEN:
                depth += 1
            elif self.names[position] == CLOSE:
                depth -= 1
                if depth == 0:
                    return position
            position += 1
        raise RewriteError("a closing parenthesis was not found")

    def _level(self, index: int, words: frozenset[str]) -> int:
        """The SELECT (UPDATE, DELETE …) that begins the query in whose FROM the token at `index` stands."""
        depth = 0
        position = index - 1
        while position >= 0:
            name = self.names[position]
            if name in ("ASCII_41", "ASCII_93"):
                depth += 1
            elif name in ("ASCII_40", "ASCII_91"):
                # Below zero: a parenthesis around a join; the query is further out.
                depth = max(depth - 1, 0)
            elif depth == 0 and name in words and self._is_word(position):
                return position
            position -= 1
        raise RewriteError("the query's first word was not found")

    def _conjuncts(self, first: int, last: int) -> list[tuple[int, int]]:
        """The token ranges between the ANDs at the depth of `first`."""
        pieces, start, depth, between = [], first, 0, 0
        for position in range(first, last + 1):
            name = self.names[position]
            if name in ("ASCII_40", "ASCII_91", "CASE"):
                depth += 1
            elif name in ("ASCII_41", "ASCII_93", "END_P"):
                depth -= 1
            elif depth == 0 and name == "BETWEEN":
                between += 1
            elif depth == 0 and name == "AND":
                if between:
                    between -= 1
                else:
                    pieces.append((start, position - 1))
                    start = position + 1
        pieces.append((start, last))
        return pieces

    def top_level_parts(self) -> list[tuple[int, int]]:
        """The token ranges of the parts of a text that is one conjunction."""
        return self._conjuncts(0, len(self.names) - 1)

    @property
    def changes(self) -> tuple[tuple[int, int, int], ...]:
        """Each edit in order: start and end in the text, and the length of what stands there instead, in characters."""
        if len(self._edits) == 1:
            ((start, _, _, end, text),) = self._edits
            return ((start, end, len(text)),)
        return tuple([(start, end, len(text)) for start, _, _, end, text in sorted(self._edits)])

    def _apply(self) -> str:
        """The edited text."""
        if len(self._edits) == 1:
            ((start, _, _, end, text),) = self._edits
            return self.sql[:start] + text + self.sql[end:]
        pieces: list[str] = []
        position = 0
        for start, _, _, end, text in sorted(self._edits):
            if start < position:
                raise RewriteError("two edits overlap")
            pieces.append(self.sql[position:start])
            pieces.append(text)
            position = end
        pieces.append(self.sql[position:])
        return "".join(pieces)
