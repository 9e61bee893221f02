"""Values of conditions, and SQL's three-valued logic over them.

None is SQL's NULL: unknown. Numbers are exact (int, or Fraction where PostgreSQL's numeric would have digits behind the
point), so that `0.1 + 0.2 = 0.3` holds here as it does there; texts order by code point, as under COLLATE "C".
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, Final

from guarddb.risk.folding import Folded, fold

#: A number with more bits than this is out of range: no condition can be made to compute for long.
_MAX_BITS = 8_192

_COMPARE: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "=": operator.eq,
    "<>": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ARITHMETIC: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
}


class Unknown(Exception):
    """Why a value is unknown, as the notes of a result word it."""


def number(value: object) -> int | Fraction | None:
    """A number of the event, exactly as its decimal text says it; None when it is no finite number."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        try:
            exact = Fraction(repr(value))
        except ValueError:  # nan, inf
            return None
        return exact.numerator if exact.denominator == 1 else exact
    return None


def kind(value: object) -> str:
    """What a message calls the value's type."""
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | Fraction):
        return "a number"
    if isinstance(value, str):
        return "a text"
    if isinstance(value, datetime):
        return "a time"
    return "a list" if isinstance(value, list | tuple) else "an object"


def compare(symbol: str, left: Any, right: Any) -> bool | None:
    """`left symbol right`; None when either is NULL.

    Raises:
        Unknown: the two are not of one type.
    """
    if left is None or right is None:
        return None
    if isinstance(left, str) and isinstance(right, str):
        if isinstance(left, Folded) or isinstance(right, Folded):
            left, right = fold(left), fold(right)
        # As plain texts: code points decide.
        return _COMPARE[symbol](str(left), str(right))
    first, second = kind(left), kind(right)
    if first == "a time" and isinstance(right, str):
        right = moment(right)
    elif second == "a time" and isinstance(left, str):
        left = moment(left)
    elif first != second or first in ("a list", "an object"):
        raise Unknown(f"{first} cannot be compared with {second}")
    return _COMPARE[symbol](left, right)


def arithmetic(symbol: str, left: Any, right: Any) -> int | Fraction | None:
    """`left symbol right` for numbers; division is exact.

    Raises:
        Unknown: an operand is no number, the divisor is 0, or the result is out of range.
    """
    for value in (left, right):
        if value is not None and kind(value) != "a number":
            raise Unknown(f'"{symbol}" takes numbers, and this is {kind(value)}')
    if left is None or right is None:
        return None
    result: int | Fraction
    if symbol == "/":
        if right == 0:
            raise Unknown("division by zero")
        quotient = Fraction(left) / Fraction(right)
        result = quotient.numerator if quotient.denominator == 1 else quotient
    else:
        result = _ARITHMETIC[symbol](left, right)
    if result.numerator.bit_length() > _MAX_BITS or result.denominator.bit_length() > _MAX_BITS:
        raise Unknown("a number is out of range")
    return result


def both(values: list[bool | None]) -> bool | None:
    """SQL's AND: false wins over unknown, unknown over true."""
    if False in values:
        return False
    return None if None in values else True


def either(values: list[bool | None]) -> bool | None:
    """SQL's OR: true wins over unknown, unknown over false."""
    if True in values:
        return True
    return None if None in values else False


def negated(value: bool | None) -> bool | None:
    """SQL's NOT: of unknown, unknown."""
    return None if value is None else not value


def moment(value: object) -> datetime:
    """A time of the event; one without an offset is UTC.

    Raises:
        Unknown: it is none.
    """
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, str) and len(value) <= 64:
        try:
            found = datetime.fromisoformat(value.strip())
        except ValueError:
            raise Unknown("a text is not a time (ISO 8601)") from None
    else:
        raise Unknown(
            "what should be a time is " + ("a long text" if isinstance(value, str) else kind(value))
        )
    try:
        return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (OverflowError, ValueError):
        raise Unknown("a time is out of range") from None
