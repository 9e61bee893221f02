"""Expressions: of a type asked for, over the columns in scope, now and then such that they raise on a hidden row."""

from __future__ import annotations

from collections.abc import Sequence

from tests.oracles.draws import spanned
from tests.oracles.grammar import Col, Item, Parts, Query, Scope, weights


class Expressions(Parts):
    def columns(self, scope: Scope, type: str, *, masked: bool = False) -> list[tuple[Scope, Item, Col]]:
        return [
            (level, item, col)
            for level in scope.levels()
            for item in level.items
            for col in item.cols
            if (type in ("*", col.type)) and (masked or not col.mask)
        ]

    def column(self, here: Scope, type: str, trap: str = "", *, own: bool = False) -> str | None:
        """A column of the type, an unmasked one unless it is misused on purpose."""
        if self.misuse("expression"):
            found = [c for c in self.columns(here, type, masked=True) if c[2].mask]
            if found:
                return self.ref(*self.d.pick(found))
            self.misuses.pop()
        found = self.columns(here, type)
        if own:
            found = [c for c in found if c[0] is here]
        if trap:
            found = [c for c in found if c[2].trap == trap]
        elif len(found) > 1 and self.d.chance(75):
            # The innermost query's own, mostly.
            found = [c for c in found if c[0] is here] or found
        if not found:
            return None
        level, item, col = self.d.pick(found)
        return self.ref(here, item, col) if level is here else f"{item.alias}.{col.name}"

    def constant(self, type: str) -> str:
        if type == "int":
            value = str(self.d.below(10))
            if self.d.chance(20):
                return self.param(value, "int")
            return value
        if type == "text":
            value = self.d.pick(("1", "2", "3", "a", "z", "2024-01-02", ""))
            if self.d.chance(20):
                return self.param(value, "text")
            return f"'{value}'"
        if type == "date":
            return f"date '2024-03-0{self.d.below(4) + 1}'"
        return self.d.pick(("true", "false", "NULL::bool"))

    def param(self, value: str, type: str) -> str:
        if len(self.params) >= 6:
            return value if type == "int" else f"'{value}'"
        self.params.append(value)
        self.used("parameter")
        return f"${len(self.params)}" + (f"::{type}" if type in ("int", "text") else "")

    def expr(self, type: str, here: Scope, depth: int = 2) -> str:
        make = {"int": self.int_, "text": self.text, "bool": self.bool_, "date": self.date}[type]
        return make(here, depth)

    def plain(self, type: str, here: Scope) -> str:
        found = self.column(here, type)
        return found if found is not None and not self.d.chance(12) else self.constant(type)

    @spanned
    def int_(self, here: Scope, depth: int) -> str:
        if depth <= 0:
            return self.plain("int", here)
        d = self.d
        form = d.weighted(_INT_FORMS)
        if form == "plain":
            return self.plain("int", here)
        if form == "trap":
            return self.trap("int", here) or self.plain("int", here)
        if form == "field":
            home = self.column(here, "home")
            return f"({home}).no" if home and self.note("composite") else self.plain("int", here)
        if form == "operator":
            self.used("user operator")
            left = self.key_column(here)
            return f"({left} <~> {self.plain('int', here)})" if left else self.plain("int", here)
        if form == "plus":
            column = self.column(here, "int")
            # id and the like stay small whatever is hidden; n may overflow, which is the point.
            return f"({column} + {d.below(5)})" if column else self.constant("int")
        if form == "length":
            return f"length({self.text(here, depth - 1)})"
        if form == "case":
            one, other = self.int_(here, depth - 1), self.int_(here, depth - 1)
            return f"CASE WHEN {self.bool_(here, depth - 1)} THEN {one} ELSE {other} END"
        if form == "coalesce":
            return f"coalesce({self.int_(here, depth - 1)}, {self.constant('int')})"
        if form == "greatest":
            return f"greatest({self.int_(here, depth - 1)}, {self.int_(here, depth - 1)})"
        if form == "nullif":
            return f"nullif({self.int_(here, depth - 1)}, {self.constant('int')})"
        if form == "dirty" and d.chance(self.g.dirty):
            self.dirty = True
            self.used("dirty")
            return f"(6 / ({self.plain('int', here)} - 3))"
        if form == "scalar":
            return self.scalar("int", here) or self.plain("int", here)
        return self.plain("int", here)

    def note(self, feature: str) -> bool:
        self.used(feature)
        return True

    def key_column(self, here: Scope) -> str | None:
        """A column that is never 0, hidden or not."""
        found = [c for c in self.columns(here, "int") if c[0] is here and c[2].name == "id"]
        return self.ref(*self.d.pick(found)) if found else None

    def trap(self, type: str, here: Scope) -> str | None:
        """An expression that raises on a hidden row and on no other."""
        d = self.d
        if type == "int":
            n = self.column(here, "int", "n")
            num = self.column(here, "text", "num")
            options = []
            if n:
                options += [f"(12 / {n})", f"({n} + 1)", f"abs({n})", f"({n} * 3)", f"(7 % {n})"]
                options += [f"({n} <~> 2)"]
            if num:
                options += [f"{num}::int", f"CAST({num} AS int)"]
            if mood := self.column(here, "mood", "mood"):
                options += [f"{mood}::int"]
        elif type == "text":
            n = self.column(here, "int", "n")
            reg = self.column(here, "text", "reg")
            options = []
            if n:
                options += [f"substring('abcdef', 1, {n})", f"repeat('x', 12 / {n})"]
            if reg:
                options += [f"{reg}::regclass::text"]
        elif type == "date":
            label = self.column(here, "text", "date")
            options = [f"{label}::date"] if label else []
        else:
            n = self.column(here, "int", "n")
            num = self.column(here, "text", "num")
            label = self.column(here, "text", "date")
            reg = self.column(here, "text", "reg")
            options = []
            if n:
                options += [
                    f"1 / {n} >= 0",
                    f"10 / {n} > 2",
                    f"{n} - 1 < 5",
                    f"substring('abc', 1, {n}) = 'abc'",
                    f"{n} <~> 3 > 0",
                ]
            if mood := self.column(here, "mood", "mood"):
                options += [f"{mood}::int > 6"]
            if home := self.column(here, "home", "home"):
                options += [f"12 / ({home}).no > 4"]
            if num:
                options += [f"{num}::int < 3", f"{num}::int IN (1, 2)"]
            if reg:
                options += [f"{reg}::regclass IS NOT NULL", f"{reg}::regclass::text = 'acct'"]
            if label:
                options += [
                    f"{label}::date > date '2024-01-02'",
                    f"to_date({label}, 'YYYY-MM-DD') IS NOT NULL",
                ]
        if not options:
            return None
        self.used(f"trap {type}")
        return d.pick(options)

    @spanned
    def text(self, here: Scope, depth: int) -> str:
        if depth <= 0:
            return self.plain("text", here)
        d = self.d
        form = d.weighted(_TEXT_FORMS)
        if form == "trap":
            return self.trap("text", here) or self.plain("text", here)
        if form == "upper":
            return f"upper({self.text(here, depth - 1)})"
        if form == "concat":
            return f"({self.text(here, depth - 1)} || {self.constant('text')})"
        if form == "cast":
            return f"({self.int_(here, depth - 1)})::text"
        if form == "case":
            return f"CASE WHEN {self.bool_(here, depth - 1)} THEN {self.text(here, depth - 1)} END"
        if form == "coalesce":
            return f"coalesce({self.text(here, depth - 1)}, {self.constant('text')})"
        if form == "sub":
            return f"substring({self.text(here, depth - 1)}, 1, 2)"
        if form == "scalar":
            return self.scalar("text", here) or self.plain("text", here)
        if form in ("mood", "home") and (column := self.column(here, form)):
            self.used("enum" if form == "mood" else "composite")
            return f"{column}::text" if form == "mood" else f"({column}).street"
        if form == "row":
            item = self.whole_item(here)
            if item is not None:
                self.used("whole row")
                return d.pick(
                    (
                        f"row_to_json({item.alias})::text",
                        f"{item.alias}::text",
                        f"to_jsonb({item.alias})::text",
                        f"({item.alias}).row_to_json::text",
                    )
                )
        return self.plain("text", here)

    def whole_item(self, scope: Scope) -> Item | None:
        """A FROM item to use whole in an expression."""
        found = [i for i in scope.items if i.whole]
        clean = [i for i in found if not any(c.mask for c in i.cols)]
        if self.masks and len(clean) < len(found) and self.misuse("whole row"):
            return self.d.pick([i for i in found if i not in clean])
        return self.d.pick(clean) if clean else None

    @spanned
    def date(self, here: Scope, depth: int) -> str:
        form = self.d.weighted(((40, "plain"), (10, "trap"), (3, "plus")))
        if form == "trap" and depth > 0:
            return self.trap("date", here) or self.plain("date", here)
        if form == "plus" and depth > 0:
            return f"({self.date(here, depth - 1)} + 1)"
        return self.plain("date", here)

    @spanned
    def bool_(self, here: Scope, depth: int) -> str:
        d = self.d
        form = d.weighted(_BOOL_FORMS)
        if form == "trap":
            return self.trap("bool", here) or self.compare(here)
        if depth <= 0 or form == "compare":
            return self.compare(here)
        if form in ("and", "or"):
            parts = [self.bool_(here, depth - 1) for _ in range(2 + d.below(2))]
            return "(" + f" {form.upper()} ".join(parts) + ")"
        if form == "not":
            return f"NOT ({self.bool_(here, depth - 1)})"
        if form == "null":
            type = d.pick(("int", "text"))
            return f"{self.plain(type, here)} IS {d.pick(('NOT ', ''))}NULL"
        if form == "in":
            values = ", ".join(self.constant("int") for _ in range(2 + d.below(3)))
            return f"{self.plain('int', here)} {d.pick(('', 'NOT '))}IN ({values})"
        if form == "between":
            return f"{self.plain('int', here)} BETWEEN {d.below(4)} AND {d.below(12)}"
        if form == "like":
            return f"{self.plain('text', here)} {d.pick(('LIKE', 'NOT LIKE', 'ILIKE'))} {d.pick(_PATTERNS)}"
        if form == "like_column":
            return f"{self.plain('text', here)} LIKE {self.plain('text', here)}"
        if form == "exists":
            return f"{d.pick(('', 'NOT '))}EXISTS ({self.subquery(here, None, 'exists').sql})"
        if form == "insub":
            type = d.pick(("int", "text"))
            return f"{self.plain(type, here)} {d.pick(('', 'NOT '))}IN ({self.subquery(here, [type], 'value').sql})"
        if form == "anysub":
            op = d.pick(("= ANY", ">= ALL", "<> ALL", "< ANY"))
            return f"{self.plain('int', here)} {op} ({self.subquery(here, ['int'], 'value').sql})"
        if form == "any":
            return f"{self.plain('int', here)} = ANY (ARRAY[{', '.join(self.constant('int') for _ in range(2))}])"
        if form == "distinct":
            type = d.pick(("int", "text"))
            return f"{self.plain(type, here)} IS {d.pick(('', 'NOT '))}DISTINCT FROM {self.plain(type, here)}"
        if form == "expr":
            type = d.pick(("int", "text", "date"))
            return (
                f"{self.expr(type, here, depth - 1)} {d.pick(COMPARISONS)} {self.expr(type, here, depth - 1)}"
            )
        if form == "row":
            left = f"({self.plain('int', here)}, {self.plain('text', here)})"
            operator = d.pick(("=", "<", "IS DISTINCT FROM"))
            return f"{left} {operator} ({self.constant('int')}, {self.constant('text')})"
        if form == "mood" and (column := self.column(here, "mood")):
            self.used("enum")
            other = d.pick(("'calm'", "'loud'", "'calm'::mood"))
            return d.pick(
                (
                    f"{column} = {other}",
                    f"{column} < {other}",
                    f"{column} IN ('calm', 'loud')",
                    f"{column} IS NULL",
                )
            )
        if form == "home" and (column := self.column(here, "home")):
            self.used("composite")
            row = f"ROW('street {d.below(3)}', {d.below(5)})"
            return d.pick(
                (
                    f"{column} = {row}::home",
                    f"({column}).no < 3",
                    f"{column} IS NULL",
                    f"{column} < {row}::home",
                )
            )
        if form == "column":
            found = self.column(here, "bool")
            return found or self.compare(here)
        if form == "case":
            return f"CASE WHEN {self.bool_(here, depth - 1)} THEN {self.bool_(here, depth - 1)} ELSE {self.compare(here)} END"
        return self.compare(here)

    def compare(self, here: Scope) -> str:
        d = self.d
        type = d.weighted(((6, "int"), (3, "text"), (1, "date")))
        right = self.plain(type, here) if d.chance(30) else self.constant(type)
        return f"{self.plain(type, here)} {d.pick(COMPARISONS)} {right}"

    # ------------------------------------------------------------------ subqueries in expressions

    def subquery(self, here: Scope, types: Sequence[str] | None, use: str) -> Query:
        self.used("subquery")
        self.subqueries += 1
        return self.query(here, types, use, small=True)

    @spanned
    def scalar(self, type: str, here: Scope) -> str | None:
        """A subquery that gives at most one row: an aggregate, or the first in a total order."""
        if self.subqueries > 2:
            return None
        self.subqueries += 1
        self.used("scalar subquery")
        d = self.d
        scope = Scope([], here)
        text = self.from_clause(scope, small=True)
        inner = scope
        where = f" WHERE {self.bool_(inner, 1)}" if d.chance(60) else ""
        if d.chance(50):
            column = self.column(inner, type, own=True) or self.constant(type)
            return f"(SELECT {d.pick(('max', 'min'))}({column}) FROM {text}{where})"
        column = self.column(inner, type, own=True)
        if column is None:
            return None
        return f"(SELECT {column} FROM {text}{where} ORDER BY 1 LIMIT 1)"


_INT_FORMS = weights(
    "plain 40, trap 10, plus 6, length 4, case 4, coalesce 5, scalar 5, greatest 3, dirty 2, nullif 2, field 2, operator 2"
)
_TEXT_FORMS = weights(
    "plain 40, trap 8, upper 4, concat 4, cast 4, case 3, coalesce 3, scalar 4, sub 2, row 2, mood 2, home 2"
)
_BOOL_FORMS = weights(
    "compare 22, trap 12, and 8, or 5, not 3, null 6, in 6, between 4, like 4, exists 6, insub 6, "
    "any 3, distinct 3, expr 3, row 2, anysub 2, column 2, case 2, like_column 2, mood 4, home 3"
)
COMPARISONS = ("=", "<>", "<", ">", "<=", ">=")
_PATTERNS = ("'1%'", "'%2%'", "'2024%'", "'_'", "'%'", "'secret%'")
