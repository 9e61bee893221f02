"""The function behind an operator or a call, for operands of given types, and whether it is leakproof.

The candidates are the built-in ones and those of users that the statement could mean; which of them PostgreSQL takes is
for `Types.select` to say. pg_proc.proleakproof is what counts; `_QUIET` adds a few that PostgreSQL is stricter about.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from guarddb.facts import functions
from guarddb.facts.functions import Overload, Volatility, builtin, builtin_operator, builtin_type
from guarddb.sql.leakproof.types import BOOL, UNKNOWN, Type, Types

_PREFIX = "pg_catalog."
_COMPARISONS = ("=", "<>", "<", ">", "<=", ">=")
_TIMES = ("date", "timestamp", "timestamptz")
#: Comparisons that return for every input although pg_proc does not say so: numbers of any size, enum labels (by their
#: place in the catalog), dates with timestamps (infinity where they do not fit), and LIKE, whose pattern is looked at apart.
_QUIET: frozenset[tuple[str, str, str]] = frozenset(
    (
        *((name, "numeric", "numeric") for name in _COMPARISONS),
        *((name, "anyenum", "anyenum") for name in _COMPARISONS),
        *((name, one, other) for name in _COMPARISONS for one in _TIMES for other in _TIMES if one != other),
    )
)
#: Comparisons that are as quiet as that of the elements.
_BY_ELEMENT: frozenset[tuple[str, str, str]] = frozenset(
    (name, "anyarray", "anyarray") for name in _COMPARISONS
)
#: LIKE and ILIKE: they raise on a pattern that ends with its escape character, and on nothing else.
LIKES: frozenset[str] = frozenset(("~~", "!~~", "~~*", "!~~*"))


class Found(NamedTuple):
    """What PostgreSQL takes for an operator or a call.

    `tells`: it may tell something of its operands by raising, or run users' code; `result` is None when nobody knows.
    """

    result: Type | None
    tells: bool
    volatility: Volatility
    wanted: tuple[Type, ...]


class Calls:
    """Looks operators and functions up, for one catalog."""

    def __init__(self, types: Types) -> None:
        self.types = types
        self.catalog = types.catalog
        self._operators: dict[tuple[str | None, str, Type | None, Type], Found | None] = {}

    def operator(self, schema: str | None, name: str, left: Type | None, right: Type) -> Found | None:
        """An operator between operands of these types (None: a prefix operator); None when it cannot be told."""
        name = "<>" if name == "!=" else name
        if (
            schema in (None, "pg_catalog")
            and right.startswith(_PREFIX)
            and (left is None or left.startswith(_PREFIX))
            and (self.catalog is None or not self.catalog.operators_named(name, schema))
        ):
            return _among_builtins(name, left, right)
        key = (schema, name, left, right)
        if key not in self._operators:
            self._operators[key] = self._find_operator(schema, name, left, right)
        return self._operators[key]

    def results(self, name: str, left: Type | None, right: Type | None) -> frozenset[Type]:
        """What a built-in operator without a schema may return, with an operand of any type (None); empty when nobody knows."""
        if self.is_users(name):
            return frozenset()
        found = {
            fact.result
            for fact in builtin_operator(name)
            if fact.left is not None
            and (left is None or self.types.converts(left, _PREFIX + fact.left))
            and (right is None or self.types.converts(right, _PREFIX + fact.right))
        }
        return (
            frozenset() if any(r.startswith("any") for r in found) else frozenset(_PREFIX + r for r in found)
        )

    def may_mean(self, name: str, left: Type, right: Type) -> bool:
        """Whether there is an operator for operands of these types, be it one of several."""
        return self.is_users(name) or any(
            fact.left is not None
            and self.types.converts(left, _PREFIX + fact.left)
            and self.types.converts(right, _PREFIX + fact.right)
            for fact in builtin_operator(name)
        )

    def is_users(self, name: str) -> bool:
        """Whether an operator without a schema could be one of a user's."""
        return self.catalog is not None and bool(self.catalog.operators_named(name, None))

    def _find_operator(self, schema: str | None, name: str, left: Type | None, right: Type) -> Found | None:
        signatures: list[tuple[Type, ...]] = []
        found: list[Found] = []
        if schema in (None, "pg_catalog"):
            for fact in builtin_operator(name):
                if (fact.left is None) != (left is None):
                    continue
                wanted = tuple(_PREFIX + each for each in (fact.left, fact.right) if each is not None)
                tells = not fact.leakproof and (name, fact.left, fact.right) not in _QUIET
                if tells and (name, fact.left, fact.right) in _BY_ELEMENT:
                    tells = self._elements_tell(name, left, right)
                signatures.append(wanted)
                found.append(Found(_PREFIX + fact.result, tells, fact.volatility, wanted))
        if self.catalog is not None:
            for user in self.catalog.operators_named(name, schema):
                wanted = tuple(each for each in (user.left, user.right) if each is not None)
                if (user.left is None) == (left is None):
                    signatures.append(wanted)
                    found.append(Found(None, True, "v", wanted))
        given: tuple[Type, ...] = (right,) if left is None else (left, right)
        # An operand of unknown type is first taken to be of the other's (binary_oper_exact).
        known = [each for each in given if each != UNKNOWN]
        if known and len(known) < len(given) and (known[0],) * len(given) in signatures:
            given = (known[0],) * len(given)
        if given in signatures:
            return found[signatures.index(given)] if signatures.count(given) == 1 else None
        index = self.types.select(given, signatures)
        return found[index] if index is not None else None

    def _elements_tell(self, name: str, left: Type | None, right: Type) -> bool:
        element = self.types.element_of(left if left not in (None, UNKNOWN) else right)
        if element is None or self.types.element_of(element) is not None:
            return True
        found = self.operator(None, name, element, element)
        return found is None or found.tells

    def comparison_tells(self, type_: Type | None) -> bool:
        """Whether sorting, grouping or GREATEST over a type could raise or run users' code."""
        if type_ is None:
            return True
        if type_ == UNKNOWN:
            return False
        found = self.operator(None, "<", type_, type_)
        return found is None or found.tells

    def function(self, schema: str | None, name: str, given: Sequence[Type]) -> Found | None:
        """A function of arguments of these types; None when it cannot be told."""
        if (
            schema in (None, "pg_catalog")
            and all(each.startswith(_PREFIX) for each in given)
            and (self.catalog is None or not self.catalog.functions_named(name, schema))
        ):
            return _builtin_function(name, tuple(given))
        return self._find_function(schema, name, given)

    def column(self, schema: str | None, name: str, given: Sequence[Type], place: int) -> Type | None:
        """The type of one column of what a built-in function in FROM returns; None when it cannot be told."""
        overloads = list(_taking(name, len(given))) if schema in (None, "pg_catalog") else []
        signatures = [_expanded(overload, len(given)) for overload in overloads]
        exact = [index for index, wanted in enumerate(signatures) if wanted == tuple(given)]
        index = exact[0] if len(exact) == 1 else self.types.select(given, signatures)
        if index is None or (self.catalog is not None and self.catalog.functions_named(name, schema)):
            return None
        overload = overloads[index]
        if not overload.output_types:
            return self._result(overload, given) if place == 0 else None
        if place >= len(overload.output_types) or overload.output_types[place].startswith("any"):
            return None
        return _PREFIX + overload.output_types[place]

    def _find_function(self, schema: str | None, name: str, given: Sequence[Type]) -> Found | None:
        signatures: list[tuple[Type, ...]] = []
        found: list[Found] = []
        if schema in (None, "pg_catalog"):
            for overload in _taking(name, len(given)):
                wanted = _expanded(overload, len(given))
                quiet = overload.leakproof or functions.cannot_raise(
                    name, len(given), tuple(each.removeprefix(_PREFIX) for each in given)
                )
                tells = overload.kind != "f" or overload.returns_set or not quiet
                signatures.append(wanted)
                found.append(Found(self._result(overload, given), tells, overload.volatility, wanted))
        if self.catalog is not None:
            for user in self.catalog.functions_named(name, schema):
                if user.required_arguments <= len(given) and (
                    user.variadic or len(given) <= len(user.arguments)
                ):
                    wanted = user.arguments[: len(given)]
                    signatures.append(wanted)
                    found.append(Found(None, True, "v", wanted))
        exact = [i for i, wanted in enumerate(signatures) if wanted == tuple(given)]
        if len(exact) == 1:
            return found[exact[0]]
        if len(given) == 1 and builtin_type(name) is not None and schema in (None, "pg_catalog"):
            return None  # a cast in the clothes of a call
        index = self.types.select(given, signatures)
        return found[index] if index is not None else None

    def result_of(self, schema: str | None, name: str, nargs: int) -> tuple[Type | None, Volatility]:
        """The result type that all built-in functions of a name with so many arguments share, and the worst volatility."""
        if schema not in (None, "pg_catalog") or (
            self.catalog is not None and self.catalog.functions_named(name, schema)
        ):
            return None, "v"
        overloads = list(_taking(name, nargs))
        results = {overload.returns for overload in overloads}
        worst: Volatility = max((o.volatility for o in overloads), key="isv".index, default="v")
        only = next(iter(results)) if len(results) == 1 else "record"
        return (None if only == "record" or only.startswith("any") else _PREFIX + only), worst

    def _result(self, overload: Overload, given: Sequence[Type]) -> Type | None:
        returns = overload.returns
        if returns in ("record", "void", "trigger", "internal", "cstring"):
            return None
        if not returns.startswith("any"):
            return _PREFIX + returns
        for declared, type_ in zip(overload.arguments, given, strict=False):
            if type_ == UNKNOWN or not declared.startswith("any"):
                continue
            element = self.types.element_of(type_) if "array" in declared and "non" not in declared else type_
            if returns in ("anyarray", "anycompatiblearray"):
                return self.types.array_of(element)
            if returns in ("anyelement", "anycompatible", "anynonarray", "anyenum"):
                return element
        return None


@lru_cache(maxsize=4096)
def _among_builtins(name: str, left: Type | None, right: Type) -> Found | None:
    """An operator where no user's can be meant: the answer is the same for every statement."""
    return Calls(Types(None))._find_operator(None, name, left, right)


@lru_cache(maxsize=4096)
def _builtin_function(name: str, given: tuple[Type, ...]) -> Found | None:
    return Calls(Types(None))._find_function(None, name, given)


def _taking(name: str, nargs: int) -> Iterable[Overload]:
    return (overload for overload in builtin(name) if overload.takes(nargs))


def _expanded(overload: Overload, nargs: int) -> tuple[Type, ...]:
    """The argument types that a call with so many arguments meets; a VARIADIC one is taken element by element."""
    arguments = list(overload.arguments)
    if overload.variadic and arguments:
        last = arguments.pop()
        fact = builtin_type(last)
        element = fact.element if fact is not None and fact.element is not None else _ELEMENTS.get(last, last)
        arguments += [element] * (nargs - len(arguments))
    return tuple(_PREFIX + each for each in arguments[:nargs])


_ELEMENTS = {"anyarray": "anyelement", "anycompatiblearray": "anycompatible"}

__all__ = ["BOOL", "LIKES", "Calls", "Found"]
