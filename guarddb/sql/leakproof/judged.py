"""What is known of one expression, and how that of its parts goes together."""

from __future__ import annotations

from collections.abc import Sequence

from guarddb.sql.leakproof.types import BOOL, Type
from guarddb.sql.statement import Output, Reference

#: How much an expression's value can change: not at all, from statement to statement, from call to call, from row to row.
CONSTANT, STABLE, FREE, ROW = range(4)

_WHOLE_NUMBERS = frozenset(("pg_catalog.int2", "pg_catalog.int4", "pg_catalog.int8"))
#: numeric has 131,072 digits in front of the point.
FEW_DIGITS = 100_000
NO_OTHERS: frozenset[Type] = frozenset()
#: Of `Judged.others`: nobody knows which.
ANY: frozenset[Type] = frozenset(("any",))


class Judged:
    """What is known of one expression.

    Attributes:
        type: its type, or None.
        uses: the references whose columns its value depends on.
        tells: of these, those whose values reach something that may tell of them; with the output of a nested query in
            which that happens, or None for the expression itself.
        level: CONSTANT … ROW.
        raises: evaluating it may raise whatever the row (a free part of it may).
        collations: those of its columns that are not the database's; `explicit` when COLLATE gave it.
        digits: of a number, the most that it can have in front of the point; 0 when nobody knows.
        others: what its type may be instead, where a parameter in it comes with another one than what stands beside it
            (a float, say): these types (`current_date - $1`), `ANY`, or none.
    """

    __slots__ = (
        "collations",
        "digits",
        "explicit",
        "level",
        "others",
        "raises",
        "tells",
        "type",
        "uses",
    )

    def __init__(
        self,
        type_: Type | None,
        level: int = CONSTANT,
        uses: frozenset[Reference] = frozenset(),
        tells: frozenset[tuple[Reference, Output | None]] = frozenset(),
        *,
        raises: bool = False,
        collations: frozenset[str] = frozenset(),
    ) -> None:
        self.type = type_
        self.level = level
        self.uses = uses
        self.tells = tells
        self.raises = raises
        self.collations = collations
        self.explicit = False
        self.others = NO_OTHERS
        self.digits = 19 if type_ in _WHOLE_NUMBERS else 0


def together(type_: Type | None, parts: Sequence[Judged]) -> Judged:
    """An expression that does nothing of its own with its parts."""
    if len(parts) == 1:
        judged = copied(parts[0])
        judged.type = type_
        judged.others = any_of(*parts) if type_ != BOOL else NO_OTHERS
        return judged
    judged = Judged(type_)
    if parts and all(part.digits for part in parts):
        judged.digits = max(part.digits for part in parts)
    for part in parts:
        judged.level = max(judged.level, part.level)
        judged.uses |= part.uses
        judged.tells |= part.tells
        judged.raises = judged.raises or part.raises
        judged.collations |= part.collations
    judged.others = any_of(*parts) if type_ != BOOL else NO_OTHERS
    return judged


def lost(parts: Sequence[Judged], type_: Type | None = None, *, folds: bool = False) -> Judged:
    """An expression that may tell of every column in it. `folds`: the planner evaluates it when all of it is constant."""
    judged = together(type_, parts)
    judged.tells |= frozenset((reference, None) for reference in judged.uses)
    if not judged.uses and not (folds and judged.level == CONSTANT):
        judged.raises = True
        judged.level = max(judged.level, STABLE if folds else FREE)
    return judged


def any_of(*parts: Judged) -> frozenset[Type]:
    """What else the type of something may be that takes its type from these."""
    return ANY if any(part.others for part in parts) else NO_OTHERS


def copied(judged: Judged) -> Judged:
    made = Judged(
        judged.type,
        judged.level,
        judged.uses,
        judged.tells,
        raises=judged.raises,
        collations=judged.collations,
    )
    made.explicit = judged.explicit
    made.digits = judged.digits
    made.others = any_of(judged)
    return made


def told_in(judged: Judged, output: Output) -> Judged:
    """Say of what is told in an output's own expression that it is told there."""
    if any(site is None for _, site in judged.tells):
        judged.tells = frozenset((reference, site or output) for reference, site in judged.tells)
    return judged


def digits_of(name: str, one: Judged, other: Judged) -> int:
    """The most digits that a sum or product of two numbers can have; 0 when it could reach numeric's limits."""
    if not one.digits or not other.digits or name not in ("+", "-", "*"):
        return 0
    digits = one.digits + other.digits if name == "*" else max(one.digits, other.digits) + 1
    return digits if digits < FEW_DIGITS else 0
