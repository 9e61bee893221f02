"""Types of operands, and which of several candidates PostgreSQL takes for them.

A type is its qualified name (`pg_catalog.int4`, `public.mood`); `UNKNOWN` is that of a string constant or an undeclared
parameter, which takes whatever type its place asks for; None is one that nobody can tell. The rules are PostgreSQL's:
parse_coerce.c (what can be converted to what), parse_func.c (func_select_candidate) and the docs' chapter on type conversion.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from guarddb.facts.functions import TypeFact, builtin_cast, builtin_type
from guarddb.sql.catalog import Catalog, UserType

Type: TypeAlias = str
UNKNOWN = "pg_catalog.unknown"
BOOL = "pg_catalog.bool"
RECORD = "pg_catalog.record"

_PREFIX = "pg_catalog."
#: Pseudo-types that take any value of a family.
_ANYTHING = frozenset(("any", "anyelement", "anynonarray", "anycompatible", "anycompatiblenonarray"))
_ARRAYS = frozenset(("anyarray", "anycompatiblearray"))
_RANGES = frozenset(("anyrange", "anycompatiblerange"))
_MULTIRANGES = frozenset(("anymultirange", "anycompatiblemultirange"))
#: The types that have a collation, and the one of `name`, which is not the database's.
COLLATABLE = frozenset(f"{_PREFIX}{name}" for name in ("text", "varchar", "bpchar", "name", "char"))


class Types:
    """What is known about types: the built-in ones from the facts, users' own from the catalog."""

    def __init__(self, catalog: Catalog | None) -> None:
        self.catalog = catalog

    def named(self, schema: str | None, name: str) -> Type | None:
        """The type that a name in the statement means, domains followed down to their base."""
        user: UserType | None = None
        if self.catalog is not None:
            user = self.catalog.type_named(schema, name)
        if user is not None:
            return user.base_type if user.kind == "d" else f"{user.schema}.{user.name}"
        if schema in (None, "pg_catalog") and builtin_type(name) is not None:
            return _PREFIX + name
        return None

    def array_of(self, element: Type | None) -> Type | None:
        if element is None or not element.startswith(_PREFIX):
            return None
        name = f"_{element[len(_PREFIX) :]}"
        fact = builtin_type(name)
        return _PREFIX + name if fact is not None and fact.element is not None else None

    def element_of(self, array: Type | None) -> Type | None:
        """The element type of an array type; users' arrays are called after their elements."""
        if array is None:
            return None
        fact = _fact(array)
        if fact is not None:
            return _PREFIX + fact.element if fact.element is not None else None
        schema, _, name = array.partition(".")
        if name.startswith("_") and self.catalog is not None:
            user = self.catalog.type_named(schema, name[1:])
            if user is not None:
                return user.base_type if user.kind == "d" else f"{schema}.{name[1:]}"
        return None

    def kind(self, type_: Type) -> str:
        """pg_type.typtype, `a` for an array; empty when it is not known."""
        fact = _fact(type_)
        if fact is not None:
            return "a" if fact.element is not None else fact.kind
        if self.element_of(type_) is not None:
            return "a"
        user = self._user(type_)
        return user.kind if user is not None else ""

    def category(self, type_: Type) -> str:
        fact = _fact(type_)
        if fact is not None:
            return fact.category
        user = self._user(type_)
        return user.category if user is not None else ""

    def is_preferred(self, type_: Type) -> bool:
        fact = _fact(type_)
        return fact is not None and fact.preferred

    def _user(self, type_: Type) -> UserType | None:
        if self.catalog is None:
            return None
        schema, _, name = type_.partition(".")
        return self.catalog.type_named(schema, name)

    # ------------------------------------------------------------------ conversions

    def converts(self, source: Type, target: Type) -> bool:
        """Whether a value of one type is taken implicitly where the other is asked for (can_coerce_type)."""
        if source in (target, UNKNOWN):
            return True
        if target.startswith(_PREFIX):
            wanted = target[len(_PREFIX) :]
            if wanted in _ANYTHING:
                return "nonarray" not in wanted or self.kind(source) != "a"
            if wanted in _ARRAYS:
                return self.kind(source) == "a"
            if wanted == "anyenum":
                return self.kind(source) == "e"
            if wanted in _RANGES:
                return self.kind(source) == "r"
            if wanted in _MULTIRANGES:
                return self.kind(source) == "m"
        if source.startswith(_PREFIX) and target.startswith(_PREFIX):
            cast = builtin_cast(source[len(_PREFIX) :], target[len(_PREFIX) :])
            if cast is not None:
                return cast.context == "i"
        one, other = self.element_of(source), self.element_of(target)
        return one is not None and other is not None and self.converts(one, other)

    def conversion_tells(self, source: Type, target: Type, *, explicit: bool = False) -> bool:
        """Whether converting could tell something of the value by raising; True as well when nobody knows the way."""
        if source in (target, UNKNOWN) or not self._is_concrete(target):
            return False
        if source.startswith(_PREFIX) and target.startswith(_PREFIX):
            cast = builtin_cast(source[len(_PREFIX) :], target[len(_PREFIX) :])
            if cast is not None and (explicit or cast.context == "i"):
                return not cast.leakproof and (source, target) not in _QUIET_CASTS
        one, other = self.element_of(source), self.element_of(target)
        return one is None or other is None or self.conversion_tells(one, other, explicit=explicit)

    @staticmethod
    def _is_concrete(target: Type) -> bool:
        fact = _fact(target)
        return fact is None or fact.kind != "p"

    def common(self, types: Sequence[Type | None]) -> Type | None:
        """The type that CASE, COALESCE, ARRAY[…] and VALUES give several operands (select_common_type)."""
        if any(each is None for each in types):
            return None
        known = [each for each in types if each is not None and each != UNKNOWN]
        if not known:
            return f"{_PREFIX}text"
        best = known[0]
        for each in known[1:]:
            if each == best:
                continue
            if self.category(each) != self.category(best):
                return None
            if not self.is_preferred(best) and self.converts(best, each) and not self.converts(each, best):
                best = each
        return best

    # ------------------------------------------------------------------ candidates

    def select(self, given: Sequence[Type], candidates: Sequence[tuple[Type, ...]]) -> int | None:
        """Which signature PostgreSQL takes for these operands (func_select_candidate); None when none, or several."""
        left = [
            index
            for index, wanted in enumerate(candidates)
            if len(wanted) == len(given)
            and all(self.converts(one, other) for one, other in zip(given, wanted, strict=True))
            and self._consistent(given, wanted)
        ]
        if len(left) <= 1:
            return left[0] if left else None
        left = _best(
            left, lambda i: sum(g != UNKNOWN and g == w for g, w in zip(given, candidates[i], strict=True))
        )
        if len(left) > 1:
            left = _best(
                left,
                lambda i: sum(
                    g != UNKNOWN
                    and (g == w or (self.category(g) == self.category(w) and self.is_preferred(w)))
                    for g, w in zip(given, candidates[i], strict=True)
                ),
            )
        if len(left) > 1 and UNKNOWN in given:
            left = self._by_category(given, candidates, left)
        if len(left) > 1:
            known = {g for g in given if g != UNKNOWN}
            if len(known) == 1 and UNKNOWN in given:
                (only,) = known
                left = [i for i in left if all(self.converts(only, w) for w in candidates[i])] or left
                exact = [i for i in left if all(w == only for w in candidates[i])]
                left = exact or left
        return left[0] if len(left) == 1 else None

    def _by_category(
        self, given: Sequence[Type], candidates: Sequence[tuple[Type, ...]], left: list[int]
    ) -> list[int]:
        wanted: dict[int, tuple[str, bool]] = {}
        for place, type_ in enumerate(given):
            if type_ != UNKNOWN:
                continue
            found = {self.category(candidates[i][place]) for i in left}
            if "S" in found:
                category = "S"
            elif len(found) == 1:
                (category,) = found
            else:
                return left
            preferred = any(
                self.category(candidates[i][place]) == category and self.is_preferred(candidates[i][place])
                for i in left
            )
            wanted[place] = category, preferred
        kept = [
            i
            for i in left
            if all(
                self.category(candidates[i][place]) == category
                and (not preferred or self.is_preferred(candidates[i][place]))
                for place, (category, preferred) in wanted.items()
            )
        ]
        return kept or left

    def _consistent(self, given: Sequence[Type], wanted: tuple[Type, ...]) -> bool:
        """Whether all operands that a polymorphic signature takes have one type, as it asks."""
        bases: set[Type] = set()
        for one, other in zip(given, wanted, strict=True):
            if one == UNKNOWN or not other.startswith(_PREFIX):
                continue
            name = other[len(_PREFIX) :]
            if name in ("anyelement", "anynonarray", "anyenum"):
                bases.add(one)
            elif name == "anyarray":
                bases.add(self.element_of(one) or one)
        return len(bases) <= 1


#: Conversions that PostgreSQL does not call leakproof, and that return for every input: trailing blanks cut off.
_QUIET_CASTS = frozenset(
    (_PREFIX + source, _PREFIX + target)
    for source, target in (("bpchar", "text"), ("bpchar", "varchar"), ("char", "text"))
)


def _best(items: list[int], score: Callable[[int], int]) -> list[int]:
    scores = [score(item) for item in items]
    best = max(scores)
    return [item for item, each in zip(items, scores, strict=True) if each == best] if best else items


def _fact(type_: Type) -> TypeFact | None:
    return builtin_type(type_[len(_PREFIX) :]) if type_.startswith(_PREFIX) else None
